"""Plain text: one turn a line, blank lines between transcripts.

A line may name its speaker (``Ann: Where is the key?``). The prefix counts only if every line of
the transcript has one; otherwise ``Note: it rained.`` in a story would become a speaker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from stm_rl.errors import StmError
from stm_rl.readers.lines import no_transcript, numbered_lines
from stm_rl.readers.records import Place, Record, attempt
from stm_rl.transcript import Transcript, Turn

STORY_SEPARATOR = "<|endoftext|>"
"""Marks the end of a story in corpora such as TinyStories."""

_SPEAKER_PREFIX = re.compile(r"([^\s:.,;!?\"“”][^:.,;!?\"“”]{0,19}):(?:\s+(.*))?")


Block = list[tuple[int, str]]
"""Lines with their numbers."""


def read_text(path: Path) -> Iterator[Record]:
    """Yield the transcripts of a plain text file as its lines are read."""
    empty = True
    for block in blocks(path):
        empty = False
        if isinstance(block, StmError):
            yield block
        else:
            yield attempt(Place(path, block[0][0]), _transcript, block, path)
    if empty:
        yield no_transcript(path)


def blocks(path: Path) -> Iterator[Block | StmError]:
    """Yield each run of lines that are not blank, or the first error within it."""
    block: Block = []
    broken: StmError | None = None
    for number, line in numbered_lines(path):
        if isinstance(line, StmError):
            broken = broken or line
        elif STORY_SEPARATOR in line:
            broken = broken or Place(path, number).error(
                f"{STORY_SEPARATOR} in plain text; expected blank lines between transcripts; "
                'read the file with format "stories"'
            )
        elif line.strip():
            block.append((number, line.strip()))
        elif block or broken:
            yield broken or block
            block, broken = [], None
    if block or broken:
        yield broken or block


def _transcript(block: Block, path: Path) -> Transcript:
    prefixes = [_SPEAKER_PREFIX.fullmatch(line) for _, line in block]
    spoken = all(prefixes)
    turns = []
    for (number, line), prefix in zip(block, prefixes, strict=True):
        speaker, text = "", line
        if prefix and spoken:
            speaker = prefix[1].strip()
            text = Place(path, number).filled(prefix[2] or "", f"what {speaker} says")
        turns.append(Turn(text=text, speaker=speaker, meta={"line": number}))
    return Place(path, block[0][0]).transcript(turns)
