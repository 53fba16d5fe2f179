"""Gain tables: what reading each turn alone would have gained at each later step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GainTable:
    """The gains ``G[j, t]`` of one transcript, of those pairs that were looked at, by ascending step, then turn.

    Attributes:
        turns: The turn ``j`` that is read, int32, shape ``(n,)``.
        steps: The step ``t`` at which it is read; turn ``t + 1`` is predicted. Int32, shape ``(n,)``.
        gains: log p(turn ``t + 1`` | turn ``j``, window) - log p(turn ``t + 1`` | window) in nats, float32,
            shape ``(n,)``.
    """

    turns: IntArray
    steps: IntArray
    gains: FloatArray

    def __len__(self) -> int:
        return len(self.gains)

    def at_least(self, level: float) -> GainTable:
        """Return the pairs that gain at least ``level`` nats."""
        keep = self.gains >= level
        return GainTable(self.turns[keep], self.steps[keep], self.gains[keep])

    def best(self, reads: int) -> GainTable:
        """Return the ``reads`` pairs that gain most at each step."""
        order = np.lexsort((-self.gains, self.steps))
        steps = self.steps[order]
        first = np.searchsorted(steps, steps, side="left")
        keep = np.sort(order[np.arange(len(order)) - first < reads])
        return GainTable(self.turns[keep], self.steps[keep], self.gains[keep])
