"""Training that pays for leaving a frozen policy, the anchor."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from sb3_contrib.common.maskable.distributions import MaskableMultiCategoricalDistribution
from torch import Tensor

from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PointerPolicy


def divergence(p: MaskableMultiCategoricalDistribution, q: MaskableMultiCategoricalDistribution) -> Tensor:
    """Return KL(p || q) in nats, summed over the parts of the action, shape ``(n,)``.

    Both have the same masks: what is masked has probability 0 in ``p`` and adds nothing.
    """
    parts = zip(p.distributions, q.distributions, strict=True)
    return torch.stack([(a.probs * (a.logits - b.logits)).sum(-1) for a, b in parts]).sum(0)


class AnchoredPolicy(PointerPolicy):
    """A pointer policy with a penalty for its KL divergence from an anchor.

    MaskablePPO adds ``-ent_coef * mean(entropy)`` to its loss and nothing else that a policy could
    decide on. It has to be given ``ent_coef=1``; in place of the entropy it gets
    ``entropy_weight * entropy - beta * KL(policy || anchor)``.

    Attributes:
        anchor: A frozen copy of the network given.
        beta: Weight of the penalty.

    Args:
        anchor: The network to stay close to.
        entropy_weight: Weight of the entropy bonus.
    """

    def __init__(self, *args: Any, anchor: PointerNetwork, entropy_weight: float, **kwargs: Any) -> None:
        super().__init__(*args, width=anchor.shape["width"], layers=anchor.shape["layers"], **kwargs)
        self.network.load_state_dict(anchor.state_dict())
        self.anchor = deepcopy(anchor).requires_grad_(False)  # after the optimizer was made: never trained
        self.entropy_weight, self.beta = entropy_weight, 0.0
        self._anchor_dist = MaskableMultiCategoricalDistribution(list(self.action_space.nvec))  # type: ignore[attr-defined]
        self._seen: list[tuple[float, float]] = []

    def evaluate_actions(
        self, obs: Any, actions: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values, log-probabilities and, for each action, what is added to PPO's objective."""
        distribution, values = self._distribution(obs, action_masks)  # type: ignore[arg-type]
        with torch.no_grad():
            anchored = self._anchor_dist.proba_distribution(action_logits=self.anchor(obs)[0])
            anchored.apply_masking(action_masks)
        assert isinstance(distribution, MaskableMultiCategoricalDistribution)
        entropy, kl = distribution.entropy(), divergence(distribution, anchored)
        self._seen.append((entropy.mean().item(), kl.mean().item()))
        return values, distribution.log_prob(actions), self.entropy_weight * entropy - self.beta * kl

    def take_log(self) -> dict[str, float]:
        """Return mean entropy (negated, as MaskablePPO logs it) and KL since the last call, and beta; none if idle."""
        if not self._seen:
            return {}
        entropy, kl = torch.tensor(self._seen).mean(0).tolist()
        self._seen.clear()
        return {"entropy_loss": -entropy, "anchor_kl": kl, "anchor_beta": self.beta}
