"""``stm-rl convert``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.status import Status

from stm_rl.errors import StmError
from stm_rl.readers import SkipReport, read_transcripts, write_fountain, write_messages
from stm_rl.transcript import Transcript

_REFRESH = 0.2  # seconds


def run_convert(
    source: Path,
    out: Path,
    format: str = "auto",
    skip_bad: bool = False,
    limit: int | None = None,
    as_json: bool = False,
) -> None:
    """Convert transcripts to our JSONL, which holds everything, or one screenplay to Fountain.

    Args:
        source: File or folder to read.
        out: File to write, ``.jsonl`` or ``.fountain``; it appears whole or not at all.
        format: Format of the source, see :mod:`stm_rl.readers`.
        skip_bad: Leave out broken records.
        limit: Take only the first transcripts.
        as_json: Print the summary as JSON.

    Raises:
        StmError: Something is malformed, or cannot be written.
    """
    suffix = out.suffix.lower()
    if suffix not in (".jsonl", ".fountain"):
        raise StmError(f"{out}: unknown suffix {suffix!r}; expected .jsonl or .fountain; name the file accordingly")
    report = SkipReport()
    tally = {"transcripts": 0, "turns": 0, "probes": 0, "questions": 0}
    transcripts = read_transcripts(source, format, limit=limit, skip_bad=skip_bad, report=report)
    console = Console(stderr=True)
    with console.status("reading ...") if console.is_terminal else _NoStatus() as status:
        counted = _counted(transcripts, tally, status)
        if suffix == ".jsonl":
            write_messages(counted, out)
        else:
            write_fountain(_single(counted, source), out)
    summary = {
        **tally,
        "skipped": report.count,
        "skipped_messages": report.messages,
        "flaws": report.flaws,
        "flaw_messages": report.flaw_messages,
        "out": str(out),
    }
    if as_json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    figures = ", ".join(f"{count:,} {name}" for name, count in tally.items())
    print(f"{out}: {figures}; {report.count:,} bad records skipped")
    if report.count:
        print(f"the first skipped: {report.messages[0]}")
    if report.flaws:
        print(f"{report.flaws:,} parts of records could not be read; the first: {report.flaw_messages[0]}")
    if suffix == ".fountain" and tally["probes"] + tally["questions"]:
        print("probes and questions have no place in a screenplay and were not written", file=sys.stderr)


class _NoStatus:
    """Stands in for a status line where there is no terminal."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        pass


def _counted(transcripts: Iterator[Transcript], tally: dict[str, int], status: Status | None) -> Iterator[Transcript]:
    """Count transcripts as they pass, and show how many there were."""
    start = shown = time.monotonic()
    for transcript in transcripts:
        tally["transcripts"] += 1
        tally["turns"] += len(transcript)
        tally["probes"] += len(transcript.probes)
        tally["questions"] += len(transcript.questions)
        if status is not None and (now := time.monotonic()) - shown > _REFRESH:
            shown = now
            rate = tally["transcripts"] / (now - start)
            status.update(f"{tally['transcripts']:,} transcripts, {tally['turns']:,} turns ({rate:,.0f} transcripts/s)")
        yield transcript


def _single(transcripts: Iterator[Transcript], source: Path) -> Transcript:
    """Return the only transcript."""
    first = next(transcripts, None)
    if first is None:
        raise StmError(f"{source}: no transcript to write; expected one; check the source")
    if next(transcripts, None) is not None:
        raise StmError(
            f"{source}: holds several transcripts; expected one, since a .fountain file is one screenplay; take the "
            "first with --limit 1, or convert to .jsonl"
        )
    return first
