"""Write transcripts as messages JSONL, the form `read_transcripts` reads and other tools know."""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.records import Place
from stm_rl.transcript import Media, Probe, Question, Transcript

_SURROGATE = re.compile("[\ud800-\udfff]")
_NEEDED = ("turn", "evidence", "text", "answer")
"""Keys of probes and questions that are written even if empty."""


def write_messages(transcripts: Iterable[Transcript], path: str | os.PathLike[str]) -> int:
    """Write transcripts to a JSONL file, one a line, and return how many.

    Everything is kept: `read_transcripts` gives equal transcripts back (lists in meta as tuples). The file
    appears whole or not at all: on any error what stood at `path` before stays. It may therefore be the
    very file the transcripts are being read from.

    Args:
        transcripts: At least one; taken one at a time.
        path: Where to write; its folder must exist.

    Raises:
        StmError: If there is no transcript, one could not be read back, or the file cannot be written.
    """
    path = Path(path)
    with replacing(path) as temporary:
        return _write(transcripts, temporary, path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write; it takes the place of `path` if nothing fails and is removed otherwise.

    Raises:
        StmError: If the file cannot be written.
    """
    # In the same folder, since a rename is atomic only within a file system.
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        if path.is_dir():
            raise StmError(f"{path}: is a folder; expected the name of a file; add one, such as chats.jsonl")
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise StmError(
            f"{path}: cannot be written ({error.strerror or error}); expected a folder that exists and can "
            "be written to; create it or choose another"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write(transcripts: Iterable[Transcript], temporary: Path, path: Path) -> int:
    """Write the temporary file through to the disk; `path` is what errors name."""
    count = 0
    with temporary.open("x", encoding="utf-8", newline="\n") as file:
        for transcript in transcripts:
            count += 1
            file.write(_line(transcript, Place(path, count)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    if count == 0:
        raise StmError(f"{path}: no transcript to write; expected at least one; check the source")
    return count


def _line(transcript: Transcript, place: Place) -> str:
    try:
        record = _record(transcript, place)
        return json.dumps(record, ensure_ascii=False, allow_nan=False)
    except StmError:
        raise
    except RecursionError as error:
        raise place.error("meta is nested too deeply; expected at most some hundred levels; flatten it") from error
    except ValueError as error:  # a whole number of more digits than Python writes
        raise place.error(f"cannot be written as JSON ({error}); expected shorter numbers; write it as text") from error


def _record(transcript: Transcript, place: Place) -> dict[str, Any]:
    record: dict[str, Any] = {}
    if transcript.id:
        record["id"] = place.filled(transcript.id, "id")
    # Its presence says that all metas are as they were, so that what was read from here is equal.
    record["meta"] = _plain(transcript.meta, "meta", place)
    record["messages"] = []
    for index, turn in enumerate(transcript.turns):
        message: dict[str, Any] = {
            "role": place.string(turn.speaker, f"speaker of turn {index}"),
            "content": place.filled(turn.text, f"text of turn {index}"),
        }
        if turn.meta:
            message["meta"] = _plain(turn.meta, f"meta of turn {index}", place)
        if turn.media:
            what = f"of turn {index}"
            message["media"] = [_medium(one, f"media[{at}] {what}", place) for at, one in enumerate(turn.media)]
        record["messages"].append(message)
    if transcript.probes:
        record["probes"] = [_note(note, f"probes[{index}]", place) for index, note in enumerate(transcript.probes)]
    if transcript.questions:
        notes = enumerate(transcript.questions)
        record["questions"] = [_note(note, f"questions[{index}]", place) for index, note in notes]
    return record


def _medium(medium: Media, what: str, place: Place) -> Any:
    if not medium.path:
        raise place.error(f"{what} is given as an array; save it to a file and give its path")
    return _plain(medium.as_json(), what, place)


def _note(note: Probe | Question, what: str, place: Place) -> dict[str, Any]:
    return {
        key: _plain(value, f"{key} of {what}", place) for key, value in asdict(note).items() if value or key in _NEEDED
    }


def _plain(value: Any, what: str, place: Place) -> Any:
    """Return `value` as JSON writes it, if it reads back the same (lists as tuples)."""
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise place.error(f"{what} holds half a surrogate pair, which is not valid Unicode; remove it")
        return value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, tuple | list):
        return [_plain(element, what, place) for element in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {_plain(key, what, place): _plain(element, what, place) for key, element in value.items()}
    raise place.error(
        f"{what} holds {reprlib.repr(value)}; expected JSON values: text, whole or finite numbers, booleans, None, "
        "tuples, and mappings with text as keys; convert it"
    )
