"""Behaviour cloning: one fit of the policy network to lessons."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from stm_rl_agents.imitation.lessons import Lessons
from stm_rl_agents.imitation.losses import imitation_loss
from stm_rl_agents.imitation.settings import ImitationSettings
from stm_rl_agents.network import PointerNetwork

OnEpoch = Callable[[dict[str, Any]], None]


def fit(
    network: PointerNetwork,
    lessons: Lessons,
    held_out: Lessons,
    settings: ImitationSettings,
    *,
    loss: str,
    epochs: int,
    lr: float,
    rng: np.random.Generator,
    on_epoch: OnEpoch = lambda row: None,
) -> None:
    """Fit a network to lessons; it ends with the weights that did best on the held-out ones.

    Args:
        network: The learner.
        lessons: What it learns.
        held_out: Lessons of other episodes; training stops when they have not got better for ``patience`` epochs.
        settings: Batch size, dropout and the like.
        loss: ``cross-entropy`` or ``regret``.
        epochs: Most passes over the lessons.
        lr: Learning rate at the start; falls linearly to a tenth.
        rng: Draws the order.
        on_epoch: Called after each pass with ``epoch``, ``imitation/loss`` and ``imitation/held_out_loss``.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=settings.weight_decay)
    batches = max(1, len(lessons) // settings.batch_size)
    best, waited = held_out_loss(network, held_out, loss), 0
    weights = deepcopy(network.state_dict())
    for epoch in range(epochs):
        network.train()
        total = 0.0
        for number, rows in enumerate(np.array_split(rng.permutation(len(lessons)), batches)):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - 0.9 * (epoch + number / batches) / epochs)
            batch = lessons.batch(rows)
            if settings.dropout:
                drop(batch, settings.dropout)
            value = imitation_loss(network, batch, loss, settings.entropy)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            total += value.item()
        found = held_out_loss(network, held_out, loss)
        on_epoch({"epoch": epoch, "imitation/loss": total / batches, "imitation/held_out_loss": found})
        if found < best:
            best, waited, weights = found, 0, deepcopy(network.state_dict())
        else:
            waited += 1
            if waited >= settings.patience:
                break
    network.load_state_dict(weights)
    network.eval()


def held_out_loss(network: PointerNetwork, lessons: Lessons, loss: str) -> float:
    """Return the mean loss on lessons, the entropy bonus left out."""
    network.eval()
    total = 0.0
    with torch.inference_mode():
        for rows in np.array_split(np.arange(len(lessons)), max(1, len(lessons) // 1024)):
            total += imitation_loss(network, lessons.batch(rows), loss, 0.0).item() * len(rows)
    return total / len(lessons)


def drop(batch: dict[str, torch.Tensor], rate: float) -> None:
    """Blank out the same numbers of every text of a lesson, and scale up the others (dropout on the inputs)."""
    keep = (torch.rand_like(batch["observation/turn"]) >= rate) / (1 - rate)
    for name in ("turn", "window"):
        batch[f"observation/{name}"] = batch[f"observation/{name}"] * keep
    batch["observation/slots"] = batch["observation/slots"] * keep[:, None]
