"""What every agent offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import Observation

Actions = NDArray[np.int64]
Masks = NDArray[np.bool_]


class Agent(ABC):
    """Decides what to write and what to read.

    Attributes:
        name: Name in tables and ``eval.json``.
        full_context: Whether the environment should put the whole history in front of the model
            whatever the agent does; only the reference without a budget wants that.
        draws: Whether it acts at random even if asked to be deterministic: its generator goes on from episode to
            episode, so that what it does depends on those played before.
    """

    name: str = "agent"
    full_context: ClassVar[bool] = False
    draws: ClassVar[bool] = False

    def start(self, env: MemoryVectorEnv) -> None:  # noqa: B027 (most agents need nothing here)
        """Called once before the first step in ``env``.

        References that may look at more than observations (the oracle, the informed agent) keep the
        environment; others need nothing here.
        """

    def act(self, observation: Observation, action_masks: Masks, deterministic: bool = True) -> Actions:
        """Return an action for one observation, or one for each of ``n`` stacked ones.

        Args:
            observation: As the environment gave it, with or without a leading axis of ``n``.
            action_masks: Legal actions, flat, shape ``((1 + R) * (K + 1),)`` or ``(n, ...)``.
            deterministic: Take the likeliest action instead of drawing one.

        Returns:
            int64 array of shape ``(1 + R,)`` or ``(n, 1 + R)``.
        """
        if observation["turn"].ndim == 2:
            return self.act_batch(observation, action_masks, deterministic)
        stacked = {name: value[None] for name, value in observation.items()}
        return np.asarray(self.act_batch(stacked, action_masks[None], deterministic)[0])

    @abstractmethod
    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        """Return actions for ``n`` observations, shape ``(n, 1 + R)``."""


def reads_of(observation: Observation, action_masks: Masks) -> int:
    """Return how many slots an agent may read in one step, ``R``."""
    return int(action_masks.shape[-1] // (observation["slots"].shape[-2] + 1) - 1)
