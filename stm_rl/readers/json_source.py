"""A JSON file as text that is read a piece at a time, and cut into records by its brackets."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import IO

from stm_rl.errors import StmError
from stm_rl.readers.lines import has_nul, not_utf8
from stm_rl.readers.records import Place

SPACE = re.compile(r"[ \t\r\n]*+")
"""White space of JSON."""

_PIECE = 1 << 16
# A string ends at its quote; JSON has no line breaks in strings, so one that is not closed ends with its line.
_TOKEN = re.compile(r'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+("|\n|\\?\Z)|[{}\[\],]')
# What cannot be decoded is let through as half a surrogate pair, and found in the record that holds it.
_BAD = re.compile("[\0\udc80-\udcff]")


class Source:
    """A file as text: what was read and not yet consumed, and where that stands."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text = ""
        self._at = 0
        self._done = False
        self.path = path
        self.line = 1
        self.column = 0  # bytes of the line that are consumed

    @property
    def place(self) -> Place:
        """Where the next character stands."""
        return Place(self.path, self.line)

    def _more(self) -> bool:
        """Read on, as much again as is held, so that a long record is scanned a few times at most."""
        if self._done:
            return False
        held = self._text[self._at :]
        raw = self._file.read(max(_PIECE, len(held)))
        self._done = not raw
        self._text, self._at = held + self._decoder.decode(raw, final=self._done), 0
        return True

    def advance(self, count: int) -> None:
        """Consume characters, at most those held."""
        end = min(self._at + count, len(self._text))
        newline = self._text.rfind("\n", self._at, end)
        if newline >= 0:
            self.line += self._text.count("\n", self._at, end)
            self.column = 0
        begin = max(self._at, newline + 1)
        self.column += len(self._text[begin:end].encode("utf-8", "surrogateescape"))
        self._at = end

    def peek(self) -> str:
        """Return the next character; empty at the end of the file."""
        while self._at == len(self._text) and self._more():
            pass
        return self._text[self._at : self._at + 1]

    def skip_space(self) -> None:
        """Consume white space."""
        while self.peek():
            space = SPACE.match(self._text, self._at)
            end = space.end() if space else self._at
            self.advance(end - self._at)
            if end < len(self._text):
                break

    def rest_of_line(self) -> str:
        """Return (not consume) what follows on this line, as far as it was read."""
        self.peek()
        end = self._text.find("\n", self._at)
        return self._text[self._at : end if end >= 0 else len(self._text)][:_PIECE]

    def cut_record(self) -> str:
        """Consume and return the text up to the comma or bracket that ends this element."""
        depth, scanned = 0, self._at
        while True:
            token = _TOKEN.search(self._text, scanned)
            if token is None or token[1] in ("", "\\"):  # no token, or a string that runs to the end of what was read
                scanned = (len(self._text) if token is None else token.start()) - self._at
                if self._more():
                    continue  # what was held now begins at 0
                end = len(self._text)
                break
            mark = token[0][0]
            if mark == '"':
                scanned = token.end()
                continue
            if depth == 0 and mark in ",]}":
                end = token.start()
                break
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(mark, 0)
            scanned = token.end()
        text = self._text[self._at : end]
        self.advance(end - self._at)
        return text.rstrip(" \t\r\n")


def bad_character(text: str, place: Place, column: int = 0) -> StmError | None:
    """Return the error of the first character of `text` that is NUL or could not be decoded, if any.

    Args:
        text: Text decoded with ``surrogateescape``.
        place: Where it begins.
        column: Bytes before it on its first line.
    """
    found = _BAD.search(text)
    if found is None:
        return None
    begin = text.rfind("\n", 0, found.start()) + 1
    place = Place(place.path, place.line + text.count("\n", 0, begin))
    if found[0] == "\0":
        return has_nul(place)
    before = len(text[begin : found.start()].encode("utf-8", "surrogateescape"))
    return not_utf8(place, ord(found[0]) - 0xDC00, before + (column if begin == 0 else 0))
