"""Agents that learn nothing: the baselines every policy has to beat at the same budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stm_rl_agents.base import Actions, Agent, Masks, reads_of
from stm_rl_envs.view import GLOBAL_FEATURES, SLOT_FEATURES, Observation

FloatArray = NDArray[np.float32]
READ_THRESHOLD = 0.2
"""Least overlap with the current turn for a slot to be read: the best of 0.1 to 0.6 on validation."""


def slot_feature(observation: Observation, name: str) -> FloatArray:
    """Return a feature of each slot, shape ``(n, K)``."""
    return observation["slot_features"][..., SLOT_FEATURES.index(name)]


def turn_feature(observation: Observation, name: str) -> FloatArray:
    """Return a feature of the current turn, shape ``(n,)``."""
    return observation["globals"][..., GLOBAL_FEATURES.index(name)]


class NoMemory(Agent):
    """Never writes and never reads: the language model with its window alone."""

    name = "none"

    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        """Return zeros."""
        return np.zeros((len(action_masks), 1 + reads_of(observation, action_masks)), np.int64)


class FullContext(NoMemory):
    """The whole history in front of the model: what a model with no limit would see."""

    name = "full-context"
    full_context: ClassVar[bool] = True


class RandomAgent(Agent):
    """Draws every part of its action evenly among the legal ones."""

    name = "random"
    draws: ClassVar[bool] = True

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        """Return random legal actions."""
        masks = action_masks.reshape(len(action_masks), -1, observation["slots"].shape[-2] + 1)
        return np.asarray((self.rng.random(masks.shape) * masks).argmax(-1))


Keep = Callable[[Observation], tuple[FloatArray, FloatArray]]
"""Gives the worth of what each slot holds, ``(n, K)``, and of the current turn, ``(n,)``."""


class KeepBest(Agent):
    """Keeps the ``K`` turns worth most and reads the slots that share most words with the turn.

    A free slot is always filled. Otherwise the turn supersedes the slot worth least if it is worth
    at least as much; among equals the oldest goes.
    """

    def __init__(self, name: str, worth: Keep, threshold: float = READ_THRESHOLD) -> None:
        self.name = name
        self.worth = worth
        self.threshold = threshold

    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        """Return actions by the worth of slots and by word overlap."""
        slots, turn = self.worth(observation)
        occupied = slot_feature(observation, "occupied") > 0
        age = slot_feature(observation, "age")
        ranked = np.where(occupied, slots - 1e-4 * age, -np.inf)
        weakest = ranked.argmin(1)
        rows = np.arange(len(weakest))
        write = np.where(turn >= np.where(occupied, slots, -np.inf)[rows, weakest], weakest + 1, 0)
        write = np.where(action_masks[:, 1], write, 0)  # questions may not be written
        reads = reads_of(observation, action_masks)
        return np.concatenate([write[:, None], self._reads(observation, reads, write)], axis=1)

    def _reads(self, observation: Observation, reads: int, write: Actions) -> Actions:
        overlap = np.where(slot_feature(observation, "occupied") > 0, slot_feature(observation, "overlap_turn"), -1.0)
        overlap[np.flatnonzero(write), write[write > 0] - 1] = -1.0  # superseded just now
        order = np.argsort(-overlap, axis=1, kind="stable")[:, :reads]
        chosen = np.where(np.take_along_axis(overlap, order, 1) >= self.threshold, order + 1, 0)
        return np.pad(chosen, ((0, 0), (0, reads - chosen.shape[1])))


class Reservoir(KeepBest):
    """Keeps an even sample of all turns so far (Vitter's algorithm R, 1985)."""

    draws: ClassVar[bool] = True

    def __init__(self, seed: int = 0, threshold: float = READ_THRESHOLD) -> None:
        super().__init__("reservoir", self._draw, threshold)
        self.rng = np.random.default_rng(seed)

    def _draw(self, observation: Observation) -> tuple[FloatArray, FloatArray]:
        slots = self.rng.random(observation["slots"].shape[:2]).astype(np.float32)
        seen = np.expm1(turn_feature(observation, "time") * np.log(64)) + 1
        accept = self.rng.random(len(seen)) < slots.shape[1] / seen
        return slots, np.where(accept, np.float32(2), np.float32(-1))


def _fifo(observation: Observation) -> tuple[FloatArray, FloatArray]:
    age = slot_feature(observation, "age")
    return -age, np.zeros(len(age), np.float32)


def _lru(observation: Observation) -> tuple[FloatArray, FloatArray]:
    idle = slot_feature(observation, "idle")
    return -idle, np.zeros(len(idle), np.float32)


def _by(name: str) -> Keep:
    return lambda observation: (slot_feature(observation, name), turn_feature(observation, name))


def heuristics(seed: int = 0, threshold: float = READ_THRESHOLD) -> list[Agent]:
    """Return every agent that learns nothing and keeps to the budget, ``none`` first.

    ``fifo``, ``lru``, ``reservoir``, ``longest`` and ``salience`` differ in what they keep and read
    slots whose word overlap with the turn reaches ``threshold``; ``similarity`` keeps the newest
    turns and, as retrieval does, always reads the most similar ones.
    """
    return [
        NoMemory(),
        RandomAgent(seed),
        KeepBest("fifo", _fifo, threshold),
        KeepBest("lru", _lru, threshold),
        Reservoir(seed, threshold),
        KeepBest("longest", _by("length"), threshold),
        KeepBest("salience", _by("salience"), threshold),
        KeepBest("similarity", _fifo, 1e-6),
    ]
