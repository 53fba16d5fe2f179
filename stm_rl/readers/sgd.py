"""Schema-Guided Dialogue (Rastogi et al. 2020): a folder of ``dialogues_*.json``, or one such file.

USER turns are spoken by ``user``, SYSTEM turns by ``assistant``, as in the messages format. The slots of the
dialogue's final state (of each service, the last state's ``slot_values``) become one question, see
:mod:`stm_rl.readers.state`; other annotations are not read. Turns carry the line their dialogue begins on.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.json_stream import json_elements
from stm_rl.readers.json_values import json_list, json_object, member
from stm_rl.readers.lines import files_of
from stm_rl.readers.records import Place, Record, attempt
from stm_rl.readers.state import Slot, State, state_annotations
from stm_rl.transcript import Transcript, Turn

FILES = "dialogues_*.json"
"""Glob pattern of the files of a folder."""

_SPEAKERS = {"USER": "user", "SYSTEM": "assistant"}


def read_sgd(path: Path) -> Iterator[Record]:
    """Yield the dialogues of a file, or of all files of a folder by name.

    Raises:
        StmError: If the folder holds no such file.
    """
    for file in files_of(path, FILES):
        for place, _, value in json_elements(file, "a dialogue as a JSON object"):
            yield value if isinstance(value, StmError) else attempt(place, _dialogue, value, place)


def _dialogue(value: object, place: Place) -> Transcript:
    record = json_object(value, "the dialogue", place)
    name = place.filled(member(record, "dialogue_id", "the dialogue", place), "dialogue_id")
    values = json_list(member(record, "turns", "the dialogue", place), "turns", place, "turns")
    turns: list[Turn] = []
    states: list[tuple[int, State]] = []
    current: dict[str, dict[Slot, tuple[str, ...]]] = {}
    for index, element in enumerate(values):
        turn = json_object(element, f"turns[{index}]", place)
        turns.append(_turn(turn, f"turns[{index}]", place))
        new = _frames(turn.get("frames"), f"turns[{index}].frames", place)
        if new:
            current.update(new)
            states.append((index, {slot: known for slots in current.values() for slot, known in slots.items()}))
    meta, questions = state_annotations(turns, states)
    return place.transcript(turns, name, meta=meta, questions=questions)


def _turn(turn: dict[str, Any], what: str, place: Place) -> Turn:
    speaker = place.string(member(turn, "speaker", what, place), f"{what}.speaker")
    if speaker not in _SPEAKERS:
        raise place.error(f"{what}.speaker is {reprlib.repr(speaker)}; expected USER or SYSTEM; correct the value")
    text = place.filled(member(turn, "utterance", what, place), f"{what}.utterance")
    return Turn(text=text, speaker=_SPEAKERS[speaker], meta={"line": place.line})


def _frames(value: object, what: str, place: Place) -> dict[str, dict[Slot, tuple[str, ...]]]:
    """Return the new state of each service that a turn's frames give one of; empty for system turns."""
    states: dict[str, dict[Slot, tuple[str, ...]]] = {}
    for index, element in enumerate([] if value is None else json_list(value, what, place, "frames")):
        name = f"{what}[{index}]"
        frame = json_object(element, name, place)
        if frame.get("state") is None:
            continue
        service = place.filled(member(frame, "service", name, place), f"{name}.service")
        state = json_object(frame["state"], f"{name}.state", place)
        slots = json_object(state.get("slot_values", {}), f"{name}.state.slot_values", place)
        states[service] = {
            (service, place.filled(slot, f"a slot of {name}")): tuple(
                place.filled(text, f"{name}.state.slot_values.{slot}")
                for text in json_list(texts, f"{name}.state.slot_values.{slot}", place, "values")
            )
            for slot, texts in slots.items()
            if texts != []
        }
    return states
