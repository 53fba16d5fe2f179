"""Work in threads that is never left half done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """One thread, which does one piece of work at a time.

    Args:
        name: Name of the thread.
        observe: Told how many seconds each piece took.
    """

    def __init__(self, name: str, observe: Callable[[float], None] = lambda seconds: None) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._observe = observe

    async def __call__(self, work: Callable[..., T], *args: Any) -> T:
        """Return what ``work`` returns. Who is cancelled meanwhile waits for its end: threads cannot be stopped."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._timed, work, args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.cancelled():
                await asyncio.wait([future])
            raise

    def close(self) -> None:
        """Wait for what is under way, and end the thread."""
        self._pool.shutdown(wait=True)

    def _timed(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        start = time.perf_counter()
        try:
            return work(*args)
        finally:
            self._observe(time.perf_counter() - start)


class Locks:
    """A lock for each key that is in use."""

    def __init__(self) -> None:
        self._locks: dict[Any, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: Any) -> AsyncIterator[None]:
        """Hold the lock of ``key``; others wait their turn."""
        lock, count = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, count + 1
        try:
            async with lock:
                yield
        finally:
            lock, count = self._locks[key]
            if count == 1:
                del self._locks[key]
            else:
                self._locks[key] = lock, count - 1
