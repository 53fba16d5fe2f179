"""Advantages of what a policy did."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def advantages_of(
    rewards: NDArray[Any],
    ends: NDArray[np.bool_],
    values: NDArray[Any],
    last: NDArray[Any],
    gamma: float,
    gae_lambda: float,
) -> NDArray[Any]:
    """Return generalised advantage estimates (Schulman et al., 2016), shape ``(t, n)``.

    Args:
        rewards: Of ``t`` steps of ``n`` episodes each, shape ``(t, n)``.
        ends: Whether an episode ended with the step, so that the next is another's, shape ``(t, n)``.
        values: Of the states before the steps, shape ``(t, n)``.
        last: Of the states after the last step, shape ``(n,)``.
        gamma: Discount of a step.
        gae_lambda: Weight of what comes later against the values.
    """
    advantages = np.zeros_like(rewards)
    running, following = np.zeros_like(last), last
    for t in reversed(range(len(rewards))):
        alive = ~ends[t]
        surprise = rewards[t] + gamma * following * alive - values[t]
        running = surprise + gamma * gae_lambda * alive * running
        advantages[t], following = running, values[t]
    return advantages
