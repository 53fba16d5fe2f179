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

from stm_rl.readers.text import STORY_SEPARATOR, Place, no_transcript, numbered_lines
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


def read_stories(path: Path) -> Iterator[Transcript]:
    """Yield the stories of a file as its lines are read.

    Raises:
        StmError: If a story has one sentence, or the file holds no text.
    """
    last, same = 0, 0
    for story in _stories(path):
        turns = [
            Turn(text=sentence, meta={"line": number})
            for paragraph in _paragraphs(story)
            for number, sentence in _sentences(paragraph)
        ]
        line = turns[0].meta["line"]
        same = same + 1 if line == last else 0
        last = line
        # Several stories may begin on a line; their ids must differ.
        yield Place(path, line).transcript(turns, f"{path.name}:{line}.{same}" if same else "")
    if not last:
        raise no_transcript(path)


def _stories(path: Path) -> Iterator[Lines]:
    """Yield the lines of each story that is not blank; blank lines within it are kept."""
    story: Lines = []
    for number, line in numbered_lines(path):
        head, *rest = line.split(STORY_SEPARATOR)
        story.append((number, head.strip()))
        for part in rest:
            if any(text for _, text in story):
                yield story
            story = [(number, part.strip())]
    if any(text for _, text in story):
        yield story


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
