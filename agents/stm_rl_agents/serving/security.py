"""Who may use the server, and how much: hosts, origins, tokens, rates and sizes."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
import time
from collections import OrderedDict
from hashlib import sha256
from urllib.parse import urlsplit

from stm_rl.web import HEADERS, LOOPBACK, SAFE, App, Message, Receive, Send, host_name
from stm_rl_agents.serving.errors import ApiError
from stm_rl_agents.serving.metrics import Metrics
from stm_rl_agents.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

METHODS = SAFE | {"POST", "DELETE", "PUT", "PATCH"}
OPEN = ("/health", "/ready", "/")
"""Paths that need no token."""
OPEN_BELOW = "/page/"
NOBODY = ""
"""The owner of all sessions where there are no tokens."""
MOST_CLIENTS = 10_000
"""Clients whose rate is known."""
BODY_SECONDS = 30.0
"""Within this time the body of a request has to arrive."""


class Rates:
    """How many requests each client may still send: as many as in a minute, and more as time goes by."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now: float) -> float:
        """Count a request; return 0 if it may be, else the seconds until the next may be."""
        left, then = self._left.pop(client, (float(self._per_minute), now))
        left = min(left + (now - then) * self._per_minute / 60, float(self._per_minute))
        allowed = left >= 1
        self._left[client] = (left - 1 if allowed else left, now)
        while len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) * 60 / self._per_minute


class Guard:
    """ASGI middleware in front of everything: it refuses, counts, and puts security headers on every answer.

    It sets ``scope["state"]["owner"]``, whose sessions a request may see.
    """

    def __init__(self, app: App, settings: ServeSettings, metrics: Metrics) -> None:
        """Stand in front of ``app``."""
        self.app, self.settings, self.metrics = app, settings, metrics
        self._owners = {sha256(token.encode()).digest(): _owner(token) for token in settings.tokens}
        self._rates = Rates(settings.requests_per_minute)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":  # there is no web socket
            return
        status = 0

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                known = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [*message.get("headers", ()), *(h for h in HEADERS if h[0] not in known)]
            await send(message)

        try:
            body = await self._check(scope, receive)
            await self.app(scope, _replayed(body, receive), guarded_send)
        except ApiError as error:
            await _refuse(guarded_send, error)
        except Exception:
            logger.exception("a request failed")
            if status == 0:
                await _refuse(guarded_send, ApiError(500, "the server failed; its log says why", "internal_error"))
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"  # clients may make up any
            self.metrics.requests.labels(route, method, str(status)).inc()

    async def _check(self, scope: Message, receive: Receive) -> bytes:
        """Return the body of a request that may be answered.

        Raises:
            ApiError: It may not.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        path = scope["path"]
        self._check_place(scope["method"], headers)
        owner = self._owner_of(headers.get(b"authorization", b""))
        if path.startswith("/v1/"):
            client = owner or (scope.get("client") or ("",))[0]
            if wait := self._rates.take(client, time.monotonic()):
                raise ApiError(
                    429,
                    f"more than {self.settings.requests_per_minute} requests a minute; wait",
                    "rate_limit_exceeded",
                    {"Retry-After": str(math.ceil(wait))},
                )
        if owner is None and path not in OPEN and not path.startswith(OPEN_BELOW):
            raise ApiError(
                401,
                "the request carries no valid token; send Authorization: Bearer TOKEN",
                "invalid_token",
                {"WWW-Authenticate": "Bearer"},
            )
        scope.setdefault("state", {})["owner"] = owner or NOBODY
        return await self._body(headers, receive) if scope["method"] not in SAFE else b""

    def _check_place(self, method: str, headers: dict[bytes, bytes]) -> None:
        """Refuse names that others could point here, and what pages of other sites send."""
        host = headers.get(b"host", b"").decode("latin-1")
        if self.settings.loopback and not self._is_here(host):
            raise ApiError(
                403,
                f"the host {host[:80]!r} is not served; expected 127.0.0.1:{self.settings.port} or "
                f"localhost:{self.settings.port}",
                "host_not_allowed",
            )
        if method in SAFE:
            return
        origin = headers.get(b"origin", b"").decode("latin-1")
        site = headers.get(b"sec-fetch-site", b"same-origin")
        if (origin and _place(origin) != host.lower()) or site not in (b"same-origin", b"none"):
            raise ApiError(403, "the request comes from a page of another site", "origin_not_allowed")

    def _is_here(self, host: str) -> bool:
        name, end = host_name(host), host.rpartition(":")[2]
        port = end if ":" in host and not host.endswith("]") else ""
        return (name in LOOPBACK or name == self.settings.host) and port in ("", str(self.settings.port))

    def _owner_of(self, authorization: bytes) -> str | None:
        """Return who shows a token: nobody in particular if there are no tokens, None if it is not valid."""
        if not self._owners:
            return NOBODY
        scheme, _, token = authorization.partition(b" ")
        shown, found = sha256(token.strip()).digest(), None
        for digest, owner in self._owners.items():  # all of them, so that the time does not tell which
            if hmac.compare_digest(digest, shown) and scheme.lower() == b"bearer":
                found = owner
        return found

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        most = self.settings.max_request_bytes
        too_large = ApiError(413, f"the request is larger than {most} bytes; send less", "request_too_large")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise ApiError(400, "Content-Length is no number; expected the number of bytes", "bad_content_length")
        if int(length) > most:
            raise too_large
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "the request broke off", "request_broke_off")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise ApiError(408, f"the request took more than {BODY_SECONDS:.0f} s to arrive", "too_slow") from None
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if body and kind != b"application/json":
            raise ApiError(415, "the body is not JSON; send Content-Type: application/json", "unsupported_media_type")
        return bytes(body)


def _owner(token: str) -> str:
    """Return the name under which the sessions of a token are stored; it does not tell the token."""
    return sha256(b"stm-rl owner " + token.encode()).hexdigest()[:32]


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that has been read, and then waits for the client to go away."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _refuse(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
