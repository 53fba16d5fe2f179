"""Plain text: one turn a line, blank lines between transcripts.

A line may name its speaker (``Ann: Where is the key?``). The prefix counts only if every line of
the transcript has one; otherwise ``Note: it rained.`` in a story would become a speaker.

The other readers share what this module knows about files: lines with their numbers, and errors
that begin with ``path:line:``.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stm_rl.errors import StmError
from stm_rl.transcript import Transcript, Turn

STORY_SEPARATOR = "<|endoftext|>"
"""Marks the end of a story in corpora such as TinyStories."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPEAKER_PREFIX = re.compile(r"([^\s:.,;!?\"“”][^:.,;!?\"“”]{0,19}):(?:\s+(.*))?")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file: where a record begins, and where its errors point.

    Attributes:
        path: The file.
        line: Line number, from 1.
    """

    path: Path
    line: int

    def error(self, message: str) -> StmError:
        """Return (not raise) an error that names this place."""
        return StmError(f"{self.path}:{self.line}: {message}")

    def string(self, value: object, what: str) -> str:
        """Return `value` if it is text that can be encoded and trained on.

        Args:
            value: What the file holds.
            what: Its name in errors, such as ``messages[2].role``.

        Raises:
            StmError: If it is no string, or holds a NUL or half a surrogate pair.
        """
        if not isinstance(value, str):
            raise self.error(f"{what} is {reprlib.repr(value)}; expected a string; correct the value")
        if "\0" in value:
            raise self.error(f"{what} holds a NUL character; expected text; remove the character")
        if _SURROGATE.search(value):
            raise self.error(
                f"{what} holds half a surrogate pair, which is not valid Unicode; expected text; "
                "remove it or write the whole pair"
            )
        return value

    def filled(self, value: object, what: str) -> str:
        """Return `value` if it is a `string` that is not blank.

        Raises:
            StmError: If it is not.
        """
        text = self.string(value, what)
        if not text.strip():
            raise self.error(f"{what} is empty; expected text; fill it in or leave the turn out")
        return text

    def transcript(self, turns: Sequence[Turn], name: str = "") -> Transcript:
        """Return the transcript that begins here.

        Args:
            turns: Its turns.
            name: Its id; made of file name and line if empty.

        Raises:
            StmError: If there are fewer than two turns.
        """
        if len(turns) < 2:
            raise self.error(
                f"the transcript has {len(turns)} turn(s); expected at least 2, one to act on and one to "
                "predict; add turns or leave it out"
            )
        return Transcript(
            turns=tuple(turns),
            id=name or f"{self.path.name}:{self.line}",
            meta={"file": str(self.path), "line": self.line},
        )


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file with their numbers from 1, without line endings.

    Only a line feed ends a line: Unicode knows more line breaks, and JSON strings may hold them.

    Raises:
        StmError: If the file cannot be read, or a line is not UTF-8 or holds a NUL byte.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                yield number, _decode(raw, Place(path, number))
    except OSError as error:
        raise StmError(
            f"{path}: cannot be read ({error.strerror or error}); expected a readable text file; "
            "check the path and its permissions"
        ) from error


def _decode(raw: bytes, place: Place) -> str:
    if place.line == 1:
        raw = raw.removeprefix(_BYTE_ORDER_MARK)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise place.error(
            f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line is not UTF-8; "
            "expected UTF-8 text; convert the file, for example with iconv"
        ) from error
    if "\0" in text:
        raise place.error("holds a NUL byte; expected text; remove the byte or convert the file to UTF-8")
    return text.rstrip("\r\n")


def no_transcript(path: Path) -> StmError:
    """Return (not raise) the error of a file that was read to its end without finding a transcript."""
    return StmError(f"{path}:1: holds no transcript; expected at least one of two turns or more; give a file with text")


def read_text(path: Path) -> Iterator[Transcript]:
    """Yield the transcripts of a plain text file as its lines are read.

    Raises:
        StmError: If a transcript has one line, a speaker says nothing, or the file holds no text.
    """
    empty = True
    for block in _blocks(path):
        empty = False
        yield _transcript(block, path)
    if empty:
        raise no_transcript(path)


def _blocks(path: Path) -> Iterator[list[tuple[int, str]]]:
    """Yield each run of lines that are not blank."""
    block: list[tuple[int, str]] = []
    for number, line in numbered_lines(path):
        if STORY_SEPARATOR in line:
            raise Place(path, number).error(
                f"{STORY_SEPARATOR} in plain text; expected blank lines between transcripts; "
                'read the file with format "stories"'
            )
        if line.strip():
            block.append((number, line.strip()))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _transcript(block: list[tuple[int, str]], path: Path) -> Transcript:
    prefixes = [_SPEAKER_PREFIX.fullmatch(line) for _, line in block]
    spoken = all(prefixes)
    turns = []
    for (number, line), prefix in zip(block, prefixes, strict=True):
        speaker, text = "", line
        if prefix and spoken:
            speaker = prefix[1].strip()
            text = Place(path, number).filled(prefix[2] or "", f"what {speaker} says")
        turns.append(Turn(text=text, speaker=speaker, meta={"line": number}))
    return Place(path, block[0][0]).transcript(turns)
