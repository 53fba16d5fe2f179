"""Progress bars on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def counted(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, if it is a terminal; yield the function that advances it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(description, total=total)
        yield lambda count: progress.advance(bar, count)


@contextmanager
def training(
    total: int, describe: Callable[[dict[str, Any]], str | None]
) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Show how a training goes: a bar on a terminal, and a line now and then elsewhere.

    Args:
        total: Environment steps in all.
        describe: What to say of a row of metrics, or None for nothing.

    Yields:
        What to call with the steps done and the last metrics, which tell the ``seconds``.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("training", total=total)

        def report(steps: int, row: dict[str, Any]) -> None:
            progress.update(bar, completed=steps)
            if text := describe(row):
                progress.update(bar, description=f"training · {text}")
                if not console.is_terminal:
                    line = f"{steps:>9,} of {total:,} steps  {row['seconds']:5.0f} s  {text}"
                    console.print(line, highlight=False, soft_wrap=True)

        yield report


def say(text: str) -> None:
    """Print a line to stderr, where it does not mix with results."""
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)
