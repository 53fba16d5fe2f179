"""Readers of real transcripts.

| format | file | a transcript | a turn |
|---|---|---|---|
| `messages` | `.jsonl` | a line, `{"id": ..., "messages": [{"role": ..., "content": ...}]}` | a message |
| `text` | `.txt` | lines between blank lines | a line, optionally `Speaker: text` |
| `stories` | any, asked for by name | text between `<|endoftext|>` | a sentence |
| `sgd` | folder, or `dialogues_*.json` | a dialogue | an utterance |

Every transcript has an id and `meta` with its `file` and `line`, every turn `meta` with its `line`.
Readers are lazy: an error is raised when the broken record is reached, and names its file and line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from stm_rl.errors import StmError
from stm_rl.readers.messages import read_messages
from stm_rl.readers.sgd import FILES as SGD_FILES
from stm_rl.readers.sgd import read_sgd
from stm_rl.readers.stories import read_stories
from stm_rl.readers.text import read_text
from stm_rl.readers.write import write_messages
from stm_rl.transcript import Transcript

__all__ = ["READERS", "Reader", "read_transcripts", "write_messages"]

Reader = Callable[[Path], Iterator[Transcript]]

READERS: dict[str, Reader] = {
    "messages": read_messages,
    "text": read_text,
    "stories": read_stories,
    "sgd": read_sgd,
}
"""The readers by format name."""

_SUFFIXES = {".jsonl": "messages", ".txt": "text"}


def read_transcripts(
    path: str | os.PathLike[str], format: str = "auto", *, limit: int | None = None
) -> Iterator[Transcript]:
    """Return an iterator over the transcripts of a file or folder.

    Path and format are checked at once, the contents as they are read.

    Args:
        path: The file, or for `sgd` also a folder.
        format: A name in `READERS`, or ``auto`` to go by the name of the file.
        limit: Stop after this many transcripts; what follows is not read or checked. None for all.

    Raises:
        StmError: If the path, the format or the limit is wrong; later, if the contents are.
    """
    path = Path(path)
    if format != "auto" and format not in READERS:
        raise StmError(f"unknown format {format!r}; expected auto or one of {', '.join(READERS)}; choose one of these")
    if limit is not None and limit < 1:
        raise StmError(f"limit is {limit}; expected at least 1; leave it out to read all transcripts")
    try:
        name = _detect(path) if format == "auto" else format
        _check_kind(path, name)
    except OSError as error:  # such as a name that is too long, or a folder closed to us
        raise StmError(
            f"{path}: cannot be read ({error.strerror or error}); expected a file or folder; check the path"
        ) from error
    return islice(READERS[name](path), limit)


def _detect(path: Path) -> str:
    if path.is_dir() or fnmatchcase(path.name, SGD_FILES):
        return "sgd"
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise StmError(
            f"{path}: unknown format (suffix {suffix!r}); expected {', '.join(_SUFFIXES)}, {SGD_FILES} or a "
            f"folder; rename it or give the format: {', '.join(READERS)}"
        )
    return _SUFFIXES[suffix]


def _check_kind(path: Path, format: str) -> None:
    """Reject a path that does not exist or is not what the format needs."""
    if path.is_file() or (format == "sgd" and path.is_dir()):
        return
    expected = "a file or folder" if format == "sgd" else "a file"
    problem = "not a regular file" if path.exists() else "no such file"
    raise StmError(f"{path}: {problem}; expected {expected} of format {format}; check the path")
