"""What every language model checks of what it is asked and of what it answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError

WEIGHTS = "try dtype float32, or check the model's weights"
"""What to do about scores that are not finite, with a model whose weights are at hand."""


def check_pairs(contexts: Sequence[str], targets: Sequence[str]) -> None:
    """Raise StmError unless there are as many targets as contexts."""
    if len(contexts) != len(targets):
        raise StmError(f"got {len(contexts)} contexts and {len(targets)} targets; expected as many of both")


def check_finite(scores: NDArray[np.float64], targets: Sequence[str], model: str, advice: str = WEIGHTS) -> None:
    """Raise StmError if a score is not a finite number.

    Args:
        scores: Shape ``(n,)``.
        targets: The ``n`` texts that were scored.
        model: Name of the model.
        advice: What to do.
    """
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise StmError(
            f"model {model} gave the score {scores[bad]} for {targets[bad][:60]!r}; expected a finite log-likelihood: "
            f"{advice}"
        )


def room_for(max_new_tokens: int, max_tokens: int, model: str) -> int:
    """Return how many tokens a context may have if a model that reads ``max_tokens`` writes so many after it.

    Raises:
        StmError: That leaves no room for a context, or nothing is to be written.
    """
    if not 1 <= max_new_tokens < max_tokens:
        raise StmError(
            f"max_new_tokens is {max_new_tokens}; expected 1 to {max_tokens - 1}, since model {model} reads at most "
            f"{max_tokens} tokens"
        )
    return max_tokens - max_new_tokens
