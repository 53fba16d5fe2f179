"""What a server is told at its start."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from stm_rl.errors import StmError
from stm_rl_envs.settings import MemorySettings

LEAST_TOKEN = 16
"""Fewest characters of a token that clients show."""
KEY = re.compile(r"[\x21-\x7e]+")
"""What can be sent in a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What a server is told at its start.

    Attributes:
        host: Address it binds to.
        port: Port it listens on.
        database: File of sessions.
        memory: Slots, window and reads of every session.
        tokens: Tokens that clients may show, one of them needed for every request; none on loopback only.
        max_request_bytes: Most bytes of a request.
        max_characters: Most characters of a message.
        max_messages: Most messages of a request.
        max_sessions: Most sessions stored for each token.
        keep_seconds: A session used within this time is not deleted to make room for another.
        live_sessions: Sessions kept in RAM; others are restored from the file when they are used.
        requests_per_minute: Most requests a minute of a client (a token, or an address without one).
        max_concurrent: Most chat requests under way at once.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    database: Path = Path("stm-rl-sessions.sqlite")
    memory: MemorySettings = field(default_factory=MemorySettings)
    tokens: tuple[str, ...] = field(default=(), repr=False)
    max_request_bytes: int = 2**20
    max_characters: int = 32_768
    max_messages: int = 2_000
    max_sessions: int = 10_000
    keep_seconds: float = 3600.0
    live_sessions: int = 256
    requests_per_minute: int = 600
    max_concurrent: int = 64

    def __post_init__(self) -> None:
        """Reject settings that make no server, or an open one.

        Raises:
            StmError: A number is too small, a token is too short, or there is none where one is needed.
        """
        names = (
            "max_request_bytes",
            "max_characters",
            "max_messages",
            "max_sessions",
            "live_sessions",
            "requests_per_minute",
            "max_concurrent",
        )
        for name in names:
            if getattr(self, name) < 1:
                raise StmError(f"{name.replace('_', '-')} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.port <= 65535:
            raise StmError(f"port is {self.port}; expected 0 (any that is free) to 65535")
        for token in self.tokens:
            if len(token) < LEAST_TOKEN or not KEY.fullmatch(token):
                raise StmError(
                    f"a token has {len(token)} characters; expected at least {LEAST_TOKEN}, letters, digits and signs "
                    "without blanks: `openssl rand -hex 24` makes one"
                )
        if not self.tokens and not self.loopback:
            raise StmError(
                f"host is {self.host}, which others can reach, and there is no token; set STM_RL_TOKEN or give "
                "--token-file, or bind to 127.0.0.1"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def read_tokens(file: Path | None, one: str | None) -> tuple[str, ...]:
    """Return the tokens of a file, one a line (blank lines and lines that begin with # aside), and one more.

    Raises:
        StmError: The file cannot be read or holds none.
    """
    tokens = [one] if one else []
    if file is not None:
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise StmError(f"cannot read the tokens in {file} ({type(error).__name__}); expected one a line") from error
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise StmError(f"{file} holds no token; expected one a line")
        tokens += found
    return tuple(dict.fromkeys(tokens))


def checked_url(url: str) -> str:
    """Return the base address of an upstream server without a slash at its end.

    Raises:
        StmError: It is no plain address.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or "@" in url or parts.query or parts.fragment:
        raise StmError(
            "the address of --upstream is not valid; expected one such as http://127.0.0.1:8000/v1, without user, "
            "password or anything after its path (a key goes into STM_RL_UPSTREAM_KEY)"
        )
    return url.rstrip("/")


def checked_key(key: str | None) -> str:
    """Return the upstream key; empty for none.

    Raises:
        StmError: It cannot be sent; the message does not show it.
    """
    key = (key or "").strip()
    if key and not KEY.fullmatch(key):
        raise StmError("STM_RL_UPSTREAM_KEY holds blanks or characters beyond ASCII; expected a key in one piece")
    return key
