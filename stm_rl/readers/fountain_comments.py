"""What a screenplay in Fountain hides from the reader: ``/* boneyard */`` and ``[[notes]]``.

They are cut out before anything else is looked at. A line that holds nothing else vanishes, so that a note
between a character and the dialogue does not part them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

_PAIRS = ("/*", "*/", "[[", "]]")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, or what is left of one.

    Attributes:
        number: Its line number, from 1; the first of those it was made of.
        text: Its text without line end.
        begins: Where it begins, in characters of the file: comments with a smaller place stand before it.
    """

    number: int
    text: str
    begins: int


@dataclass(frozen=True, slots=True)
class Comment:
    """A note or boneyard.

    Attributes:
        element: ``note`` or ``boneyard``.
        text: What stands between its marks.
        begins: Where it begins, in characters of the file.
    """

    element: str
    text: str
    begins: int


Span = tuple[int, int]


def without_comments(lines: list[str]) -> tuple[list[Line], list[Comment]]:
    """Return the lines that are left without comments, and the comments in order.

    Args:
        lines: The lines of a file.
    """
    pieces = []
    begins = 0
    for number, text in enumerate(lines, start=1):
        pieces.append(Line(number, text, begins))
        begins += len(text) + 1
    left, boneyards = _cut(pieces, "boneyard", _boneyards)
    left, notes = _cut(left, "note", _notes)
    return left, sorted(boneyards + notes, key=lambda comment: comment.begins)


def _cut(
    lines: list[Line], element: str, find: Callable[[list[str]], Iterator[Span]]
) -> tuple[list[Line], list[Comment]]:
    """Cut out what `find` finds in the lines, as spans of their joined text."""
    starts = []
    at = 0
    for line in lines:
        starts.append(at)
        at += len(line.text) + 1
    joined = "\n".join(line.text for line in lines)
    left: list[Line] = []
    comments: list[Comment] = []
    spans = find([line.text for line in lines])
    span = next(spans, None)
    index = 0
    while index < len(lines):
        first = index
        parts: list[str] = []
        rest, hidden = starts[index], False
        # All comments that begin on this line, or on the line where the last of them ends.
        while span is not None and span[0] < starts[index] + len(lines[index].text):
            parts.append(joined[rest : span[0]])
            begins = lines[index].begins + span[0] - starts[index]
            comments.append(Comment(element, joined[span[0] + 2 : span[1] - 2], begins))
            rest, hidden = span[1], True
            while index + 1 < len(lines) and starts[index + 1] < span[1]:
                index += 1
            span = next(spans, None)
        parts.append(joined[rest : starts[index] + len(lines[index].text)])
        text = _joined(parts)
        if text.strip() or not hidden:
            left.append(Line(lines[first].number, text, lines[first].begins))
        index += 1
    return left, comments


def _joined(parts: list[str]) -> str:
    """Join what stands around comments, so that no new mark comes to be."""
    found: list[str] = []
    last = ""
    for part in filter(None, parts):
        if last + part[0] in _PAIRS:
            found.append(" ")
        found.append(part)
        last = part[-1]
    return "".join(found)


def _boneyards(lines: list[str]) -> Iterator[Span]:
    """Yield where each boneyard begins and ends; one that is not closed is text."""
    text = "\n".join(lines)
    begin = text.find("/*")
    while begin >= 0:
        end = text.find("*/", begin + 2)
        if end < 0:
            return
        yield begin, end + 2
        begin = text.find("/*", end + 2)


def _notes(lines: list[str]) -> Iterator[Span]:
    """Yield where each note begins and ends; it may run over lines, but not over a blank one."""
    at = 0
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if is_blank(line):
            text = "\n".join(paragraph)
            begin = text.find("[[")
            while begin >= 0 and (end := text.find("]]", begin + 2)) >= 0:
                yield at + begin, at + end + 2
                begin = text.find("[[", end + 2)
            at += sum(len(part) + 1 for part in paragraph) + len(line) + 1
            paragraph = []
        else:
            paragraph.append(line)


def is_blank(line: str) -> bool:
    """Whether a line parts paragraphs; two spaces keep them together (within dialogue and notes)."""
    return len(line) < 2 and not line.strip()
