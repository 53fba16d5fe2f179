"""Requests to a server that speaks OpenAI's protocol, and what can go wrong with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError

T = TypeVar("T")
Prompt = str | list[int]
"""A text or its token ids."""
Echo = tuple[list[str], list[float | None]]
"""The tokens of a prompt and their log-likelihoods in nats."""

AT_ONCE = 16
"""Most texts in one request."""
CHAT = "Continue the conversation with its next line. Write that line only, without the speaker's name."
"""What servers are told that only chat."""
MALFORMED = (TypeError, ValueError, AttributeError, LookupError)
"""What reading an answer raises that is not in OpenAI's form."""


class Server:
    """One model of a server: requests in parallel, tried again where that may help, and clear errors.

    A request that times out, or meets a server that is busy (status 408, 409, 429), broken (500 and up) or not there,
    is sent again after a pause that doubles each time, or as long as the server says. The key is sent to the server
    and goes nowhere else: not into messages, logs or names.

    Attributes:
        id: ``openai:MODEL@HOST``.
    """

    def __init__(self, model: str, url: str | None, timeout: float, retries: int, concurrency: int) -> None:
        """Prepare requests; none is sent yet. For the arguments see :class:`stm_rl.lm.remote.RemoteLM`."""
        try:
            import openai
        except ImportError as error:
            raise StmError("openai is not installed; run: pip install 'stm-rl[remote]'") from error
        if timeout <= 0 or retries < 0 or concurrency < 1:
            raise StmError(
                f"timeout is {timeout}, retries {retries} and concurrency {concurrency}; expected more than 0 seconds, "
                "at least 0 retries and at least 1 request"
            )
        url = url or os.environ.get("OPENAI_BASE_URL")
        key = os.environ.get("OPENAI_API_KEY")
        if not key and not url:
            raise StmError("there is no key for OpenAI; set OPENAI_API_KEY, or name a server: MODEL@http://host/v1")
        host = _host(url) if url else "api.openai.com"
        self.model, self.id = model, f"openai:{model}@{host}"
        self._openai, self._secret = openai, key or ""
        self._client = openai.OpenAI(api_key=key or "none", base_url=url, timeout=timeout, max_retries=retries)
        self._pool = ThreadPoolExecutor(concurrency, "remote")
        self._concurrency, self._at_once, self._chats = concurrency, AT_ONCE, False

    def close(self) -> None:
        """Close the connections; requests that wait are not sent."""
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def stated_length(self) -> int | None:
        """Return the context length that the server states (vLLM and SGLang do), if any."""
        with self._failures("list of models"):
            try:
                models = self._client.models.list().data
            except self._openai.NotFoundError:
                return None
            stated = {one.id: getattr(one, "max_model_len", None) for one in models}.get(self.model)
            return int(stated) if stated else None

    def echo(self, prompts: Sequence[Prompt]) -> list[Echo]:
        """Return the tokens of each prompt and their log-likelihoods; none where the server gives none."""
        size = max(min(-(-len(prompts) // self._concurrency), self._at_once), 1)
        return [echo for part in self._map(self._echo, _chunks(prompts, size)) for echo in part]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape ``(n, d)``."""
        parts = self._map(self._embed, _chunks(texts, AT_ONCE))
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def write(self, contexts: Sequence[str], prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        """Return the line that follows each prompt, or each context where the server only chats."""
        pairs = list(zip(contexts, prompts, strict=True))
        return self._map(lambda pair: self._write(pair[0], pair[1], max_new_tokens), pairs)

    def _map(self, work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        futures = [self._pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:  # after an error no more requests are sent
                future.cancel()

    def _echo(self, prompts: Sequence[Prompt]) -> list[Echo]:
        """Return the tokens of each prompt.

        One token more is always written, and left out here: some servers refuse to write none, vLLM writes one all
        the same, and llama-cpp-python writes without end.
        """
        prompt: Any = prompts[0] if len(prompts) == 1 else prompts
        with self._failures("scores"):
            try:
                answer = self._client.completions.create(
                    model=self.model, prompt=prompt, echo=True, logprobs=1, max_tokens=1, temperature=0
                )
            except self._openai.APIStatusError as error:
                if len(prompts) == 1 or error.status_code not in (400, 422, 500):
                    raise
                echoes = [echo for one in prompts for echo in self._echo([one])]
                self._at_once = 1  # this server takes one text at a time
                return echoes
            choices = sorted(answer.choices, key=lambda choice: choice.index)
            if len(choices) != len(prompts):
                raise ValueError(f"{len(choices)} answers to {len(prompts)} texts")
            written = int(answer.usage is not None and answer.usage.completion_tokens == len(choices))
            echoes = []
            for choice in choices:
                logprobs: Any = choice.logprobs
                tokens = getattr(logprobs, "tokens", None) or []
                values = getattr(logprobs, "token_logprobs", None) or []
                if len(tokens) != len(values):
                    raise ValueError(f"{len(tokens)} tokens and {len(values)} log-likelihoods")
                kept = max(len(tokens) - written, 0)
                echoes.append((tokens[:kept], values[:kept]))
            return echoes

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with self._failures("embeddings"):
            try:
                answer = self._client.embeddings.create(model=self.model, input=list(texts), encoding_format="float")
            except self._openai.APIStatusError as error:
                if error.status_code not in (400, 404, 405, 422, 501):
                    raise
                raise StmError(
                    f"{self.id} gives no embeddings ({self._reason(error)}); take another encoder, such as the default"
                ) from None
            return np.array([one.embedding for one in sorted(answer.data, key=lambda one: one.index)], np.float32)

    def _write(self, context: str, prompt: Any, max_new_tokens: int) -> str:
        limits: dict[str, Any] = {"model": self.model, "max_tokens": max_new_tokens, "temperature": 0}
        with self._failures("text"):
            if not self._chats:
                try:
                    answer = self._client.completions.create(prompt=prompt, stop=["\n"], **limits)
                    return str(answer.choices[0].text).split("\n")[0].strip()
                except self._openai.NotFoundError:
                    self._chats = True  # if it is the model that is not there, the next request says so
            messages: Any = [{"role": "system", "content": CHAT}, {"role": "user", "content": context}]
            chat = self._client.chat.completions.create(messages=messages, **limits)
            return str(chat.choices[0].message.content or "").strip().split("\n")[0].strip()

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except StmError:
            raise
        except (self._openai.OpenAIError, *MALFORMED) as error:
            raise self._failed(what, error) from None

    def _failed(self, what: str, error: Exception) -> StmError:
        where, reason = f"server {self._client.base_url}", self._reason(error)
        status = getattr(error, "status_code", 0)
        if status in (401, 403):
            return StmError(f"{where} refuses the key for model {self.model!r} ({reason}); check OPENAI_API_KEY")
        if status == 404:
            return StmError(f"{where} has no {what} of a model {self.model!r} ({reason}); check address and name")
        if isinstance(error, self._openai.APIConnectionError) or status in (408, 409, 429) or status >= 500:
            return StmError(
                f"{where} is down or too slow for model {self.model!r} ({reason}; retries: {self._client.max_retries});"
                " start it or wait, and run the same again: scores on disk are not asked for again, and training goes "
                "on from its checkpoint with --resume"
            )
        if isinstance(error, self._openai.APIStatusError):
            return StmError(
                f"{where} refuses to give {what} of model {self.model!r} ({reason}); for texts that are too long there "
                "are RemoteLM(..., max_tokens=...) and tokenizer=..."
            )
        return StmError(f"{where} does not give {what} of model {self.model!r} in OpenAI's form ({reason})")

    def _reason(self, error: Exception) -> str:
        """Return what went wrong in one line, without the key, which servers may repeat."""
        text = str(error)
        if isinstance(error, self._openai.APIConnectionError) and error.__cause__:
            text = f"{text} {error.__cause__}"
        if self._secret:
            text = text.replace(self._secret, "***")
        return f"{type(error).__name__}: {' '.join(text.split())[:200]}"


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _host(url: str) -> str:
    """Return host and port of an address, and its path if that is more than ``/v1``."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise StmError("the server's address is not valid; expected one such as http://localhost:8000/v1") from None
    if "@" in url:
        raise StmError("the server's address holds a user or password; put the key into OPENAI_API_KEY instead")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise StmError(
            f"the server's address is {url.split('?')[0]!r}; expected one such as http://localhost:8000/v1, with "
            "nothing after its path"
        )
    return parts.hostname + (f":{port}" if port else "") + parts.path.rstrip("/").removesuffix("/v1")
