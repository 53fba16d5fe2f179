"""``stm_rl/Dialogue-v0``: what should an assistant remember of a busy week?"""

from __future__ import annotations

from typing import Any

from stm_rl.worlds import DialogueWorld, GeneratedTranscripts
from stm_rl_envs.episodes import MemorySettings
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.vector import MemoryVectorEnv


def dialogue_options(
    split: str = "train",
    episodes: int = 4000,
    turns: int = 40,
    min_gap: int = 4,
    max_gap: int = 12,
    entities: str = "train",
    templates: str = "train",
    slots: int = 4,
    window: int = 2,
    reads: int = 2,
    max_steps: int | None = None,
    full_context: bool = False,
    **others: Any,
) -> dict[str, Any]:
    """Return the keyword arguments of a memory environment on generated dialogues.

    Args:
        split: ``train``, ``validation`` or ``test``; they share no dialogue.
        episodes: How many distinct dialogues.
        turns: Turns in each.
        min_gap: Least number of exchanges from a plan to the question about it.
        max_gap: Greatest such number.
        entities: ``train``, or ``heldout`` for names and things training never shows.
        templates: ``train``, or ``heldout`` for phrasings training never shows.
        slots: See :class:`~stm_rl_envs.episodes.MemorySettings`, like the next four.
        window: Turns the model sees without memory.
        reads: Most slots read in one step.
        max_steps: Steps after which an episode is truncated.
        full_context: Put the whole history in front of the model.
        **others: Passed on: ``lm``, ``reward``, ``encoder``, ``prompt`` and so on.
    """
    world = DialogueWorld(turns, min_gap, max_gap, entities, templates)
    return {
        "transcripts": GeneratedTranscripts(world, split, episodes),
        "settings": MemorySettings(slots, window, reads, max_steps, full_context),
        **others,
    }


class DialogueEnv(MemoryEnv):
    """A user talks with an assistant about plans, changes them, gossips, and later asks.

    Description:
        Each dialogue (:class:`stm_rl.worlds.DialogueWorld`) mentions more plans than the memory has
        slots. A plan is asked about once, several turns after it was mentioned, unless it was called
        off. Changed plans leave a stale turn behind; gossip about the same people and places is
        never asked about; some questions need two turns.

    Action space, observation space, reward, termination:
        See :class:`~stm_rl_envs.memory_env.MemoryEnv`.

    Registered ids:
        ``stm_rl/Dialogue-v0``
    """

    def __init__(self, **options: Any) -> None:
        """Make the environment.

        Args:
            **options: Those of :func:`dialogue_options` and of :class:`~stm_rl_envs.memory_env.MemoryEnv`.
        """
        super().__init__(**dialogue_options(**options))


class DialogueVectorEnv(MemoryVectorEnv):
    """The vector form of :class:`DialogueEnv`."""

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        """Make the environments.

        Args:
            num_envs: How many.
            **options: Those of :func:`dialogue_options` and of :class:`~stm_rl_envs.vector.MemoryVectorEnv`.
        """
        super().__init__(num_envs, **dialogue_options(**options))
