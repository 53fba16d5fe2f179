"""What all readers share: records or errors, and where they stand in a file.

A reader yields, for each record of its file, a transcript or (not raises) the error of a record that is
broken, so that it can go on with the next. `deliver` turns the errors into exceptions, or counts them.
"""

from __future__ import annotations

import logging
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec

from stm_rl.errors import StmError
from stm_rl.transcript import Probe, Question, Transcript, Turn

P = ParamSpec("P")

KEPT_MESSAGES = 20
"""How many messages a report keeps and the log shows."""

_LOG = logging.getLogger("stm_rl.readers")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Flaw:
    """A part of a record that could not be read, though the rest could and follows as a transcript.

    Attributes:
        message: ``file:line: reason``.
    """

    message: str


Record = Transcript | StmError | Flaw
"""What a reader yields."""


@dataclass(slots=True)
class SkipReport:
    """What was left out while reading; filled in as transcripts are taken.

    Attributes:
        count: Records that were skipped.
        messages: Why, for the first `KEPT_MESSAGES` of them: ``file:line: reason``.
        flaws: Parts of records that could not be read, such as malformed evidence; the records were kept.
        flaw_messages: Why, for the first of those.
    """

    count: int = 0
    messages: list[str] = field(default_factory=list)
    flaws: int = 0
    flaw_messages: list[str] = field(default_factory=list)

    def skip(self, message: str) -> None:
        """Count and log a record that is skipped."""
        self.count += 1
        _note(self.messages, "skipped a bad record: %s", message)

    def flaw(self, message: str) -> None:
        """Count and log a part that is left out."""
        self.flaws += 1
        _note(self.flaw_messages, "left out a part: %s", message)


def _note(messages: list[str], form: str, message: str) -> None:
    if len(messages) < KEPT_MESSAGES:
        messages.append(message)
        _LOG.warning(form, message)


def deliver(records: Iterator[Record], skip_bad: bool, report: SkipReport) -> Iterator[Transcript]:
    """Yield the transcripts among `records`.

    Args:
        records: What a reader yields.
        skip_bad: Report errors instead of raising them.
        report: Filled in.

    Raises:
        StmError: At the first error; with `skip_bad` only if there are errors and no transcript at all.
    """
    first: StmError | None = None
    empty = True
    for record in records:
        if isinstance(record, Transcript):
            empty = False
            yield record
        elif isinstance(record, Flaw):
            report.flaw(record.message)
        elif skip_bad:
            first = first or record
            report.skip(str(record))
        else:
            raise record
    if report.count > KEPT_MESSAGES:
        _LOG.warning("skipped %d bad records in all", report.count)
    if first is not None and empty:
        raise StmError(f"{first} (no record could be read; {report.count} skipped)") from first


def attempt(place: Place, read: Callable[P, Transcript], *args: P.args, **kwargs: P.kwargs) -> Transcript | StmError:
    """Return what `read` returns, or the `StmError` it raises.

    Args:
        place: Where the record is.
        read: Makes the transcript of one record.
        *args: Its arguments.
        **kwargs: Its arguments.
    """
    try:
        return read(*args, **kwargs)
    except StmError as error:
        return error
    except RecursionError:
        return place.error("a value is nested too deeply; expected at most some hundred levels; flatten it")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file: where a record begins, and where its errors point.

    Attributes:
        path: The file.
        line: Line number, from 1.
    """

    path: Path
    line: int

    def error(self, message: str) -> StmError:
        """Return (not raise) an error that names this place."""
        return StmError(f"{self.path}:{self.line}: {message}")

    def string(self, value: object, what: str) -> str:
        """Return `value` if it is text that can be encoded and trained on.

        Args:
            value: What the file holds.
            what: Its name in errors, such as ``messages[2].role``.

        Raises:
            StmError: If it is no string, or holds a NUL or half a surrogate pair.
        """
        if not isinstance(value, str):
            raise self.error(f"{what} is {reprlib.repr(value)}; expected a string; correct the value")
        if "\0" in value:
            raise self.error(f"{what} holds a NUL character; expected text; remove the character")
        if _SURROGATE.search(value):
            raise self.error(
                f"{what} holds half a surrogate pair, which is not valid Unicode; expected text; "
                "remove it or write the whole pair"
            )
        return value

    def filled(self, value: object, what: str) -> str:
        """Return `value` if it is a `string` that is not blank.

        Raises:
            StmError: If it is not.
        """
        text = self.string(value, what)
        if not text.strip():
            raise self.error(f"{what} is empty; expected text; fill it in or leave the turn out")
        return text

    def transcript(
        self,
        turns: Sequence[Turn],
        name: str = "",
        *,
        meta: Mapping[str, Any] | None = None,
        probes: Sequence[Probe] = (),
        questions: Sequence[Question] = (),
    ) -> Transcript:
        """Return the transcript that begins here.

        Args:
            turns: Its turns.
            name: Its id; made of file name and line if empty.
            meta: What to keep with it besides file and line.
            probes: Its probes.
            questions: Its questions.

        Raises:
            StmError: If there are fewer than two turns.
        """
        if len(turns) < 2:
            raise self.error(
                f"the transcript has {len(turns)} turn(s); expected at least 2, one to act on and one to "
                "predict; add turns or leave it out"
            )
        return Transcript(
            turns=tuple(turns),
            probes=tuple(probes),
            id=name or f"{self.path.name}:{self.line}",
            meta={"file": str(self.path), "line": self.line, **(meta or {})},
            questions=tuple(questions),
        )
