"""A server in a thread, and a model behind it that records what it is sent."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from stm_rl_agents.serving import load_serving_agent
from stm_rl_agents.serving.app import create_app
from stm_rl_agents.serving.backends import Backend
from stm_rl_agents.serving.settings import ServeSettings
from stm_rl_agents.serving.upstream import Upstream

KEY = "sk-upstream-SECRET-0123456789"
PORT = 8080
BASE = f"http://127.0.0.1:{PORT}"
CHAT = "/v1/chat/completions"


def last_message(messages: list[dict[str, str]]) -> str:
    return f"You said: {messages[-1]['content']}"


@dataclass
class Stub:
    """An OpenAI-compatible server.

    Attributes:
        reply: Makes an answer of the messages.
        fail: Makes a response instead of an answer, if it is set.
        bodies: What it was sent.
        keys: The keys it was shown.
        hold: Streams wait for it after their first piece.
    """

    reply: Callable[[list[dict[str, str]]], str] = last_message
    fail: Callable[[], Response] | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    hold: threading.Event | None = None

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            return {"object": "list", "data": []}

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            body = await request.json()
            self.bodies.append(body)
            self.keys.add(request.headers.get("authorization", ""))
            if self.fail is not None:
                return self.fail()
            text = self.reply(body["messages"])
            if body.get("stream"):
                return StreamingResponse(self._pieces(text), media_type="text/event-stream")
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            return JSONResponse({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})

        return app

    async def _pieces(self, text: str) -> Any:
        import asyncio

        for number, word in enumerate(text.split(" ")):
            piece = word if number == 0 else f" {word}"
            yield _event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            while number == 0 and self.hold is not None and not self.hold.is_set():
                await asyncio.sleep(0.01)
        yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield _event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
        yield "data: [DONE]\n\n"


def _event(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"


def serve_settings(folder: Path, **options: Any) -> ServeSettings:
    """Return settings of a server whose memory has 4 slots."""
    _, memory = load_serving_agent("similarity")
    return ServeSettings(database=folder / "sessions.sqlite", port=PORT, memory=memory, **options)


def stub_backend(stub: Stub) -> Upstream:
    """Return the stub as the model behind a server, without a socket between."""
    transport = httpx.ASGITransport(stub.app())
    return Upstream("http://model.internal/v1", "stub", KEY, timeout=5, transport=transport)


def make_app(folder: Path, backend: Backend, agent: str = "similarity", **options: Any) -> FastAPI:
    return create_app(serve_settings(folder, **options), load_serving_agent(agent)[0], backend)


@contextmanager
def running(make: Callable[[int], Any]) -> Iterator[str]:
    """Run the app that ``make`` gives for a port in a thread of its own; give its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make(port), log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


@contextmanager
def serving(folder: Path, backend: Backend, agent: str = "similarity", **options: Any) -> Iterator[str]:
    """Run a server; give its address."""

    def make(port: int) -> FastAPI:
        settings = replace(serve_settings(folder, **options), port=port)
        return create_app(settings, load_serving_agent(agent)[0], backend)

    with running(make) as address:
        yield address


def client_of(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    """Return a client of an app in this process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE, headers=headers)


def user(text: str, **more: str) -> dict[str, str]:
    return {"role": "user", "content": text, **more}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


async def ask(
    client: httpx.AsyncClient, *messages: dict[str, str], session: str | None = None, **body: Any
) -> httpx.Response:
    """Send a chat request."""
    headers = {"X-Session-Id": session} if session else {}
    return await client.post(CHAT, json={"model": "m", "messages": list(messages), **body}, headers=headers)


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])
