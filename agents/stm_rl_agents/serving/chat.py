"""One chat request: what is new goes into memory, the model answers, and all of it is saved before it is told."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from stm_rl_agents.serving.backends import Backend, Prompt, Written
from stm_rl_agents.serving.errors import ApiError
from stm_rl_agents.serving.history import ASSISTANT, Ask, Message
from stm_rl_agents.serving.metrics import Metrics
from stm_rl_agents.serving.session import Operations
from stm_rl_agents.serving.sessions import Session, Sessions, slots_of

logger = logging.getLogger(__name__)

Event = str | dict[str, Any]
"""A piece of the answer, or at the end the whole body of it."""
STOPPING = "the server is stopping; send the request again in a moment"


class Chats:
    """Answers chat requests, each in a task of its own.

    A client that goes away ends its task at once, unless the turn is being saved: then that is finished first. So a
    turn is saved as a whole or not at all.
    """

    def __init__(self, sessions: Sessions, backend: Backend, metrics: Metrics, most: int) -> None:
        """Answer with a model; at most ``most`` requests at once."""
        self._sessions, self._backend, self._metrics, self._most = sessions, backend, metrics, most
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.running.set_function(lambda: self._running)

    async def close(self) -> None:
        """Wait for the requests under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def answer(self, ask: Ask, *, stream: bool) -> AsyncGenerator[Event]:
        """Yield the id of the session, then pieces of the answer, and at the end its body.

        Raises:
            ApiError: The request cannot be answered.
        """
        if self._running >= self._most:
            raise ApiError(
                429,
                f"{self._most} requests are under way, the most allowed; try again in a moment",
                "too_many_concurrent_requests",
                {"Retry-After": "1"},
            )
        events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        task = asyncio.create_task(self._run(ask, stream, events))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._running += 1
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, dict):
                    return
        finally:
            self._running -= 1
            task.cancel()

    async def _run(self, ask: Ask, stream: bool, events: asyncio.Queue[Event | Exception]) -> None:
        try:
            async with self._sessions.of(ask) as found:
                if isinstance(found, tuple):
                    events.put_nowait(await self._go_on(ask, *found, stream, events))
                else:
                    events.put_nowait(found.id)
                    body: dict[str, Any] = json.loads(found.answer)
                    events.put_nowait(str(body["choices"][0]["message"]["content"]))
                    events.put_nowait(body)
        except asyncio.CancelledError:
            events.put_nowait(ApiError(503, STOPPING, "stopping"))
            raise
        except Exception as error:  # told to whoever waits for the answer
            events.put_nowait(error)

    async def _go_on(
        self,
        ask: Ask,
        session: Session,
        messages: Sequence[Message],
        stream: bool,
        events: asyncio.Queue[Event | Exception],
    ) -> dict[str, Any]:
        """Take in new messages, let the model answer, save; return the body of the answer."""
        start = time.perf_counter()
        turns = [message.turn() for message in messages]
        done = await self._sessions.add(session, turns, read=ask.memory)
        context = session.memory.context(ASSISTANT, reads=ask.memory)
        roles = [*json.loads(session.stored.roles), *(message.role for message in messages)][-len(context.window) :]
        window = list(zip(roles, context.window, strict=True))
        prompt = Prompt(ask.system, context.reads, window, ASSISTANT, turns, ask.options, stream)
        asked = time.perf_counter()
        id = session.stored.id
        events.put_nowait(id)
        written: Written | None = None
        async for piece in self._backend.write(prompt):
            if isinstance(piece, str):
                events.put_nowait(piece)
            else:
                written = piece
        if written is None:
            raise ApiError(502, "the model wrote nothing", "model_error")
        told = time.perf_counter()
        answer = Message(ASSISTANT, ASSISTANT, written.text)
        done += await self._sessions.add(session, [answer.turn()], read=ask.memory)
        full = written.system + session.stored.tokens + written.new
        body = await self._sessions.save(
            session,
            [*messages, answer],
            tokens=written.new + written.answer,
            request=ask.digest,
            answer=lambda: self._body(session, done, context.reads, written, full),
        )
        self._count(done, written, full)
        self._metrics.upstream.observe(told - asked)
        self._metrics.overhead.observe(time.perf_counter() - start - (told - asked))
        return body

    def _body(
        self, session: Session, done: Sequence[Operations], reads: Sequence[str], written: Written, full: int
    ) -> dict[str, Any]:
        prompt, completion = written.usage or (written.sent, written.answer)
        return {
            "id": f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._backend.name,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": ASSISTANT, "content": written.text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": written.finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
            "memory": {
                "session": session.stored.id,
                "turns": session.memory.turns,
                "operations": [one.as_json() for one in done],
                "slots": slots_of(session.memory),
                "tokens_sent": written.sent,
                "tokens_full_history": full,
                "reads": list(reads),
                "left_out": written.left_out,
            },
        }

    def _count(self, done: Sequence[Operations], written: Written, full: int) -> None:
        metrics = self._metrics
        metrics.turns.inc(len(done))
        metrics.writes.inc(sum(one.write > 0 for one in done))
        metrics.superseded.inc(sum(one.superseded is not None for one in done))
        metrics.reads.inc(sum(len(one.reads) for one in done))
        metrics.tokens_sent.inc(written.sent)
        metrics.tokens_full.inc(full)


async def chunks(first: str, events: AsyncGenerator[Event], model: str, *, usage: bool) -> AsyncGenerator[str]:
    """Yield an answer as server-sent events in OpenAI's form; the last chunk carries ``memory``.

    Args:
        first: The first piece of the answer, or blank.
        events: What follows.
        model: Name of the model.
        usage: Whether the client wants to know how many tokens there were.
    """
    base = {"id": f"chatcmpl-{uuid4().hex}", "object": "chat.completion.chunk", "created": int(time.time())}
    base |= {"model": model}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**base, "choices": [choice], **more})

    try:
        async with aclosing(events):
            yield chunk({"role": ASSISTANT, "content": first})
            async for event in events:
                if isinstance(event, str):
                    yield chunk({"content": event})
                    continue
                memory = {"memory": event["memory"]}
                yield chunk({}, event["choices"][0]["finish_reason"], **({} if usage else memory))
                if usage:
                    yield _event({**base, "choices": [], "usage": event["usage"], **memory})
                yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body())
    except Exception:  # the status has been sent already
        logger.exception("a streamed answer failed")
        yield _event(ApiError(500, "the server failed; its log says why", "internal_error").body())


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
