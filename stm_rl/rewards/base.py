"""Rewards are sums of small named terms; each is logged by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Steps:
    """What happened in one step of each of ``n`` episodes.

    Attributes:
        gain: log p(next turn | reads, window) - log p(next turn | window) in nats, shape ``(n,)``.
        wrote: Whether a turn was written, shape ``(n,)``.
        reads: Number of turns put in front of the model, shape ``(n,)``.
    """

    gain: FloatArray
    wrote: NDArray[np.bool_]
    reads: NDArray[np.int64]


Term = Callable[[Steps], FloatArray]
"""A reward term: what each step earns, shape ``(n,)``, before its weight."""


def coherence(steps: Steps) -> FloatArray:
    """Coherence gain in nats: how much better the model predicted what really came next."""
    return steps.gain


def write_cost(steps: Steps) -> FloatArray:
    """Minus 1 for each write."""
    return -steps.wrote.astype(np.float64)


def read_cost(steps: Steps) -> FloatArray:
    """Minus 1 for each turn put in front of the model."""
    return -steps.reads.astype(np.float64)


TERMS: dict[str, Term] = {"coherence": coherence, "write_cost": write_cost, "read_cost": read_cost}
DEFAULT_WEIGHTS: Mapping[str, float] = {"coherence": 1.0, "write_cost": 0.01, "read_cost": 0.02}


class Reward:
    """A weighted sum of terms.

    Args:
        weights: Weight of each term by its name; the names of :data:`TERMS`.

    Raises:
        StmError: A term is unknown.
    """

    def __init__(self, weights: Mapping[str, float] = DEFAULT_WEIGHTS) -> None:
        for name in weights:
            if name not in TERMS:
                raise StmError(f"unknown reward term {name!r}; expected one of {', '.join(TERMS)}")
        self.weights = dict(weights)

    def __call__(self, steps: Steps) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the reward of each step, shape ``(n,)``, and the weighted terms it is the sum of."""
        parts = {name: weight * TERMS[name](steps) for name, weight in self.weights.items()}
        return np.asarray(sum(parts.values(), np.zeros(len(steps.gain)))), parts
