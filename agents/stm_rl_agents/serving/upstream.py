"""An OpenAI-compatible server behind this one: it is sent window and reads, and nothing else reaches it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

import stm_rl.lm
from stm_rl.lm import EMBEDDED
from stm_rl_agents.serving.backends import Prompt, Written
from stm_rl_agents.serving.errors import ApiError

MOST_BYTES = 2**22
"""Most bytes of an answer of the upstream server."""
REMEMBERED = "Said earlier in this conversation, quoted, oldest first:"
"""In front of what was read."""
MALFORMED = (TypeError, ValueError, AttributeError, LookupError)
"""What reading an answer raises that is not in OpenAI's form."""


class Upstream:
    """Answers with a model of an OpenAI-compatible server.

    Redirects are not followed and no proxy of the environment is used: requests go to the address given and nowhere
    else. Tokens are counted with the tokenizer of the embedded model, so that those sent and those of the whole
    history can be compared; ``usage`` is what the server says.

    Args:
        url: Base address, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model there.
        key: Sent to the server as a bearer token; goes nowhere else.
        timeout: Seconds to wait for the next part of an answer.
        transport: For tests.
    """

    owner = "upstream"

    def __init__(
        self,
        url: str,
        model: str,
        key: str = "",
        timeout: float = 120.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = model
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            limits=httpx.Limits(max_connections=None),
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )
        self._tokenizer = Tokenizer.from_file(str(Path(stm_rl.lm.__file__).parent / EMBEDDED / "tokenizer.json"))

    async def write(self, prompt: Prompt) -> AsyncIterator[str | Written]:
        """Yield pieces of the answer; see :class:`stm_rl_agents.serving.backends.Backend`."""
        messages = messages_of(prompt)
        body: dict[str, Any] = {**prompt.options, "model": self.name, "messages": messages}
        if prompt.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        pieces, finish, usage = [], "stop", None
        async with _failures(), self._client.stream("POST", "chat/completions", json=body) as response:
            if response.status_code != 200:
                raise _refused(response.status_code)
            async for choice, counted in _events(response) if prompt.stream else _whole(response):
                usage = counted or usage
                finish = choice.get("finish_reason") or finish
                if piece := (choice.get("delta") or choice.get("message") or {}).get("content"):
                    pieces.append(str(piece))
                    yield pieces[-1]
        text = "".join(pieces)
        sent = self._count(message["content"] for message in messages)
        new = self._count(turn.text for turn in prompt.new)
        yield Written(text, str(finish), sent, self._count(prompt.system), new, self._count([text]), 0, usage)

    async def ready(self) -> bool:
        """Return whether the server answers at all."""
        try:
            async with self._client.stream("GET", "models", timeout=5.0) as response:
                return response.status_code < 500
        except httpx.HTTPError:
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _count(self, texts: Any) -> int:
        return sum(len(self._tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)


def messages_of(prompt: Prompt) -> list[dict[str, str]]:
    """Return chat messages: those of the system, one with what was read, and the turns of the window.

    A turn of somebody who is neither user nor assistant says who speaks.
    """
    messages = [{"role": "system", "content": text} for text in prompt.system]
    if prompt.reads:
        quoted = "\n".join([REMEMBERED, *(f"> {text}" for text in prompt.reads)])
        messages.append({"role": "system", "content": quoted})
    for role, turn in prompt.window:
        named = turn.speaker not in (role, "")
        messages.append({"role": role, "content": f"{turn.speaker}: {turn.text}" if named else turn.text})
    return messages


Event = tuple[Mapping[str, Any], tuple[int, int] | None]
"""A choice, and tokens of prompt and text if they are told."""


async def _whole(response: httpx.Response) -> AsyncIterator[Event]:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > MOST_BYTES:
            raise _malformed("is too long")
    yield _event(json.loads(content))


async def _events(response: httpx.Response) -> AsyncIterator[Event]:
    """Yield the events of a stream until it says that it is done.

    Raises:
        ApiError: It ends before, or is too long.
    """
    total, rest = 0, ""
    async for part in response.aiter_text():
        total += len(part)
        if total > 8 * MOST_BYTES:  # events are many times longer than what they carry
            raise _malformed("is too long")
        *lines, rest = (rest + part).split("\n")
        for text in lines:
            if not text.startswith("data:"):
                continue
            data = text[5:].strip()
            if data == "[DONE]":
                return
            yield _event(json.loads(data))
    raise _malformed("broke off")


def _event(value: Any) -> Event:
    if value.get("error"):
        raise _malformed("broke off with an error")
    counted = value.get("usage")
    usage = (int(counted["prompt_tokens"]), int(counted["completion_tokens"])) if counted else None
    return (value.get("choices") or [{}])[0], usage


@asynccontextmanager
async def _failures() -> AsyncIterator[None]:
    """Tell clients that something failed upstream, and not what: addresses and keys stay inside."""
    try:
        yield
    except httpx.TimeoutException:
        raise ApiError(504, "the upstream model did not answer in time; try again", "upstream_timeout") from None
    except httpx.HTTPError:
        raise ApiError(502, "the upstream model cannot be reached; try again later", "upstream_error") from None
    except MALFORMED:
        raise _malformed("is not in OpenAI's form") from None


def _refused(status: int) -> ApiError:
    if status in (400, 413, 422):
        hint = "; it does not understand an option, or the window is too long for it"
    elif status in (401, 403):
        hint = "; the server's own key for it is not valid"
    else:
        hint = "; try again later"
    return ApiError(502, f"the upstream model refused the request with status {status}{hint}", "upstream_error")


def _malformed(what: str) -> ApiError:
    return ApiError(502, f"the answer of the upstream model {what}; try again", "upstream_error")
