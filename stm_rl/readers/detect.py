"""Tell the format of transcripts by the name of the file, and JSON by its first record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from stm_rl.errors import StmError
from stm_rl.readers.babi import FILES as BABI_FILES
from stm_rl.readers.fountain import FILES as FOUNTAIN_FILES
from stm_rl.readers.irc import FILES as IRC_FILES
from stm_rl.readers.json_stream import json_records, records_of
from stm_rl.readers.sgd import FILES as SGD_FILES

FOLDERS = {"sgd": SGD_FILES, "babi": BABI_FILES, "irc": IRC_FILES, "fountain": FOUNTAIN_FILES}
"""Formats that may be a folder, with the files that make one."""

_SUFFIXES = {".txt": "text", ".fountain": "fountain", ".spmd": "fountain", ".zip": "multiwoz"}
_KEYS = {"messages": "messages", "conversations": "sharegpt", "dialogue_id": "sgd", "conversation": "locomo"}
_TRIES = 20  # broken records before the first whole one
_BABI_NAME = re.compile(r"qa[0-9]+_.*\.txt")


def detect(path: Path, formats: Sequence[str]) -> str:
    """Return the format of a file or folder that exists.

    Args:
        path: The file or folder.
        formats: All formats, for the error.

    Raises:
        StmError: If it cannot be told.
    """
    if path.is_dir():
        for name, pattern in FOLDERS.items():
            if any(path.glob(pattern)):
                return name
        raise StmError(
            f"{path}: holds no {', '.join(FOLDERS.values())}; expected a folder with such files; give that folder or "
            "one file"
        )
    suffix = path.suffix.lower()
    if fnmatchcase(path.name, SGD_FILES):
        return "sgd"
    if fnmatchcase(path.name, IRC_FILES):
        return "irc"
    if _BABI_NAME.fullmatch(path.name):
        return "babi"
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix == ".jsonl":
        return _by_keys(path) or "messages"  # whose reader says what is wrong
    if suffix == ".json":
        found = "multiwoz" if _holds_logs(path) else _by_keys(path)
        if found is not None:
            return found
        problem = f"its first record has none of the keys {', '.join(_KEYS)}"
    else:
        problem = f"suffix {suffix!r}"
    raise StmError(
        f"{path}: unknown format ({problem}); expected .jsonl, .json, {', '.join(_SUFFIXES)}, {SGD_FILES} or a folder; "
        f"rename it or give the format: {', '.join(formats)}"
    )


def _by_keys(path: Path) -> str | None:
    """Return the format that the keys of the first whole record name."""
    for _, _, value in islice(json_records(path, "a record"), _TRIES):
        if isinstance(value, dict):
            return next((name for key, name in _KEYS.items() if key in value), None)
    return None


def _holds_logs(path: Path) -> bool:
    """Whether the file is one object whose first whole member is a dialogue of MultiWOZ."""
    with path.open("rb") as file:
        for _, _, value in islice(records_of(file, path, "{", "a dialogue"), _TRIES):
            if not isinstance(value, StmError):
                return isinstance(value, dict) and "log" in value
    return False
