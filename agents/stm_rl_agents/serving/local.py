"""A language model of stm-rl behind the server: contexts as in evaluation, and what waits is written together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from stm_rl.contexts import Contexts
from stm_rl.errors import StmError
from stm_rl.lm import PromptFormat, ScoringEngine
from stm_rl.lm.prompt import line
from stm_rl.prepare import SILENCE
from stm_rl.transcript import Turn
from stm_rl_agents.serving.backends import Prompt, Written
from stm_rl_agents.serving.errors import ApiError
from stm_rl_agents.serving.worker import Worker

TOGETHER = 32
"""Most answers written in one batch."""


class LocalModel:
    """Answers with a language model in this process: one line, the likeliest, as in evaluation.

    Args:
        engine: The model.
        max_new_tokens: Most tokens of an answer, unless a request says otherwise.
    """

    owner = "stm-rl"

    def __init__(self, engine: ScoringEngine, max_new_tokens: int) -> None:
        self.name = engine.lm.id
        self._engine, self._max_new_tokens = engine, max_new_tokens
        self._contexts = Contexts(PromptFormat(), engine.lm)
        self._worker = Worker("model")
        self._waiting: list[tuple[str, int, asyncio.Future[str]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, prompt: Prompt) -> AsyncIterator[str | Written]:
        """Yield the answer; see :class:`stm_rl_agents.serving.backends.Backend`.

        Temperature, seed and the like change nothing: a model of stm-rl writes the likeliest line.
        """
        options = prompt.options
        limit = int(options.get("max_completion_tokens") or options.get("max_tokens") or self._max_new_tokens)
        most = self._engine.lm.max_tokens // 2
        if limit > most:
            raise ApiError(
                400, f"max_tokens is {limit}; model {self.name} writes at most {most} at once", "too_many_tokens"
            )
        context, left_out, sent, system, new = await self._worker(self._lay_out, prompt, limit)
        written = await self._ask(context, limit)
        text, finish, counted, answer = await self._worker(self._finish, written, prompt, limit)
        yield text
        yield Written(text, finish, sent, system, new, answer, left_out, (sent, counted))

    async def ready(self) -> bool:
        """Return True: the model is in RAM."""
        return True

    async def close(self) -> None:
        """Wait for what is being written."""
        self._worker.close()

    def _lay_out(self, prompt: Prompt, limit: int) -> tuple[str, int, int, int, int]:
        """Return the context, how many turns were left out of it, and the tokens of it, its head and the new turns."""
        head = "".join(f"{text}\n" for text in prompt.system)
        system = self._count([head])[0]
        if system + limit >= self._engine.lm.max_tokens - 16:
            raise ApiError(
                400,
                f"the system messages have {system} tokens and the answer may have {limit}; model {self.name} reads "
                f"{self._engine.lm.max_tokens}: shorten them",
                "context_length_exceeded",
            )
        window = [line(turn) for _, turn in prompt.window]
        context, left_out = self._contexts(prompt.reads, window, prompt.speaker, "", limit + system)
        whole = head + context
        new = "".join(f"{line(turn)}\n" for turn in prompt.new)
        sent, added, cue = self._count([whole, new, f"{prompt.speaker}:"])
        return whole, left_out, sent, system + cue, added

    def _finish(self, written: str, prompt: Prompt, limit: int) -> tuple[str, str, int, int]:
        """Return the answer, why it ends, how many tokens were written, and those of it as a turn."""
        text = written.strip()
        text, stopped = _cut(text, prompt.options.get("stop"))
        text = text or SILENCE
        counted, answer = self._count([written, f"{line(Turn(text, prompt.speaker))}\n"])
        return text, "length" if counted >= limit and not stopped else "stop", min(counted, limit), answer

    def _count(self, texts: Sequence[str]) -> list[int]:
        known = iter(self._engine.lm.count_tokens([text for text in texts if text]))
        return [next(known) if text else 0 for text in texts]

    async def _ask(self, context: str, limit: int) -> str:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((context, limit, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_waiting())
        return str(await future)

    async def _write_waiting(self) -> None:
        """Write until nobody waits; those that ask for answers of the same length are written together."""
        while self._waiting:
            limit = self._waiting[0][1]
            batch = [one for one in self._waiting if one[1] == limit][:TOGETHER]
            self._waiting = [one for one in self._waiting if one not in batch]
            batch = [one for one in batch if not one[2].cancelled()]
            if not batch:
                continue
            outcome: Any
            try:
                outcome = await self._worker(self._engine.generate, [context for context, _, _ in batch], limit)
            except Exception as error:  # told to those who wait
                outcome = [_refused(error)] * len(batch)
            for (_, _, future), one in zip(batch, outcome, strict=True):
                if future.done():
                    continue
                if isinstance(one, Exception):
                    future.set_exception(one)
                else:
                    future.set_result(one)
        self._writing = None


def _refused(error: Exception) -> Exception:
    return ApiError(502, "the model could not answer", "model_error") if isinstance(error, StmError) else error


def _cut(text: str, stop: str | Sequence[str] | None) -> tuple[str, bool]:
    """Return a text up to the first of some words, and whether one was there."""
    words = [stop] if isinstance(stop, str) else stop or []
    ends = [place for word in words if (place := text.find(word)) >= 0]
    return (text[: min(ends)].rstrip(), True) if ends else (text, False)
