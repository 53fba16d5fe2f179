"""Decoded JSON: one strict way to load it, and to take values of the right kind out of it."""

from __future__ import annotations

import json
import reprlib
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.records import Place


def load_json(text: str, place: Place, expected: str) -> object:
    """Return the JSON value of `text`.

    Args:
        text: What stands in the file.
        place: Where it begins.
        expected: What should stand there, for the error.

    Raises:
        StmError: If it is not JSON, is nested too deeply, or an object has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        place = Place(place.path, place.line + error.lineno - 1)
        raise broken_json(f"{error.msg} at column {error.colno}", place, expected) from error
    except RecursionError as error:
        raise broken_json("nested too deeply", place, expected) from error
    except ValueError as error:
        raise broken_json(str(error), place, expected) from error


def broken_json(reason: str, place: Place, expected: str) -> StmError:
    """Return (not raise) the error of text that is not the JSON it should be."""
    return place.error(f"broken JSON ({reason}); expected {expected}; correct it or leave the record out")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; `json` would silently keep the last value of a key given twice."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in record if keys.count(key) > 1)
        raise ValueError(f"key {reprlib.repr(twice)} is given twice")
    return record


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


def json_list(value: object, what: str, place: Place, of: str) -> list[Any]:
    """Return `value`, a decoded JSON value, if it is a list.

    Args:
        value: What the file holds.
        what: Its name in errors.
        place: Where the record is.
        of: What the list holds, for the error.

    Raises:
        StmError: If it is something else.
    """
    if not isinstance(value, list):
        raise place.error(f"{what} is {reprlib.repr(value)}; expected a list of {of}; correct the value")
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


def whole_number(value: object, what: str, place: Place) -> int:
    """Return `value` if it is an integer.

    Raises:
        StmError: If it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise place.error(f"{what} is {reprlib.repr(value)}; expected a whole number; correct the value")
    return value


def scalar_id(name: object, place: Place) -> str:
    """Return an optional id, a string or an integer, as text; empty for None.

    Raises:
        StmError: If it is something else, or blank.
    """
    if name is None:
        return ""
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    return place.filled(name, "id")


def frozen(value: Any) -> Any:
    """Return a decoded JSON value with tuples for lists, all the way down."""
    if isinstance(value, list):
        return tuple([frozen(element) for element in value])
    if isinstance(value, dict):
        return {key: frozen(element) for key, element in value.items()}
    return value
