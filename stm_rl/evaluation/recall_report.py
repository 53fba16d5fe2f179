"""The recall benchmark: keepers and policies at several budgets, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.evaluation.recall import Measured, Recall, Stream, check_counts
from stm_rl.evaluation.statistics import RESAMPLES

FloatArray = NDArray[np.float64]
Groups = Mapping[str, Sequence[Measured]]
"""What is compared, by name; one that was trained or played with several seeds is there once for each."""
METRICS = ("joint", "mean")


def bench_recall(
    streams: Sequence[Stream],
    groups: Groups,
    slots: Sequence[int],
    *,
    seed: int = 0,
    on_played: Callable[[str, int], None] = lambda name, budget: None,
) -> dict[str, Any]:
    """Measure what keepers recall of streams.

    Args:
        streams: The streams; at least one has a check.
        groups: What is compared.
        slots: Sizes of the memory.
        seed: Seeds the resampling.
        on_played: Called with name and budget after each member of a group was played, for a progress bar.

    Returns:
        ``{"4": {NAME: {"joint": {"mean": share, "ci95": [low, high]}, "mean": {...}}}}``: for each size of the
        memory, by name, both metrics as shares of 1 with 95% intervals over transcripts and seeds.
    """
    if wrong := [budget for budget in slots if budget < 1]:
        raise StmError(f"slots is {wrong[0]}; expected at least 1")
    rows: list[FloatArray] = []
    keys: list[tuple[int, str, str, int]] = []
    for budget in dict.fromkeys(slots):
        for name, members in groups.items():
            found: list[Recall] = []
            for member in members:
                found.append(member.recall(streams, budget))
                on_played(name, budget)
            for metric in METRICS:
                keys.append((budget, name, metric, len(members)))
                rows += [getattr(one, metric) for one in found]
    values, counts = np.stack(rows), check_counts(streams)
    shares = resampled_shares(values, counts, seed)
    rng = np.random.default_rng((seed, 1))
    report: dict[str, Any] = {}
    first = 0
    for budget, name, metric, seeds in keys:
        own = shares[:, first : first + seeds]
        if seeds > 1:
            own = np.take_along_axis(own, rng.integers(seeds, size=own.shape), 1)
        low, high = np.nanpercentile(own.mean(1), [2.5, 97.5])
        mean = values[first : first + seeds].sum() / (seeds * counts.sum())
        entry = {"mean": round(float(mean), 4), "ci95": [round(float(low), 4), round(float(high), 4)]}
        report.setdefault(str(budget), {}).setdefault(name, {})[metric] = entry
        first += seeds
    return report


def resampled_shares(values: FloatArray, counts: FloatArray, seed: int = 0) -> FloatArray:
    """Return pooled shares under resamples of the transcripts (percentile bootstrap; Efron and Tibshirani, 1993).

    Draws are not kept, as :class:`~stm_rl.evaluation.Bootstrap` keeps them, so that thousands of transcripts do not
    take gigabytes; every row is resampled with the same draws.

    Args:
        values: What was recalled in each of ``n`` transcripts, shape ``(m, n)``.
        counts: Checks of each transcript, shape ``(n,)``.
        seed: Seeds the draws.

    Returns:
        Shape ``(RESAMPLES, m)``; NaN where a resample has no check.
    """
    rng = np.random.default_rng(seed)
    size = len(counts)
    table = np.concatenate([values, counts[None]])
    shares = np.full((RESAMPLES, len(values)), np.nan)
    for share in shares:
        *recalled, total = table @ np.bincount(rng.integers(size, size=size), minlength=size)
        if total > 0:
            share[:] = recalled
            share /= total
    return shares
