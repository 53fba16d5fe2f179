"""``stm_rl/Story-v0``: what does the next sentence need of the story so far?"""

from __future__ import annotations

from typing import Any

from stm_rl.worlds import StoryWorld
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.options import scripted_options
from stm_rl_envs.vector import MemoryVectorEnv


class StoryEnv(MemoryEnv):
    """A story goes on, sentence by sentence; later sentences need who has what, and who is where.

    Description:
        Each story (:class:`stm_rl.worlds.StoryWorld`) tells of characters, places, things and aims. A later
        sentence depends on one of them, long after it was told. Things change hands and places, which leaves
        stale sentences behind; rumours and memories of the same characters never matter; some sentences
        need two earlier ones (who has the thing, and where that character is).

    Action space, observation space, termination:
        See :class:`~stm_rl_envs.memory_env.MemoryEnv`.

    Reward:
        In ``teacher-forced`` mode the coherence gain. In ``generate`` mode the model writes the dependent sentences
        itself: the share of facts it gets right, minus 1 for a contradiction, each against what it writes without
        memory. Minus the costs of writing and reading.

    Registered ids:
        ``stm_rl/Story-Easy-v0``, ``stm_rl/Story-Medium-v0`` (also ``stm_rl/Story-v0``),
        ``stm_rl/Story-Hard-v0``
    """

    def __init__(self, **options: Any) -> None:
        """Make the environment.

        Args:
            **options: Those of :func:`~stm_rl_envs.options.scripted_options` (``turns``, ``slots``, ``mode``, ...) and
                of :class:`~stm_rl_envs.memory_env.MemoryEnv` (``lm``, ``reward``, ``encoder``, ...).
        """
        super().__init__(**scripted_options(StoryWorld, **options))


class StoryVectorEnv(MemoryVectorEnv):
    """The vector form of :class:`StoryEnv`."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        """Make the environments.

        Args:
            num_envs: How many.
            **options: Those of :class:`StoryEnv`.
        """
        super().__init__(num_envs, **scripted_options(StoryWorld, **options))
