"""Writes a small package that works, to be changed into what its author wants.

The files lie in ``templates/<kind>`` as they are written, with ``${...}`` where a name goes in
(:class:`string.Template`), ``package`` for the package's folder and ``.tmpl`` behind every name.
"""

from __future__ import annotations

import keyword
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from string import Template

import stm_rl
from stm_rl.errors import StmError

KINDS = ("env", "reward")
"""Kinds of packages that can be written."""
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def write_package(kind: str, name: str, parent: Path) -> list[Path]:
    """Write the package ``name`` into a new folder of that name.

    Args:
        kind: One of :data:`KINDS`.
        name: Name of the package, such as ``my_env``.
        parent: Folder to make it in; made if there is none.

    Returns:
        The files, in the order of their names.

    Raises:
        StmError: The name cannot be one, is taken, or the folder exists.
    """
    if kind not in KINDS:
        raise StmError(f"cannot write a package of kind {kind!r}; expected {' or '.join(KINDS)}")
    check_name(name)
    folder = parent / name
    if folder.exists() or folder.is_symlink():
        raise StmError(f"{folder} exists already and is left as it is; give another name, or another folder with --out")
    check_free(name)
    parent.mkdir(parents=True, exist_ok=True)
    # All files or none: what fails half-way leaves no folder that stands in the way of the next try.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent) as temporary:
        written = [path.relative_to(temporary) for path in _render(kind, name, Path(temporary) / name)]
        (Path(temporary) / name).rename(folder)
    return [parent / path for path in written]


def check_name(name: str) -> None:
    """Raise StmError unless ``name`` can be the name of a package."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise StmError(
            f"{name!r} cannot be the name of a package; expected small letters, digits and single underscores, "
            "beginning with a letter and no Python keyword, such as my_env"
        )


def check_free(name: str) -> None:
    """Raise StmError if ``name`` would hide a module, or replace a package, that is installed."""
    taken = name in sys.stdlib_module_names or _is_module(name)
    with suppress(PackageNotFoundError):
        taken = bool(distribution(name.replace("_", "-"))) or taken
    if taken:
        raise StmError(f"{name!r} is the name of an installed package, which yours would hide; give another name")


def _is_module(name: str) -> bool:
    """Return whether ``name`` can be imported; folders without any Python file in them do not count."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return True
    return spec is not None and spec.origin is not None


def names_of(name: str) -> dict[str, str]:
    """Return what templates may put in: ``my_env`` gives the id ``my_env/MyEnv-v0`` and the class ``MyEnv``."""
    camel = "".join(part.capitalize() for part in name.split("_"))
    stem = camel.removesuffix("Env") or camel
    return {
        "name": name,
        "project": name.replace("_", "-"),
        "id": f"{name}/{camel}-v0",
        "stem": stem,
        "stm_rl_version": stm_rl.__version__,
    }


def _render(kind: str, name: str, folder: Path) -> Iterator[Path]:
    names = names_of(name)
    for parts, text in sorted(_templates(files("stm_rl.plugins") / "templates" / kind)):
        path = folder.joinpath(*(name if part == "package" else Template(part).substitute(names) for part in parts))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(names), encoding="utf-8")
        yield path


def _templates(folder: Traversable, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path and the text of every template below ``folder``."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, (*above, entry.name))
        elif entry.name.endswith(".tmpl"):
            yield (*above, entry.name.removesuffix(".tmpl")), entry.read_text(encoding="utf-8")
