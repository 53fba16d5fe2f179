"""Chat transcripts: ``{"messages": [{"role": ..., "content": ...}, ...]}``, one a line or in one JSON array.

The form OpenAI and most training tools write. The role becomes the speaker; an optional ``"id"`` names the
transcript. Content may be a string, a list of parts (text parts count) or null beside tool calls, which are kept
as text, ``tool_call name(arguments)``, and as they are in ``meta["tool_calls"]`` of the turn; ``tools`` of the
record in ``meta["tools"]`` of the transcript.

Our own files add what a transcript knows: ``"meta"`` of a record and of its messages, ``"media"`` of messages
(``{"kind": "image", "path": ...}`` each), ``"probes"`` and ``"questions"``. Where a record has ``"meta"``, ids, metas
and media are exactly what it says, without file and line of this file: they tell where it came from first. Other keys
are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.json_stream import json_records
from stm_rl.readers.json_values import frozen, json_list, json_object, member, scalar_id
from stm_rl.readers.notes import probes_of, questions_of
from stm_rl.readers.records import Place, Record, attempt
from stm_rl.transcript import Media, Transcript, Turn

_TEXT_PARTS = ("text", "input_text", "output_text")


def read_messages(path: Path) -> Iterator[Record]:
    """Yield the transcripts of a messages file, one record at a time."""
    for place, _, value in json_records(path, "a transcript as a JSON object"):
        yield value if isinstance(value, StmError) else attempt(place, _transcript, value, place)


def _transcript(value: object, place: Place) -> Transcript:
    record = json_object(value, "the line", place)
    messages = json_list(member(record, "messages", "the record", place), "messages", place, "messages")
    own = record.get("meta") is not None
    turns = [_turn(message, f"messages[{index}]", place, own) for index, message in enumerate(messages)]
    probes = probes_of(record.get("probes"), len(turns), place)
    questions = questions_of(record.get("questions"), len(turns), place)
    name = scalar_id(record.get("id"), place)
    if own:
        found = place.transcript(turns, name, probes=probes, questions=questions)
        return replace(found, id=name, meta=frozen(json_object(record["meta"], "meta", place)))
    meta = {"tools": frozen(record["tools"])} if record.get("tools") is not None else None
    return place.transcript(turns, name, meta=meta, probes=probes, questions=questions)


def _turn(value: object, what: str, place: Place, own: bool) -> Turn:
    message = json_object(value, what, place)
    speaker = place.string(member(message, "role", what, place), f"{what}.role")
    given = message.get("meta")
    meta = {} if given is None else frozen(json_object(given, f"{what}.meta", place))
    if own:
        text = place.filled(member(message, "content", what, place), f"{what}.content")
        return Turn(text, speaker, meta, _media(message.get("media"), f"{what}.media", place))
    calls = _calls(message, what, place)
    # A message that only calls tools may have no content, or null.
    content = message.get("content") if calls else member(message, "content", what, place)
    text, left_out = _content(content, f"{what}.content", place)
    if not text.strip():
        if left_out and not calls:
            raise place.error(
                f"{what}.content has only parts of type {', '.join(left_out)}; expected a part of type text; "
                "describe them in text or leave the message out"
            )
        text = "; ".join(map(_rendered, calls)) or place.filled(text, f"{what}.content")
    elif calls:
        text = f"{text}\n{'; '.join(map(_rendered, calls))}"
    added: dict[str, Any] = {"line": place.line}
    if message.get("name") is not None:
        added["name"] = place.string(message["name"], f"{what}.name")
    if message.get("tool_call_id") is not None:
        added["tool_call_id"] = place.string(message["tool_call_id"], f"{what}.tool_call_id")
    if left_out:
        added["parts_left_out"] = left_out
    if calls:
        added["tool_calls"] = calls
    return Turn(text=text, speaker=speaker, meta={**added, **meta})


def _media(value: object, what: str, place: Place) -> tuple[Media, ...]:
    """Return the images and sounds of a message of our own files; paths are kept as they are."""
    if value is None:
        return ()
    found = []
    for index, one in enumerate(json_list(value, what, place, "media")):
        name = f"{what}[{index}]"
        record = json_object(one, name, place)
        kind, path = (place.filled(member(record, key, name, place), f"{name}.{key}") for key in ("kind", "path"))
        try:
            found.append(Media(kind, path))
        except StmError as error:
            raise place.error(f"{name}: {error}") from error
    return tuple(found)


def _content(content: object, what: str, place: Place) -> tuple[str, tuple[str, ...]]:
    """Return the text of a message, and the types of its parts that are no text."""
    if content is None:
        return "", ()
    if not isinstance(content, list):
        return place.string(content, what), ()
    texts, left_out = [], []
    for index, value in enumerate(content):
        name = f"{what}[{index}]"
        part = json_object(value, name, place)
        kind = place.filled(member(part, "type", name, place), f"{name}.type")
        if kind in _TEXT_PARTS:
            texts.append(place.string(member(part, "text", name, place), f"{name}.text"))
        else:
            left_out.append(kind)
    return "\n".join(texts), tuple(left_out)


Call = dict[str, Any]
"""A tool call as it is kept: ``name``, ``arguments`` as given, and ``id`` if it has one."""


def _calls(message: dict[str, Any], what: str, place: Place) -> tuple[Call, ...]:
    """Return the tool calls of a message."""
    calls = message.get("tool_calls")
    calls = [] if calls is None else json_list(calls, f"{what}.tool_calls", place, "tool calls")
    found = [_call(call, f"{what}.tool_calls[{index}]", place) for index, call in enumerate(calls)]
    if message.get("function_call") is not None:
        found.append(_call(message["function_call"], f"{what}.function_call", place))
    return tuple(found)


def _call(value: object, what: str, place: Place) -> Call:
    call = json_object(value, what, place)
    # OpenAI nests the function; Hugging Face templates and the old function_call do not.
    function = json_object(call.get("function", call), what, place)
    kept: Call = {} if call.get("id") is None else {"id": place.string(call["id"], f"{what}.id")}
    kept["name"] = place.filled(member(function, "name", what, place), f"{what}.name")
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        place.string(arguments, f"{what}.arguments")
    kept["arguments"] = frozen(arguments)
    return kept


def _rendered(call: Call) -> str:
    arguments = call["arguments"]
    if arguments is None:
        arguments = ""
    elif isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return f"tool_call {_one_line(call['name'])}({_one_line(arguments)})"


def _one_line(text: str) -> str:
    """Return `text` with a space for each line break (JSON writes those inside strings as escapes)."""
    return " ".join(line.strip() for line in text.splitlines())
