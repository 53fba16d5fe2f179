"""Sessions on disk: one SQLite file, which one server uses at a time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stm_rl.errors import StmError

FORMAT = 1
"""Version of the file."""
SCHEMA = """
CREATE TABLE settings (value TEXT NOT NULL);
CREATE TABLE sessions (
  owner TEXT NOT NULL, id TEXT NOT NULL, user TEXT NOT NULL,
  messages INTEGER NOT NULL, digest BLOB NOT NULL, roles TEXT NOT NULL, turns INTEGER NOT NULL,
  tokens INTEGER NOT NULL, state TEXT NOT NULL, request BLOB NOT NULL, answer TEXT NOT NULL,
  created REAL NOT NULL, used REAL NOT NULL, PRIMARY KEY (owner, id)
);
CREATE INDEX by_digest ON sessions (owner, user, digest);
CREATE INDEX by_request ON sessions (owner, user, request);
CREATE INDEX by_use ON sessions (owner, used);
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A session as it was after its last answer.

    Attributes:
        owner: Who may see it.
        id: Its name, one for each owner.
        user: The end user that the client named when it was made.
        messages: How many messages its history has.
        digest: Their digest; see :func:`stm_rl_agents.serving.history.digests`.
        roles: Roles of its last messages, as many as the window has, as JSON.
        turns: How many turns its memory has seen.
        tokens: Tokens of all its turns.
        state: The state of its memory, as JSON.
        request: Digest of the request that was answered last; empty if there is none that may be answered again.
        answer: That answer, as JSON.
        created: When it was made, seconds since 1970.
        used: When it was last used.
    """

    owner: str
    id: str
    user: str
    messages: int
    digest: bytes
    roles: str
    turns: int
    tokens: int
    state: str
    request: bytes
    answer: str
    created: float
    used: float


COLUMNS = ", ".join(field.name for field in fields(Stored))
PLACES = ", ".join("?" for _ in fields(Stored))


class Store:
    """The file of sessions; used from one thread at a time.

    What was saved survives the end of the process at any moment, and that of the machine too: every commit is synced.

    Args:
        path: The file; made if it is not there.
        settings: What all sessions in it have in common, as JSON values.

    Raises:
        StmError: The file cannot be opened, is in use, or was made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        advice = "give another file with --database"
        try:
            path.touch(mode=0o600)  # what people say is not for others at this machine
            self._db = sqlite3.connect(path, timeout=2, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # until the process ends, however it does
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten
            self._prepare(path, settings, advice)
        except OSError as error:
            raise StmError(
                f"cannot use {path} ({error.strerror}); check its folder and permissions, or {advice}"
            ) from None
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StmError(f"{path} is in use by another server; stop that one, or {advice}") from None
            raise StmError(f"cannot use {path} ({error}); check its folder and permissions, or {advice}") from None
        except sqlite3.DatabaseError as error:
            raise StmError(f"{path} is no file of sessions, or damaged ({error}); {advice}") from None

    def _prepare(self, path: Path, settings: dict[str, Any], advice: str) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        made = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (version, made > 0) not in ((0, False), (FORMAT, True)):
            raise StmError(f"{path} is no file of sessions of this version of stm-rl; {advice}")
        self._db.execute("BEGIN IMMEDIATE")
        if not made:
            for statement in SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={FORMAT}")
        known = self._db.execute("SELECT value FROM settings").fetchone()
        if known is None:
            self._db.execute("INSERT INTO settings VALUES (?)", (json.dumps(settings),))
        elif json.loads(known[0]) != settings:
            raise StmError(
                f"{path} holds sessions with {known[0]}; the settings now are {json.dumps(settings)}: take those of "
                f"the file (--slots, --window, or a policy with as many reads), or {advice}"
            )
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file; what is in the write-ahead log goes into it."""
        self._db.close()

    def get(self, owner: str, id: str) -> Stored | None:
        """Return a session, if there is one."""
        row = self._db.execute(f"SELECT {COLUMNS} FROM sessions WHERE owner=? AND id=?", (owner, id)).fetchone()
        return Stored(*row) if row else None

    def save(self, session: Stored) -> None:
        """Write a session; it is on disk when this returns."""
        values = [getattr(session, field.name) for field in fields(Stored)]
        self._db.execute(f"INSERT OR REPLACE INTO sessions ({COLUMNS}) VALUES ({PLACES})", values)

    def delete(self, owner: str, id: str) -> bool:
        """Delete a session; return whether there was one."""
        return self._db.execute("DELETE FROM sessions WHERE owner=? AND id=?", (owner, id)).rowcount > 0

    def following(self, owner: str, user: str, histories: Sequence[bytes]) -> str | None:
        """Return the session whose history is the longest of some, if there is one.

        Args:
            owner: Whose sessions.
            user: Of which end user.
            histories: Digests of histories, the longest last.
        """
        places = ", ".join("?" for _ in histories)
        row = self._db.execute(
            f"SELECT id FROM sessions WHERE owner=? AND user=? AND digest IN ({places}) "
            "ORDER BY messages DESC, used DESC LIMIT 1",
            (owner, user, *histories),
        ).fetchone()
        return str(row[0]) if row else None

    def answered(self, owner: str, user: str, request: bytes) -> str | None:
        """Return the session that answered a request last, if there is one."""
        row = self._db.execute(
            "SELECT id FROM sessions WHERE owner=? AND user=? AND request=? ORDER BY used DESC LIMIT 1",
            (owner, user, request),
        ).fetchone()
        return str(row[0]) if row else None

    def page(self, owner: str, after: str, limit: int) -> list[tuple[str, int, float, float]]:
        """Return id, turns, and times of making and last use of sessions by id, after a given one."""
        return self._db.execute(
            "SELECT id, turns, created, used FROM sessions WHERE owner=? AND id>? ORDER BY id LIMIT ?",
            (owner, after, limit),
        ).fetchall()

    def count(self, owner: str | None = None) -> int:
        """Return how many sessions there are, of one owner or of all."""
        where, values = ("", ()) if owner is None else (" WHERE owner=?", (owner,))
        return int(self._db.execute(f"SELECT count(*) FROM sessions{where}", values).fetchone()[0])

    def oldest(self, owner: str, before: float) -> str | None:
        """Return the least recently used session of an owner, if it was last used before some time."""
        row = self._db.execute(
            "SELECT id FROM sessions WHERE owner=? AND used<? ORDER BY used LIMIT 1", (owner, before)
        ).fetchone()
        return str(row[0]) if row else None
