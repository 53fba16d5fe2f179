"""ShareGPT chats: ``{"conversations": [{"from": "human", "value": ...}, ...]}``, one a line or in one JSON array.

``human`` becomes ``user`` and ``gpt`` becomes ``assistant``, as in the messages format; other names are kept. A
``system`` text beside the conversation becomes its first turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stm_rl.errors import StmError
from stm_rl.readers.json_stream import json_records
from stm_rl.readers.json_values import json_list, json_object, member, scalar_id
from stm_rl.readers.records import Place, Record, attempt
from stm_rl.transcript import Transcript, Turn

SPEAKERS = {"human": "user", "gpt": "assistant"}
"""What the two common names become."""


def read_sharegpt(path: Path) -> Iterator[Record]:
    """Yield the conversations of a file of either form."""
    for place, _, value in json_records(path, "a conversation as a JSON object"):
        yield value if isinstance(value, StmError) else attempt(place, _conversation, value, place)


def _conversation(value: object, place: Place) -> Transcript:
    record = json_object(value, "the record", place)
    said = json_list(member(record, "conversations", "the record", place), "conversations", place, "what each has said")
    turns = [_turn(element, f"conversations[{index}]", place) for index, element in enumerate(said)]
    if record.get("system"):
        turns.insert(0, Turn(place.filled(record["system"], "system"), "system", {"line": place.line}))
    return place.transcript(turns, scalar_id(record.get("id"), place))


def _turn(value: object, what: str, place: Place) -> Turn:
    turn = json_object(value, what, place)
    speaker = place.string(member(turn, "from", what, place), f"{what}.from")
    text = place.filled(member(turn, "value", what, place), f"{what}.value")
    return Turn(text, SPEAKERS.get(speaker, speaker), {"line": place.line})
