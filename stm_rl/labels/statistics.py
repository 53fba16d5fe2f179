"""What labels say about transcripts: how often memory matters, from how far back, and how much is worth keeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stm_rl.labels.labeller import Labeller
from stm_rl.labels.pairs import PairSettings
from stm_rl.labels.table import GainTable
from stm_rl.prepare import Prepared

RARE = 0.01
"""Share of steps below which labels are too rare to learn from."""
SAMPLED = 10
"""Transcripts of which all pairs are scored, to see what a prefilter misses."""


def label_statistics(
    items: Sequence[Prepared], tables: Sequence[GainTable], window: int, level: float
) -> dict[str, Any]:
    """Return statistics of labels.

    Args:
        items: The transcripts.
        tables: Their gain tables.
        window: Turns the language model sees anyway.
        level: Gains below this, in nats, are noise.

    Returns:
        ``transcripts``, ``turns``, ``pairs``; ``steps_that_gain``: share of the steps with memory at which some read
        gains more than noise; ``gain_per_transcript``: nats of the best read of each such step;
        ``turns_worth_keeping``: share of turns that are the best read of some step; ``distance``: 10%, 50% and 90%
        quantiles, in turns, from such a turn to the step (none if there is none).
    """
    best = [_outside(table, window).at_least(level).best(1) for table in tables]
    steps = sum(max(0, len(item) - 1 - window) for item in items)
    turns = sum(map(len, items))
    distances = np.concatenate([one.steps - one.turns for one in best])
    kept = sum(len(set(one.turns.tolist())) for one in best)
    quantiles = [int(value) for value in np.quantile(distances, (0.1, 0.5, 0.9))] if len(distances) else None
    return {
        "transcripts": len(items),
        "turns": turns,
        "pairs": sum(map(len, tables)),
        "steps_that_gain": round(len(distances) / max(steps, 1), 4),
        "gain_per_transcript": round(float(sum(one.gains.sum() for one in best)) / len(items), 4),
        "turns_worth_keeping": round(kept / turns, 4),
        "distance": quantiles,
    }


def warning(statistics: Mapping[str, Any]) -> str | None:
    """Return what to say if labels are too rare to learn from."""
    share = statistics["steps_that_gain"]
    if share >= RARE:
        return None
    return (
        f"only {share:.2%} of steps gain more than noise: this language model says little about what to remember in "
        "these transcripts; take one that knows their language (--lm), or labels from the text alone (--signal text)"
    )


def _outside(table: GainTable, window: int) -> GainTable:
    """Return the pairs whose turn has left the window; labels from text have others too."""
    keep = table.steps - table.turns >= window
    return GainTable(table.turns[keep], table.steps[keep], table.gains[keep])


def prefilter_recall(labeller: Labeller, items: Sequence[Prepared], level: float, reads: int) -> dict[str, Any]:
    """Return how much of what can be gained a prefilter keeps, by scoring all pairs of the first transcripts.

    Args:
        labeller: Labels with the prefilter.
        items: Transcripts; the first :data:`SAMPLED` are taken.
        level: Gains below this, in nats, are noise.
        reads: Reads a step: the best so many gains of each step count.

    Returns:
        ``gain``: share of the gain that is kept; ``pairs``: share of the pairs that are scored; ``transcripts``.
    """
    sample = list(items[:SAMPLED])
    everything = Labeller(labeller.prepare, PairSettings(lookback=labeller.settings.lookback))
    tables = labeller.label(sample), everything.label(sample)
    sums = [sum(float(one.at_least(level).best(reads).gains.sum()) for one in part) for part in tables]
    pairs = [sum(map(len, part)) for part in tables]
    return {
        "gain": round(min(1.0, sums[0] / sums[1]), 4) if sums[1] else None,
        "pairs": round(pairs[0] / max(pairs[1], 1), 4),
        "transcripts": len(sample),
    }
