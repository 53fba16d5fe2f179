"""Plays in the form of tinyshakespeare: a line ``SPEAKER:``, the lines of the speech, and a blank line.

The form marks neither acts nor scenes, so a transcript is at most `SPEECHES` speeches that follow each other.
Line breaks are kept. Paragraphs that do not begin with a speaker (stage directions) are turns without one.
A speaker who has no lines says nothing: the name is kept in ``meta["silent"]`` of the transcript, with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from stm_rl.errors import StmError
from stm_rl.readers.lines import no_transcript
from stm_rl.readers.records import Place, Record, attempt
from stm_rl.readers.text import Block, blocks
from stm_rl.transcript import Transcript, Turn

SPEECHES = 200
"""Greatest number of speeches in a transcript."""

_SPEAKER = re.compile(r"(\S[^:]{0,59}):")

Speech = tuple[int, str, str]
"""Line, speaker and text; the text is empty if nothing was said."""


def read_play(path: Path) -> Iterator[Record]:
    """Yield a file's transcripts as its lines are read."""
    speeches: list[Speech] = []
    empty = True
    for block in blocks(path):
        empty = False
        if isinstance(block, StmError):  # no transcript runs across a gap
            if speeches:
                yield _part(speeches, path)
            speeches = []
            yield block
            continue
        speeches.append(_speech(block))
        # Two are left for the next part, which needs as many.
        if sum(bool(text) for _, _, text in speeches) == SPEECHES + 2:
            cut = _index_of(speeches, SPEECHES)
            yield _part(speeches[:cut], path)
            speeches = speeches[cut:]
    if sum(bool(text) for _, _, text in speeches) > SPEECHES:
        cut = _index_of(speeches, SPEECHES - 1)
        yield _part(speeches[:cut], path)
        speeches = speeches[cut:]
    if speeches:
        yield _part(speeches, path)
    if empty:
        yield no_transcript(path)


def _index_of(speeches: list[Speech], number: int) -> int:
    """Return the index of the speech with text that follows `number` others."""
    return [index for index, (_, _, text) in enumerate(speeches) if text][number]


def _speech(block: Block) -> Speech:
    number, first = block[0]
    speaker = _SPEAKER.fullmatch(first)
    lines = [line for _, line in (block[1:] if speaker else block)]
    return number, speaker[1].strip() if speaker else "", "\n".join(lines)


def _part(speeches: list[Speech], path: Path) -> Transcript | StmError:
    place = Place(path, speeches[0][0])
    turns = [Turn(text, speaker, {"line": line}) for line, speaker, text in speeches if text]
    silent = tuple((speaker, line) for line, speaker, text in speeches if not text)
    return attempt(place, place.transcript, turns, meta={"silent": silent} if silent else None)
