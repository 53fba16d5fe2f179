"""Who may use the server and how much; and the page's headers."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from serve_helpers import CHAT, PORT, Stub, ask, client_of, make_app, stub_backend, user

from stm_rl.errors import StmError
from stm_rl_agents.serving.security import Rates
from stm_rl_agents.serving.settings import ServeSettings, checked_key, checked_url, read_tokens
from stm_rl_agents.serving.store import Store

ONE, TWO = "token-number-one-0001", "token-number-two-0002"
BODY = {"model": "m", "messages": [user("hi")]}


def send(app: FastAPI, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    """Send requests, one after another; return the answers."""

    async def main() -> list[httpx.Response]:
        async with client_of(app) as client:
            return [await client.request(method, path, **more) for method, path, more in requests]

    return asyncio.run(main())


def bearer(token: str, **more: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {token}", **more}}


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return make_app(tmp_path, stub_backend(Stub()))


def test_only_names_of_this_machine_are_served(app: FastAPI) -> None:
    good = ["127.0.0.1:8080", "localhost:8080", "LOCALHOST:8080", "[::1]:8080", "127.0.0.1"]
    bad = ["evil.example:8080", "evil.example", "127.0.0.1:9", "127.0.0.1.evil.example:8080", "", "a@127.0.0.1:8080"]
    answers = send(app, *[("GET", "/health", {"headers": {"Host": host}}) for host in (*good, *bad)])
    assert [answer.status_code for answer in answers] == [200] * len(good) + [403] * len(bad)


def test_posts_from_pages_of_other_sites_are_refused(app: FastAPI) -> None:
    here = f"http://127.0.0.1:{PORT}"
    for headers, status in (
        ({"Origin": here}, 200),
        ({"Origin": here, "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:3000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ):
        answers = send(app, ("POST", CHAT, {"json": BODY, "headers": headers}))
        assert answers[0].status_code == status, headers
        assert "access-control-allow-origin" not in answers[0].headers
    (deleted,) = send(app, ("DELETE", "/v1/sessions/a", {"headers": {"Origin": "http://evil.example"}}))
    assert deleted.status_code == 403
    (form,) = send(app, ("POST", CHAT, {"content": b"{}", "headers": {"Content-Type": "text/plain"}}))
    assert form.status_code == 415


def test_a_token_is_needed_and_shows_its_own_sessions_only(tmp_path: Path) -> None:
    app = make_app(tmp_path, stub_backend(Stub()), tokens=(ONE, TWO))
    chat = {"json": {**BODY, "session_id": "a"}}
    for headers in ({}, {"Authorization": ONE}, {"Authorization": "Bearer nothing"}, {"Authorization": f"Basic {ONE}"}):
        refused = send(app, ("POST", CHAT, {**chat, "headers": headers}), ("GET", "/metrics", {"headers": headers}))
        assert [answer.status_code for answer in refused] == [401, 401]
        assert refused[0].json()["error"]["type"] == "authentication_error"
    first, second, seen, hidden, gone, open_to_all = send(
        app,
        ("POST", CHAT, {**chat, **bearer(ONE)}),
        ("POST", CHAT, {**chat, **bearer(TWO)}),
        ("GET", "/v1/sessions/a/memory", bearer(ONE)),
        ("DELETE", "/v1/sessions/a", bearer(TWO)),
        ("GET", "/v1/sessions/a/memory", bearer(TWO)),
        ("GET", "/health", {}),
    )
    assert first.json()["memory"]["turns"] == second.json()["memory"]["turns"] == 2  # of the same name, but not one
    assert (seen.status_code, hidden.status_code, gone.status_code, open_to_all.status_code) == (200, 200, 404, 200)
    for name in ("sessions.sqlite", "sessions.sqlite-wal"):
        assert ONE.encode() not in (tmp_path / name).read_bytes()


def test_limits_are_kept(tmp_path: Path) -> None:
    app = make_app(
        tmp_path,
        stub_backend(Stub()),
        max_request_bytes=2000,
        max_characters=100,
        max_messages=3,
        requests_per_minute=8,
    )

    def chunks() -> Any:
        async def parts() -> Any:
            for _ in range(30):
                yield b"x" * 100

        return parts()

    json = {"Content-Type": "application/json"}
    answers = send(
        app,
        ("POST", CHAT, {"json": {**BODY, "messages": [user("x" * 101)]}}),
        ("POST", CHAT, {"json": {**BODY, "messages": [user("x")] * 4}}),
        ("POST", CHAT, {"content": b"x" * 3000, "headers": json}),
        ("POST", CHAT, {"content": chunks(), "headers": json}),
        ("POST", CHAT, {"json": {**BODY, "session_id": "../etc/passwd"}}),
        ("POST", CHAT, {"json": {**BODY, "surprise": 1}}),
        ("POST", CHAT, {"content": b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}', "headers": json}),
        ("POST", CHAT, {"json": BODY}),
        ("POST", CHAT, {"json": BODY}),
        ("GET", "/health", {}),
    )
    assert [answer.status_code for answer in answers] == [413, 413, 413, 413, 400, 400, 400, 200, 429, 200]
    assert 1 <= int(answers[-2].headers["retry-after"]) <= 8
    assert all(answer.json()["error"]["message"] for answer in answers[:7])


def test_rates_recover_and_are_each_clients_own() -> None:
    rates = Rates(60)
    assert [rates.take("a", 0.0) for _ in range(60)] == [0.0] * 60
    assert rates.take("a", 0.0) == pytest.approx(1.0)
    assert rates.take("b", 0.0) == 0.0
    assert rates.take("a", 1.1) == 0.0


def test_too_many_at_once_are_told_to_wait(tmp_path: Path) -> None:
    app = make_app(tmp_path, stub_backend(Stub()), max_concurrent=2)

    async def main() -> list[int]:
        async with client_of(app) as client:
            answers = await asyncio.gather(*(ask(client, user("hi"), session=f"s{number}") for number in range(6)))
        return sorted(answer.status_code for answer in answers)

    statuses = asyncio.run(main())
    assert statuses[:2] == [200, 200]
    assert statuses[-1] == 429


def test_the_page_loads_nothing_from_elsewhere_and_no_other_file_can_be_had(app: FastAPI) -> None:
    start, script, *others = send(
        app,
        ("GET", "/", {}),
        ("GET", "/page/app.js", {}),
        ("GET", "/page/nothing.js", {}),
        ("GET", "/page/..%2fapp.py", {}),
        ("GET", "/page/../app.py", {}),
    )
    assert start.headers["content-type"].startswith("text/html")
    assert "javascript" in script.headers["content-type"]
    for answer in (start, script, *others):
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert [answer.status_code for answer in others] == [404, 404, 404]


def test_settings_that_would_make_an_open_server_are_errors(tmp_path: Path) -> None:
    assert ServeSettings(host="::1").loopback
    for options, message in (
        ({"host": "0.0.0.0"}, "no token"),
        ({"host": "example.org"}, "no token"),
        ({"tokens": ("short",)}, "at least 16"),
        ({"tokens": ("with a blank inside it",)}, "without blanks"),
        ({"port": 70000}, "port is 70000"),
        ({"max_sessions": 0}, "at least 1"),
    ):
        with pytest.raises(StmError, match=message):
            ServeSettings(**options)  # type: ignore[arg-type]
    assert ONE not in repr(ServeSettings(host="0.0.0.0", tokens=(ONE,)))
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n{ONE}\n\n{TWO}\n")
    assert read_tokens(file, None) == (ONE, TWO)
    file.write_text("# none\n")
    with pytest.raises(StmError, match="holds no token"):
        read_tokens(file, None)
    with pytest.raises(StmError, match="cannot read"):
        read_tokens(tmp_path / "missing", None)


def test_addresses_and_keys_are_checked_without_being_told() -> None:
    assert checked_url("http://127.0.0.1:8000/v1/") == "http://127.0.0.1:8000/v1"
    for url in (
        "127.0.0.1:8000",
        "ftp://a/",
        "http://user:pass@a/v1",
        "http://a/v1?key=1",
        "http://[/v1",
        "http://a:x/",
    ):
        with pytest.raises(StmError, match="not valid") as caught:
            checked_url(url)
        assert "pass" not in str(caught.value).replace("password", "")
    assert checked_key(" sk-1 \n") == "sk-1"
    with pytest.raises(StmError) as caught:
        checked_key("sk-1 secret")
    assert "secret" not in str(caught.value)


def test_a_file_of_sessions_is_used_by_one_server_with_one_size_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    store = Store(path, {"slots": 4})
    assert {file.stat().st_mode & 0o77 for file in tmp_path.iterdir()} == {0}  # nobody else may read it
    with pytest.raises(StmError, match="in use by another server"):
        Store(path, {"slots": 4})
    store.close()
    with pytest.raises(StmError, match='"slots": 4'):
        Store(path, {"slots": 8})
    (tmp_path / "text").write_text("this is no database, but it is long enough to be looked at " * 20)
    with pytest.raises(StmError, match="no file of sessions"):
        Store(tmp_path / "text", {})
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(StmError, match="no file of sessions"):
        Store(tmp_path / "other", {})
    with pytest.raises(StmError, match="cannot use"):
        Store(tmp_path / "no" / "folder", {})
