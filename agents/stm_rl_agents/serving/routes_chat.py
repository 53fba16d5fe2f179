"""``/v1/chat/completions`` and ``/v1/models``."""

from __future__ import annotations

import json
from contextlib import aclosing
from hashlib import blake2b
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Send

from stm_rl_agents.serving.backends import Backend
from stm_rl_agents.serving.chat import Chats, chunks
from stm_rl_agents.serving.errors import ApiError
from stm_rl_agents.serving.history import ASSISTANT, Ask, Message, digests
from stm_rl_agents.serving.schemas import ChatAnswer, ChatRequest, ErrorBody, ModelEntry, ModelList, SessionId
from stm_rl_agents.serving.settings import ServeSettings

SAMPLING = (
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "reasoning_effort",
    "response_format",
    "user",
)
"""Options of a request that the model is told."""
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 502, 503, 504)
}
"""Errors that requests may meet, for the description of the API."""


class Events(StreamingResponse):
    """Server-sent events; what makes them ends at once if the client goes away."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Send the events."""
        async with aclosing(self.body_iterator):  # type: ignore[type-var]  # it is a generator
            await super().stream_response(send)


def chat_routes(settings: ServeSettings, chats: Chats, backend: Backend) -> APIRouter:
    """Return the routes of chats."""
    routes = APIRouter(tags=["chat"], responses=REFUSALS)

    @routes.get("/v1/models")
    async def models() -> ModelList:
        """Say which model answers; requests may name any."""
        return ModelList(data=[ModelEntry(id=backend.name, created=0, owned_by=backend.owner)])

    streamed = {"description": "The answer; with `stream`, as events.", "content": {"text/event-stream": {}}}

    @routes.post("/v1/chat/completions", response_model=ChatAnswer, responses={200: streamed})
    async def chat(
        request: Request,
        body: ChatRequest,
        x_session_id: Annotated[SessionId | None, Header()] = None,
        idempotency_key: Annotated[str | None, Header(max_length=256)] = None,
        x_stainless_retry_count: Annotated[str | None, Header(max_length=16)] = None,
    ) -> Response:
        """Answer the last message from window and memory; the whole history may be sent, or new messages only."""
        again = idempotency_key is not None or x_stainless_retry_count not in (None, "0")
        ask = _ask(settings, request.state.owner, body, x_session_id, idempotency_key, again)
        events = chats.answer(ask, stream=bool(body.stream))
        session, first = "", ""
        try:
            async for event in events:  # whatever fails before the first piece has a status of its own
                if isinstance(event, dict):
                    await events.aclose()
                    return JSONResponse(event, headers={"X-Session-Id": session})
                if not session:
                    session = event
                elif body.stream:
                    first = event
                    break
        except BaseException:
            await events.aclose()
            raise
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return Events(chunks(first, events, backend.name, usage=usage), headers={"X-Session-Id": session})

    return routes


def _ask(
    settings: ServeSettings, owner: str, body: ChatRequest, header: str | None, key: str | None, again: bool
) -> Ask:
    """Return what sessions have to know of a request.

    Raises:
        ApiError: It is larger than allowed, or says two things at once, or nothing.
    """
    if header and body.session_id and header != body.session_id:
        raise ApiError(400, "X-Session-Id and session_id differ; give one of them", "two_sessions")
    if len(body.messages) > settings.max_messages:
        raise ApiError(
            413,
            f"the request has {len(body.messages)} messages; at most {settings.max_messages} are taken. Name a session "
            "(X-Session-Id) and send new messages only",
            "too_many_messages",
        )
    system, messages = [], []
    for number, message in enumerate(body.messages):
        text = message.text
        if len(text) > settings.max_characters:
            raise ApiError(
                413,
                f"message {number} has {len(text)} characters; at most {settings.max_characters} are taken",
                "message_too_long",
            )
        if message.role in ("system", "developer"):
            system.append(text)
        elif message.role != ASSISTANT and not text.strip():
            raise ApiError(400, f"message {number} is blank; write something", "blank_message")
        else:
            messages.append(Message(message.role, message.name or message.role, text))
    if not messages:
        raise ApiError(400, "there is no message of a user; add one", "no_new_message")
    session = header or body.session_id
    values = body.model_dump(mode="json", exclude={"stream", "stream_options"}, exclude_none=True)
    try:
        said = json.dumps([values, session, key], sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        raise ApiError(400, "the request holds what is no valid JSON: lone surrogates or NaN", "invalid_json") from None
    return Ask(
        owner,
        body.user or "",
        session,
        tuple(system),
        tuple(messages),
        tuple(digests(messages)),
        blake2b(said, digest_size=16).digest(),
        again,
        body.memory,
        {name: values[name] for name in SAMPLING if name in values},
    )
