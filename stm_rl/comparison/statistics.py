"""Means of measures with and without memory, and their paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stm_rl.comparison.continuation import WITH, WITHOUT, Continuation
from stm_rl.comparison.measures import MEASURES
from stm_rl.evaluation.statistics import Bootstrap

ALL = "all"
"""The entry of all kinds together."""


def compare(continuations: Sequence[Continuation], seed: int = 0) -> dict[str, Any]:
    """Return what the measures say, by kind of transcript and, if there are several, of :data:`ALL` together.

    Differences are paired by turn. The turns of an episode are not independent, so whole episodes are resampled.

    Args:
        continuations: At least one.
        seed: Seeds the bootstrap.

    Returns:
        By kind: ``turns``, ``different`` (turns whose two texts are not the same), ``episodes``, and ``measures``: by
        name ``turns`` (those it applies to), the means ``with`` and ``without``, and ``difference`` (with minus
        without, ``{"mean", "ci95"}``).
    """
    kinds = list(dict.fromkeys(one.kind for one in continuations))
    groups = {kind: [one for one in continuations if one.kind == kind] for kind in kinds}
    if len(kinds) > 1:
        groups[ALL] = list(continuations)
    return {name: _entry(group, seed) for name, group in groups.items()}


def _entry(group: Sequence[Continuation], seed: int) -> dict[str, Any]:
    episodes = {key: number for number, key in enumerate(dict.fromkeys((one.env, one.transcript) for one in group))}
    rows = np.array([episodes[one.env, one.transcript] for one in group])
    bootstrap = Bootstrap(len(episodes), seed)
    measured = {}
    for name in MEASURES:
        values = np.array([[one.measures.get(side, {}).get(name, np.nan) for side in (WITH, WITHOUT)] for one in group])
        known = np.isfinite(values).all(1)
        if not known.any():
            continue
        kept = values[known]
        sums = np.bincount(rows[known], kept[:, 0] - kept[:, 1], len(episodes)).astype(np.float64)
        counts = np.bincount(rows[known], np.ones(len(kept)), len(episodes)).astype(np.float64)
        measured[name] = {
            "turns": int(known.sum()),
            WITH: round(float(kept[:, 0].mean()), 4),
            WITHOUT: round(float(kept[:, 1].mean()), 4),
            "difference": bootstrap.interval(sums[None], counts[None]),
        }
    different = sum(one.differs for one in group)
    return {"episodes": len(episodes), "turns": len(group), "different": different, "measures": measured}
