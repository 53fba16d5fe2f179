"""Agents that act by a fixed rule and look at no text: what they earn, a reward gives away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl_agents.base import Actions, Agent, Masks, reads_of
from stm_rl_agents.heuristics import RandomAgent, slot_feature
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import Observation

Decide = Callable[[Observation, Actions, int], None]
"""Fills in actions of zeros, shape ``(n, 1 + R)``, given the window; what is not legal becomes 0."""


class Constant(Agent):
    """Acts by a rule that looks at no text."""

    def __init__(self, name: str, decide: Decide) -> None:
        self.name, self.decide = name, decide
        self.window = 2

    def start(self, env: MemoryVectorEnv) -> None:
        """Remember how many turns the model sees anyway."""
        self.window = env.episodes.settings.window

    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        """Return what the rule says."""
        slots = observation["slots"].shape[1]
        actions = np.zeros((len(action_masks), 1 + reads_of(observation, action_masks)), np.int64)
        self.decide(observation, actions, self.window)
        actions = np.where(actions <= slots, actions, 0)
        legal = np.take_along_axis(action_masks.reshape(len(actions), -1, slots + 1), actions[..., None], -1)[..., 0]
        return np.where(legal, actions, 0)


def _free_or_oldest(observation: Observation) -> Any:
    free = slot_feature(observation, "occupied") == 0
    return np.where(free, np.inf, slot_feature(observation, "age")).argmax(1) + 1


def _turns_since_written(observation: Observation) -> NDArray[np.float64]:
    """Return how long slots have held their turns, shape ``(n, K)``; infinite for free slots."""
    steps = np.round(np.expm1(slot_feature(observation, "age").astype(np.float64) * np.log(64)))
    return np.where(slot_feature(observation, "occupied") > 0, steps, np.inf)


def _read_first_slots(actions: Actions) -> None:
    actions[:, 1:] = np.arange(1, actions.shape[1])


def _always_write(observation: Observation, actions: Actions, window: int) -> None:
    actions[:, 0] = _free_or_oldest(observation)


def _one_slot(observation: Observation, actions: Actions, window: int) -> None:
    actions[:] = 1


def _read_everything(observation: Observation, actions: Actions, window: int) -> None:
    actions[:, 0] = _free_or_oldest(observation)
    _read_first_slots(actions)


def _first_turns(observation: Observation, actions: Actions, window: int) -> None:
    free = slot_feature(observation, "occupied") == 0
    actions[:, 0] = np.where(free.any(1), free.argmax(1) + 1, 0)
    _read_first_slots(actions)


def _copy_last(observation: Observation, actions: Actions, window: int) -> None:
    actions[:, 0] = _free_or_oldest(observation)
    since = _turns_since_written(observation)
    since = np.where(since >= window, since, np.inf)  # what is still in the window puts nothing in front of the model
    order = np.argsort(since, axis=1, kind="stable")[:, : actions.shape[1] - 1]
    found = np.where(np.isfinite(np.take_along_axis(since, order, 1)), order + 1, 0)
    actions[:, 1 : 1 + found.shape[1]] = found


def _only_read(observation: Observation, actions: Actions, window: int) -> None:
    _read_first_slots(actions)


def _abstain(observation: Observation, actions: Actions, window: int) -> None:
    pass


def idle_agents() -> list[Agent]:
    """Return agents that keep nothing, and so must earn exactly 0."""
    return [Constant("abstain", _abstain), Constant("only-read", _only_read)]


def constant_agents(seed: int = 0) -> list[Agent]:
    """Return agents that keep and read turns whatever these say, and so must earn little."""
    rules = {
        "always-write": _always_write,
        "one-slot": _one_slot,
        "read-everything": _read_everything,
        "first-turns": _first_turns,
        "copy-last": _copy_last,
    }
    return [*(Constant(name, rule) for name, rule in rules.items()), RandomAgent(seed)]
