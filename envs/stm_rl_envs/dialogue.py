"""``stm_rl/Dialogue-v0``: what should an assistant remember of a busy week?"""

from __future__ import annotations

from typing import Any

from stm_rl.worlds import DialogueWorld
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.options import scripted_options
from stm_rl_envs.vector import MemoryVectorEnv


class DialogueEnv(MemoryEnv):
    """A user talks with an assistant about plans, changes them, gossips, and later asks.

    Description:
        Each dialogue (:class:`stm_rl.worlds.DialogueWorld`) mentions more plans than the memory has
        slots. A plan is asked about once, several turns after it was mentioned, unless it was called
        off. Changed plans leave a stale turn behind; gossip about the same people and places is
        never asked about; some questions need two turns.

    Action space, observation space, termination:
        See :class:`~stm_rl_envs.memory_env.MemoryEnv`.

    Reward:
        In ``teacher-forced`` mode the coherence gain. In ``generate`` mode the model writes the assistant's answers and
        replies itself: the share of facts it gets right, minus 1 for a contradiction, each against what it writes
        without memory. Minus the costs of writing and reading.

    Registered ids:
        ``stm_rl/Dialogue-Easy-v0``, ``stm_rl/Dialogue-Medium-v0`` (also ``stm_rl/Dialogue-v0``),
        ``stm_rl/Dialogue-Hard-v0``
    """

    def __init__(self, **options: Any) -> None:
        """Make the environment.

        Args:
            **options: Those of :func:`~stm_rl_envs.options.scripted_options` (``turns``, ``slots``, ``mode``, ...) and
                of :class:`~stm_rl_envs.memory_env.MemoryEnv` (``lm``, ``reward``, ``encoder``, ...).
        """
        super().__init__(**scripted_options(DialogueWorld, **options))


class DialogueVectorEnv(MemoryVectorEnv):
    """The vector form of :class:`DialogueEnv`."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        """Make the environments.

        Args:
            num_envs: How many.
            **options: Those of :class:`DialogueEnv`.
        """
        super().__init__(num_envs, **scripted_options(DialogueWorld, **options))
