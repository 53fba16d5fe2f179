"""Random legal play, and what it shows: for checks of an environment's dynamics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from stm_rl.cli.task import Task, check_env_id
from stm_rl.errors import StmError
from stm_rl.lm import CausalLM, ScoringEngine
from stm_rl_envs.memory_env import MemoryEnv

Seen = tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_], float, bool]
"""Observation, masks, reward and whether the episode is over, after a step."""

_PROCESS = """
import json, sys
from stm_rl.cli.validate_trajectory import digest_alone
print(digest_alone(*json.loads(sys.argv[1])))
"""


def scalar_env(task: Task, **overrides: Any) -> MemoryEnv:
    """Make the scalar form of a task's environment.

    Raises:
        StmError: It is no memory environment.
    """
    options = task.overrides | overrides
    if task.reward:
        options["reward"] = task.reward
    env = gym.make(task.env, lm=task.engine, **options).unwrapped
    if not isinstance(env, MemoryEnv):
        raise StmError(
            f"{task.env} makes a {type(env).__name__}; expected a subclass of stm_rl_envs.MemoryEnv as its entry_point"
        )
    return env


def random_actions(rng: np.random.Generator, masks: NDArray[np.bool_], slots: int) -> NDArray[np.int64]:
    """Return random legal actions for flat masks, with or without a leading axis."""
    parts = masks.reshape(*masks.shape[:-1], -1, slots + 1)
    return np.asarray((rng.random(parts.shape) * parts).argmax(-1))


def slots_of(env: MemoryEnv) -> int:
    """Return how many slots the memory of an environment has."""
    return env.episodes.settings.slots


def trajectory(env: MemoryEnv, rng: np.random.Generator, steps: int) -> Iterator[Seen]:
    """Play random legal actions in an episode under way, on to the next ones, and yield what is seen."""
    for _ in range(steps):
        action = random_actions(rng, env.action_masks(), slots_of(env))
        observation, reward, terminated, truncated, _ = env.step(action)
        yield observation, env.action_masks(), float(reward), terminated or truncated
        if terminated or truncated:
            env.reset()


def digest(env: MemoryEnv, seed: int, steps: int = 60) -> str:
    """Return a digest of everything that random legal play from ``seed`` on shows."""
    state = blake2b(digest_size=8)
    observation, _ = env.reset(seed=seed)
    _add(state, observation)
    for seen, masks, reward, over in trajectory(env, np.random.default_rng(seed), steps):
        _add(state, seen)
        state.update(masks.tobytes() + repr((reward, over)).encode())
    return state.hexdigest()


def _add(state: Any, observation: dict[str, NDArray[np.float32]]) -> None:
    for name in sorted(observation):
        state.update(name.encode() + observation[name].tobytes())


def digest_alone(env: str, overrides: dict[str, Any], rewards: dict[str, float], lm: str | None, seed: int) -> str:
    """Return the digest in a process of its own, with no score or vector remembered from earlier play."""
    import torch

    torch.set_num_threads(1)
    check_env_id(env)
    engine = None if lm is None else ScoringEngine(CausalLM.load(lm))
    return digest(gym.make(env, lm=engine, **overrides, **({"reward": rewards} if rewards else {})).unwrapped, seed)  # type: ignore[arg-type]


class Processes:
    """Plays the same seed in two new processes with other orders of sets, beside whatever else is checked."""

    def __init__(self, task: Task, lm: str | None, seed: int) -> None:
        rewards = task.reward.specs if task.reward else {}
        arguments = json.dumps([task.env, task.overrides, rewards, lm, seed])
        path = os.pathsep.join(filter(None, sys.path))
        self.ended: list[tuple[str, str, int]] = []
        self.running = [
            subprocess.Popen(
                [sys.executable, "-c", _PROCESS, arguments],
                env=os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for hash_seed in (1, 2)
        ]

    def digests(self) -> list[str]:
        """Wait for both and return their digests.

        Raises:
            StmError: One failed.
        """
        while len(self.ended) < len(self.running):
            process = self.running[len(self.ended)]
            self.ended.append((*process.communicate(), process.returncode))
        for _, complaint, code in self.ended:
            if code:
                lines = complaint.strip().splitlines() or [f"exit status {code}"]
                raise StmError(f"the environment cannot be played in a process of its own: {lines[-1]}")
        return [printed.split()[-1] for printed, _, _ in self.ended]

    def stop(self) -> None:
        """End what still runs."""
        for process in self.running[len(self.ended) :]:
            process.kill()
            self.ended.append((*process.communicate(), process.returncode))
