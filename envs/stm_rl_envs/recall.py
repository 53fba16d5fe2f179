"""``stm_rl/Recall-v0``: what will be asked?"""

from __future__ import annotations

from typing import Any

from stm_rl.rewards import COSTS
from stm_rl.worlds import RecallWorld
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.options import WORLD_SETTINGS, Rewards, scripted_options
from stm_rl_envs.settings import GENERATE, TEACHER_FORCED
from stm_rl_envs.transcript import transcript_options
from stm_rl_envs.vector import MemoryVectorEnv

RECALL_REWARDS: Rewards = {
    TEACHER_FORCED: {"answer_gain": 1.0, **COSTS},
    GENERATE: {"answer_f1": 1.0, **COSTS},
}


def recall_options(**options: Any) -> dict[str, Any]:
    """Return the keyword arguments of a recall environment: on given data, else on a procedural world.

    On given data the settings of the world, which levels such as ``Recall-Easy-v0`` bring, have no meaning.
    """
    if options.get("path") is None and options.get("transcripts") is None:
        return scripted_options(RecallWorld, RECALL_REWARDS, **options)
    others = {name: value for name, value in options.items() if name not in (*WORLD_SETTINGS, "episodes")}
    return transcript_options(RECALL_REWARDS, ask=True, **others)


class RecallEnv(MemoryEnv):
    """Statements stream past, and questions about them come in between; the answers are scored.

    Description:
        Statements of the dialogue world (:class:`stm_rl.worlds.RecallWorld`), one a turn, or your own annotated
        data: ``path`` and ``format`` (bAbI, LoCoMo, SGD, MultiWOZ, IRC ...), or ``transcripts``; questions about a
        whole transcript are asked at its end. A question is a turn, its answer the next one. Neither may be
        written to memory.

    Action space, observation space, termination:
        See :class:`~stm_rl_envs.memory_env.MemoryEnv`.

    Reward:
        In ``teacher-forced`` mode the coherence gain of answers; in ``generate`` mode, in which the model writes
        the answers itself, the F1 of their words, against what it answers without memory. Minus the costs of writing
        and reading. With ``reward={"recall": 1.0}, lm=None`` evidence held is paid for, and no model is needed.

    Registered ids:
        ``stm_rl/Recall-Easy-v0``, ``stm_rl/Recall-Medium-v0`` (also ``stm_rl/Recall-v0``), ``stm_rl/Recall-Hard-v0``
    """

    def __init__(self, **options: Any) -> None:
        """Make the environment.

        Args:
            **options: Those of :func:`~stm_rl_envs.options.scripted_options` or, for your own data, of
                :func:`~stm_rl_envs.transcript.transcript_options`; and of :class:`~stm_rl_envs.memory_env.MemoryEnv`.
        """
        super().__init__(**recall_options(**options))


class RecallVectorEnv(MemoryVectorEnv):
    """The vector form of :class:`RecallEnv`."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        """Make the environments.

        Args:
            num_envs: How many.
            **options: Those of :class:`RecallEnv`.
        """
        super().__init__(num_envs, **recall_options(**options))
