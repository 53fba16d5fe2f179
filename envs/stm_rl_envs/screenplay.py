"""``stm_rl/Screenplay-v0``: what does a scene need of the scenes before?"""

from __future__ import annotations

from typing import Any

from stm_rl.worlds import ScreenplayWorld
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.options import scripted_options
from stm_rl_envs.vector import MemoryVectorEnv


class ScreenplayEnv(MemoryEnv):
    """A screenplay unfolds in scene headings, action and dialogue; who knows what, who is where, who has which prop?

    Description:
        Each screenplay (:class:`stm_rl.worlds.ScreenplayWorld`) is valid Fountain: scene headings, action lines,
        character cues, parentheticals, dialogue. A line or an action depends on what was said or seen scenes ago.
        Props change hands and hiding places, which leaves stale turns behind; rumours about the same
        characters and props never matter; some lines need two earlier turns.

    Action space, observation space, termination:
        See :class:`~stm_rl_envs.memory_env.MemoryEnv`.

    Reward:
        In ``teacher-forced`` mode the coherence gain. In ``generate`` mode the model writes the dependent lines
        itself: the share of facts it gets right, minus 1 for a contradiction, each against what it writes without
        memory. Minus the costs of writing and reading.

    Registered ids:
        ``stm_rl/Screenplay-Easy-v0``, ``stm_rl/Screenplay-Medium-v0`` (also ``stm_rl/Screenplay-v0``),
        ``stm_rl/Screenplay-Hard-v0``
    """

    def __init__(self, **options: Any) -> None:
        """Make the environment.

        Args:
            **options: Those of :func:`~stm_rl_envs.options.scripted_options` (``turns``, ``slots``, ``mode``, ...) and
                of :class:`~stm_rl_envs.memory_env.MemoryEnv` (``lm``, ``reward``, ``encoder``, ...).
        """
        super().__init__(**scripted_options(ScreenplayWorld, **options))


class ScreenplayVectorEnv(MemoryVectorEnv):
    """The vector form of :class:`ScreenplayEnv`."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        """Make the environments.

        Args:
            num_envs: How many.
            **options: Those of :class:`ScreenplayEnv`.
        """
        super().__init__(num_envs, **scripted_options(ScreenplayWorld, **options))
