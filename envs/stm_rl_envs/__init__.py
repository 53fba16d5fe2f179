"""Gymnasium environments in which an agent decides what a language model remembers."""

from stm_rl_envs.episodes import Episodes
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import GLOBAL_FEATURES, SLOT_FEATURES

__all__ = ["GLOBAL_FEATURES", "SLOT_FEATURES", "Episodes", "MemoryEnv", "MemorySettings", "MemoryVectorEnv"]
