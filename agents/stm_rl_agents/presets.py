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


WARM_LR = 3e-4
"""Learning rate from a policy that can do something already."""
WARM_SHARE = 0.3
"""Share of the usual steps that such a policy trains for."""
KL_ANCHOR = 0.1
"""Weight of the penalty for leaving that policy."""


def preset(name: str, env: str, *, steps: int | None = None, warm: bool = False) -> PPOSettings:
    """Return the settings ``name`` for the environment ``env``, with its curriculum if it has one.

    Args:
        name: A key of :data:`PRESETS`.
        env: Id of the environment; empty for transcripts.
        steps: Environment steps, instead of the preset's.
        warm: Training starts from a policy: for fewer steps, without a curriculum, at a lower learning rate, with a
            penalty for leaving that policy, and the value head first learns for two rollouts, or a quarter of all steps
            if that is less.

    Raises:
        StmError: There is no such preset.
    """
    if name not in PRESETS:
        raise StmError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}")
    usual = round(PRESETS[name].steps * (WARM_SHARE if warm else 1))
    settings = replace(PRESETS[name], steps=steps or usual)
    if warm:
        warmup = min(2 * settings.num_envs * settings.rollout, settings.steps // 4)
        return replace(settings, lr=WARM_LR, value_warmup=warmup, kl_anchor=KL_ANCHOR)
    spec = gym.registry.get(env.rpartition(":")[2])
    own_gap = spec.kwargs.get("max_gap", DEFAULT_MAX_GAP) if spec else 0
    scripted = (
        spec is not None and f"{spec.namespace}/{spec.name}".partition("-")[0] in WORLDS and own_gap >= DEFAULT_MAX_GAP
    )
    return replace(settings, curriculum=WORLD_CURRICULUM) if scripted else settings
