"""Demonstrations as data that others can read: Minari datasets and Hugging Face ``datasets``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from stm_rl.errors import StmError
from stm_rl_agents.demonstrations import Demonstrations
from stm_rl_agents.offline import datasets_io, minari_io
from stm_rl_agents.offline.folder import check_free, damaged_is_an_error, need, new_folder
from stm_rl_agents.offline.layout import Layout, packed

MINARI, DATASETS = FORMATS = ("minari", "datasets")
_KINDS: dict[str, ModuleType] = {MINARI: minari_io, DATASETS: datasets_io}

__all__ = [
    "DATASETS",
    "FORMATS",
    "MINARI",
    "check_writable",
    "format_of",
    "read_demonstrations",
    "write_demonstrations",
]


def write_demonstrations(
    demonstrations: Demonstrations, path: str | Path, format: str = MINARI, *, force: bool = False
) -> None:
    """Write demonstrations into a new folder, whole or not at all.

    Args:
        demonstrations: At least one episode, all of the same shapes, and a whole card.
        path: The folder.
        format: ``minari`` or ``datasets``.
        force: Move a folder that exists to ``<name>.1`` (or the next free number) first.

    Raises:
        StmError: There is nothing to write, it is not of one piece, the folder exists, the format is unknown or the
            package that writes it is not installed.
    """
    path = Path(path)
    check_writable(path, format, force=force)
    layout = Layout.of(demonstrations, "the demonstrations")
    stored = packed(demonstrations.card)
    with new_folder(path, force) as part:
        _KINDS[format].write(demonstrations, layout, stored, part)


def check_writable(path: str | Path, format: str, *, force: bool = False) -> None:
    """Check what can be checked before there is anything to write.

    Raises:
        StmError: As :func:`write_demonstrations`.
    """
    if format not in FORMATS:
        raise StmError(f"format {format!r} is unknown; expected {' or '.join(FORMATS)}")
    need(*_KINDS[format].NEEDS)
    check_free(Path(path), force)


def read_demonstrations(path: str | Path) -> Demonstrations:
    """Read demonstrations that :func:`write_demonstrations` wrote, in either format.

    Args:
        path: The folder, or the data folder of the Minari dataset in it.

    Raises:
        StmError: The folder holds no demonstrations, or damaged ones, or the package that reads them is not installed.
    """
    path = Path(path)
    reader = _KINDS[format_of(path)]
    need(*reader.NEEDS)
    with damaged_is_an_error(path):
        demonstrations: Demonstrations = reader.read(path)
        Layout.of(demonstrations, str(path))
    return demonstrations


def format_of(path: str | Path) -> str:
    """Return the format of the demonstrations in a folder.

    Raises:
        StmError: It holds none.
    """
    path = Path(path)
    if datasets_io.is_one(path):
        return DATASETS
    if minari_io.data_folders(path):
        return MINARI
    what = "holds neither a Minari dataset nor a saved Hugging Face dataset" if path.is_dir() else "is no folder"
    raise StmError(f"{path} {what}; expected demonstrations as `stm-rl demos export` writes them")
