"""Writing files so that a crash never leaves half of one, and reading those that are damaged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stm_rl.errors import StmError


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a file to write; it takes the place of ``path`` if nothing fails and is removed otherwise."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def move_aside(path: Path) -> Path:
    """Rename a file or folder to ``<name>.1``, or the next free number; return the new path."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return path.rename(aside)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with _replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write ``tensors`` to ``path`` as safetensors, atomically."""
    with _replacing(path) as part:
        save_file({name: value.contiguous() for name, value in tensors.items()}, part)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON value a line to ``path`` atomically."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


@contextmanager
def reading(what: str | Path, advice: str) -> Iterator[None]:
    """Raise StmError for whatever a damaged file makes its reader raise.

    Args:
        what: What is read.
        advice: What to do if it is damaged.
    """
    try:
        yield
    except StmError:
        raise
    except (SafetensorError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        short = reason if len(reason) <= 200 else f"{reason[:200]} ..."
        raise StmError(f"{what} is damaged ({short}); {advice}") from error


@contextmanager
def saved(folder: Path, stem: str, what: str, advice: str) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """Read the JSON and the tensors that were saved together, as ``<stem>.json`` and ``<stem>.safetensors``.

    What fails while they are used is told in the same way as what fails while they are read.

    Args:
        folder: Where they are.
        stem: Their name without its ending.
        what: What they are, such as ``policy``.
        advice: What to do if they are missing or damaged.

    Yields:
        The JSON value and the tensors.

    Raises:
        StmError: One of the files is missing or damaged, or does not hold what is looked for in it.
    """
    with reading(f"the {what} in {folder}", advice):
        try:
            known = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / f"{stem}.safetensors")
        except OSError as error:
            raise StmError(f"{folder} holds no {what} ({error}); {advice}") from error
        yield known, tensors
