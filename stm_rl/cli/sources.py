"""Transcripts that commands are given: where they are, and what was skipped on the way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from stm_rl.readers import READERS, SkipReport, read_transcripts
from stm_rl.transcript import Transcript


def parse_source(text: str, format: str = "auto") -> tuple[str, Path]:
    """Return format and path of what ``--transcripts`` gives: ``PATH`` or ``FORMAT:PATH``."""
    prefix, colon, rest = text.partition(":")
    return (prefix, Path(rest)) if colon and prefix in READERS else (format, Path(text))


def read_saying(path: Path, format: str, limit: int | None, skip_bad: bool) -> Iterator[Transcript]:
    """Yield the transcripts of a file or folder; at the end say on stderr how many records were skipped."""
    report = SkipReport()
    try:
        yield from read_transcripts(path, format, limit=limit, skip_bad=skip_bad, report=report)
    finally:  # also when no more are wanted
        if report.count:
            print(f"stm-rl: skipped {report.count} bad record(s); the first: {report.messages[0]}", file=sys.stderr)
