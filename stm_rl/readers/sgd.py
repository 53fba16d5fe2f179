"""Schema-Guided Dialogue (Rastogi et al. 2020): a folder of ``dialogues_*.json``, or one such file.

USER turns are spoken by ``user``, SYSTEM turns by ``assistant``, as in the messages format. The
annotations (frames, services) are not read. A dialogue is decoded when it is asked for, so that
errors and transcripts know its line; its turns carry the same line.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.messages import broken_json, json_object, member, unique_keys
from stm_rl.readers.text import Place, no_transcript, numbered_lines
from stm_rl.transcript import Transcript, Turn

FILES = "dialogues_*.json"
"""Glob pattern of the files of a folder."""

_SPEAKERS = {"USER": "user", "SYSTEM": "assistant"}
_SPACE = re.compile(r"[ \t\r\n]*")


def read_sgd(path: Path) -> Iterator[Transcript]:
    """Yield the dialogues of a file, or of all files of a folder by name.

    Raises:
        StmError: If the folder holds no such file, or at the first dialogue that is broken.
    """
    files = sorted(path.glob(FILES)) if path.is_dir() else [path]
    if not files:
        raise StmError(
            f"{path}: holds no {FILES}; expected a folder of Schema-Guided Dialogue such as sgd/dev; "
            "give that folder or one file"
        )
    for file in files:
        for place, record in _records(file):
            yield _dialogue(record, place)


def _records(path: Path) -> Iterator[tuple[Place, Any]]:
    """Yield the elements of a file that holds one JSON list, each with the place it begins at."""
    text = "\n".join(line for _, line in numbered_lines(path))
    begin = _skip_space(text, 0)
    if begin == len(text):
        raise no_transcript(path)
    line = 1 + text.count("\n", 0, begin)
    if text[begin] != "[":
        raise Place(path, line).error(
            f"the file begins with {reprlib.repr(text[begin : begin + 20])}; expected a JSON list of "
            f"dialogues; give one of the files {FILES}"
        )
    end = _skip_space(text, begin + 1)
    if text.startswith("]", end):
        raise no_transcript(path)
    delimiter = ","
    while delimiter == ",":
        line += text.count("\n", begin, end)
        begin, place = end, Place(path, line)
        record, end = _load(text, begin, place)
        yield place, record
        end = _skip_space(text, end)
        delimiter = text[end : end + 1]
        end = _skip_space(text, end + 1)
    if delimiter != "]" or end < len(text):
        line += text.count("\n", begin, end)
        raise Place(path, line).error(
            "broken JSON after this file's last whole dialogue; expected a comma between dialogues and one "
            "] at the end; correct it or fetch the file again"
        )


def _skip_space(text: str, begin: int) -> int:
    space = _SPACE.match(text, begin)
    return space.end() if space else begin


def _load(text: str, begin: int, place: Place) -> tuple[Any, int]:
    try:
        return json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode(text, begin)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            place = Place(place.path, error.lineno)
        raise broken_json(error, place, "a dialogue as a JSON object") from error


def _dialogue(value: object, place: Place) -> Transcript:
    record = json_object(value, "the dialogue", place)
    name = place.filled(member(record, "dialogue_id", "the dialogue", place), "dialogue_id")
    turns = member(record, "turns", "the dialogue", place)
    if not isinstance(turns, list):
        raise place.error(f"turns is {reprlib.repr(turns)}; expected a list of turns; correct the value")
    return place.transcript([_turn(turn, f"turns[{i}]", place) for i, turn in enumerate(turns)], name)


def _turn(value: object, what: str, place: Place) -> Turn:
    turn = json_object(value, what, place)
    speaker = place.string(member(turn, "speaker", what, place), f"{what}.speaker")
    if speaker not in _SPEAKERS:
        raise place.error(f"{what}.speaker is {reprlib.repr(speaker)}; expected USER or SYSTEM; correct the value")
    text = place.filled(member(turn, "utterance", what, place), f"{what}.utterance")
    return Turn(text=text, speaker=_SPEAKERS[speaker], meta={"line": place.line})
