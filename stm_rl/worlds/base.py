"""What every procedural world offers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from stm_rl.transcript import Transcript


@runtime_checkable
class World(Protocol):
    """A generator of transcripts with ground-truth dependencies.

    ``Turn.meta["kind"]`` says what a turn is (one of :data:`TURN_KINDS`), ``Turn.meta["keys"]`` which facts it is
    about, and ``Turn.meta["facts"]`` what it states or depends on: ``(fact id, value, pool)`` each. All are for
    references, rewards and analysis, never for policies.
    """

    @property
    def name(self) -> str:
        """Name used in transcript ids."""

    def generate(self, seed: int) -> Transcript:
        """Return the transcript of ``seed``; the same seed always gives the same transcript."""


TURN_KINDS = ("fact", "message", "hedge", "update", "cancel", "distractor", "chat", "ask", "answer", "reply")
"""Values of ``Turn.meta["kind"]`` in procedural worlds."""
