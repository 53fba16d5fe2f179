"""The real client of OpenAI against a real server: with a model behind it and with one in it; and 200 chats at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serve_helpers import Stub, ask, assistant, client_of, make_app, running, serving, stub_backend, text_of, user

from stm_rl.lm import load_engine
from stm_rl_agents.serving.local import LocalModel
from stm_rl_agents.serving.upstream import Upstream

TOKEN = "a-token-of-this-server"


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def address(tmp_path: Path, stub: Stub) -> Iterator[str]:
    with (
        running(lambda port: stub.app()) as behind,
        serving(tmp_path, Upstream(f"{behind}/v1", "stub"), tokens=(TOKEN,)) as address,
    ):
        yield address


def client_at(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN, max_retries=0, timeout=20)


def test_the_openai_client_works_unchanged(address: str, stub: Stub) -> None:
    with client_at(address) as client:
        assert [model.id for model in client.models.list()] == ["stub"]
        history: list[Any] = [{"role": "system", "content": "Be kind."}]
        for number in range(3):
            history.append(user(f"message {number}"))
            answer = client.chat.completions.create(model="stub", messages=history, temperature=0.5, max_tokens=9)
            text = answer.choices[0].message.content
            assert text == f"You said: message {number}"
            assert stub.bodies[-1]["max_tokens"] == 9
            history.append(assistant(text))
        assert answer.model_extra["memory"]["turns"] == 6
        history.append(user("streamed"))
        chunks = list(
            client.chat.completions.create(
                model="stub", messages=history, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "You said: streamed"
        assert len(chunks) > 4  # as it was written
        assert chunks[-1].usage.total_tokens == 10
        assert chunks[-1].model_extra["memory"]["turns"] == 8
        assert len(stub.bodies[-1]["messages"]) <= 4


def test_the_openai_client_with_a_session(address: str) -> None:
    with client_at(address) as client:
        create = client.chat.completions.create
        one = create(model="m", messages=[user("one")], extra_headers={"X-Session-Id": "a"})
        two = create(model="m", messages=[user("two")], extra_body={"session_id": "a"}, stream=True)
        last = list(two)[-1]
        assert last.choices[0].finish_reason == "stop"
        assert (one.model_extra["memory"]["turns"], last.model_extra["memory"]["turns"]) == (2, 4)
        raw = client.chat.completions.with_raw_response.create(model="m", messages=[user("hi")])
        assert raw.headers["x-session-id"] == raw.parse().model_extra["memory"]["session"]
        with pytest.raises(openai.ConflictError, match="history"):
            create(model="m", messages=[assistant("never said"), user("x")], extra_headers={"X-Session-Id": "a"})
        with pytest.raises(openai.BadRequestError, match="tools"):
            create(model="m", messages=[user("x")], tools=[{"type": "function", "function": {"name": "f"}}])
    with (
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_a_client_that_goes_away_leaves_no_half_turn(address: str, stub: Stub) -> None:
    stub.hold = threading.Event()
    with client_at(address) as client:
        stream = client.chat.completions.create(
            model="m", messages=[user("one")], stream=True, extra_headers={"X-Session-Id": "a"}
        )
        assert next(iter(stream)).choices[0].delta.content == "You"
        stream.close()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        deadline = time.monotonic() + 10
        while "stm_rl_chats_running 0.0" not in httpx.get(f"{address}/metrics", headers=headers).text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert httpx.get(f"{address}/v1/sessions/a/memory", headers=headers).status_code == 404
        stub.hold.set()
        answer = client.chat.completions.create(model="m", messages=[user("one")], extra_headers={"X-Session-Id": "a"})
        assert answer.model_extra["memory"]["turns"] == 2


def test_a_stream_that_breaks_off_upstream_is_an_error_and_no_turn(tmp_path: Path) -> None:
    def breaks(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text='data: {"choices": [{"delta": {"content": "half"}}]}\n\n')

    async def main() -> None:
        app = make_app(tmp_path, Upstream("http://model.internal/v1", "m", transport=httpx.MockTransport(breaks)))
        async with app.router.lifespan_context(app), client_of(app) as client:
            answer = await ask(client, user("one"), session="a", stream=True)
            assert '"content": "half"' in answer.text
            assert '"code": "upstream_error"' in answer.text
            assert "[DONE]" not in answer.text
            assert (await client.get("/v1/sessions/a/memory")).status_code == 404

    asyncio.run(main())


def test_the_embedded_model_answers_in_the_server(tmp_path: Path) -> None:
    with (
        serving(tmp_path, LocalModel(load_engine("tiny"), 40), agent="longest") as address,
        client_at(address) as client,
    ):
        create = client.chat.completions.create
        for text in ("I put the hammer in the kitchen.", "I slept badly again.", "Is there any news?"):
            answer = create(model="tiny", messages=[user(text)], extra_headers={"X-Session-Id": "a"})
            assert answer.choices[0].message.content
        chunks = list(
            create(
                model="tiny",
                messages=[user("Where did I put the hammer?")],
                extra_headers={"X-Session-Id": "a"},
                stream=True,
            )
        )
        memory = chunks[-1].model_extra["memory"]
        assert "user: I put the hammer in the kitchen." in memory["reads"]
        assert "kitchen" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert memory["tokens_sent"] < memory["tokens_full_history"]
        cut = create(model="tiny", messages=[user("Thanks, it was there.")], max_tokens=1, stop=["zzz"])
        assert cut.usage.completion_tokens <= 1
        with pytest.raises(openai.BadRequestError, match="at most"):
            create(model="tiny", messages=[user("x")], max_tokens=100_000)
        together = []
        threads = [
            threading.Thread(target=lambda: together.append(create(model="tiny", messages=[user("Any news?")])))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({answer.choices[0].message.content for answer in together}) == 1
        assert len({answer.model_extra["memory"]["session"] for answer in together}) == 4


def test_two_hundred_chats_at_once_never_mix(tmp_path: Path) -> None:
    stub = Stub(reply=lambda messages: " ".join(message["content"] for message in messages)[:160])
    count = 200

    async def chat(client: httpx.AsyncClient, number: int) -> None:
        named = number % 2 == 0  # the others send their whole history
        history: list[dict[str, str]] = []
        for text in ("hello", f"My code word is secret{number:03d}x.", "What is my code word?"):
            history.append(user(text))
            sent = history[-1:] if named else history
            answer = await ask(client, *sent, session=f"s{number}" if named else None, user=f"u{number}")
            history.append(assistant(text_of(answer)))
            assert answer.json()["memory"]["turns"] == len(history)
        slots = answer.json()["memory"]["slots"]
        assert all(_words(slot["text"]) <= {f"secret{number:03d}x"} for slot in slots if slot)

    async def main() -> None:
        app = make_app(
            tmp_path, stub_backend(stub), live_sessions=50, max_concurrent=count, requests_per_minute=100_000
        )
        async with app.router.lifespan_context(app), client_of(app) as client:
            await asyncio.gather(*(chat(client, number) for number in range(count)))

    asyncio.run(main())
    assert len(stub.bodies) == 3 * count
    told = 0
    for body in stub.bodies:
        words = _words(" ".join(message["content"] for message in body["messages"]))
        assert words <= {f"secret{int(body['user'][1:]):03d}x"}
        told += bool(words)
    assert told >= 2 * count


def _words(text: str) -> set[str]:
    return {word.strip(".,") for word in text.split() if word.startswith("secret")}
