"""The server's API in this process: histories, sessions, memory, and what goes to the model behind it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.responses import JSONResponse, RedirectResponse, Response
from prometheus_client.parser import text_string_to_metric_families
from serve_helpers import CHAT, KEY, Stub, ask, assistant, client_of, make_app, stub_backend, text_of, user

pytest.importorskip("fastapi")

FACT, QUESTION = "I put the hammer in the kitchen.", "Where did I put the hammer?"
Test = Callable[[httpx.AsyncClient, Stub], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Return what runs a test as a client of a server over a stub."""

    def run(test: Test, stub: Stub | None = None, **options: Any) -> None:
        stub = stub or Stub()

        async def main() -> None:
            app = make_app(tmp_path, stub_backend(stub), **options)
            async with app.router.lifespan_context(app), client_of(app) as client:
                await test(client, stub)

        asyncio.run(main())

    return run


async def turns(client: httpx.AsyncClient, session: str) -> int:
    return int((await client.get(f"/v1/sessions/{session}/memory")).json()["turns"])


def test_an_old_fact_is_read_and_only_window_and_reads_go_upstream(play: Callable[..., None]) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        await ask(client, user(FACT), session="a")
        await ask(client, user("I slept badly."), session="a")
        answer = await ask(client, {"role": "system", "content": "Be kind."}, user(QUESTION), session="a", seed=3)
        memory = answer.json()["memory"]
        assert [message["role"] for message in stub.bodies[-1]["messages"]] == ["system", "system", "assistant", "user"]
        assert stub.bodies[-1]["messages"][0]["content"] == "Be kind."
        assert f"> user: {FACT}" in stub.bodies[-1]["messages"][1]["content"]
        assert stub.bodies[-1]["messages"][3]["content"] == QUESTION
        assert stub.bodies[-1]["seed"] == 3
        assert stub.bodies[-1]["model"] == "stub"
        assert f"user: {FACT}" in memory["reads"]
        assert answer.headers["x-session-id"] == memory["session"] == "a"
        assert memory["turns"] == 6
        assert [one["turn"] for one in memory["operations"]] == [4, 5]
        assert memory["operations"][0]["text"] == QUESTION
        assert len(memory["slots"]) == 4
        assert answer.json()["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        assert stub.keys == {f"Bearer {KEY}"}

    play(test, Stub(reply=lambda messages: "Noted."), agent="longest")


def test_a_client_that_sends_its_whole_history_sends_no_turn_twice(play: Callable[..., None]) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        history: list[dict[str, str]] = []
        sessions = set()
        for number in range(5):
            history.append(user(f"message {number}"))
            answer = await ask(client, *history)
            history.append(assistant(text_of(answer)))
            sessions.add(answer.headers["x-session-id"])
            assert answer.json()["memory"]["turns"] == len(history)
        assert len(sessions) == 1
        named = await ask(client, *history, user("more"), session="b")  # a whole history that the session has not seen
        assert named.json()["memory"]["turns"] == 12
        assert len(named.json()["memory"]["operations"]) == 12
        again = await ask(client, *history, user("more"), assistant(text_of(named)), user("and more"), session="b")
        assert again.json()["memory"]["turns"] == 14

    play(test)


def test_the_same_request_is_answered_once(play: Callable[..., None]) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        first = await ask(client, user("one"), session="a")
        again = await ask(client, user("one"), session="a")
        assert again.json() == first.json()
        assert len(stub.bodies) == 1
        streamed = await ask(client, user("one"), session="a", stream=True)
        assert "You said: one" in streamed.text
        assert await turns(client, "a") == 2
        body = {"model": "m", "messages": [user("one")]}
        headers = {"X-Session-Id": "a", "Idempotency-Key": "second"}
        meant = await client.post(CHAT, json=body, headers=headers)  # said twice on purpose
        assert meant.json()["memory"]["turns"] == 4
        assert (await client.post(CHAT, json=body, headers=headers)).json() == meant.json()

    play(test)


def test_without_a_session_equal_first_words_begin_two_chats_unless_sent_again(play: Callable[..., None]) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        one, two = await ask(client, user("hi")), await ask(client, user("hi"))
        assert one.headers["x-session-id"] != two.headers["x-session-id"]
        body = {"model": "m", "messages": [user("hi")]}
        retry = await client.post(CHAT, json=body, headers={"x-stainless-retry-count": "1"})
        assert retry.json() in (one.json(), two.json())
        history = [user("hi"), assistant(text_of(one))]
        for text in ("my name is Anna", "my name is Ben"):  # each goes on in a session of its own
            await ask(client, *history, user(text))
        pages = (await client.get("/v1/sessions")).json()["data"]
        assert [page["turns"] for page in pages] == [4, 4]
        third = await ask(client, *history, user("my name is Clara"))  # both have moved on
        assert third.json()["memory"]["turns"] == 4
        assert len(third.json()["memory"]["operations"]) == 4
        repeated = await ask(client, *history, user("my name is Clara"))
        assert repeated.json() == third.json()
        other = await ask(client, *history, user("my name is Clara"), user="somebody else")
        assert other.headers["x-session-id"] != third.headers["x-session-id"]

    play(test)


def test_another_history_is_a_conflict_and_changes_nothing(play: Callable[..., None]) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        first = await ask(client, user("one"), session="a")
        for messages in (
            [user("one"), assistant("something else"), user("two")],
            [assistant(text_of(first)), user("two")],
        ):
            conflict = await ask(client, *messages, session="a")
            assert conflict.status_code == 409
            assert conflict.json()["error"]["code"] == "history_mismatch"
        nothing = await ask(client, user("one"), assistant(text_of(first)), session="a")
        assert nothing.status_code == 400
        assert await turns(client, "a") == 2
        assert (await ask(client, user("one"), assistant(text_of(first)), user("two"), session="a")).status_code == 200

    play(test)


def test_requests_to_one_session_wait_for_each_other(play: Callable[..., None]) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        answers = await asyncio.gather(*(ask(client, user(f"m{number}"), session="a") for number in range(10)))
        assert sorted(answer.json()["memory"]["turns"] for answer in answers) == list(range(2, 22, 2))
        same = await asyncio.gather(*(ask(client, user("same"), session="a") for _ in range(5)))
        assert len({answer.text for answer in same}) == 1
        assert await turns(client, "a") == 22

    play(test)


def test_without_memory_only_the_window_goes_upstream_and_writing_goes_on(play: Callable[..., None]) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        await ask(client, user(FACT), session="a")
        await ask(client, user("I slept badly."), session="a")
        answer = await ask(client, user(QUESTION), session="a", memory=False)
        assert [message["role"] for message in stub.bodies[-1]["messages"]] == ["assistant", "user"]
        memory = answer.json()["memory"]
        assert memory["reads"] == []
        assert all(one["reads"] == [] for one in memory["operations"])
        assert any(one["write"] for one in memory["operations"])

    play(test)


def test_memory_can_be_looked_at_and_deleted(play: Callable[..., None]) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        for text in (FACT, "I slept badly."):
            await ask(client, user(text), session="a")
        seen = (await client.get("/v1/sessions/a/memory")).json()
        assert seen["slots"][0]["text"] == FACT
        assert [line["speaker"] for line in seen["window"]] == ["user", "assistant"]
        assert (await client.delete("/v1/sessions/a/memory/1")).json() == {"session": "a", "deleted": True}
        assert (await client.get("/v1/sessions/a/memory")).json()["slots"][0] is None
        answer = await ask(client, user(QUESTION), session="a")
        assert FACT not in answer.text
        assert (await client.delete("/v1/sessions/a/memory")).status_code == 200
        assert (await client.get("/v1/sessions/a/memory")).json()["slots"] == [None] * 4
        for path in ("/v1/sessions/a/memory/5", "/v1/sessions/a/memory/0", "/v1/sessions/b/memory", "/v1/sessions/b"):
            assert (await client.delete(path)).status_code == 404
        assert (await client.delete("/v1/sessions/a")).status_code == 200
        assert (await client.get("/v1/sessions/a/memory")).status_code == 404
        assert (await ask(client, user("new"), session="a")).json()["memory"]["turns"] == 2

    play(test, Stub(reply=lambda messages: "Noted."))


def test_sessions_are_paged(play: Callable[..., None]) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        for number in range(5):
            await ask(client, user("hi"), session=f"s{number}")
        found, after = [], ""
        while True:
            page = (await client.get("/v1/sessions", params={"limit": 2, **({"after": after} if after else {})})).json()
            found += [one["id"] for one in page["data"]]
            if not page["has_more"]:
                break
            after = found[-1]
        assert found == [f"s{number}" for number in range(5)]

    play(test)


def test_what_was_evicted_from_ram_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    said = [FACT, "I slept badly.", "Is there any news?", "Maybe a poster would suit Rosa.", QUESTION]

    async def chat(folder: Path, live: int) -> list[Any]:
        folder.mkdir()
        app = make_app(folder, stub_backend(Stub()), live_sessions=live)
        found = []
        async with app.router.lifespan_context(app), client_of(app) as client:
            for text in said:
                for session in ("a", "b"):
                    answer = (await ask(client, user(f"{text} {session}"), session=session)).json()
                    found.append((answer["choices"], answer["memory"]))
        return found

    assert asyncio.run(chat(tmp_path / "one", 1)) == asyncio.run(chat(tmp_path / "many", 10))


def test_for_one_session_too_many_the_least_recently_used_goes_unless_it_was_used_lately(
    play: Callable[..., None],
) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        for session in ("a", "b", "a", "c"):
            assert (await ask(client, user(f"hi {len(stub.bodies)}"), session=session)).status_code == 200
        assert [one["id"] for one in (await client.get("/v1/sessions")).json()["data"]] == ["a", "c"]

    async def lately(client: httpx.AsyncClient, stub: Stub) -> None:
        refused = await ask(client, user("hi"), session="d")
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "too_many_sessions"
        assert (await ask(client, user("hello"), session="a")).status_code == 200

    play(test, max_sessions=2, keep_seconds=0)
    play(lately, max_sessions=2, keep_seconds=60)


@pytest.mark.parametrize(
    ("fail", "status"),
    [
        (lambda: JSONResponse({"error": {"message": f"bad key {KEY} at http://model.internal"}}, 401), 502),
        (lambda: JSONResponse({"error": KEY}, 500), 502),
        (lambda: RedirectResponse("http://elsewhere.example/"), 502),
        (lambda: Response(f"no JSON {KEY}"), 502),
        (lambda: JSONResponse([]), 502),
        (lambda: JSONResponse({"choices": [{"message": {"content": "x" * 2**22}}]}), 502),
    ],
)
def test_what_fails_upstream_is_told_without_key_and_address_and_changes_nothing(
    play: Callable[..., None], caplog: pytest.LogCaptureFixture, fail: Callable[[], Response], status: int
) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        await ask(client, user("one"), session="a")
        stub.fail = fail
        for stream in (False, True):
            refused = await ask(client, user("two"), session="a", stream=stream)
            assert refused.status_code == status
            assert refused.json()["error"]["code"].startswith("upstream")
            for secret in (KEY, "model.internal", "elsewhere"):
                assert secret not in refused.text + str(refused.headers)
        assert await turns(client, "a") == 2
        stub.fail = None
        assert (await ask(client, user("two"), session="a")).json()["memory"]["turns"] == 4

    with caplog.at_level(logging.DEBUG):
        play(test, Stub())
    assert KEY not in caplog.text


def test_an_upstream_that_is_not_there_or_too_slow(tmp_path: Path) -> None:
    from stm_rl_agents.serving.upstream import Upstream

    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"no route to {request.url}")

    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout(f"too slow {request.url}")

    async def main(handler: Callable[[httpx.Request], httpx.Response], status: int) -> None:
        backend = Upstream("http://model.internal/v1", "stub", KEY, transport=httpx.MockTransport(handler))
        app = make_app(tmp_path, backend)
        async with app.router.lifespan_context(app), client_of(app) as client:
            refused = await ask(client, user("hi"))
            assert refused.status_code == status
            assert "internal" not in refused.text
            assert (await client.get("/ready")).status_code == 503
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/v1/sessions")).json()["data"] == []

    asyncio.run(main(gone, 502))
    asyncio.run(main(slow, 504))


