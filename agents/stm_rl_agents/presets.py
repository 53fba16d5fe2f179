"""Settings that were found to work, by name."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym

from stm_rl.errors import StmError
from stm_rl_agents.ppo import PPOSettings, Stage

WORLD_CURRICULUM = (
    Stage(0.3, {"min_gap": 2, "max_gap": 5}),
    Stage(0.2, {"min_gap": 3, "max_gap": 8}),
    Stage(0.5),
)
"""From short distances to the real ones: at first nothing has to be held for long to be paid."""

WORLDS = ("stm_rl/Dialogue", "stm_rl/Story", "stm_rl/Screenplay", "stm_rl/Recall")
"""Environments with those distances; the easy levels have short ones from the start."""
DEFAULT_MAX_GAP = 12

PRESETS: dict[str, PPOSettings] = {
    "demo": PPOSettings(steps=450_000),
    "full": PPOSettings(steps=1_200_000),
    "smoke": PPOSettings(steps=2_048, num_envs=16, rollout=32, batch_size=256, validate_every=2, validation_episodes=8),
}
"""``demo``: minutes on a laptop; ``full``: under an hour; ``smoke``: seconds, learns nothing."""


def preset(name: str, env: str) -> PPOSettings:
    """Return the settings ``name`` for the environment ``env``, with its curriculum if it has one.

    Raises:
        StmError: There is no such preset.
    """
    if name not in PRESETS:
        raise StmError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}")
    spec = gym.registry.get(env.rpartition(":")[2])
    own_gap = spec.kwargs.get("max_gap", DEFAULT_MAX_GAP) if spec else 0
    scripted = (
        spec is not None and f"{spec.namespace}/{spec.name}".partition("-")[0] in WORLDS and own_gap >= DEFAULT_MAX_GAP
    )
    return replace(PRESETS[name], curriculum=WORLD_CURRICULUM) if scripted else PRESETS[name]
