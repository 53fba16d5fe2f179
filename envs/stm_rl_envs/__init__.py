"""Gymnasium environments in which an agent decides what a language model remembers."""

from stm_rl_envs.episodes import GLOBAL_FEATURES, SLOT_FEATURES, Episodes
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

__all__ = ["GLOBAL_FEATURES", "SLOT_FEATURES", "Episodes", "MemoryEnv", "MemorySettings", "MemoryVectorEnv"]
