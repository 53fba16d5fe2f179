"""What checks find: each finding says what was looked at, what came out, and what to change."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stm_rl.errors import StmError

OK, WARNING, ERROR = LEVELS = ("ok", "warning", "error")
"""Levels of findings, from good to bad."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        level: One of :data:`LEVELS`.
        check: What was checked.
        found: What came out.
        change: What to change; empty if nothing has to be.
    """

    level: str
    check: str
    found: str
    change: str = ""


def ok(check: str, found: str) -> Finding:
    """Return a finding of what is as it should be."""
    return Finding(OK, check, found)


def warning(check: str, found: str, change: str) -> Finding:
    """Return a finding that may be meant so."""
    return Finding(WARNING, check, found, change)


def error(check: str, found: str, change: str) -> Finding:
    """Return a finding that makes results wrong or the thing unusable."""
    return Finding(ERROR, check, found, change)


Check = Callable[[], Iterable[Finding]]
"""Looks at one thing."""


def run_checks(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """Yield the findings of named checks; what a check raises or warns of is a finding, too.

    A check that fails says nothing about the next ones, so they run all the same.
    """
    for name, check in checks:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = list(check())
            except StmError as failure:
                found = [error(name, str(failure), "do what the message says")]
            except Exception as failure:  # whatever the code under test raises is what we are looking for
                found = [error(name, describe(failure), "mend the code at this place, or the call that leads to it")]
        yield from found
        for message in dict.fromkeys(f"{item.category.__name__}: {item.message}" for item in caught):
            yield warning(name, _shortened(message), "mend what the warning is about")


def describe(failure: BaseException) -> str:
    """Return what was raised and where."""
    frames = traceback.extract_tb(failure.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return _shortened(f"{type(failure).__name__}{place}: {failure}")


def _shortened(text: str, most: int = 400) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]} ..."
