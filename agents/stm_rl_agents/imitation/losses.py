"""What a learner is told: to do as the expert does, or to lose as little as possible by the expert's reckoning."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from stm_rl.errors import StmError
from stm_rl_agents.imitation.lessons import Batch
from stm_rl_agents.network import PointerNetwork

CROSS_ENTROPY, REGRET = LOSSES = ("cross-entropy", "regret")
COST = 0.05
"""Nats that a write or a read must be worth: about what environments charge; what changes nothing is left out."""
UNSAID = "demonstrations do not say what other actions would have been worth; use the loss cross-entropy"
MOST_ORDERED = 4
"""Most reads whose order is left to the learner; of more, the order of the expert counts."""


def imitation_loss(network: PointerNetwork, batch: Batch, loss: str, entropy: float) -> Tensor:
    """Return the mean loss of a batch of ``n`` lessons, less the entropy bonus.

    Args:
        network: The learner.
        batch: The lessons.
        loss: One of :data:`LOSSES`.
        entropy: Weight of the entropy of the learner's actions, which keeps it able to learn more afterwards.
    """
    prefix = "observation/"
    seen = {name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)}
    logits, _ = network(seen)
    parts = batch["actions"].shape[1]
    legal = batch["masks"].reshape(len(logits), parts, -1)
    log_probs = log_softmax(logits.reshape(legal.shape).masked_fill(~legal, -1e9), -1)
    spread = -(log_probs.exp() * log_probs).sum((1, 2)).mean()
    told = cross_entropy(log_probs, batch) if loss == CROSS_ENTROPY else regret(log_probs, batch)
    return told - entropy * spread


def cross_entropy(log_probs: Tensor, batch: Batch) -> Tensor:
    """Return the mean of -log p(expert's action), each part weighted by what hangs on it.

    The weights balance the classes: to write and to read is rare, but that is where the nats are, and a policy that
    takes the likelier of two actions then takes the one that is worth more on average (cost-sensitive classification;
    Zadrozny, Langford and Abe, 2003). The reads of a step are a set: they are matched in the order that the learner
    finds likeliest.

    Args:
        log_probs: Masked log-probabilities, shape ``(n, 1 + R, K + 1)``.
        batch: ``actions`` and ``stakes``.
    """
    actions, weights = batch["actions"], batch["stakes"]
    write = -_taken(log_probs[:, 0], actions[:, 0]) * weights[:, 0]
    reads = actions.shape[1] - 1
    orders = list(permutations(range(reads))) if reads <= MOST_ORDERED else [tuple(range(reads))]
    each = [
        sum(-_taken(log_probs[:, 1 + head], actions[:, 1 + at]) * weights[:, 1 + at] for head, at in enumerate(order))
        for order in orders
    ]
    read = torch.stack([torch.as_tensor(value) for value in each]).amin(0)
    return (write + read).mean()


def regret(log_probs: Tensor, batch: Batch) -> Tensor:
    """Return minus the nats the learner's actions are worth on average in hindsight.

    All actions count with their probabilities, so nothing is drawn and the gradient has no variance but that of the
    states: the all-action policy gradient on the expert's values (AggreVaTeD; Sun et al., 2017). Where the
    future cannot be foreseen, the learner goes by the mean of what hindsight says, not by its majority.

    A slot counts once, however many reads choose it, and not at all where it is superseded.

    Args:
        log_probs: Masked log-probabilities, shape ``(n, 1 + R, K + 1)``.
        batch: ``write`` and ``read``, the worth of each choice.

    Raises:
        StmError: The lessons say only what was done.
    """
    if "write" not in batch:
        raise StmError(UNSAID)
    probabilities = log_probs.exp()[:, :, 1:]
    write = (probabilities[:, 0] * (batch["write"][:, 1:] - COST)).sum(-1)
    kept = 1 - probabilities[:, 0]
    read_at_all = 1 - (1 - probabilities[:, 1:]).prod(1)
    read = (read_at_all * kept * (batch["read"][:, 1:] - COST)).sum(-1)
    return -(write + read).mean()


def _taken(log_probs: Tensor, actions: Tensor) -> Tensor:
    return log_probs.gather(1, actions[:, None])[:, 0]
