"""What every page served on this machine needs: no request from elsewhere, and nothing loaded from elsewhere."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from stm_rl.errors import StmError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine to itself."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Headers of every answer, unless the application sets its own."""


class TooLargeError(Exception):
    """A body grew larger than allowed while it was read."""


class LoopbackGuard:
    """ASGI middleware in front of a server that only the person at this machine may use.

    A page of another site that the same browser shows must not be able to use the server. So the ``Host`` header has
    to name this machine (else another site could point its own name here: DNS rebinding), and a request that may
    change something has to come from a page of this server (else it is forged across sites). Bodies are bounded, and
    every answer says that the browser may load nothing from elsewhere.

    Args:
        app: The application.
        max_body: Most bytes of a request's body.
        hosts: Names that ``Host`` may have, in lower case, without port.
    """

    def __init__(self, app: App, max_body: int = 65_536, hosts: frozenset[str] = LOOPBACK) -> None:
        self.app, self.max_body, self.hosts = app, max_body, hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there is no web socket
            return
        refusal = self._refusal(scope["method"], scope["headers"])
        if refusal:
            await _answer(send, *refusal)
            return
        started = False

        async def guarded_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                known = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [*message.get("headers", ()), *(h for h in HEADERS if h[0] not in known)]
            await send(message)

        try:
            await self.app(scope, self._bounded(receive), guarded_send)
        except TooLargeError:
            if not started:
                await _answer(send, *self._too_large())

    def _refusal(self, method: str, given: Sequence[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        """Return status and reason if a request is not to be answered."""
        headers = dict(given)
        if sum(name == b"host" for name, _ in given) != 1:
            return 400, "the header Host is missing, or there are several; expected one"
        host = headers.get(b"host", b"").decode("latin-1")
        if host_name(host) not in self.hosts:
            return 403, f"the host {host[:80]!r} is not served; expected 127.0.0.1 or localhost"
        if method not in SAFE:
            origin = headers.get(b"origin", b"").decode("latin-1")
            if origin and urlsplit(origin).netloc.lower() != host.lower():
                return 403, f"the origin {origin[:80]!r} is another site; expected this page"
            site = headers.get(b"sec-fetch-site", b"same-origin")
            if site not in (b"same-origin", b"none"):
                return 403, "the request comes from another site; expected this page"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, "Content-Length is no number; expected the number of bytes"
        return self._too_large() if int(length) > self.max_body else None

    def _too_large(self) -> tuple[int, str]:
        return 413, f"the body is too large; expected at most {self.max_body} bytes"

    def _bounded(self, receive: Receive) -> Receive:
        """Return ``receive`` that raises :class:`TooLargeError` past the limit, also where no length was said."""
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_body:
                raise TooLargeError
            return message

        return bounded


def host_name(host: str) -> str:
    """Return the name in a ``Host`` header, in lower case and without port and brackets; empty if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "") if "@" not in host else ""
    except ValueError:
        return ""


async def _answer(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": {"message": reason, "type": "invalid_request_error", "code": None}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections already, so that a page may be opened before the server is ready.

    Raises:
        StmError: The address or the port cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StmError(f"cannot listen on {host}, port {port} ({reason}); give another port, or 0 for any") from error
