"""Keyword arguments of environments, sorted into those of worlds, of memory settings and of rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from stm_rl.rewards import COSTS, DEFAULT_WEIGHTS
from stm_rl.transcript import Transcript
from stm_rl.worlds import GeneratedTranscripts
from stm_rl.worlds.script import ScriptWorld
from stm_rl_envs.settings import GENERATE, TEACHER_FORCED, MemorySettings

Weights = Mapping[str, float]
Rewards = Mapping[str, Weights]
"""Weights of the default reward in each mode."""

WORLD_REWARDS: Rewards = {
    TEACHER_FORCED: DEFAULT_WEIGHTS,
    GENERATE: {"consistency": 1.0, "contradiction": 1.0, **COSTS},
}
"""Default reward where the hidden state of a world is known."""
TEXT_REWARDS: Rewards = {TEACHER_FORCED: DEFAULT_WEIGHTS, GENERATE: {"similarity": 1.0, **COSTS}}
"""Default reward where only the text is known."""

WORLD_SETTINGS = tuple(field.name for field in fields(ScriptWorld) if field.name != "lexicon")
"""Settings of procedural worlds that can be given as options."""


def memory_options(transcripts: Sequence[Transcript], rewards: Rewards, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a memory environment.

    Args:
        transcripts: Where episodes come from.
        rewards: The reward in each mode, unless ``options`` give one.
        options: Fields of :class:`~stm_rl_envs.settings.MemorySettings`, and whatever else
            :class:`~stm_rl_envs.memory_env.MemoryEnv` takes: ``lm``, ``reward``, ``encoder``, ``prompt`` and so on.
    """
    others = dict(options)
    settings = MemorySettings(**{name: others.pop(name) for name in MemorySettings.names() if name in others})
    if others.get("reward") is None:
        others["reward"] = rewards[settings.mode]
    return {"transcripts": transcripts, "settings": settings, **others}


def scripted_options(
    world: type[ScriptWorld],
    rewards: Rewards = WORLD_REWARDS,
    *,
    split: str = "train",
    episodes: int = 4000,
    **options: Any,
) -> dict[str, Any]:
    """Return the keyword arguments of a memory environment on generated transcripts.

    Args:
        world: The world that writes them.
        rewards: The reward in each mode, unless ``reward`` is given.
        split: ``train``, ``validation`` or ``test``; they share no transcript.
        episodes: How many distinct transcripts.
        **options: Settings of the world (:class:`~stm_rl.worlds.script.ScriptWorld`: ``turns``, ``min_gap``,
            ``max_gap``, ``entities``, ``templates``, ``distractor_rate``, ``chat_rate``), which has defaults of its
            own, and those of :func:`memory_options`.
    """
    generator = world(**{name: options.pop(name) for name in WORLD_SETTINGS if name in options})
    return memory_options(GeneratedTranscripts(generator, split, episodes), rewards, options)
