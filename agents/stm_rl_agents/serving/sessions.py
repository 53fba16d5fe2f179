"""Sessions: in RAM while they are used, on disk always, and each used by one request at a time."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import uuid4

from stm_rl.errors import StmError
from stm_rl.transcript import Turn
from stm_rl_agents.base import Agent
from stm_rl_agents.serving.errors import ApiError
from stm_rl_agents.serving.history import Ask, Message, digests
from stm_rl_agents.serving.metrics import Metrics
from stm_rl_agents.serving.session import LiveSession, Operations
from stm_rl_agents.serving.settings import ServeSettings
from stm_rl_agents.serving.store import Store, Stored
from stm_rl_agents.serving.worker import Locks, Worker

T = TypeVar("T")
CHUNK = 16
"""Turns of a long history taken in before others have their turn."""
Key = tuple[str, str]
"""Owner and id of a session."""


@dataclass(slots=True)
class Session:
    """A session that one request uses.

    Attributes:
        memory: Its memory, which goes on turn by turn.
        stored: It as it is on disk.
    """

    memory: LiveSession
    stored: Stored


class Sessions:
    """All sessions of a server.

    A session is taken out of RAM while a request uses it and put back when it has been saved. So whatever goes wrong
    in between, the next request finds it as it was after the last answer that was saved.
    """

    def __init__(self, settings: ServeSettings, agent: Agent, metrics: Metrics) -> None:
        """Open the file of sessions.

        Raises:
            StmError: It cannot be used, or agent and settings do not go together.
        """
        self.settings, self.agent, self.metrics = settings, agent, metrics
        memory = settings.memory
        LiveSession(agent, memory)  # an agent that does not fit is an error before the first request
        sizes = {"slots": memory.slots, "window": memory.window, "reads": memory.reads}
        self._store = Store(settings.database, sizes)
        self._disk = Worker("store", metrics.store.observe)
        self._policy = Worker("policy", metrics.policy.observe)
        self._live: OrderedDict[Key, Session] = OrderedDict()
        self._locks = Locks()
        metrics.live.set_function(lambda: len(self._live))

    async def close(self) -> None:
        """Wait for what is under way and close the file."""
        for worker in (self._policy, self._disk):
            await asyncio.to_thread(worker.close)
        self._store.close()

    async def count(self) -> int:
        """Return how many sessions are on disk."""
        return await self._disk(self._store.count)

    # Finding the session of a request.

    @asynccontextmanager
    async def of(self, ask: Ask) -> AsyncIterator[tuple[Session, tuple[Message, ...]] | Stored]:
        """Hold the session of a request; give it and its new messages, or what answered the same request before."""
        while True:
            id = ask.session or await self._find(ask) or uuid4().hex
            async with self._locks.hold((ask.owner, id)):
                session = await self._take(ask.owner, id)
                if session is None:
                    yield await self._make(ask, id), ask.messages
                    return
                stored = session.stored
                if stored.request == ask.digest:
                    self._put(session)
                    yield stored
                    return
                if ask.session is not None:
                    try:
                        new = ask.new(stored.messages, stored.digest)
                    except ApiError:
                        self._put(session)
                        raise
                    yield session, new
                    return
                if stored.digest in ask.histories:
                    yield session, ask.messages[ask.histories[stored.digest] :]
                    return
                self._put(session)  # another request moved it on since it was found; look again

    async def _find(self, ask: Ask) -> str | None:
        """Return the session that goes on with a request that names none, or that has answered it."""

        def find() -> str | None:
            histories = list(ask.histories)
            known = self._store.answered(ask.owner, ask.user, ask.digest) if ask.again or histories else None
            if known and ask.again:
                return known
            return (self._store.following(ask.owner, ask.user, histories) if histories else None) or known

        return await self._disk(find)

    async def _make(self, ask: Ask, id: str) -> Session:
        if deleted := await self._disk(self._make_room, ask.owner):
            self._live.pop((ask.owner, deleted), None)
        memory = await self._policy(LiveSession, self.agent, self.settings.memory)
        now = time.time()
        return Session(memory, Stored(ask.owner, id, ask.user, 0, b"", "[]", 0, 0, "", b"", "", now, now))

    def _make_room(self, owner: str) -> str | None:
        """Delete the least recently used session of an owner who has as many as may be; return its id.

        Raises:
            ApiError: All have been used lately.
        """
        if self._store.count(owner) < self.settings.max_sessions:
            return None
        oldest = self._store.oldest(owner, time.time() - self.settings.keep_seconds)
        if oldest is None:
            raise ApiError(
                429,
                f"there are {self.settings.max_sessions} sessions, the most allowed, and all were used in the last "
                f"{self.settings.keep_seconds:.0f} seconds; delete some: DELETE /v1/sessions/ID",
                "too_many_sessions",
                {"Retry-After": "60"},
            )
        self._store.delete(owner, oldest)
        self.metrics.deleted.inc()
        return oldest

    async def _take(self, owner: str, id: str) -> Session | None:
        """Return a session, out of RAM or restored from disk; its lock is held."""
        if live := self._live.pop((owner, id), None):
            return live
        stored = await self._disk(self._store.get, owner, id)
        return Session(await self._policy(self._restore, stored), stored) if stored else None

    def _restore(self, stored: Stored) -> LiveSession:
        return LiveSession.restore(self.agent, self.settings.memory, json.loads(stored.state))

    def _put(self, session: Session) -> None:
        self._live[session.stored.owner, session.stored.id] = session
        while len(self._live) > self.settings.live_sessions:
            self._live.popitem(last=False)

    # Going on.

    async def add(self, session: Session, turns: Sequence[Turn], *, read: bool) -> list[Operations]:
        """Let the agent act on turns that have arrived.

        Raises:
            ApiError: It cannot take one in.
        """
        done: list[Operations] = []
        try:
            for start in range(0, len(turns), CHUNK):
                part = turns[start : start + CHUNK]
                done += await self._policy(lambda part=part: [session.memory.add(turn, read=read) for turn in part])
        except StmError as error:
            raise ApiError(400, f"the memory cannot take in a message ({error})", "message_refused") from error
        return done

    async def save(
        self,
        session: Session,
        messages: Sequence[Message],
        *,
        tokens: int,
        request: bytes,
        answer: Callable[[], dict[str, Any]],
    ) -> dict[str, Any]:
        """Save a session with the messages it has taken in, the answer last; return the answer once it is on disk.

        Args:
            session: The session.
            messages: The messages.
            tokens: How many tokens their turns have.
            request: Digest of the request.
            answer: Makes the answer, with the session as it is now.
        """

        def write() -> tuple[Stored, dict[str, Any]]:
            old, body = session.stored, answer()
            roles = [*json.loads(old.roles), *(message.role for message in messages)]
            stored = replace(
                old,
                messages=old.messages + len(messages),
                digest=digests(messages, old.digest)[-1],
                roles=json.dumps(roles[-self.settings.memory.window :]),
                turns=session.memory.turns,
                tokens=old.tokens + tokens,
                state=json.dumps(session.memory.state()),
                request=request,
                answer=json.dumps(body),
                used=time.time(),
            )
            self._store.save(stored)
            return stored, body

        stored, body = await self._disk(write)
        self._put(Session(session.memory, stored))
        return body

    # Looking and deleting.

    async def page(self, owner: str, after: str, limit: int) -> list[tuple[str, int, float, float]]:
        """Return id, turns, and times of making and last use of sessions; see :meth:`Store.page`."""
        return await self._disk(self._store.page, owner, after, limit)

    async def look(self, owner: str, id: str, see: Callable[[LiveSession], T]) -> T:
        """Return what ``see`` finds in the memory of a session as it is on disk.

        Raises:
            ApiError: There is no such session.
        """
        stored = await self._disk(self._store.get, owner, id)
        if stored is None:
            raise _missing(id)
        return await self._policy(lambda: see(self._restore(stored)))

    async def change(self, owner: str, id: str, change: Callable[[LiveSession], None]) -> None:
        """Change the memory of a session, and forget its last answer, which may tell what is deleted now.

        Raises:
            ApiError: There is no such session.
        """
        async with self._locks.hold((owner, id)):
            session = await self._take(owner, id)
            if session is None:
                raise _missing(id)
            await self._policy(change, session.memory)

            def write() -> Stored:
                state = json.dumps(session.memory.state())
                stored = replace(session.stored, state=state, request=b"", answer="", used=time.time())
                self._store.save(stored)
                return stored

            self._put(Session(session.memory, await self._disk(write)))

    async def delete(self, owner: str, id: str) -> None:
        """Delete a session.

        Raises:
            ApiError: There is no such session.
        """
        async with self._locks.hold((owner, id)):
            self._live.pop((owner, id), None)
            if not await self._disk(self._store.delete, owner, id):
                raise _missing(id)


def slots_of(memory: LiveSession) -> list[dict[str, Any] | None]:
    """Return what each slot holds, as JSON values."""
    return [None if slot is None else slot.as_json() for slot in memory.slots()]


def _missing(id: str) -> ApiError:
    return ApiError(404, f"there is no session {id}; GET /v1/sessions lists them", "session_not_found")
