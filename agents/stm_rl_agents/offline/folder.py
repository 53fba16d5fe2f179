"""Folders that are written whole or not at all, and the errors of reading them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from stm_rl.errors import StmError
from stm_rl.files import move_aside, reading


def check_free(path: Path, force: bool = False) -> None:
    """Check that a folder can be written, before work is put into what it shall hold.

    Raises:
        StmError: It exists and ``force`` is off, or it has no name of its own.
    """
    if path.name in ("", ".."):
        raise StmError(f"{path} cannot hold demonstrations; give a folder with a name, such as demos/expert")
    if not force and _taken(path):
        raise StmError(f"{path} exists already; give another folder, or --force to move it aside and write anew")


def _taken(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


@contextmanager
def new_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """Give an empty folder to write to; it takes the place of ``path`` if nothing fails and is removed otherwise.

    Args:
        path: The folder to make; its parents are made.
        force: Move a folder that exists to ``<name>.1`` (or the next free number) first.

    Raises:
        StmError: As :func:`check_free`.
    """
    check_free(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as beside:
        part = Path(beside) / path.name  # so that it has the usual permissions, and not those of a temporary folder
        part.mkdir()
        yield part
        check_free(path, force)
        if _taken(path):
            move_aside(path)
        part.rename(path)


@contextmanager
def damaged_is_an_error(path: Path) -> Iterator[None]:
    """Raise StmError for whatever damaged demonstrations make their readers raise."""
    with reading(
        f"the demonstrations in {path}", "restore them, or write them anew with `stm-rl demos export --force`"
    ):
        try:
            yield
        except (OSError, AssertionError) as error:
            raise ValueError(str(error) or "they contradict themselves") from error


def need(*modules: str) -> None:
    """Import modules of the extra ``offline``.

    Raises:
        StmError: One is not installed.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise StmError(f"{module} is not installed; run: pip install 'stm-rl[offline]'") from error