def test_tokens_sent_stay_constant_over_300_turns_and_far_facts_are_read(play: Callable[..., None]) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        sent, full = [], []
        for number in range(150):
            text = FACT if number == 0 else f"Item {number} is fine."
            memory = (await ask(client, user(text), session="a")).json()["memory"]
            sent.append(memory["tokens_sent"])
            full.append(memory["tokens_full_history"])
        assert memory["turns"] == 300
        late = sent[10:]
        assert max(late) <= 1.5 * min(late)
        assert max(len(body["messages"]) for body in stub.bodies) <= 3
        assert full[-1] > 20 * sent[-1]
        answer = await ask(client, user(QUESTION), session="a")
        assert f"user: {FACT}" in answer.json()["memory"]["reads"]

    play(test, Stub(reply=lambda messages: "Noted."), agent="longest", requests_per_minute=10_000)


def test_metrics_can_be_parsed_and_count(play: Callable[..., None]) -> None:
    async def test(client: httpx.AsyncClient, stub: Stub) -> None:
        for text in (FACT, "I slept badly.", QUESTION):
            await ask(client, user(text), session="a")
        await ask(client, user(""), session="a")
        await client.get("/nothing/here")
        text = (await client.get("/metrics")).text
        values = {
            (sample.name, sample.labels.get("route"), sample.labels.get("status")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert values["stm_rl_requests_total", CHAT, "200"] == 3
        assert values["stm_rl_requests_total", CHAT, "400"] == 1
        assert values["stm_rl_requests_total", "other", "404"] == 1
        assert values["stm_rl_turns_total", None, None] == 6
        assert values["stm_rl_memory_writes_total", None, None] == 6
        assert values["stm_rl_memory_superseded_total", None, None] == 2
        assert values["stm_rl_memory_reads_total", None, None] >= 1
        assert values["stm_rl_sessions_live", None, None] == values["stm_rl_sessions_stored", None, None] == 1
        for name in ("sent", "full_history"):
            assert values[f"stm_rl_tokens_{name}_total", None, None] > 20
        for name in ("policy", "upstream", "store", "overhead"):
            assert values[f"stm_rl_{name}_seconds_count", None, None] >= 3

    play(test)
