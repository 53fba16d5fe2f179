"""Registers the environments with Gymnasium; entry points are strings, so none is imported."""

from __future__ import annotations

import gymnasium as gym


def register_envs() -> None:
    """Register every environment of the package that is not registered yet."""
    if "stm_rl/Dialogue-v0" not in gym.registry:
        gym.register(
            "stm_rl/Dialogue-v0",
            entry_point="stm_rl_envs.dialogue:DialogueEnv",
            vector_entry_point="stm_rl_envs.dialogue:DialogueVectorEnv",
        )
