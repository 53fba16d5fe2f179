"""The last block of a model, kept to the positions whose hidden states are used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch


class LastBlock:
    """Leaves positions that nobody looks at out of the feed-forward part of a model's last block.

    That part works on every position alone, and after it only final normalisation and output embedding follow, so the
    hidden states of the other positions do not change. It saves up to two thirds of a block: a sixth of all the work
    in a model of two blocks, a hundredth in one of 28.
    """

    def __init__(self, base_model: torch.nn.Module) -> None:
        """Find the feed-forward part of the last block of a transformers model.

        Raises:
            LookupError: There is none of a known name.
        """
        stacks = [module for module in base_model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
        part = getattr(stacks[0][-1], "mlp", None) if stacks else None
        if not isinstance(part, torch.nn.Module):
            raise LookupError("the last block has no feed-forward part named mlp")
        self._part = part
        self._whole = part.forward
        self._here = threading.local()
        part.forward = self._forward

    def remove(self) -> None:
        """Give the model its own ways back."""
        self._part.forward = self._whole

    def __deepcopy__(self, memo: dict[int, Any]) -> LastBlock:
        """Go with a copy of the model, such as a trainer makes for reference."""
        copied = object.__new__(LastBlock)
        memo[id(self)] = copied
        copied._here = threading.local()
        copied._part = deepcopy(self._part, memo)
        copied._whole = getattr(self._whole, "__func__", self._whole).__get__(copied._part)
        return copied

    def _forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        positions = getattr(self._here, "positions", None)
        if positions is None:
            return self._whole(states, *args, **kwargs)
        flat = states.flatten(0, -2)
        some = self._whole(flat.index_select(0, positions)[None], *args, **kwargs)
        return torch.zeros_like(flat).index_copy_(0, positions, some[0]).view_as(states)

    @contextmanager
    def only(self, positions: torch.Tensor) -> Iterator[None]:
        """Within this, in this thread, look only at ``positions`` of the flattened batch, shape ``(n,)``."""
        self._here.positions = positions
        try:
            yield
        finally:
            self._here.positions = None
