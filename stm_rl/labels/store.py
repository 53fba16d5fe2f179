"""Labels on disk: one SQLite file, safe against interruption and against several processes."""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from stm_rl.errors import StmError
from stm_rl.labels.table import GainTable
from stm_rl.write_ahead import write_ahead

FORMAT = "stm-rl/labels-1"
PATIENCE = 60.0
"""Seconds to wait for a file that another process has locked."""


class LabelStore:
    """The gain tables of transcripts, made with one language model and one set of settings.

    Every batch is committed when it is done, so an interruption loses at most one, and a transcript has one row however
    often it is labelled. A row that is damaged is labelled anew.

    Args:
        path: The file; made if it does not exist.

    Attributes:
        damaged: Damaged rows met so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with _errors(self.path):
            self._db = sqlite3.connect(path, PATIENCE)
            weakref.finalize(self, self._db.close)
            write_ahead(self._db, PATIENCE)
            self._db.execute("CREATE TABLE IF NOT EXISTS card (id INTEGER PRIMARY KEY CHECK (id = 1), value TEXT)")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS labels (transcript BLOB PRIMARY KEY, pairs BLOB, gains BLOB, digest BLOB)"
            )
            self._db.commit()

    def claim(self, key: Mapping[str, Any]) -> None:
        """Take the file for labels that depend on ``key``.

        Raises:
            StmError: It holds labels made with another key.
        """
        wanted = {"format": FORMAT, **key}
        with _errors(self.path):
            self._db.execute("INSERT OR IGNORE INTO card VALUES (1, ?)", (json.dumps(wanted),))
            self._db.commit()
            (text,) = self._db.execute("SELECT value FROM card").fetchone()
        try:
            found = dict(json.loads(text))
        except (TypeError, ValueError) as error:
            raise StmError(
                f"{self.path}: what the file says about its labels is damaged; move it away and label anew"
            ) from error
        if found != wanted:
            other = [
                f"{name} {found.get(name)!r} instead of {wanted.get(name)!r}"
                for name in wanted | found
                if found.get(name) != wanted.get(name)
            ]
            raise StmError(
                f"{self.path} holds labels made with {', '.join(other)}; give another file, or the model and settings "
                "of the labels"
            )

    def get(self, transcript: bytes) -> GainTable | None:
        """Return the table of a transcript, or none if it is not there or damaged."""
        with _errors(self.path):
            row = self._db.execute(
                "SELECT pairs, gains, digest FROM labels WHERE transcript = ?", (transcript,)
            ).fetchone()
        if row is None:
            return None
        pairs, gains, digest = row
        whole = isinstance(pairs, bytes) and isinstance(gains, bytes)
        if not whole or _digest(pairs, gains) != digest or len(pairs) != 2 * len(gains):
            self.damaged += 1
            return None
        turns, steps = np.frombuffer(pairs, "<i4").reshape(2, -1)
        return GainTable(turns, steps, np.frombuffer(gains, "<f4"))

    def put(self, tables: Mapping[bytes, GainTable]) -> None:
        """Keep tables; all of them or, if this is interrupted, none."""
        rows = []
        for transcript, table in tables.items():
            pairs = np.stack([table.turns, table.steps]).astype("<i4").tobytes()
            gains = table.gains.astype("<f4").tobytes()
            rows.append((transcript, pairs, gains, _digest(pairs, gains)))
        with _errors(self.path), self._db:
            self._db.executemany("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?)", rows)

    def __len__(self) -> int:
        """Return the number of transcripts."""
        with _errors(self.path):
            return int(self._db.execute("SELECT COUNT(*) FROM labels").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into one clear line."""
    try:
        yield
    except sqlite3.Error as error:
        raise StmError(
            f"{path} cannot be used as a file of labels ({error}); expected one that `stm-rl label` wrote, "
            "or a path where none is"
        ) from error


def _digest(pairs: bytes, gains: bytes) -> bytes:
    return blake2b(pairs + b"|" + gains, digest_size=8).digest()
