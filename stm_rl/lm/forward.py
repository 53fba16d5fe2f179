"""Running the forward passes of a model: how many tokens at once, on how many threads, and what if memory runs out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from stm_rl.errors import StmError

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

CPU_TOKENS = 1024
"""Tokens of a pass on a CPU: larger batches leave the cache and run slower."""
OTHER_TOKENS = 16_384
"""Tokens of a pass elsewhere, unless the memory is known."""
MOST_TOKENS = 65_536
"""Larger passes are no faster on any device."""
SHARE = 0.5
"""How much of the free memory a pass may take."""


class Budget:
    """How many tokens go through a model at once.

    On a GPU the first pass measures what a token needs; later ones take at most half of the memory that was free, so
    that several models fit on one GPU. When memory runs out all the same, the budget is halved, and the batch is done
    in halves.

    Attributes:
        tokens: Most tokens of a pass, padding included.
    """

    def __init__(self, device: torch.device, tokens: int | None = None) -> None:
        self.device = device
        self.tokens = tokens or (CPU_TOKENS if device.type == "cpu" else OTHER_TOKENS)
        self.known = tokens is not None or device.type != "cuda"

    def measure(self, tokens: int, run: Callable[[], object]) -> None:
        """Set the budget by the memory that a pass over ``tokens`` tokens needs, once."""
        if self.known:
            return
        self.known = True
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        run()
        needed = max(torch.cuda.max_memory_allocated(self.device) - before, 1) / tokens
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        self.tokens = int(min(max(SHARE * free / needed, CPU_TOKENS), MOST_TOKENS))

    def run(self, rows: Sequence[T], work: Callable[[Sequence[T]], R]) -> list[R]:
        """Return what ``work`` makes of the rows: of all together or, if memory runs out, of halves.

        Raises:
            StmError: The memory is not enough for a single row.
        """
        try:
            return [work(rows)]
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise StmError(
                    f"device {self.device} has not enough memory for a single context; take a smaller model, dtype "
                    "bfloat16, fewer reads or a smaller window"
                ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.tokens = max(self.tokens // 2, 1)
        logger.warning(
            "device %s ran out of memory: %d tokens at once from now on; the batch goes on in halves",
            self.device,
            self.tokens,
        )
        middle = len(rows) // 2
        return [*self.run(rows[:middle], work), *self.run(rows[middle:], work)]


class Workers:
    """Threads that run batches side by side on a CPU, each on one of torch's threads.

    Batches that do not wait for one another make better use of cores than one batch on several threads, whose every
    operation waits for the slowest of them; the more so if the cores are busy.
    """

    def __init__(self, device: torch.device) -> None:
        """Make no thread yet; elsewhere than on a CPU batches run one after the other."""
        self._device = device
        self._pool: ThreadPoolExecutor | None = None
        self._size = 0

    @property
    def parts(self) -> int:
        """How many batches run side by side: as many as torch is set to use threads here."""
        return torch.get_num_threads() if self._device.type == "cpu" else 1

    def map(self, work: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        """Return ``work`` of each task, in order."""
        threads = self.parts
        if threads == 1 or len(tasks) == 1:
            return [work(task) for task in tasks]
        if self._pool is None or self._size != threads:
            if self._pool is not None:
                self._pool.shutdown()
            self._pool, self._size = self._start(threads), threads
        return list(self._pool.map(work, tasks))

    def _start(self, threads: int) -> ThreadPoolExecutor:
        pool = ThreadPoolExecutor(threads, "stm-rl-lm")
        all_there = threading.Barrier(threads + 1)

        def begin(_: int) -> None:
            torch.get_num_threads()  # a thread takes over the number set last when first asked, so ask first
            torch.set_num_threads(1)  # of this thread alone
            all_there.wait()

        started = [pool.submit(begin, number) for number in range(threads)]
        all_there.wait()
        for future in started:
            future.result()
        torch.set_num_threads(threads)  # torch also keeps the number set last, for threads yet to come
        return pool
