"""Scores that last from run to run, on disk."""

from __future__ import annotations

import atexit
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from struct import pack

from stm_rl.lm.score_file import FILE, TABLES, advice, connect, make_room, model_number

logger = logging.getLogger(__name__)

MAX_BYTES = 2_000_000_000
"""How large the file may become; a score takes about 40 bytes."""
BUFFERED = 16_384
"""Most scores that wait to be written. Keys are spread over the whole file, so few large commits write the least."""
SECONDS = 5.0
"""How long scores wait to be written while others arrive."""
LOOKUP = " UNION ALL ".join(f"SELECT score, digest FROM {table} WHERE key = ?1" for table in TABLES)


class ScoreCache:
    """Scores in the file ``scores.sqlite`` of a folder, by keys that say all they depend on.

    Whatever goes wrong with the file is said once as a warning; from then on nothing is found and nothing kept, and
    scoring goes on. Each entry has a digest, and one that is damaged counts as not there. Threads may share a cache,
    and processes the file, each with a cache of its own; a forked process cannot use its parent's.

    Args:
        folder: Where the file is; made if it does not exist.
        max_bytes: How large the file may become; then the older half of the scores goes.

    Attributes:
        path: The file.
        damaged: Damaged entries met so far.
    """

    def __init__(self, folder: str | Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = Path(folder).expanduser() / FILE
        self.max_bytes = max_bytes
        self.damaged = 0
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._buffer: dict[bytes, tuple[float, str]] = {}
        self._to_replace: set[bytes] = set()
        self._since = 0.0
        self._usable = True
        with self._careful():
            self._db = connect(self.path)
        atexit.register(self.close)

    def get(self, keys: Iterable[bytes]) -> dict[bytes, float]:
        """Return the scores of those ``keys`` (16 bytes each) that are known."""
        found: dict[bytes, float] = {}
        if not self._ready():
            return found
        with self._lock, self._careful(), self._db:
            self._db.execute("BEGIN")
            for key in keys:
                if (waiting := self._buffer.get(key)) is not None:
                    found[key] = waiting[0]
                    continue
                for score, digest in self._db.execute(LOOKUP, (key,)):
                    if isinstance(score, float) and digest == _digest(key, score):
                        found[key] = score
                        break
                    self._to_replace.add(key)
                    self._count_damaged()
        return found

    def put(self, scores: Mapping[bytes, float], model: str) -> None:
        """Keep finite ``scores``, by key, of the model with this name."""
        if not self._ready():
            return
        with self._lock:
            if not self._buffer:
                self._since = time.monotonic()
            self._buffer.update((key, (score, model)) for key, score in scores.items())
            if len(self._buffer) >= BUFFERED or time.monotonic() - self._since >= SECONDS:
                self._commit()

    def flush(self) -> None:
        """Write what waits to be written; this happens by itself every few seconds and at exit."""
        if self._ready():
            with self._lock:
                self._commit()

    def close(self) -> None:
        """Write what waits to be written and let go of the file; from then on nothing is found or kept."""
        atexit.unregister(self.close)
        if os.getpid() == self._process and self._ready():
            self.flush()
            self._usable = False
            self._db.close()

    def _ready(self) -> bool:
        if self._usable and os.getpid() != self._process:  # SQLite's locks do not survive a fork
            self._give_up("its process was forked", "start processes with the method spawn to share it")
        return self._usable

    @contextmanager
    def _careful(self) -> Iterator[None]:
        """Give up on the disk, instead of raising, if SQLite or the system reports an error."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._give_up(str(error), advice(error))

    def _give_up(self, reason: str, what_to_do: str) -> None:
        if not self._usable:  # another thread has said so
            return
        self._usable = False
        self._buffer.clear()
        logger.warning(
            "%s cannot be used as a cache of scores (%s), so they are kept in memory only; %s",
            self.path, reason, what_to_do,
        )  # fmt: skip

    def _count_damaged(self) -> None:
        self.damaged += 1
        if self.damaged == 1:
            logger.warning("%s has a damaged entry; such are computed anew (said once)", self.path)

    def _commit(self) -> None:
        waiting = self._buffer
        if not waiting:
            return
        with self._careful():
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                make_room(self._db, self.max_bytes)
                numbers = {name: model_number(self._db, name) for name in {name for _, name in waiting.values()}}
                rows = [(key, score, _digest(key, score), numbers[name]) for key, (score, name) in waiting.items()]
                self._db.executemany(f"DELETE FROM {TABLES[0]} WHERE key = ?", [(key,) for key in self._to_replace])
                # What another process has written since stays: it may differ in the last bit, and may have been used.
                self._db.executemany(f"INSERT OR IGNORE INTO {TABLES[0]} VALUES (?, ?, ?, ?)", sorted(rows))
            waiting.clear()
            self._to_replace.clear()


def _digest(key: bytes, score: float) -> int:
    return zlib.crc32(key + pack("<d", score + 0.0))  # SQLite does not keep the sign of -0.0
