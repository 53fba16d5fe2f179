"""What an agent has to work with, and how transcripts are played."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.transcript import Transcript

TEACHER_FORCED, GENERATE = MODES = ("teacher-forced", "generate")
"""Modes of play: the model scores the true next turn, or writes turns itself."""

ASSISTANTS = ("assistant", "gpt", "model", "bot", "chatbot", "system", "answer")
"""Speakers that a model writes for, unless told otherwise."""
ANSWERING_KINDS = ("answer", "reply")
"""Kinds of turns of procedural worlds that a model writes; the world writes the others, which bring what is new."""


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """What an agent has to work with.

    Attributes:
        slots: Slots of the memory, ``K``.
        window: Turns the language model sees without memory, the current one included.
        reads: Most slots put in front of the model in one step, ``R``.
        max_steps: Steps after which an episode is truncated; ``None`` for the whole transcript.
        full_context: Score with the whole history in front of the model instead of reads and
            window; the reference without any budget. Actions then have no effect on the gain.
        mode: ``teacher-forced``: the true next turn always follows. ``generate``: the model writes some turns itself,
            from window and reads, and the episode goes on from its own text.
        authors: The speakers whose turns the model writes in ``generate`` mode. Empty for the usual ones: answers and
            replies in procedural worlds, else those of an assistant (:data:`ASSISTANTS`), else every turn after the
            first ``window``.
        max_new_tokens: Most tokens of a turn the model writes.
    """

    slots: int = 4
    window: int = 2
    reads: int = 2
    max_steps: int | None = None
    full_context: bool = False
    mode: str = TEACHER_FORCED
    authors: tuple[str, ...] = ()
    max_new_tokens: int = 40

    def __post_init__(self) -> None:
        """Reject settings that make no memory."""
        for name in ("slots", "window", "reads", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise StmError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.slots > 4096:
            raise StmError(f"slots is {self.slots}; expected at most 4096: observations hold every slot")
        if self.max_steps is not None and self.max_steps < 1:
            raise StmError(f"max_steps is {self.max_steps}; expected at least 1, or none")
        if self.mode not in MODES:
            raise StmError(f"mode is {self.mode!r}; expected {' or '.join(MODES)}")
        if isinstance(self.authors, str):
            raise StmError(f"authors is {self.authors!r}; expected a list of speakers, such as [assistant]")
        object.__setattr__(self, "authors", tuple(self.authors))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all settings."""
        return tuple(field.name for field in fields(cls))

    def authored(self, transcript: Transcript) -> NDArray[np.bool_]:
        """Return which turns of a transcript of ``T`` turns the model writes in ``generate`` mode, shape ``(T,)``."""
        turns = transcript.turns
        kinds = [turn.meta.get("kind") for turn in turns]
        first = 1
        if self.authors:
            chosen = [turn.speaker in self.authors for turn in turns]
        elif kinds[0] is not None:
            chosen = [kind in ANSWERING_KINDS for kind in kinds]
        else:
            chosen = [turn.speaker.lower() in ASSISTANTS for turn in turns]
            if not any(chosen):
                chosen, first = [True] * len(turns), self.window
        return np.array(chosen, bool) & (np.arange(len(turns)) >= first)
