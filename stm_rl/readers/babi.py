"""bAbI tasks (Weston et al. 2015): a folder of ``qa*_*.txt``, or one such file.

A story is lines numbered from 1. A statement is a turn without a speaker; a question is a turn by ``question``,
followed by its answer as a turn by ``answer``. Neither may be written to memory. The supporting lines that
the file gives are the evidence of a probe at the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.readers.lines import files_of, no_transcript, numbered_lines
from stm_rl.readers.records import Place, Record, attempt
from stm_rl.transcript import Probe, Transcript, Turn

FILES = "qa[0-9]*.txt"
"""Glob pattern of the files of a folder."""

_NUMBERED = re.compile(r"([0-9]{1,9})[ \t]+(.*)")
_TASK = re.compile(r"qa([0-9]+)")
_FORM = "expected `NUMBER text`, or `NUMBER question<tab>answer<tab>supporting line numbers`"

Story = list[tuple[int, str | StmError]]


def read_babi(path: Path) -> Iterator[Record]:
    """Yield the stories of a file, or of all files of a folder by number of the task.

    Raises:
        StmError: If the folder holds no such file.
    """
    for file in sorted(files_of(path, FILES), key=_order):
        empty = True
        for story in _stories(file):
            empty = False
            place = Place(file, story[0][0])
            yield attempt(place, _transcript, story, place)
        if empty:
            yield no_transcript(file)


def _order(path: Path) -> tuple[int, str]:
    task = _TASK.match(path.name)
    return (int(task[1]) if task else 0, path.name)


def _stories(path: Path) -> Iterator[Story]:
    """Yield the lines of each story; the next begins at a line with number 1."""
    story: Story = []
    for number, line in numbered_lines(path):
        if isinstance(line, str):
            if not line.strip():
                continue
            numbered = _NUMBERED.fullmatch(line.strip())
            if numbered and int(numbered[1]) == 1 and story:
                yield story
                story = []
        story.append((number, line))
    if story:
        yield story


def _transcript(story: Story, place: Place) -> Transcript:
    turns: list[Turn] = []
    probes: list[Probe] = []
    statements: dict[int, int] = {}  # turn by number in the story
    last = 0
    for line, text in story:
        if isinstance(text, StmError):
            raise text
        here = Place(place.path, line)
        numbered = _NUMBERED.fullmatch(text.strip())
        if numbered is None:
            raise here.error(f"the line is {text[:60]!r}; {_FORM}; correct it or leave the story out")
        number = int(numbered[1])
        if number <= last or (last == 0 and number != 1):
            raise here.error(f"number {number} follows {last}; expected numbers that begin at 1 and rise; correct them")
        last = number
        parts = [part.strip() for part in numbered[2].split("\t")]
        if len(parts) == 1:
            statements[number] = len(turns)
            turns.append(Turn(parts[0], "", {"line": line, "kind": "statement"}))
            continue
        if len(parts) > 3 or not parts[0] or not parts[1]:
            raise here.error(f"the line is {text[:60]!r}; {_FORM}; correct it or leave the story out")
        question: dict[str, Any] = {"line": line, "kind": "question", "writable": False}
        turns += [Turn(parts[0], "question", question), Turn(parts[1], "answer", question | {"kind": "answer"})]
        if evidence := _evidence(parts[2] if len(parts) == 3 else "", statements, here):
            probes.append(Probe(len(turns) - 1, evidence, parts[1]))
    task = _TASK.match(place.path.name)
    return place.transcript(turns, meta={"task": int(task[1])} if task else None, probes=probes)


def _evidence(numbers: str, statements: dict[int, int], place: Place) -> tuple[int, ...]:
    """Return the turns of the supporting lines, ascending."""
    turns = set()
    for number in numbers.split():
        if not number.isdecimal() or len(number) > 9 or int(number) not in statements:
            raise place.error(
                f"supporting line {number[:20]!r} is none of the story's statements so far; expected their "
                "numbers, such as `1 4`; correct it or leave the story out"
            )
        turns.add(statements[int(number)])
    return tuple(sorted(turns))
