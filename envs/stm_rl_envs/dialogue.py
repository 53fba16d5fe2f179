"""``stm_rl/Dialogue-v0``: what should an assistant remember of a busy week?"""

from __future__ import annotations

from typing import Any

from stm_rl.worlds import DialogueWorld, GeneratedTranscripts
from stm_rl_envs.episodes import MemorySettings
from stm_rl_envs.memory_env import MemoryEnv
from stm_rl_envs.vector import MemoryVectorEnv


def dialogues(
    split: str = "train",
    episodes: int = 4000,
    turns: int = 40,
    entities: str = "train",
    templates: str = "train",
) -> GeneratedTranscripts:
    """Return generated dialogues.

    Args:
        split: ``train``, ``validation`` or ``test``; they share no episode.
        episodes: How many distinct ones.
        turns: Turns in each.
        entities: ``train``, or ``heldout`` for names and things training never shows.
        templates: ``train``, or ``heldout`` for phrasings training never shows.
    """
    return GeneratedTranscripts(DialogueWorld(turns, entities=entities, templates=templates), split, episodes)


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

    def __init__(
        self,
        split: str = "train",
        episodes: int = 4000,
        turns: int = 40,
        entities: str = "train",
        templates: str = "train",
        slots: int = 4,
        window: int = 2,
        reads: int = 2,
        max_steps: int | None = None,
        **options: Any,
    ) -> None:
        """Make the environment.

        Args:
            split: See :func:`dialogues`, like the next four.
            episodes: How many distinct dialogues.
            turns: Turns in each.
            entities: ``train`` or ``heldout``.
            templates: ``train`` or ``heldout``.
            slots: See :class:`~stm_rl_envs.episodes.MemorySettings`, like the next three.
            window: Turns the model sees without memory.
            reads: Most slots read in one step.
            max_steps: Steps after which an episode is truncated.
            **options: ``lm``, ``reward``, ``encoder``, ``prompt``, ``render_mode`` of
                :class:`~stm_rl_envs.memory_env.MemoryEnv`.
        """
        settings = MemorySettings(slots, window, reads, max_steps)
        super().__init__(dialogues(split, episodes, turns, entities, templates), settings=settings, **options)


class DialogueVectorEnv(MemoryVectorEnv):
    """The vector form of :class:`DialogueEnv`; same arguments after ``num_envs``."""

    def __init__(
        self,
        num_envs: int = 1,
        split: str = "train",
        episodes: int = 4000,
        turns: int = 40,
        entities: str = "train",
        templates: str = "train",
        slots: int = 4,
        window: int = 2,
        reads: int = 2,
        max_steps: int | None = None,
        **options: Any,
    ) -> None:
        """Make the environments; see :class:`DialogueEnv`."""
        settings = MemorySettings(slots, window, reads, max_steps)
        transcripts = dialogues(split, episodes, turns, entities, templates)
        super().__init__(num_envs, transcripts, settings=settings, **options)
