"""MultiWOZ 2.1 (Eric et al. 2020): ``val.json`` and the like, or the zip it comes in.

One JSON object, dialogue by name; read a dialogue at a time. The user begins and both take turns. System turns
carry the belief state that holds after the user turn before them; its slots in the end become one question, see
:mod:`stm_rl.readers.state`. Slots under ``book`` are named ``book day``; alternatives (``a|b``) mean the same.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.json_stream import Element, records_of
from stm_rl.readers.json_values import json_list, json_object, member
from stm_rl.readers.lines import unreadable
from stm_rl.readers.records import Place, Record, attempt
from stm_rl.readers.state import Slot, State, state_annotations
from stm_rl.transcript import Transcript, Turn

_UNSET = ("", "not mentioned", "none")
_EXPECTED = "a dialogue as a JSON object"


def read_multiwoz(path: Path) -> Iterator[Record]:
    """Yield the dialogues of a JSON file or of the JSON files in a zip."""
    names: set[str] = set()
    for place, name, value in _elements(path):
        if isinstance(value, StmError):
            yield value
        elif name in names:
            yield place.error(f"dialogue {name!r} is given twice; expected each once; leave one of them out")
        else:
            names.add(name)
            yield attempt(place, _dialogue, name, value, place)


def _elements(path: Path) -> Iterator[Element]:
    """Yield the members of each object; names of files in a zip are part of the place."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                yield from records_of(file, path, "{", _EXPECTED)
            return
        with zipfile.ZipFile(path) as archive:
            members = sorted(name for name in archive.namelist() if name.endswith(".json"))
            if not members:
                problem = Place(path, 1).error("the zip holds no .json file; expected one such as val.json")
                yield Place(path, 1), "", problem
            for member_name in members:
                with archive.open(member_name) as packed:
                    yield from records_of(packed, path / member_name, "{", _EXPECTED)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        problem = Place(path, 1).error(f"the zip is damaged ({error}); expected a whole one; fetch it again")
        yield Place(path, 1), "", problem
    except OSError as error:
        yield Place(path, 1), "", unreadable(path, error)


def _dialogue(name: str, value: object, place: Place) -> Transcript:
    record = json_object(value, "the dialogue", place)
    log = json_list(member(record, "log", "the dialogue", place), "log", place, "turns")
    turns: list[Turn] = []
    states: list[tuple[int, State]] = []
    for index, element in enumerate(log):
        what = f"log[{index}]"
        turn = json_object(element, what, place)
        text = place.filled(member(turn, "text", what, place), f"{what}.text")
        turns.append(Turn(text, "assistant" if index % 2 else "user", {"line": place.line}))
        metadata = json_object(turn.get("metadata") or {}, f"{what}.metadata", place)
        if metadata:
            states.append((max(index - 1, 0), _state(metadata, f"{what}.metadata", place)))
    meta, questions = state_annotations(turns, states)
    return place.transcript(turns, place.filled(name, "the dialogue's name"), meta=meta, questions=questions)


def _state(metadata: dict[str, Any], what: str, place: Place) -> State:
    state: dict[Slot, tuple[str, ...]] = {}
    for service, domain in metadata.items():
        place.filled(service, f"a domain of {what}")
        sections = json_object(domain, f"{what}.{service}", place)
        for section, prefix in (("semi", ""), ("book", "book ")):
            name = f"{what}.{service}.{section}"
            for slot, value in json_object(sections.get(section) or {}, name, place).items():
                if slot == "booked":  # what the system booked, not what was agreed
                    continue
                texts = value if isinstance(value, list) else [value]  # 2.2 writes lists
                parts = [part for text in texts for part in place.string(text, f"{name}.{slot}").split("|")]
                values = tuple(part for part in map(str.strip, parts) if part not in _UNSET)
                if values:
                    state[service, prefix + place.filled(slot, f"a slot of {name}")] = values
    return state
