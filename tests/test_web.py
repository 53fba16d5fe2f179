from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stm_rl.web import LoopbackGuard, host_name


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Say how many bytes the body had."""
    if scope["type"] == "lifespan":
        scope["seen"] = True
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    headers = [(b"content-type", b"text/plain"), (b"cache-control", b"max-age=5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(size).encode()})


def ask(method: str = "GET", bodies: tuple[bytes, ...] = (b"",), **headers: str) -> tuple[int, dict[str, str], str]:
    named = {"host": "127.0.0.1:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {"type": "http", "method": method, "headers": [(n.encode(), v.encode()) for n, v in named.items() if v]}
    sent: list[Any] = []
    left = list(bodies)

    async def receive() -> Any:
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(LoopbackGuard(app, max_body=10)(scope, receive, send))
    known = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], known, sent[1]["body"].decode()


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "[::1]"])
def test_this_machine_is_served(host: str) -> None:
    status, headers, body = ask(host=host)
    assert (status, body) == (200, "0")
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "max-age=5"  # the application's own stays


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "localhost@evil", "[::1", "0.0.0.0"],
)
def test_other_names_are_refused(host: str) -> None:
    status, headers, body = ask(host=host)
    assert status == 403
    assert "content-security-policy" in headers
    assert "error" in body


def test_requests_without_a_host_are_refused() -> None:
    assert ask(host="")[0] == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # curl and the like
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:8000", "sec_fetch_site": "same-origin"}, 200),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
    ],
)
def test_only_own_pages_change_anything(headers: dict[str, str], status: int) -> None:
    assert ask("POST", **headers)[0] == status
    assert ask("GET", **headers)[0] == 200


def test_bodies_are_bounded_whatever_their_length_is_said_to_be() -> None:
    assert ask("POST", (b"12345", b"67890"))[::2] == (200, "10")
    assert ask("POST", (b"12345", b"678901"))[0] == 413
    assert ask("POST", (b"12345",), content_length="11")[0] == 413
    assert ask("POST", (b"",), content_length="-1")[0] == 400
    assert ask("POST", (b"",), content_length="x")[0] == 400


def test_start_and_stop_reach_the_application() -> None:
    scope: dict[str, Any] = {"type": "lifespan"}
    asyncio.run(LoopbackGuard(app)(scope, None, None))  # type: ignore[arg-type]
    assert scope["seen"]


def test_names_of_hosts() -> None:
    assert [host_name(text) for text in ("LocalHost:80", "[::1]:5", "a@b", "[", "")] == ["localhost", "::1", "", "", ""]
