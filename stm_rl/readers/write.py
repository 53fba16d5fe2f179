"""Write transcripts as messages JSONL, the form `read_transcripts` reads and other tools know."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.text import Place
from stm_rl.transcript import Transcript


def write_messages(transcripts: Iterable[Transcript], path: str | os.PathLike[str]) -> int:
    """Write transcripts to a JSONL file, one a line, and return how many.

    Texts, speakers (as roles) and ids are kept; probes and meta are not. The file appears whole or
    not at all: on any error what stood at `path` before stays. It may therefore be the very file
    the transcripts are being read from.

    Args:
        transcripts: At least one; taken one at a time.
        path: Where to write; its folder must exist.

    Raises:
        StmError: If there is no transcript, one could not be read back, or the file cannot be written.
    """
    path = Path(path)
    # In the same folder, since a rename is atomic only within a file system.
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        if path.is_dir():
            raise StmError(f"{path}: is a folder; expected the name of a file; add one, such as chats.jsonl")
        count = _write(transcripts, temporary, path)
        temporary.replace(path)
    except OSError as error:
        raise StmError(
            f"{path}: cannot be written ({error.strerror or error}); expected a folder that exists and can "
            "be written to; create it or choose another"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return count


def _write(transcripts: Iterable[Transcript], temporary: Path, path: Path) -> int:
    """Write the temporary file through to the disk; `path` is what errors name."""
    count = 0
    with temporary.open("x", encoding="utf-8", newline="\n") as file:
        for transcript in transcripts:
            count += 1
            file.write(json.dumps(_record(transcript, Place(path, count)), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    if count == 0:
        raise StmError(f"{path}: no transcript to write; expected at least one; check the source")
    return count


def _record(transcript: Transcript, place: Place) -> dict[str, Any]:
    record: dict[str, Any] = {}
    if transcript.id:
        record["id"] = place.filled(transcript.id, "id")
    record["messages"] = [
        {
            "role": place.string(turn.speaker, f"speaker of turn {index}"),
            "content": place.filled(turn.text, f"text of turn {index}"),
        }
        for index, turn in enumerate(transcript.turns)
    ]
    return record
