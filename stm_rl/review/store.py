"""Where ratings are kept: one SQLite file beside the run."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stm_rl.comparison.continuation import WITH
from stm_rl.errors import StmError

FILE = "review.sqlite"
ASPECTS = ("coherence", "consistency", "relevance")
"""What both texts are rated on, 1 (poor) to 5 (good)."""
FIRST, SECOND, TIE, SKIP = CHOICES = ("first", "second", "tie", "skip")
"""What a rater may say of a pair, by the order in which it was shown."""
VERSION = 1

_TABLE = """
CREATE TABLE IF NOT EXISTS ratings (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    rater TEXT NOT NULL,
    item TEXT NOT NULL,
    first TEXT NOT NULL,
    choice TEXT NOT NULL,
    aspects TEXT NOT NULL,
    seconds REAL NOT NULL,
    time REAL NOT NULL,
    UNIQUE (rater, item)
)
"""
_SEED = "CREATE TABLE IF NOT EXISTS seed (only INTEGER PRIMARY KEY CHECK (only = 1), value INTEGER NOT NULL)"


@dataclass(frozen=True, slots=True)
class Rating:
    """What a rater said of a pair.

    Attributes:
        rater: Who.
        item: Id of the pair.
        first: The side that was shown first, ``with`` or ``without``.
        choice: One of :data:`CHOICES`.
        aspects: By name the marks of the text shown first and of the second, 1 to 5; aspects may be left out.
        seconds: How long the rater took.
    """

    rater: str
    item: str
    first: str
    choice: str
    aspects: dict[str, tuple[int, int]]
    seconds: float = 0.0

    @property
    def memory_won(self) -> bool | None:
        """Whether the text with memory was preferred; None: neither was, or the pair was skipped."""
        if self.choice in (TIE, SKIP):
            return None
        return (self.choice == FIRST) == (self.first == WITH)

    def marks(self, aspect: str) -> tuple[int, int] | None:
        """Return the marks of the texts with and without memory; None: not given."""
        found = self.aspects.get(aspect)
        if found is None or self.choice == SKIP:
            return None
        return found if self.first == WITH else (found[1], found[0])


class Store:
    """Ratings in SQLite. What a method has written is on the disk when it returns.

    Threads and processes may share the file.

    Args:
        path: The file; made if there is none.
        write: Make the file; without it, it has to be there.
    """

    def __init__(self, path: Path, *, write: bool = True) -> None:
        if not write and not path.is_file():
            raise StmError(f"{path} does not exist: nothing was rated yet; `stm-rl review {path.parent}` begins")
        self.path = path
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise StmError(f"{path} is of version {version}; expected {VERSION}: use the stm-rl that wrote it")
            self._connection.execute(_TABLE)
            self._connection.execute(_SEED)
            self._connection.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.DatabaseError as error:
            raise StmError(f"{path} cannot be used ({error}); restore it, or move it aside to begin anew") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def seed(self, wanted: int | None = None) -> int:
        """Return the seed of the review: what was ``wanted`` (0 unless given) when it began.

        It says which text is shown first, so it stays what it is.

        Raises:
            StmError: Another one was wanted before.
        """
        with self._using() as connection:
            connection.execute("INSERT INTO seed VALUES (1, ?) ON CONFLICT DO NOTHING", (wanted or 0,))
            kept = int(connection.execute("SELECT value FROM seed").fetchone()[0])
        if wanted not in (None, kept):
            raise StmError(
                f"{self.path} was begun with --seed {kept}, not {wanted}; leave --seed out to go on, or move the file "
                "aside to begin anew"
            )
        return kept

    def add(self, rating: Rating) -> bool:
        """Keep a rating; return False if the rater has rated the pair already, and change nothing."""
        values = (
            rating.rater,
            rating.item,
            rating.first,
            rating.choice,
            json.dumps(rating.aspects),
            rating.seconds,
            time.time(),
        )
        with self._using() as connection:
            done = connection.execute(
                "INSERT INTO ratings (rater, item, first, choice, aspects, seconds, time) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (rater, item) DO NOTHING",
                values,
            )
            return done.rowcount == 1

    def get(self, rater: str, item: str) -> Rating | None:
        """Return what a rater said of a pair."""
        with self._using() as connection:
            row = connection.execute(f"{_SELECT} WHERE rater = ? AND item = ?", (rater, item)).fetchone()
        return _rating(row) if row else None

    def undo(self, rater: str) -> Rating | None:
        """Take back the last rating of a rater, and return it; None: there is none."""
        with self._using() as connection:
            row = connection.execute(
                "DELETE FROM ratings WHERE number = (SELECT MAX(number) FROM ratings WHERE rater = ?) "
                "RETURNING rater, item, first, choice, aspects, seconds",
                (rater,),
            ).fetchone()
        return _rating(row) if row else None

    def ratings(self, rater: str | None = None) -> list[Rating]:
        """Return all ratings, or those of one rater, in the order in which they were given."""
        where, values = (" WHERE rater = ?", (rater,)) if rater is not None else ("", ())
        with self._using() as connection:
            rows = connection.execute(f"{_SELECT}{where} ORDER BY number", values).fetchall()
        return [_rating(row) for row in rows]

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.DatabaseError as error:
                raise StmError(f"{self.path} cannot be used ({error}); check the disk, or restore the file") from error


_SELECT = "SELECT rater, item, first, choice, aspects, seconds FROM ratings"


def _rating(row: tuple[str, str, str, str, str, float]) -> Rating:
    rater, item, first, choice, aspects, seconds = row
    marks = {name: (int(one), int(other)) for name, (one, other) in json.loads(aspects).items()}
    return Rating(rater, item, first, choice, marks, seconds)
