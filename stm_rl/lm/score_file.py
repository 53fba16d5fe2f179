"""The SQLite file of :class:`stm_rl.lm.cache.ScoreCache`: opening it, bounding it, counting and clearing its scores."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError
from stm_rl.write_ahead import write_ahead

FILE = "scores.sqlite"
PATIENCE = 10.0
"""Seconds to wait for a file that another process has locked."""
APPLICATION_ID = int.from_bytes(b"STM1", "big")
"""Marks a file as ours and says its format."""
TABLES = ("young", "old")
"""Scores are written to ``young``. When it has grown to half of what is allowed it becomes ``old``, and what was old is
dropped. That costs nothing, while deleting single entries would rewrite nearly the whole file."""
COLUMNS = "(key BLOB PRIMARY KEY, score REAL, digest INTEGER, model INTEGER) WITHOUT ROWID"
ADVICE = {
    sqlite3.SQLITE_CORRUPT: "empty it with `stm-rl cache clear`",
    sqlite3.SQLITE_NOTADB: "move the file away, or give another folder with --cache",
    sqlite3.SQLITE_FULL: "free some space, or give another folder with --cache",
    sqlite3.SQLITE_BUSY: "find the process that keeps it locked, or give another folder with --cache",
}
"""What to do, by SQLite's error codes."""


def default_folder() -> Path:
    """Return ``$STM_RL_CACHE`` or else this platform's folder for caches.

    Raises:
        StmError: The user has no home folder.
    """
    if given := os.environ.get("STM_RL_CACHE"):
        return Path(given)
    if sys.platform != "darwin" and (caches := os.environ.get("XDG_CACHE_HOME")):
        return Path(caches) / "stm-rl"
    try:
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "stm-rl"
    except RuntimeError as error:
        raise StmError("there is no home folder to cache scores in; give --cache PATH, or --cache none") from error


def connect(path: Path) -> sqlite3.Connection:
    """Open a file of scores, made if it does not exist.

    Raises:
        sqlite3.Error: It cannot be used, or is not ours.
        OSError: Its folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        db.text_factory = bytes  # damaged text is no error
        # In this order, since another process may be making the file.
        if db.execute("SELECT 1 FROM sqlite_master").fetchone() and _pragma(db, "application_id") != APPLICATION_ID:
            error = sqlite3.DatabaseError("it is a database of something else")
            error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
            raise error
        write_ahead(db, PATIENCE)
        for setting in ("synchronous=NORMAL", "secure_delete=OFF", "cache_size=-32000"):
            db.execute(f"PRAGMA {setting}")
        with db:
            db.execute("BEGIN IMMEDIATE")
            for table in TABLES:
                db.execute(f"CREATE TABLE IF NOT EXISTS {table} {COLUMNS}")
            db.execute("CREATE TABLE IF NOT EXISTS models (number INTEGER PRIMARY KEY, name TEXT UNIQUE)")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    except BaseException:
        db.close()
        raise
    return db


def make_room(db: sqlite3.Connection, max_bytes: int) -> None:
    """Drop the older scores if the younger ones take half of ``max_bytes``; call it in a transaction."""
    young = _used_pages(db) - _pragma(db, "user_version")  # which holds the pages of what is old
    if young * _pragma(db, "page_size") < max_bytes // 2:
        return
    db.execute("DROP TABLE old")
    db.execute("ALTER TABLE young RENAME TO old")
    db.execute(f"CREATE TABLE young {COLUMNS}")
    db.execute(f"PRAGMA user_version = {_used_pages(db)}")


def model_number(db: sqlite3.Connection, name: str) -> int:
    """Return the number that stands for a model's name, a new one if need be."""
    db.execute("INSERT OR IGNORE INTO models (name) VALUES (?)", (name,))
    return int(db.execute("SELECT number FROM models WHERE name = ?", (name,)).fetchone()[0])


def describe(folder: Path) -> dict[str, Any]:
    """Return ``file``, ``bytes`` on disk, ``entries``, and ``models``: entries by the model's name.

    Raises:
        StmError: The file cannot be read, or is not ours.
    """
    path = folder / FILE
    models: dict[str, int] = {}
    if path.exists():
        with _errors(path), closing(connect(path)) as db:
            models = _entries(db)
    parts = [path.with_name(path.name + suffix) for suffix in ("", "-wal")]
    size = sum(part.stat().st_size for part in parts if part.exists())
    return {"file": str(path), "bytes": size, "entries": sum(models.values()), "models": models}


def clear(folder: Path, model: str | None = None) -> int | None:
    """Delete all scores, or those of one model.

    Returns:
        How many; none if the file was too damaged to tell, and was deleted.

    Raises:
        StmError: There are none of this model, or the file cannot be written or is not ours.
    """
    path = folder / FILE
    if not path.exists():
        _check_known(path, model, {})
        return 0
    with _errors(path):
        try:
            with closing(connect(path)) as db:
                return _clear(db, path, model)
        except sqlite3.DatabaseError as error:
            if model is not None or _code(error) != sqlite3.SQLITE_CORRUPT or not _says_it_is_ours(path):
                raise
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    return None


def advice(error: BaseException) -> str:
    """Return what to do about an error."""
    return ADVICE.get(_code(error), "check the folder's permissions, or give another one with --cache")


def _clear(db: sqlite3.Connection, path: Path, model: str | None) -> int:
    with db:
        db.execute("BEGIN IMMEDIATE")
        entries = _entries(db)
        _check_known(path, model, entries)
        for table in TABLES:
            if model is None:
                db.execute(f"DELETE FROM {table}")
            else:
                db.execute(f"DELETE FROM {table} WHERE model = ?", (model_number(db, model),))
    db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # only now the file is smaller
    old, young = (db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in reversed(TABLES))
    db.execute(f"PRAGMA user_version = {_used_pages(db) * old // max(1, old + young)}")
    return entries[model] if model is not None else sum(entries.values())


def _check_known(path: Path, model: str | None, entries: Mapping[str, int]) -> None:
    if model is not None and model not in entries:
        raise StmError(f"{path} has no scores of the model {model!r}; it has those of {', '.join(entries) or 'none'}")


def _entries(db: sqlite3.Connection) -> dict[str, int]:
    counts: Counter[int] = Counter()
    for table in TABLES:
        counts.update(dict(db.execute(f"SELECT model, COUNT(*) FROM {table} GROUP BY model").fetchall()))
    names = dict(db.execute("SELECT number, name FROM models").fetchall())
    return {names.get(number, b"?").decode(errors="replace"): count for number, count in counts.most_common()}


def _used_pages(db: sqlite3.Connection) -> int:
    return _pragma(db, "page_count") - _pragma(db, "freelist_count")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _says_it_is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(72)[68:] == APPLICATION_ID.to_bytes(4, "big")


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the details


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into one clear line."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StmError(f"{path} cannot be used as a cache of scores ({error}); {advice(error)}") from error
