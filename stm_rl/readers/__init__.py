"""Readers of real transcripts.

| format | file | a transcript | a turn |
|---|---|---|---|
| `messages` | `.jsonl`, JSON array | `{"id": ..., "messages": [{"role": ..., "content": ...}]}` | a message |
| `sharegpt` | `.jsonl`, JSON array | `{"conversations": [{"from": ..., "value": ...}]}` | a message |
| `text` | `.txt` | lines between blank lines | a line, optionally `Speaker: text` |
| `stories` | any, asked for by name | text between `<|endoftext|>` | a sentence |
| `fountain` | `.fountain`, `.spmd`, folder | a screenplay | a heading, action, dialogue block, transition |
| `play` | any, asked for by name | up to 200 speeches | a speech |
| `babi` | `qa*_*.txt`, folder | a story | a statement, question or answer |
| `sgd` | `dialogues_*.json`, folder | a dialogue | an utterance |
| `multiwoz` | `.json`, `.zip` | a dialogue | an utterance |
| `locomo` | `.json` | a conversation of many sessions | an utterance |
| `irc` | `*.ascii.txt`, folder | a log | a line |

What data sets annotate becomes probes and questions; `docs/transcripts.md` says how. Transcripts have an id and
`meta` with their `file` and `line`, turns `meta` with their `line`. Readers are lazy: an error is raised when
the broken record is reached, and names its file and line; with `skip_bad` it is counted and reading goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from stm_rl.errors import StmError
from stm_rl.readers.babi import read_babi
from stm_rl.readers.detect import FOLDERS, detect
from stm_rl.readers.fountain import read_fountain
from stm_rl.readers.fountain_write import write_fountain
from stm_rl.readers.irc import read_irc
from stm_rl.readers.locomo import read_locomo
from stm_rl.readers.messages import read_messages
from stm_rl.readers.multiwoz import read_multiwoz
from stm_rl.readers.play import read_play
from stm_rl.readers.records import Flaw, Record, SkipReport, deliver
from stm_rl.readers.sgd import read_sgd
from stm_rl.readers.sharegpt import read_sharegpt
from stm_rl.readers.stories import read_stories
from stm_rl.readers.text import read_text
from stm_rl.readers.write import write_messages
from stm_rl.transcript import Transcript

__all__ = ["READERS", "Flaw", "Reader", "Record", "SkipReport", "read_transcripts", "write_fountain", "write_messages"]

Reader = Callable[[Path], Iterator[Record]]
"""Yields the transcripts of a file, and (not raises) the errors of its broken records."""

READERS: dict[str, Reader] = {
    "messages": read_messages,
    "sharegpt": read_sharegpt,
    "text": read_text,
    "stories": read_stories,
    "fountain": read_fountain,
    "play": read_play,
    "babi": read_babi,
    "sgd": read_sgd,
    "multiwoz": read_multiwoz,
    "locomo": read_locomo,
    "irc": read_irc,
}
"""The readers by format name."""


def read_transcripts(
    path: str | os.PathLike[str],
    format: str = "auto",
    *,
    limit: int | None = None,
    skip_bad: bool = False,
    report: SkipReport | None = None,
) -> Iterator[Transcript]:
    """Return an iterator over the transcripts of a file or folder.

    Path and format are checked at once, the contents as they are read.

    Args:
        path: The file, or for some formats also a folder.
        format: A name in `READERS`, or ``auto`` to go by the name of the file and the beginning of JSON.
        limit: Stop after this many transcripts; what follows is not read or checked. None for all.
        skip_bad: Leave out records that are broken, count them in `report` and log them, instead of raising
            the error of the first. If no record can be read, that error is raised after all.
        report: Filled in with what was left out, as transcripts are taken.

    Raises:
        StmError: If the path, the format or the limit is wrong; later, if the contents are.
    """
    path = Path(path)
    if format != "auto" and format not in READERS:
        raise StmError(f"unknown format {format!r}; expected auto or one of {', '.join(READERS)}; choose one of these")
    if limit is not None and limit < 1:
        raise StmError(f"limit is {limit}; expected at least 1; leave it out to read all transcripts")
    try:
        _check_kind(path, format)
        name = detect(path, tuple(READERS)) if format == "auto" else format
    except OSError as error:  # such as a name that is too long, or a folder closed to us
        raise StmError(
            f"{path}: cannot be read ({error.strerror or error}); expected a file or folder; check the path"
        ) from error
    records = READERS[name](path)
    return islice(deliver(records, skip_bad, SkipReport() if report is None else report), limit)


def _check_kind(path: Path, format: str) -> None:
    """Reject a path that does not exist or is not what the format needs."""
    folders = format == "auto" or format in FOLDERS
    if path.is_file() or (folders and path.is_dir()):
        return
    expected = "a file or folder" if folders else "a file"
    problem = "not a regular file" if path.exists() else "no such file"
    raise StmError(f"{path}: {problem}; expected {expected} of format {format}; check the path")
