"""Lessons: states of the memory, and what the expert says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stm_rl_agents.base import Agent, reads_of
from stm_rl_agents.demonstrations import Demonstrations
from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_envs.vector import MemoryVectorEnv

Batch = dict[str, Tensor]
"""``observation/<name>``, ``masks``, ``actions``, ``stakes`` and, from an expert, ``write`` and ``read``."""


@dataclass(slots=True)
class Lessons:
    """``n`` states with the expert's actions, and what each choice is worth where the expert knows.

    Observations are kept in half precision: numbers up to 8 of which a policy needs three digits.

    Attributes:
        columns: Arrays with a leading axis of ``n``, as in :data:`Batch`.
    """

    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["actions"])

    @property
    def has_advice(self) -> bool:
        """Whether the lessons say what each choice is worth, and not only what was done."""
        return "write" in self.columns

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Return some of the lessons as tensors."""
        return {
            name: torch.as_tensor(values[rows].astype(np.float32) if values.dtype == np.float16 else values[rows])
            for name, values in self.columns.items()
        }

    @classmethod
    def joined(cls, parts: Sequence[Lessons]) -> Lessons:
        """Return the lessons of all parts."""
        return cls({name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns})

    @classmethod
    def of(cls, demonstrations: Demonstrations) -> Lessons:
        """Return demonstrations as lessons: what was done, without what each choice was worth."""
        episodes = demonstrations.episodes
        seen = episodes[0].observations
        columns: dict[str, NDArray[Any]] = {
            f"observation/{name}": np.concatenate([one.observations[name][:-1] for one in episodes]).astype(np.float16)
            for name in seen
        }
        for name in ("actions", "masks", "stakes"):
            columns[name] = np.concatenate([getattr(one, name) for one in episodes])
        return cls(columns)


def collect(
    actor: Agent,
    expert: HindsightExpert,
    env: MemoryVectorEnv,
    indices: Sequence[int],
    *,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    on_episodes: Callable[[int], None] = lambda count: None,
) -> Lessons:
    """Play transcripts once each and ask the expert what it would do in every state that is met.

    Args:
        actor: Who plays: the expert itself, or a learner that gets into states of its own (DAgger).
        expert: Who is asked.
        env: An environment that does not reset itself; it needs no language model.
        indices: Indices of the transcripts.
        noise: Probability with which a random legal write takes the place of the actor's. An expert that is thrown off
            shows how it recovers (DART; Laskey et al., 2017): without, a memory never holds what is of no use.
        rng: Draws the random writes.
        on_episodes: Called with the number of episodes just finished.
    """
    rng = rng or np.random.default_rng(0)
    expert.start(env)
    if actor is not expert:
        actor.start(env)
    parts: list[dict[str, NDArray[Any]]] = []
    for _, observation in env.batches(indices, on_episodes):
        while not env.resting.all():
            masks = env.action_masks()
            advice = expert.advise()
            told, stakes = expert.decide(advice, masks, reads_of(observation, masks))
            actions = told.copy() if actor is expert else actor.act(observation, masks, deterministic=False)
            throw_off(actions, masks, observation["slots"].shape[1], noise, rng)
            rows = np.flatnonzero(~env.resting)
            parts.append(
                {
                    **{f"observation/{name}": value[rows].astype(np.float16) for name, value in observation.items()},
                    "masks": masks[rows],
                    "actions": told[rows],
                    "stakes": stakes[rows],
                    "write": advice.write[rows],
                    "read": advice.read[rows],
                }
            )
            observation, *_ = env.step(actions)
    return Lessons.joined([Lessons(part) for part in parts])


def throw_off(
    actions: NDArray[np.int64], masks: NDArray[np.bool_], slots: int, noise: float, rng: np.random.Generator
) -> None:
    """Put random legal writes in place of some, with a probability of ``noise`` each."""
    thrown = rng.random(len(actions)) < noise
    legal = masks[:, : slots + 1]
    actions[thrown, 0] = (rng.random(legal.shape) * legal).argmax(1)[thrown]
