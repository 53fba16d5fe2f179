"""The records of JSON files of any size: lines of JSONL, elements of one big array, members of one big object.

A big array or object is cut into records by its brackets, a piece of the file at a time, and each record is
decoded by itself. So one record is held in memory, every record knows its line, and a record that is broken
inside (but whose brackets match) does not take the next ones with it. Where brackets do not match, what follows in
the file is one broken record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from stm_rl.errors import StmError
from stm_rl.readers.json_source import SPACE, Source, bad_character
from stm_rl.readers.json_values import broken_json, load_json
from stm_rl.readers.lines import no_transcript, numbered_lines, unreadable
from stm_rl.readers.records import Place

Element = tuple[Place, str, object]
"""Where a record begins, its key in an object (else empty), and its value or `StmError`."""

_LINES = (".jsonl", ".ndjson")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*+"')


def json_lines(path: Path) -> Iterator[Element]:
    """Yield the records of a JSONL file; blank lines are skipped."""
    empty = True
    for number, line in numbered_lines(path):
        place = Place(path, number)
        if isinstance(line, StmError):
            empty = False
            yield place, "", line
        elif line.strip():
            empty = False
            yield place, "", _load(line, place, "one whole JSON object on the line")
    if empty:
        yield Place(path, 1), "", no_transcript(path)


def json_elements(path: Path, expected: str) -> Iterator[Element]:
    """Yield the elements of a file that holds one JSON array.

    Args:
        path: The file.
        expected: What an element should be, for errors.
    """
    try:
        with path.open("rb") as file:
            yield from records_of(file, path, "[", expected)
    except OSError as error:
        yield Place(path, 1), "", unreadable(path, error)


def json_records(path: Path, expected: str) -> Iterator[Element]:
    """Yield the records of a file that is JSONL (always if it is named so) or one JSON array.

    Args:
        path: The file.
        expected: What a record should be, for errors.
    """
    if path.suffix.lower() not in _LINES and first_character(path) == "[":
        return json_elements(path, expected)
    return json_lines(path)


def first_character(path: Path) -> str:
    """Return the first character of a file that is no space; empty if there is none or the file is unreadable."""
    try:
        with path.open("rb") as file:
            source = Source(file, path)
            source.skip_space()
            return source.peek()
    except OSError:
        return ""


def records_of(file: IO[bytes], path: Path, opening: str, expected: str) -> Iterator[Element]:
    """Yield the elements of an open file that holds one JSON array or object.

    Args:
        file: The open file.
        path: Its name in errors.
        opening: ``[`` or ``{``.
        expected: What an element should be, for errors.
    """
    source = Source(file, path)
    source.skip_space()
    place = source.place
    if source.peek() != opening:
        kind = {"[": "list", "{": "object"}[opening]
        start = source.rest_of_line()
        problem = bad_character(start, place, source.column) or place.error(
            f"the file begins with {start[:20]!r}; expected a JSON {kind}: {expected}; give another file or format"
        )
        yield place, "", problem if start else no_transcript(path)
        return
    closing = {"[": "]", "{": "}"}[opening]
    source.advance(1)
    source.skip_space()
    delimiter = ","
    if source.peek() == closing:
        yield place, "", no_transcript(path)
        delimiter = closing
        source.advance(1)
    while delimiter == ",":
        source.skip_space()
        yield _record(source, opening == "{", expected)
        source.skip_space()
        delimiter = source.peek()
        source.advance(1)
    place = source.place
    source.skip_space()
    if delimiter != closing or source.peek():
        line = source.rest_of_line() if delimiter == closing else ""
        problem = bad_character(line, source.place, source.column) or broken_json(
            "the file does not end after its last whole record",
            place,
            f"a comma between records and one {closing} at the end",
        )
        yield place, "", problem


def _record(source: Source, keyed: bool, expected: str) -> Element:
    place, column = source.place, source.column
    text = source.cut_record()
    if problem := bad_character(text, place, column):
        return place, "", problem
    if not keyed:
        return place, "", _load(text, place, expected)
    head = _STRING.match(text)
    colon = SPACE.match(text, head.end()) if head else None
    if head is None or colon is None or not text.startswith(":", colon.end()):
        return place, "", broken_json(f"no key before {text[:20]!r}", place, f'"key": {expected}')
    key = _load(head[0], place, "a key")
    if isinstance(key, StmError):
        return place, "", key
    begin = colon.end() + 1
    return place, str(key), _load(text[begin:], Place(place.path, place.line + text.count("\n", 0, begin)), expected)


def _load(text: str, place: Place, expected: str) -> object:
    try:
        return load_json(text, place, expected)
    except StmError as error:
        return error
