"""How reads, window and the next speaker are laid out as text in front of a language model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stm_rl.transcript import Turn


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """Layout of a context.

    Reads come first, oldest first, each on a line of its own and marked as quoted; then the turns
    of the window; then the name of whoever speaks next, since who speaks is not what is scored.

    Attributes:
        read_prefix: Put before every line that was read from memory.
        read_header: Put before the first read, if there is one.
        window_header: Put before the window, if there is any read.
    """

    read_prefix: str = "> "
    read_header: str = ""
    window_header: str = ""

    def context(self, reads: Iterable[str], window: Iterable[str], speaker: str) -> str:
        """Return the text in front of the next turn.

        Args:
            reads: Lines read from memory, oldest first; see :func:`line`.
            window: Lines of the window, oldest first.
            speaker: Who says the next turn; empty for plain prose.
        """
        quoted = "".join(f"{self.read_prefix}{text}\n" for text in reads)
        spoken = "".join(f"{text}\n" for text in window)
        head = f"{self.read_header}{quoted}{self.window_header}" if quoted else ""
        return head + spoken + (f"{speaker}:" if speaker else "")


def line(turn: Turn) -> str:
    """Return the turn as one line, inner line breaks turned into spaces."""
    text = " ".join(turn.text.split())
    return f"{turn.speaker}: {text}" if turn.speaker else text


def target(turn: Turn) -> str:
    """Return the text that is scored when ``turn`` is the next one."""
    text = " ".join(turn.text.split())
    return f" {text}" if turn.speaker else text
