"""``stm-rl cache info`` and ``stm-rl cache clear``, and what commands that score say about the cache."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from stm_rl.cli.output import print_json
from stm_rl.cli.progress import say
from stm_rl.errors import StmError
from stm_rl.lm import ScoringEngine
from stm_rl.lm.cache import MAX_BYTES
from stm_rl.lm.score_file import FILE, clear, default_folder, describe

NO_CACHE = "none"
"""What ``--cache`` says for no cache on disk."""


def cache_folder(given: str | None) -> Path | None:
    """Return the folder that ``--cache`` means, the usual one if it was not given; none for no cache on disk."""
    folder = Path(given) if given else default_folder()
    return None if str(folder) == NO_CACHE else folder.expanduser()


def say_found(engine: ScoringEngine | None, as_json: bool) -> None:
    """Say how many scores were on disk, if any were; with JSON, nothing else is printed."""
    if engine is not None and engine.cached and not as_json:
        say(f"scores: {engine.cached:,} from the cache on disk, {engine.computed:,} computed")


def run_info(given: str | None, *, as_json: bool) -> None:
    """Do what ``stm-rl cache info`` asks for."""
    found = {**describe(_folder(given)), "max_bytes": MAX_BYTES}
    if as_json:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    table.add_row("file", found["file"])
    table.add_row("size", f"{_size(found['bytes'])} of at most {_size(MAX_BYTES)}")
    table.add_row("scores", f"{found['entries']:,}")
    for name, count in found["models"].items():
        table.add_row(f"  {name}", f"{count:,}")
    Console().print(table, highlight=False, markup=False)


def run_clear(given: str | None, model: str | None, *, sure: bool, as_json: bool) -> None:
    """Do what ``stm-rl cache clear`` asks for."""
    folder = _folder(given)
    if not sure:
        whose = f"of {model} " if model else ""
        if not sys.stdin.isatty():
            raise StmError(
                f"nothing was deleted, since nobody can be asked; give --yes to delete the scores {whose}in {folder}"
            )
        if not typer.confirm(f"Delete all scores {whose}in {folder}?"):
            raise typer.Exit(1)
    count = clear(folder, model)
    if as_json:
        print_json({"file": str(folder / FILE), "cleared": count})
    elif count is None:
        print(f"deleted {folder / FILE}, which was damaged")
    else:
        print(f"deleted {count:,} scores from {folder / FILE}")


def _folder(given: str | None) -> Path:
    folder = cache_folder(given)
    if folder is None:
        raise StmError("no cache was named: STM_RL_CACHE or --cache is none; give --cache PATH")
    return folder


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
