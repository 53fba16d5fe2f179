"""Write a transcript as a Fountain screenplay that reads back as the same turns."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.fountain import parse_fountain
from stm_rl.readers.write import replacing
from stm_rl.transcript import Transcript, Turn

_LEADING_ASIDE = re.compile(r"(\([^()]*\)) (?=\S)")
_UNREADABLE = re.compile("[\0\ud800-\udfff]")
_KEPT = ("element", "extension", "dual", "scene_number")


def write_fountain(transcript: Transcript, path: str | os.PathLike[str]) -> None:
    """Write a screenplay; on any error what stood at `path` before stays.

    Turns without ``meta["element"]`` are dialogue if they have a speaker, else action. Of the transcript's ``meta``
    the title page and the outline are written; probes and questions have no place in a screenplay.

    Args:
        transcript: A screenplay, or anything whose turns can stand in one.
        path: Where to write; its folder must exist.

    Raises:
        StmError: If a turn cannot be written so that it reads back the same, or the file cannot be written.
    """
    path = Path(path)
    text = fountain_text(transcript)
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def fountain_text(transcript: Transcript) -> str:
    """Return a transcript as text in Fountain; see `write_fountain`.

    Raises:
        StmError: If a turn cannot be written so that it reads back the same.
    """
    name = transcript.id or "the transcript"
    before: defaultdict[int, list[str]] = defaultdict(list)
    try:
        for entry in transcript.meta.get("outline", ()):
            before[entry["turn"]].append(_outline(entry))
        title = _title_page(transcript.meta.get("title_page", {}))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise StmError(
            f"{name}: outline or title_page in meta is not what the Fountain reader makes of one ({error!r}); correct "
            "them or leave them out"
        ) from error
    blocks = []
    for index, turn in enumerate(transcript.turns):
        blocks += before[index]
        # A blank line first: no block alone is a title page.
        block = next((text for text in _forms(turn) if _reads_as(f"\n{text}", [turn])), None)
        if block is None:
            raise _cannot(name, index, turn)
        blocks.append(block)
    blocks += before[len(transcript.turns)]
    text = "\n\n".join([title, *blocks] if title else blocks) + "\n"
    # A first line that only looks like a title page or a byte order mark must not be the first of the file.
    if not title and (text.startswith("\ufeff") or parse_fountain(_lines(text)).title_page):
        text = "\n" + text
    if not _reads_as(text, transcript.turns):
        read = parse_fountain(_lines(text)).turns
        pairs = zip(read, transcript.turns, strict=False)
        index = next((index for index, pair in enumerate(pairs) if not _same(*pair)), len(transcript.turns) - 1)
        raise _cannot(name, index, transcript.turns[index])
    return text


def _cannot(name: str, index: int, turn: Turn) -> StmError:
    return StmError(
        f"{name}: turn {index} ({str(turn)[:60]!r}) would not read back from Fountain as it is; expected text that can "
        "stand there, without blank lines or comment marks; convert to JSONL, which holds everything"
    )


def _reads_as(text: str, turns: Sequence[Turn]) -> bool:
    """Whether a file with this text has these turns."""
    if _UNREADABLE.search(text):
        return False
    read = parse_fountain(_lines(text)).turns
    return len(read) == len(turns) and all(map(_same, read, turns))


def _lines(text: str) -> list[str]:
    """Return the lines that the reader sees of a file with this text."""
    return [line.rstrip("\r") for line in text.split("\n")]


def _same(read: Turn, turn: Turn) -> bool:
    kept = {key: turn.meta[key] for key in _KEPT if key in turn.meta}
    kept.setdefault("element", _kind(turn))
    return (read.text, read.speaker) == (turn.text, turn.speaker) and kept == {
        key: read.meta[key] for key in _KEPT if key in read.meta
    }


def _kind(turn: Turn) -> str:
    return str(turn.meta.get("element", "dialogue" if turn.speaker else "action"))


def _forms(turn: Turn) -> Iterator[str]:
    """Yield ways to write a turn, the plainest first."""
    element, lines = _kind(turn), turn.text.split("\n")
    if element == "dialogue":
        cue = " ".join(
            str(part)
            for part in (turn.speaker, turn.meta.get("extension"), "^" if turn.meta.get("dual") else "")
            if part
        )
        said = "\n".join(part for line in lines for part in _said(line))
        yield from (f"{cue}\n{said}", f"@{cue}\n{said}")
    elif element == "scene_heading":
        number = turn.meta.get("scene_number")
        heading = f"{turn.text} #{number}#" if number else turn.text
        yield from (heading, f".{heading}", f". {heading}")
    elif element == "transition":
        yield from (turn.text, f"> {turn.text}")
    elif element == "centered":
        yield "\n".join(f"> {line} <" for line in lines)
    elif element == "lyrics":
        yield "\n".join(f"~{line}" for line in lines)
    else:
        yield from (turn.text, f"!{turn.text}")


def _said(line: str) -> Iterator[str]:
    """Yield a line of dialogue, parentheticals at its beginning on lines of their own."""
    while aside := _LEADING_ASIDE.match(line):
        yield aside[1]
        line = line[aside.end() :]
    yield line or "  "


def _outline(entry: dict[str, Any]) -> str:
    text = str(entry.get("text", ""))
    forms = {
        "section": f"{'#' * int(entry.get('level', 1))} {text}",
        "synopsis": f"= {text}",
        "page_break": "===",
        "note": f"[[{text}]]",
        "boneyard": f"/*{text}*/",
    }
    return forms[entry["element"]]


def _title_page(page: dict[str, Any]) -> str:
    lines = []
    for key, values in page.items():
        if len(values) == 1:
            lines.append(f"{key}: {values[0]}")
        else:
            lines += [f"{key}:", *(f"    {value}" for value in values)]
    return "\n".join(lines)
