"""How much the score of a read varies where it cannot help: gains below that say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stm_rl.errors import StmError
from stm_rl.prepare import Prepared, Preparer

READS = 5_000
QUANTILE = 0.998
"""A false read in 500 looks: an expert with 4 slots looks about 150 times in an episode of 40 turns."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The gains of reads that cannot help.

    Attributes:
        mean: Their mean, nats.
        std: Their standard deviation, nats.
        level: Their 99.8% quantile, nats, at least 0: what a label must reach to count.
        reads: How many were measured.
    """

    mean: float
    std: float
    level: float
    reads: int


def measure_noise(prepare: Preparer, items: Sequence[Prepared], reads: int = READS, seed: int = 0) -> Noise:
    """Measure the gains of reading turns of *other* transcripts that share no content word with what is predicted.

    Args:
        prepare: Scores turns.
        items: Transcripts, at least two.
        reads: How many such reads to try.
        seed: Seeds which.

    Raises:
        StmError: There are fewer than two transcripts, or they have no step at which to read.
    """
    steps = [(item, step) for item in items for step in range(prepare.window, len(item) - 1)]
    if len(items) < 2 or not steps:
        raise StmError(
            f"noise cannot be measured with {len(items)} transcript(s) and {len(steps)} step(s) at which memory could "
            "be read; expected at least two transcripts longer than the window, or give the level of noise"
        )
    rng = np.random.default_rng(seed)
    asked, lines = [], []
    for _ in range(reads * 10):
        item, step = steps[int(rng.integers(len(steps)))]
        other = items[int(rng.integers(len(items)))]
        turn = int(rng.integers(len(other)))
        words = set(other.words[turn].tolist()) - {-1}
        if (
            other.transcript is not item.transcript
            and other.writable[turn]
            and not words & set(item.words[step + 1].tolist())
        ):
            asked.append((item, step + 1))
            lines.append(other.lines[turn])
        if len(asked) == reads:
            break
    if not asked:
        raise StmError("every turn of every transcript shares words with all others; give the level of noise")
    gains = prepare.gains_of_lines(asked, lines)
    return Noise(float(gains.mean()), float(gains.std()), max(0.0, float(np.quantile(gains, QUANTILE))), len(gains))
