"""Stories separated by ``<|endoftext|>`` (the form of TinyStories), one turn a sentence.

What is said stays in one turn with the words around it: ``"Stop! It is hot," said Tom.`` The splitter
knows English punctuation; it is a heuristic, and joining the turns gives the words of the story back.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from stm_rl.errors import StmError
from stm_rl.readers.lines import BadLineError, no_transcript, numbered_lines
from stm_rl.readers.records import Place, Record, attempt
from stm_rl.readers.text import STORY_SEPARATOR
from stm_rl.transcript import Transcript, Turn

Lines = list[tuple[int, str]]

_ENDINGS = ".!?…"
_QUOTED = r'"[^"]*"|“[^“”]*”|«[^«»]*»'
# A quotation, or punctuation that may end a sentence together with the brackets it closes. Possessive
# quantifiers keep the scan linear on hostile input.
_MARK = re.compile(rf"(?:{_QUOTED})|[{_ENDINGS}]++[\"”»’')\]]*+")
_SPACE = re.compile(r"\s+")
_TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St)\.$")
# `"Stop!" Tom shouted.` is one sentence; `"Stop!" Tom said, "It is hot."` begins a new one.
_SAID_BY = re.compile(
    r"(?:[\w'’-]+ ){1,3}"
    r"(?:said|says|asked|replied|answered|cried|called|shouted|whispered|exclaimed)\b(?![,:])"
)
_LINE_END = re.compile(rf"[{_ENDINGS}][\"”»’')\]]*$")


def read_stories(path: Path) -> Iterator[Record]:
    """Yield the stories of a file as its lines are read."""
    last, same = 0, 0
    for story in _stories(path):
        if isinstance(story, StmError):
            last = last or 1
            yield story
            continue
        line = next(number for number, text in story if text)
        same = same + 1 if line == last else 0
        last = line
        # Several stories may begin on a line; their ids must differ.
        name = f"{path.name}:{line}.{same}" if same else ""
        yield attempt(Place(path, line), _transcript, story, Place(path, line), name)
    if not last:
        yield no_transcript(path)


def _transcript(story: Lines, place: Place, name: str) -> Transcript:
    return place.transcript(
        [
            Turn(text=sentence, meta={"line": number})
            for paragraph in _paragraphs(story)
            for number, sentence in _sentences(paragraph)
        ],
        name,
    )


def _stories(path: Path) -> Iterator[Lines | StmError]:
    """Yield the lines of each story that is not blank; blank lines within it are kept."""
    story: Lines = []
    broken: StmError | None = None
    for number, line in numbered_lines(path):
        bad = line if isinstance(line, StmError) else None
        if isinstance(line, StmError):
            # Every story that has a part of the line is reported.
            line = line.text if isinstance(line, BadLineError) else ""
        broken = broken or bad
        head, *rest = line.split(STORY_SEPARATOR)
        story.append((number, head.strip()))
        for part in rest:
            if broken or any(text for _, text in story):
                yield broken or story
            story, broken = [(number, part.strip())], bad if part.strip() else None
    if broken or any(text for _, text in story):
        yield broken or story


def _paragraphs(story: Lines) -> Iterator[Lines]:
    """Yield groups of lines between which no sentence runs on.

    A line that stops without punctuation continues on the next, unless that is blank.
    """
    paragraph: Lines = []
    for number, text in story:
        if text:
            paragraph.append((number, text))
        if paragraph and (not text or _LINE_END.search(text)):
            yield paragraph
            paragraph = []
    if paragraph:
        yield paragraph


def _sentences(paragraph: Lines) -> Iterator[tuple[int, str]]:
    """Yield the sentences of a paragraph, each with the line it begins on."""
    text = " ".join(part for _, part in paragraph)
    starts = [0, *accumulate(len(part) + 1 for _, part in paragraph)]
    begin = 0
    for mark in _MARK.finditer(text):
        if not _ends_sentence(text, mark):
            continue
        yield paragraph[bisect_right(starts, begin) - 1][0], text[begin : mark.end()]
        space = _SPACE.match(text, mark.end())
        begin = space.end() if space else mark.end()
    if begin < len(text):
        yield paragraph[bisect_right(starts, begin) - 1][0], text[begin:]


def _ends_sentence(text: str, mark: re.Match[str]) -> bool:
    space = _SPACE.match(text, mark.end())
    if space is None:
        return mark.end() == len(text)
    if text[space.end()].islower():
        return False
    if mark[0][0] in _ENDINGS:
        return _TITLE.search(text[max(0, mark.start() - 4) : mark.end()]) is None
    quoted = mark[0][:-1].rstrip()
    return quoted.endswith(tuple(_ENDINGS)) and _SAID_BY.match(text, space.end()) is None
