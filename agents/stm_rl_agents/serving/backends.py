"""Models behind the server: what they are asked and what they answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stm_rl.transcript import Turn


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is put in front of a model.

    Attributes:
        system: System messages.
        reads: Lines read from memory, oldest first.
        window: Roles and turns of the window, oldest first.
        speaker: Who speaks next.
        new: The turns that are new in this request; only counted.
        options: Sampling options in OpenAI's names, those that were given.
        stream: Whether pieces are wanted as they come.
    """

    system: Sequence[str]
    reads: Sequence[str]
    window: Sequence[tuple[str, Turn]]
    speaker: str
    new: Sequence[Turn]
    options: dict[str, Any]
    stream: bool


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote.

    Attributes:
        text: All of it.
        finish_reason: In OpenAI's words.
        sent: Tokens put in front of the model.
        system: Tokens of what is in front of it whatever the history is, such as system messages.
        new: Tokens of the new turns.
        answer: Tokens of the text.
        left_out: Turns of reads and window that the model could not read.
        usage: Tokens as the model's server counts them, if it says so: of the prompt and of the text.
    """

    text: str
    finish_reason: str
    sent: int
    system: int
    new: int
    answer: int
    left_out: int = 0
    usage: tuple[int, int] | None = None


class Backend(Protocol):
    """A model that answers chats.

    Attributes:
        name: Name of the model.
        owner: Who runs it: ``stm-rl`` or ``upstream``.
    """

    name: str
    owner: str

    def write(self, prompt: Prompt) -> AsyncIterator[str | Written]:
        """Yield pieces of an answer as they come, and at the end all of it.

        Raises:
            ApiError: The model cannot be reached or refuses.
        """

    async def ready(self) -> bool:
        """Return whether the model can be asked now."""

    async def close(self) -> None:
        """Let go of the model."""
