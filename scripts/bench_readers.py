#!/usr/bin/env python3
"""Measure how fast a large file of transcripts is read, and that memory does not grow with it.

    python scripts/bench_readers.py                              # 1 GB of messages JSONL
    python scripts/bench_readers.py --format sharegpt --json     # one JSON array of 1 GB

The file is written to a temporary folder and removed. Peak memory is that of the whole process: the first figure
is taken before reading, with everything imported.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from stm_rl.readers import SkipReport, read_transcripts

WORDS = "the a of and to in we you it is was on for with as at by from kite harbor Anna tomorrow déjà vu 12:30".split()
BAD_EVERY = 10_000
"""One record in so many is broken, so that skipping is measured as well."""


def texts_for(rng: random.Random) -> list[str]:
    """Return texts to choose from, 20 to 80 words each: making them anew would take longer than reading."""
    return [" ".join(rng.choices(WORDS, k=rng.randint(20, 80))) for _ in range(2000)]


def record(rng: random.Random, pool: list[str], number: int, format: str) -> str:
    """Return one record of 20 messages, about 5 kB, as JSON on one line."""
    if number % BAD_EVERY == BAD_EVERY - 1:
        return '{"messages": 3}'
    texts = rng.choices(pool, k=20)
    if format == "messages":
        said = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]
        return json.dumps({"id": f"chat-{number}", "messages": said}, ensure_ascii=False)
    said = [{"from": "human" if i % 2 == 0 else "gpt", "value": text} for i, text in enumerate(texts)]
    return json.dumps({"id": f"chat-{number}", "conversations": said}, ensure_ascii=False)


def write(path: Path, size: int, format: str) -> int:
    """Write at least ``size`` bytes; return how many records that took."""
    rng = random.Random(0)
    pool = texts_for(rng)
    written = number = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[\n" if format == "sharegpt" else "")
        while written < size:
            line = record(rng, pool, number, format)
            file.write(
                (",\n" if format == "sharegpt" and number else "") + line + ("" if format == "sharegpt" else "\n")
            )
            written += len(line.encode()) + 1
            number += 1
        file.write("\n]\n" if format == "sharegpt" else "")
    return number


def peak() -> float:
    """Return the peak memory of this process in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=1000.0, help="size of the file in MB")
    parser.add_argument("--format", choices=["messages", "sharegpt"], default="messages", help="JSONL, or one array")
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    size = round(args.size * 1e6)
    logging.getLogger("stm_rl.readers").setLevel(logging.ERROR)  # the report counts what is skipped
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        free = shutil.disk_usage(folder).free
        if free < 1.1 * size:
            sys.exit(f"{folder} has {free / 1e6:.0f} MB free; expected {1.1 * size / 1e6:.0f}; give another --folder")
        path = Path(folder) / ("big.jsonl" if args.format == "messages" else "big.json")
        records = write(path, size, args.format)
        before, report = peak(), SkipReport()
        start, start_cpu = time.perf_counter(), time.process_time()
        transcripts = turns = 0
        for transcript in read_transcripts(path, args.format, skip_bad=True, report=report):
            transcripts += 1
            turns += len(transcript)
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        megabytes = path.stat().st_size / 1e6
    if transcripts + report.count != records:
        sys.exit(f"read {transcripts} and skipped {report.count} of {records} records; expected none to be lost")
    result = {
        "format": args.format,
        "megabytes": round(megabytes, 1),
        "transcripts": transcripts,
        "turns": turns,
        "skipped": report.count,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "megabytes_per_second": round(megabytes / seconds, 1),
        "megabytes_per_cpu_second": round(megabytes / cpu, 1),
        "peak_megabytes_before": round(before, 1),
        "peak_megabytes": round(peak(), 1),
    }
    print(json.dumps(result, indent=1) if args.json else "\n".join(f"{k:26} {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
