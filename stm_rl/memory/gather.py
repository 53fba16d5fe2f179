"""Differentiable reading of a few vectors of each row's own table."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def gather(table: Tensor, places: Tensor) -> Tensor:
    """Return vectors of each row's table.

    Args:
        table: Shape ``(batch, n, size)``.
        places: Which vectors of the row's table, shape ``(batch, ...)``, int64.

    Returns:
        Shape ``(batch, ..., size)``.
    """
    return functional.embedding(_flat(table, places), table.flatten(0, 1))


def gather_sum(table: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of vectors of each row's table, without making a copy of the vectors.

    Args:
        table: Shape ``(batch, n, size)``.
        places: Which vectors to sum, along the last dimension; shape ``(batch, ..., m)``, int64.
        weights: Same shape.

    Returns:
        Shape ``(batch, ..., size)``; ``weights`` get their gradient, too.
    """
    m = places.shape[-1]
    flat = _flat(table, places).reshape(-1, m)
    summed = functional.embedding_bag(flat, table.flatten(0, 1), per_sample_weights=weights.reshape(-1, m), mode="sum")
    return summed.reshape(*places.shape[:-1], -1)


def _flat(table: Tensor, places: Tensor) -> Tensor:
    start = table.shape[1] * torch.arange(len(table), device=table.device)
    return places + start.view(-1, *[1] * (places.ndim - 1))
