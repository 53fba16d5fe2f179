"""The bridge to stable-baselines3: our vector environments as a ``VecEnv``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Env
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from stm_rl.errors import StmError
from stm_rl_envs.vector import MemoryVectorEnv

LOGGED = ("coherence_gain", "writes", "reads", "evidence_needed", "evidence_held")
"""Entries of a step's infos that are summed up over each episode."""


class MemoryVecEnv(VecEnv):
    """A :class:`~stm_rl_envs.vector.MemoryVectorEnv` as stable-baselines3 expects it.

    The info of a finished episode holds ``episode`` (``r``: return, ``l``: length, and the sums named
    in :data:`LOGGED`), ``terminal_observation`` and ``TimeLimit.truncated``.
    """

    def __init__(self, env: MemoryVectorEnv) -> None:
        if not env.autoreset:
            raise StmError("stable-baselines3 needs environments that reset themselves; make them with autoreset=True")
        self.env = env
        self.render_mode = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._actions = np.zeros((env.num_envs, *(env.single_action_space.shape or ())), np.int64)
        self._sums = {name: np.zeros(env.num_envs) for name in ("r", "l", *LOGGED)}

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment, with the seeds given to :meth:`seed`, if any."""
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        observation, self.reset_infos = self.env.reset(seed=seeds)[0], [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        for total in self._sums.values():
            total[:] = 0
        return observation

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step every environment."""
        observation, rewards, terminated, truncated, infos = self.env.step(self._actions)
        done = terminated | truncated
        self._sums["r"] += rewards
        self._sums["l"] += 1
        for name in LOGGED:
            self._sums[name] += infos[name] > 0 if name == "writes" else infos[name]
        each: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in np.flatnonzero(done).tolist():
            each[row] = {
                "episode": {name: float(total[row]) for name, total in self._sums.items()},
                "terminal_observation": infos["final_obs"][row],
                "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
            }
        for total in self._sums.values():
            total[done] = 0
        return observation, rewards.astype(np.float32), done, each

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def _rows(self, indices: VecEnvIndices) -> Sequence[int]:
        return list(self._get_indices(indices))

    def has_attr(self, attr_name: str) -> bool:
        """Return whether the environments have an attribute or method."""
        return hasattr(self.env, attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the environments, which share it."""
        return [getattr(self.env, attr_name) for _ in self._rows(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of all environments."""
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environments; its result is split by environment."""
        result = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [result[row] for row in self._rows(indices)]

    def env_is_wrapped(self, wrapper_class: type[Env[Any, Any]], indices: VecEnvIndices = None) -> list[bool]:
        """Return false: the environments are not wrapped."""
        return [False for _ in self._rows(indices)]
