"""Chat transcripts as JSON lines: one ``{"messages": [{"role": ..., "content": ...}, ...]}`` a line.

The form OpenAI and most training tools write. The role becomes the speaker; an optional ``"id"``
names the transcript. Content may be a string, a list of parts (text parts count) or null beside
tool calls, which are kept as text: ``tool_call name(arguments)``. Other keys of a record are ignored.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.text import Place, no_transcript, numbered_lines
from stm_rl.transcript import Transcript, Turn

_TEXT_PARTS = ("text", "input_text", "output_text")


def read_messages(path: Path) -> Iterator[Transcript]:
    """Yield the transcripts of a messages JSONL file, one line at a time.

    Blank lines are skipped.

    Raises:
        StmError: At the first line that is broken, or at the end if there was no transcript.
    """
    empty = True
    for number, line in numbered_lines(path):
        if line.strip():
            empty = False
            place = Place(path, number)
            yield _transcript(json_object(_load(line, place), "the line", place), place)
    if empty:
        raise no_transcript(path)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict (`object_pairs_hook` of `json`).

    Raises:
        ValueError: If a key is given twice; `json` would silently keep the last.
    """
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in record if keys.count(key) > 1)
        raise ValueError(f"key {reprlib.repr(twice)} is given twice")
    return record


def broken_json(error: Exception, place: Place, expected: str) -> StmError:
    """Return (not raise) an `StmError` for what the `json` module raised.

    Args:
        error: A `ValueError`, or a `RecursionError` of JSON nested too deeply.
        place: Where the record is.
        expected: What should stand there.
    """
    if isinstance(error, json.JSONDecodeError):
        reason = f"{error.msg} at column {error.colno}"
    elif isinstance(error, RecursionError):
        reason = "nested too deeply"
    else:
        reason = str(error)
    return place.error(f"broken JSON ({reason}); expected {expected}; correct it or leave the record out")


def _load(line: str, place: Place) -> object:
    try:
        return json.loads(line, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise broken_json(error, place, "one whole JSON object on the line") from error


def _transcript(record: dict[str, Any], place: Place) -> Transcript:
    messages = member(record, "messages", "the record", place)
    if not isinstance(messages, list):
        raise place.error(f"messages is {reprlib.repr(messages)}; expected a list of messages; correct the value")
    turns = [_turn(message, f"messages[{index}]", place) for index, message in enumerate(messages)]
    return place.transcript(turns, _id(record.get("id"), place))


def json_object(value: object, what: str, place: Place) -> dict[str, Any]:
    """Return `value`, a decoded JSON value, if it is an object.

    Args:
        value: What the file holds.
        what: Its name in errors.
        place: Where the record is.

    Raises:
        StmError: If it is something else.
    """
    if not isinstance(value, dict):
        raise place.error(f"{what} is {reprlib.repr(value)}; expected a JSON object; put one there or leave it out")
    return value


def member(record: dict[str, Any], key: str, what: str, place: Place) -> Any:
    """Return `record[key]`.

    Args:
        record: A JSON object.
        key: A key it must have.
        what: Name of the record in errors.
        place: Where the record is.

    Raises:
        StmError: If it has no such key.
    """
    if key not in record:
        raise place.error(
            f'{what} has no "{key}" but {reprlib.repr(list(record))}; expected the key "{key}"; '
            "add it, or read the file with another format"
        )
    return record[key]


def _id(name: object, place: Place) -> str:
    if name is None:
        return ""
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    return place.filled(name, "id")


def _turn(value: object, what: str, place: Place) -> Turn:
    message = json_object(value, what, place)
    speaker = place.string(member(message, "role", what, place), f"{what}.role")
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
        text = calls or place.filled(text, f"{what}.content")
    elif calls:
        text = f"{text}\n{calls}"
    meta: dict[str, Any] = {"line": place.line}
    if message.get("name") is not None:
        meta["name"] = place.string(message["name"], f"{what}.name")
    if left_out:
        meta["parts_left_out"] = left_out
    return Turn(text=text, speaker=speaker, meta=meta)


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


def _calls(message: dict[str, Any], what: str, place: Place) -> str:
    """Return the tool calls of a message on one line; empty if it has none."""
    calls = message.get("tool_calls")
    if calls is None:
        calls = []
    if not isinstance(calls, list):
        raise place.error(
            f"{what}.tool_calls is {reprlib.repr(calls)}; expected a list of tool calls; correct the value"
        )
    rendered = [_call(call, f"{what}.tool_calls[{index}]", place) for index, call in enumerate(calls)]
    if message.get("function_call") is not None:
        rendered.append(_call(message["function_call"], f"{what}.function_call", place))
    return "; ".join(rendered)


def _call(value: object, what: str, place: Place) -> str:
    call = json_object(value, what, place)
    # OpenAI nests the function; Hugging Face templates and the old function_call do not.
    function = json_object(call.get("function", call), what, place)
    name = place.filled(member(function, "name", what, place), f"{what}.name")
    arguments = _arguments(function.get("arguments"), f"{what}.arguments", place)
    return f"tool_call {_one_line(name)}({arguments})"


def _arguments(arguments: object, what: str, place: Place) -> str:
    if arguments is None:
        return ""
    if isinstance(arguments, dict):
        try:
            arguments = json.dumps(arguments, ensure_ascii=False)
        except RecursionError as error:
            raise broken_json(error, place, f"{what} as a flat JSON object") from error
    return _one_line(place.string(arguments, what))


def _one_line(text: str) -> str:
    """Return `text` with a space for each line break (JSON writes those inside strings as escapes)."""
    return " ".join(line.strip() for line in text.splitlines())
