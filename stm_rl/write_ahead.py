"""SQLite files that several processes share."""

from __future__ import annotations

import sqlite3
import time


def write_ahead(db: sqlite3.Connection, patience: float) -> None:
    """Switch to a write-ahead log; here SQLite itself does not wait for other processes that open the file.

    Args:
        db: The open file.
        patience: Seconds to wait for the others.

    Raises:
        sqlite3.OperationalError: The file was locked for longer, or cannot be used.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
