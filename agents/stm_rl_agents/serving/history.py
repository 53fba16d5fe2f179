"""What is new in a request: a client that sends its whole history, or only new messages, sends no turn twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from stm_rl.prepare import SILENCE
from stm_rl.transcript import Turn
from stm_rl_agents.serving.errors import ApiError

ASSISTANT = "assistant"
"""The role, and the speaker, of answers."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is a turn.

    Attributes:
        role: ``user`` or ``assistant``.
        speaker: Who speaks: a name, or the role.
        text: What was said; blank only for an assistant's.
    """

    role: str
    speaker: str
    text: str

    def turn(self) -> Turn:
        """Return the message as a turn."""
        return Turn(self.text if self.text.strip() else SILENCE, self.speaker)


def digests(messages: Sequence[Message], before: bytes = b"") -> list[bytes]:
    """Return the digest of each beginning of a history, from that of no message to that of all.

    Args:
        messages: The history.
        before: The digest of what came before it.
    """
    found = [before]
    for message in messages:
        content = json.dumps([message.role, message.speaker, message.text.strip()])
        found.append(blake2b(found[-1] + content.encode(), digest_size=16).digest())
    return found


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, as sessions see it.

    Attributes:
        owner: Who may see its session.
        user: The end user that the client names; sessions are found by their history only within one.
        session: The session it names, if any.
        system: System messages, which are no turns.
        messages: The others.
        prefixes: See :func:`digests`, of ``messages``.
        digest: Of all that the request says.
        again: Whether the client says that it sends it again.
        memory: Whether what was read is put in front of the model.
        options: What else the model is told: sampling options in OpenAI's names.
    """

    owner: str
    user: str
    session: str | None
    system: tuple[str, ...]
    messages: tuple[Message, ...]
    prefixes: tuple[bytes, ...]
    digest: bytes
    again: bool
    memory: bool
    options: dict[str, Any]

    @property
    def histories(self) -> dict[bytes, int]:
        """How many messages each beginning has that may be the history of a session, by its digest.

        Histories of sessions end with an answer, and there is something new after them.
        """
        ends = [n for n, message in enumerate(self.messages[:-1], 1) if message.role == ASSISTANT]
        return {self.prefixes[n]: n for n in ends}

    def new(self, known: int, digest: bytes) -> tuple[Message, ...]:
        """Return the messages that are new to the session that the request names.

        Args:
            known: How many messages the session has.
            digest: Their digest.

        Raises:
            ApiError: The history of the request is not that of the session, or nothing is new.
        """
        if known < len(self.prefixes) and self.prefixes[known] == digest:
            if known == len(self.messages):
                raise ApiError(
                    400, "there is no new message after the history of the session; add one", "no_new_message"
                )
            return self.messages[known:]
        if not any(message.role == ASSISTANT for message in self.messages):
            return self.messages
        raise ApiError(
            409,
            f"the history in the request is not that of session {self.session}, which has {known} messages; send all "
            "of them unchanged and then the new ones, or the new ones alone, or take another session",
            "history_mismatch",
        )
