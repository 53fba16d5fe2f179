"""Disentangled IRC logs (Kummerfeld et al. 2019): a folder of ``NAME.ascii.txt``, or one such file.

Every line is a turn, so that the line numbers of ``NAME.annotation.txt`` beside it (from 0) are turn indices as
long as no line is blank: messages ``[03:02] <nick> text`` by their nick, actions ``[03:02] * nick text`` too, and
notices such as ``=== nick has joined`` without a speaker. ``meta["element"]`` tells which. An annotated message
that answers earlier ones is a probe; a message linked to itself begins a conversation and is none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.lines import files_of, no_transcript, numbered_lines, whole_lines
from stm_rl.readers.records import Flaw, Place, Record, attempt
from stm_rl.transcript import Probe, Transcript, Turn

FILES = "*.ascii.txt"
"""Glob pattern of the files of a folder."""

_ANNOTATION = ".annotation.txt"
_MESSAGE = re.compile(r"\[([0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?)\] <([^<>\s]+)>(?:\s+(.*))?")
_ACTION = re.compile(r"\[([0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?)\]\s+(\* (\S+).*)")
_LINK = re.compile(r"([0-9]{1,9})\s+([0-9]{1,9})(?:\s+-?)?")


def read_irc(path: Path) -> Iterator[Record]:
    """Yield one transcript for each log of a folder, or that of one file.

    Raises:
        StmError: If the folder holds no such file.
    """
    for file in files_of(path, FILES):
        annotation = _annotation(file)
        if not annotation.is_file():
            yield Flaw(f"{file}:1: has no {annotation.name} beside it; the transcript has no probes")
        yield attempt(Place(file, 1), _log, file, annotation)


def _annotation(path: Path) -> Path:
    name = path.name.removesuffix(".txt").removesuffix(".ascii")
    return path.with_name(name + _ANNOTATION)


def _log(path: Path, annotation: Path) -> Transcript:
    turns: list[Turn] = []
    lines: dict[int, int] = {}  # turn by line, from 0
    for index, line in enumerate(whole_lines(path)):
        if line.strip():
            lines[index] = len(turns)
            turns.append(_turn(line.strip(), index + 1))
    if not turns:
        raise no_transcript(path)
    probes = _probes(annotation, lines) if annotation.is_file() else []
    name = path.name.removesuffix(".txt").removesuffix(".ascii")
    return Place(path, 1).transcript(turns, name, probes=probes)


def _turn(line: str, number: int) -> Turn:
    meta: dict[str, Any] = {"line": number}
    if message := _MESSAGE.fullmatch(line):
        time, nick, text = message.groups()
        # A message without text stays a turn: links count lines.
        return Turn(text or f"<{nick}>", nick, {**meta, "element": "message" if text else "empty", "time": time})
    if action := _ACTION.fullmatch(line):
        return Turn(action[2], action[3], {**meta, "element": "action", "time": action[1]})
    return Turn(line, "", {**meta, "element": "notice"})


def _probes(path: Path, lines: dict[int, int]) -> list[Probe]:
    links: defaultdict[int, set[int]] = defaultdict(set)
    for number, line in numbered_lines(path):
        place = Place(path, number)
        if isinstance(line, StmError):
            raise line
        if not line.strip():
            continue
        link = _LINK.fullmatch(line.strip())
        if link is None:
            raise place.error(f"the link is {line[:60]!r}; expected `EARLIER LATER -`; correct it or leave it out")
        ends = int(link[1]), int(link[2])
        if missing := [end for end in ends if end not in lines]:
            raise place.error(
                f"line {missing[0]} of the log (from 0) is blank or does not exist; expected lines that hold "
                "messages; give the annotation that belongs to the log"
            )
        # The order of the two is not the same in all releases; the later one is the answer.
        earlier, later = sorted(lines[end] for end in ends)
        if earlier < later:
            links[later].add(earlier)
    return [Probe(turn, tuple(sorted(evidence))) for turn, evidence in sorted(links.items())]
