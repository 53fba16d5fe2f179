"""Registers the environments with Gymnasium; entry points are strings, so none is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

WORLD_LEVELS: Mapping[str, dict[str, Any]] = {
    "Easy": {"turns": 24, "slots": 6, "min_gap": 2, "max_gap": 6, "distractor_rate": 0.15, "chat_rate": 0.05},
    "Medium": {"turns": 40, "slots": 4, "min_gap": 4, "max_gap": 12, "distractor_rate": 0.3, "chat_rate": 0.05},
    "Hard": {"turns": 80, "slots": 4, "min_gap": 4, "max_gap": 16, "distractor_rate": 0.45, "chat_rate": 0.05},
}
"""Settings of the procedural environments by level; Medium is the default."""
RECALL_LEVELS: Mapping[str, dict[str, Any]] = {
    **WORLD_LEVELS,
    "Easy": {**WORLD_LEVELS["Easy"], "min_gap": 4, "max_gap": 10},
}
"""A beat is a single turn here: with gaps of 2 to 6 the last few turns would often do."""
TEXT_LEVELS: Mapping[str, dict[str, Any]] = {
    "Easy": {"slots": 8, "max_steps": 24},
    "Medium": {},
    "Hard": {"slots": 2, "reads": 1},
}
"""Settings of environments on given transcripts by level."""
LEVELS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "Dialogue": WORLD_LEVELS,
    "Story": WORLD_LEVELS,
    "Screenplay": WORLD_LEVELS,
    "Recall": RECALL_LEVELS,
    "Transcript": TEXT_LEVELS,
}
"""The environments, each with its levels."""
PICTURE_STORY, PICTURE_NAMING = "stm_rl/PictureStory-v0", "stm_rl/PictureNaming-v0"
"""Environments without levels, for turns that carry images: with slots, and for agents with a memory of their own."""
SOUND_STORY, SOUND_NAMING = "stm_rl/SoundStory-v0", "stm_rl/SoundNaming-v0"
"""The same with sounds."""
NAMING = (PICTURE_NAMING, SOUND_NAMING)
"""The environments that have no slots."""


def register_envs() -> None:
    """Register every environment of the package that is not registered yet."""
    for name, levels in LEVELS.items():
        for suffix, settings in {"": levels["Medium"], **{f"-{level}": levels[level] for level in levels}}.items():
            env_id = f"stm_rl/{name}{suffix}-v0"
            if env_id not in gym.registry:
                module = f"stm_rl_envs.{name.lower()}"
                gym.register(
                    env_id,
                    entry_point=f"{module}:{name}Env",
                    vector_entry_point=f"{module}:{name}VectorEnv",
                    kwargs=dict(settings),
                )
    for env_id, settings in ((PICTURE_STORY, {}), (SOUND_STORY, {"medium": "audio"})):
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point="stm_rl_envs.picture:PictureStoryEnv",
                vector_entry_point="stm_rl_envs.picture:PictureStoryVectorEnv",
                kwargs={"slots": 4, "reads": 1, **settings},
            )
    for env_id, settings in ((PICTURE_NAMING, {}), (SOUND_NAMING, {"medium": "audio"})):
        if env_id not in gym.registry:
            gym.register(env_id, entry_point="stm_rl_envs.picture:PictureNamingEnv", kwargs=dict(settings))
