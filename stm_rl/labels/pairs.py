"""Which turns are worth trying at which steps, so that long transcripts do not cost the square of their length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.features import overlap
from stm_rl.prepare import Prepared

PREFILTERS = ("none", "words", "embedding")


@dataclass(frozen=True, slots=True)
class PairSettings:
    """Which pairs of a turn and a later step are scored.

    Attributes:
        lookback: Most turns from the turn to the step.
        prefilter: ``none``: all of them. ``words``: those of which the turn shares a content word with the turn that
            is predicted. ``embedding``: at each step the ``candidates`` turns whose vectors are most similar to that of
            the turn that is predicted. What is not scored counts as no gain.
        candidates: Turns a step of the prefilter ``embedding``.
    """

    lookback: int = 64
    prefilter: str = "none"
    candidates: int = 8

    def __post_init__(self) -> None:
        """Reject settings that find nothing."""
        for name in ("lookback", "candidates"):
            if getattr(self, name) < 1:
                raise StmError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.prefilter not in PREFILTERS:
            raise StmError(f"prefilter is {self.prefilter!r}; expected one of {', '.join(PREFILTERS)}")


def pairs_of(item: Prepared, window: int, settings: PairSettings) -> NDArray[np.int32]:
    """Return the pairs worth scoring, (turn, step) each, by ascending step, then turn, shape ``(n, 2)``.

    Args:
        item: The transcript.
        window: Turns the language model sees anyway.
        settings: Which pairs.
    """
    found = []
    writable = np.flatnonzero(item.writable)
    for step in range(window, len(item) - 1):
        oldest = step - settings.lookback
        turns = writable[(writable <= step - window) & (writable >= oldest)]
        if settings.prefilter == "words":
            turns = turns[overlap(item.words[turns], item.words[step + 1]) > 0]
        elif settings.prefilter == "embedding" and len(turns) > settings.candidates:
            similar = _cosine(item.vectors[turns], item.vectors[step + 1])
            turns = np.sort(turns[np.argsort(-similar, kind="stable")[: settings.candidates]])
        found.append(np.stack([turns, np.full(len(turns), step)], axis=1))
    return np.concatenate(found).astype(np.int32) if found else np.zeros((0, 2), np.int32)


def _cosine(vectors: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(other)
    return np.asarray(vectors @ other / np.maximum(norms, 1e-12), np.float32)
