"""What turns are worth in hindsight: now, if they are read, and from now on, if they are held."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stm_rl.labels.table import GainTable

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Values:
    """The hindsight values of the turns of one transcript of ``T`` turns, by distance ``t - j`` from turn to step.

    Attributes:
        gain: Nats gained by reading turn ``j`` at step ``j + d``, shape ``(T, D)``; 0 where nobody looked.
        future: Discounted sum of the gains that count from step ``j + d`` on, shape ``(T, D)``.
    """

    gain: FloatArray
    future: FloatArray

    @classmethod
    def of(cls, table: GainTable, turns: int, *, level: float, reads: int, gamma: float) -> Values:
        """Return the values of a gain table.

        Args:
            table: The gains.
            turns: Turns of the transcript, ``T``.
            level: Gains below this, in nats, are noise: the future does not count them.
            reads: Most reads a step: of each step only the best so many gains count in the future.
            gamma: Discount of a step, 0 to 1. Below 1, since what is needed late is likelier to be superseded before,
                and takes a slot for longer.
        """
        distance = table.steps - table.turns
        width = int(distance.max(initial=0)) + 2
        gain, counted = np.zeros((turns, width), np.float32), np.zeros((turns, width), np.float32)
        gain[table.turns, distance] = table.gains
        best = table.at_least(max(level, 1e-9)).best(reads)
        counted[best.turns, best.steps - best.turns] = best.gains
        for column in range(width - 2, -1, -1):
            counted[:, column] += gamma * counted[:, column + 1]
        return cls(gain, counted)

    def gains(self, held: NDArray[np.int64], step: int) -> FloatArray:
        """Return what reading each of the turns ``held`` gains at ``step``; 0 for -1 (nothing held)."""
        return self._look_up(self.gain, held, step)

    def futures(self, held: NDArray[np.int64], step: int) -> FloatArray:
        """Return what holding each of the turns ``held`` is worth from ``step`` on; 0 for -1 (nothing held)."""
        return self._look_up(self.future, held, step)

    def _look_up(self, values: FloatArray, held: NDArray[np.int64], step: int) -> FloatArray:
        distance = np.clip(step - held, 0, values.shape[1] - 1)  # the last column is 0
        return np.where(held >= 0, values[np.maximum(held, 0), distance], np.float32(0))
