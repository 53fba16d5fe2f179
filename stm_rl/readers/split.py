"""Parts of a set of transcripts that share none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stm_rl.errors import StmError
from stm_rl.transcript import Transcript

SPLIT_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0), "all": (0.0, 1.0)}
"""Where each part begins and ends in a fixed random order."""


def split_transcripts(transcripts: Sequence[Transcript], split: str) -> list[Transcript]:
    """Return a fixed random part of the transcripts: 80% train, 10% validation, 10% test, or all.

    With fewer than three transcripts every part holds them all.
    """
    if split not in SPLIT_SHARES:
        raise StmError(f"split is {split!r}; expected one of {', '.join(SPLIT_SHARES)}")
    count = len(transcripts)
    if count < 3:
        return list(transcripts)
    order = np.random.default_rng(0).permutation(count)
    low, high = SPLIT_SHARES[split]
    first, last = min(round(low * count), count - 1), round(high * count)
    return [transcripts[i] for i in sorted(order[first : max(last, first + 1)].tolist())]
