"""Progress bars on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


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


def say(text: str) -> None:
    """Print a line to stderr, where it does not mix with results."""
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)
