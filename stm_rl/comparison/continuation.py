"""One turn continued twice, and the file that such pairs are kept in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.files import write_jsonl
from stm_rl.readers.json_values import json_object, load_json, member
from stm_rl.readers.records import Place

FILE = "continuations.jsonl"
"""The file in a run folder."""
KINDS = ("dialogue", "story", "screenplay", "transcript")
WITH, WITHOUT = SIDES = ("with", "without")
"""With memory, and with the window alone."""
RENAMED = {"with_memory": WITH, "without_memory": WITHOUT, "truth": "true"}
"""Fields whose names in files are words of Python's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What a model writes in place of a turn: with what the agent read, and with the window alone.

    Attributes:
        kind: One of :data:`KINDS`.
        env: Environment id.
        transcript: Id of the transcript.
        turn: Index of the turn that was written.
        speaker: Who says it; empty for prose.
        before: The lines of all earlier turns.
        window: The last of them, which the model saw both times.
        reads: The lines that the agent read from its memory, oldest first.
        truth: The text that really comes there.
        with_memory: What the model wrote with the reads.
        without_memory: What it wrote without.
        agent: Who decided what to read.
        lm: Who wrote.
        seed: Of the comparison.
        measures: Of each of :data:`SIDES`, by name; what does not apply to the turn is left out.
        decision: ``write`` (the slot, 0: none), ``reads`` (slots), ``text`` and ``forget`` as in
            :class:`stm_rl_agents.language.tools.Decision`; None: not known.
        state: The episode when the agent decided, see :func:`stm_rl_agents.language.states.state_of`; None: not known.
    """

    kind: str
    env: str
    transcript: str
    turn: int
    speaker: str
    before: list[str]
    window: list[str]
    reads: list[str]
    truth: str
    with_memory: str
    without_memory: str
    agent: str
    lm: str
    seed: int
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    decision: dict[str, Any] | None = None
    state: str | None = None

    @property
    def id(self) -> str:
        """A name that is the same whenever the same is compared: of the place, what was read and what was written."""
        named = [
            self.env, self.transcript, self.turn, self.before, self.reads, self.with_memory, self.without_memory,
            self.agent, self.lm,
        ]  # fmt: skip
        return blake2b(json.dumps(named).encode(), digest_size=8).hexdigest()

    @property
    def differs(self) -> bool:
        """Whether memory made a difference: the texts are not the same."""
        return self.with_memory != self.without_memory

    def text(self, side: str) -> str:
        """Return the text of one of :data:`SIDES`."""
        return self.with_memory if side == WITH else self.without_memory

    def as_json(self) -> dict[str, Any]:
        """Return the continuation as JSON values."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"id": self.id, **{RENAMED.get(name, name): value for name, value in values.items()}}


def write_continuations(path: Path, continuations: Iterable[Continuation]) -> None:
    """Write continuations to ``path``, a JSON object a line."""
    write_jsonl(path, (one.as_json() for one in continuations))


def read_continuations(folder: Path) -> list[Continuation]:
    """Read the continuations in a run folder.

    Raises:
        StmError: There is no such file, or a line of it is no continuation; the error names file and line.
    """
    path = folder / FILE
    if not path.is_file():
        raise StmError(f"{folder} holds no {FILE}; `stm-rl compare {folder}` writes it")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise StmError(f"{path} is not UTF-8 ({error.reason}); write it anew with `stm-rl compare`") from error
    found = [_continuation(text, Place(path, number)) for number, text in enumerate(lines, 1) if text.strip()]
    if not found:
        raise StmError(f"{path} holds no continuation; write it anew with `stm-rl compare`")
    return found


_STRINGS = ("kind", "env", "transcript", "speaker", "true", WITH, WITHOUT, "agent", "lm")
_LISTS = ("before", "window", "reads")
_COUNTS = ("turn", "seed")


def _continuation(text: str, place: Place) -> Continuation:
    record = json_object(load_json(text, place, "an object"), "the continuation", place)
    values: dict[str, Any] = {name: member(record, name, "the continuation", place) for name in _STRINGS}
    values |= {name: member(record, name, "the continuation", place) for name in (*_LISTS, *_COUNTS)}
    for name in _STRINGS:
        place.string(values[name], name)
    for name in _LISTS:
        if not isinstance(values[name], list) or not all(isinstance(line, str) for line in values[name]):
            raise place.error(f"{name} is not a list of texts; write the file anew with `stm-rl compare`")
    for name in _COUNTS:
        if not isinstance(values[name], int) or isinstance(values[name], bool):
            raise place.error(f"{name} is no whole number; write the file anew with `stm-rl compare`")
    names = {there: here for here, there in RENAMED.items()}
    values = {names.get(name, name): value for name, value in values.items()}
    values |= {
        "measures": record.get("measures") or {},
        "decision": record.get("decision"),
        "state": record.get("state"),
    }
    return Continuation(**values)
