"""What tests of memory-augmented language models share: a fact to recall, and a loop that learns it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from stm_rl.augmented import transcript_loss


def with_apart_tokens(base: Any) -> Any:
    """Give the model embeddings as large as trained ones, so that its head, which is tied to them, can be sure."""
    torch.nn.init.normal_(base.get_input_embeddings().weight, std=0.3)
    return base.eval()


def planted(rows: int, seed: int, mask: int | None = None) -> dict[str, torch.Tensor]:
    """Three segments: a marker and one of 16 tokens, noise, and the marker with the same token to be predicted.

    Args:
        rows: How many.
        seed: Draws tokens.
        mask: The token that stands in its place, for a masked model.
    """
    draw = torch.Generator().manual_seed(seed)
    fact = torch.randint(20, 36, (rows, 1), generator=draw)
    marker = torch.full((rows, 1), 6)
    noise = torch.randint(7, 20, (rows, 2), generator=draw)
    ids = torch.stack([torch.cat([marker, fact], 1), noise, torch.cat([marker, fact], 1)], 1)
    labels = torch.full_like(ids, -100)
    labels[:, 2, 1] = ids[:, 2, 1]
    return {
        "input_ids": ids if mask is None else ids.masked_fill(labels != -100, mask),
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "written": torch.ones_like(ids) > 0,
    }


def learn(model: Any, batch: Callable[[int, int], dict[str, torch.Tensor]], *, steps: int, lr: float) -> None:
    """Train what is trainable on batches of 32 transcripts, seeded by the step, and leave the model in eval mode."""
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=lr)
    for step in range(steps):
        loss = transcript_loss(model, batch(32, step), 3)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
