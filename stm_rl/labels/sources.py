"""Where hindsight values come from: a language model's gains, or what the text itself takes up again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from stm_rl.labels.labeller import Labeller
from stm_rl.labels.table import GainTable
from stm_rl.labels.values import Values
from stm_rl.prepare import Prepared
from stm_rl.rewards.hindsight import Hindsight

DISCOUNT = 0.98


class LabelSource(Protocol):
    """Gives hindsight values.

    Attributes:
        name: What the values come from, for cards.
        level: What a gain must reach to count, nats.
    """

    name: str
    level: float

    def __call__(self, items: Sequence[Prepared]) -> list[Values]:
        """Return the hindsight values of transcripts."""


class ModelLabels:
    """Values from the gain tables of a language model.

    Args:
        labeller: Makes the tables.
        level: Gains below this, in nats, are noise; see :func:`~stm_rl.labels.noise.measure_noise`.
        reads: Most reads a step.
        gamma: Discount of a step.
    """

    def __init__(self, labeller: Labeller, level: float, reads: int, gamma: float = DISCOUNT) -> None:
        self.labeller, self.level, self.reads, self.gamma = labeller, level, reads, gamma
        self.name = labeller.prepare.scorer.lm_name

    def __call__(self, items: Sequence[Prepared]) -> list[Values]:
        """Return the hindsight values of transcripts."""
        tables = self.labeller.label(items)
        return [
            Values.of(table, len(item), level=self.level, reads=self.reads, gamma=self.gamma)
            for table, item in zip(tables, items, strict=True)
        ]


class TextLabels:
    """Values from what later turns take up of earlier ones; needs no language model.

    The credit is that of the reward term :class:`~stm_rl.rewards.hindsight.Hindsight`, in its unit: 1 is what a memory
    that lost nothing would earn a step.

    Args:
        gamma: Discount of a step.
        end: Weight of what is held in the end; see there.
    """

    name = "text"
    level = 0.0

    def __init__(self, gamma: float = DISCOUNT, end: float = 1.5) -> None:
        self.gamma = gamma
        self._credit = Hindsight(end=end).credit

    def __call__(self, items: Sequence[Prepared]) -> list[Values]:
        """Return the hindsight values of transcripts."""
        return [Values.of(self.table(item), len(item), level=0.0, reads=len(item), gamma=self.gamma) for item in items]

    def table(self, item: Prepared) -> GainTable:
        """Return the credit of a transcript as a gain table."""
        summed: dict[tuple[int, int], float] = {}
        for turn, uses in self._credit(item.transcript).items():
            for step, value in uses:
                summed[step, turn] = summed.get((step, turn), 0.0) + value
        pairs = sorted(summed)
        steps, turns = np.array(pairs, np.int32).reshape(-1, 2).T
        return GainTable(turns, steps, np.array([summed[pair] for pair in pairs], np.float32))
