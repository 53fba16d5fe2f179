"""Fountain screenplays (fountain.io, version 1.1): one file, one transcript.

| element | turn | ``meta`` besides ``element`` and ``line`` |
|---|---|---|
| ``scene_heading`` | the heading | ``scene_number`` |
| ``action``, ``centered``, ``lyrics`` | a paragraph | |
| ``dialogue`` | a character's lines, parentheticals among them | ``extension``, ``dual`` |
| ``transition`` | the transition | |

Forcing marks (``. ! @ > ~``) are taken off; emphasis stays as it is written. What is not part of the story goes to
the transcript's ``meta``: ``title_page`` (lines by key) and ``outline``: sections, synopses, page breaks, notes and
boneyards with the index of the ``turn`` they stand before. Several blank lines count as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stm_rl.readers.fountain_comments import Line, is_blank, without_comments
from stm_rl.readers.lines import files_of, no_transcript, whole_lines
from stm_rl.readers.records import Place, Record, attempt
from stm_rl.transcript import Transcript, Turn

FILES = "*.fountain"
"""Glob pattern of the files of a folder."""

_HEADING = re.compile(r"(?:INT|EXT|EST|INT\.?/EXT|I/E)[. ]", re.IGNORECASE)
_SCENE_NUMBER = re.compile(r"(?<!#)#([\w.-]+)#$")
_PAGE_BREAK = re.compile(r"={3,}")
_PARENTHETICAL = re.compile(r"\([^()]*\)")
_TITLE_KEY = re.compile(r"([^\W\d_][\w -]*):(.*)")


def read_fountain(path: Path) -> Iterator[Record]:
    """Yield the transcript of a screenplay, or those of all screenplays of a folder by name.

    Raises:
        StmError: If the folder holds none.
    """
    for file in files_of(path, FILES):
        yield attempt(Place(file, 1), _read, file)


def _read(path: Path) -> Transcript:
    lines = whole_lines(path)
    if not any(map(str.strip, lines)):
        raise no_transcript(path)
    script = parse_fountain(lines)
    meta: dict[str, Any] = {"title_page": script.title_page} if script.title_page else {}
    if script.outline:
        meta["outline"] = tuple(script.outline)
    return Place(path, 1).transcript(script.turns, path.stem if path.stem.strip() else "", meta=meta)


@dataclass(slots=True)
class Screenplay:
    """What a screenplay holds.

    Attributes:
        title_page: Lines by key.
        turns: Its turns.
        outline: What is not a turn, each with the index of the turn it stands before.
    """

    title_page: dict[str, Any] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    outline: list[dict[str, Any]] = field(default_factory=list)


def parse_fountain(lines: Sequence[str]) -> Screenplay:
    """Return the screenplay that lines of Fountain describe; any text is one."""
    left, comments = without_comments(list(lines))
    script = Screenplay()
    script.title_page, at = _title_page(left)
    ends: list[int] = []  # of each turn: the place its next line begins
    outline: list[tuple[int, dict[str, Any]]] = []
    while at < len(left):
        if not left[at].text.strip():
            at += 1
            continue
        found, count = _element(left, at)
        if isinstance(found, Turn):
            script.turns.append(Turn(found.text, found.speaker, {**found.meta, "line": left[at].number}))
            ends.append(left[at + count].begins if at + count < len(left) else 1 << 62)
        else:
            outline.append((left[at].begins, {"turn": len(script.turns), **found}))
        at += count
    turn = 0
    for comment in comments:
        while turn < len(ends) and ends[turn] <= comment.begins:
            turn += 1
        outline.append((comment.begins, {"turn": turn, "element": comment.element, "text": comment.text}))
    script.outline = [entry for _, entry in sorted(outline, key=lambda pair: (pair[1]["turn"], pair[0]))]
    return script


def _title_page(lines: Sequence[Line]) -> tuple[dict[str, Any], int]:
    """Return the lines of each key, and how many lines of the file that takes.

    ``FADE IN:`` alone at the top is no title page: at least one key must have a value.
    """
    page: dict[str, Any] = {}
    key = ""
    count = 0
    for count, line in enumerate([*lines, Line(0, "", 0)]):  # noqa: B007 (how many came before the blank one)
        text = line.text
        if not text.strip():
            break
        if key and text[0] in " \t":
            page[key] += (text.strip(),)
        elif found := _TITLE_KEY.fullmatch(text):
            key, value = found[1].strip(), found[2].strip()
            page[key] = page.get(key, ()) + ((value,) if value else ())
        else:
            return {}, 0
    return (page, count) if any(page.values()) else ({}, 0)


Found = tuple[Turn | dict[str, Any], int]
"""A turn or an entry of the outline, and how many lines it takes."""


def _element(lines: Sequence[Line], at: int) -> Found:
    """Return the element that begins at line `at`, which is not blank and begins a paragraph."""
    text = lines[at].text.strip()
    after = lines[at + 1].text if at + 1 < len(lines) else ""
    alone = not after.strip()
    if _PAGE_BREAK.fullmatch(text):
        return {"element": "page_break"}, 1
    if text.startswith("#"):
        title = text.lstrip("#")
        return {"element": "section", "level": len(text) - len(title), "text": title.strip()}, 1
    if text.startswith("="):
        return {"element": "synopsis", "text": text[1:].strip()}, 1
    found = _heading(text, alone) or _arrow(lines, at, text) or _lyrics(lines, at)
    if found is None and not text.startswith("!"):
        if alone and text.endswith("TO:") and text == text.upper():
            return Turn(text, "", {"element": "transition"}), 1
        found = None if is_blank(after) else _dialogue(lines, at, text)
    return found or _action(lines, at)


def _following(lines: Sequence[Line], at: int) -> Iterator[Line]:
    return (lines[index] for index in range(at, len(lines)))


def _heading(text: str, alone: bool) -> Found | None:
    forced = text.startswith(".") and not text.startswith("..")
    # A blank line should follow, but many writers forget it; no character is called INT. SOMEWHERE.
    if not forced and not (_HEADING.match(text) and (alone or text == text.upper())):
        return None
    text = text[1:].strip() if forced else text
    meta: dict[str, Any] = {"element": "scene_heading"}
    if number := _SCENE_NUMBER.search(text):
        text, meta["scene_number"] = text[: number.start()].rstrip(), number[1]
    return (Turn(text, "", meta), 1) if text else None


def _arrow(lines: Sequence[Line], at: int, text: str) -> Found | None:
    """Return centered text or a forced transition."""
    centered = []
    for line in _following(lines, at):
        inner = line.text.strip()
        if len(inner) < 2 or inner[0] != ">" or inner[-1] != "<":
            break
        centered.append(inner[1:-1].strip())
    if any(centered):
        return Turn("\n".join(centered), "", {"element": "centered"}), len(centered)
    text = text[1:].strip() if text.startswith(">") and not centered else ""
    return (Turn(text, "", {"element": "transition"}), 1) if text else None


def _lyrics(lines: Sequence[Line], at: int) -> Found | None:
    sung = []
    for line in _following(lines, at):
        text = line.text.strip()
        if not text.startswith("~"):
            break
        sung.append(text[1:].strip())
    return (Turn("\n".join(sung), "", {"element": "lyrics"}), len(sung)) if any(sung) else None


def _dialogue(lines: Sequence[Line], at: int, text: str) -> Found | None:
    cue = _cue(text)
    if cue is None:
        return None
    speaker, meta = cue
    said: list[list[str]] = []  # what is joined on each line of the turn
    aside = False  # whether the line before was a parenthetical
    count = 1
    for line in _following(lines, at + 1):
        if is_blank(line.text):
            break
        count += 1
        words = line.text.strip()
        if aside and words:
            said[-1].append(words)
        else:
            said.append([words])
        aside = _PARENTHETICAL.fullmatch(words) is not None
    text = "\n".join(" ".join(line) for line in said).rstrip("\n")
    return (Turn(text, speaker, meta), count) if text.strip() else None


def _cue(text: str) -> tuple[str, dict[str, Any]] | None:
    """Return the character that a line names, and its meta, if it does."""
    meta: dict[str, Any] = {"element": "dialogue"}
    forced = text.startswith("@")
    name = text[1:].strip() if forced else text
    if name.endswith("^"):
        name, meta["dual"] = name[:-1].rstrip(), True
    end = len(name)
    while end and name[end - 1] == ")" and (begin := name.rfind("(", 0, end)) >= 0:
        if ")" in name[begin : end - 1]:
            break
        end = begin
        while end and name[end - 1].isspace():
            end -= 1
    if extension := name[end:].strip():
        name, meta["extension"] = name[:end], extension
    if not name or not (forced or (name == name.upper() and name != name.lower())):
        return None
    return name, meta


def _action(lines: Sequence[Line], at: int) -> Found:
    paragraph: list[str] = []
    for line in _following(lines, at):
        if not line.text.strip():
            break
        words = line.text.lstrip()
        indent = line.text[: len(line.text) - len(words)].replace("\t", "    ")
        paragraph.append(indent + words.rstrip())
    # Only what begins a paragraph is marked.
    if paragraph[0].lstrip().startswith("!"):
        unmarked = paragraph[0].lstrip()[1:]
        if unmarked.strip() or len(paragraph) > 1:
            paragraph[0] = unmarked
    return Turn("\n".join(paragraph), "", {"element": "action"}), len(paragraph)
