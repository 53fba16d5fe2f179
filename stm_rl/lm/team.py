"""The processes of one command: a driver and scoring workers that do what it asks for.

Texts and scores are small, so they travel as objects over gloo, on GPUs too, which never makes a GPU wait.
torch.distributed pickles them; they go from one process of the command to another and are never read from a file.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from stm_rl.errors import StmError
from stm_rl.lm.protocol import LanguageModel

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another within a call, torch's own limit for gloo: then the other is given up."""
IDLE = timedelta(days=365)
"""How long a worker waits for the next call; it ends at once if the driver does."""
COUNTERS = ("tokens", "padding", "reused", "truncated")
"""What models count; see :class:`~stm_rl.lm.causal.CausalLM`."""


@dataclass(frozen=True, slots=True)
class Load:
    """Ask a worker to load a model and keep it under a number."""

    number: int
    load: Callable[..., LanguageModel]
    name: str
    options: dict[str, Any]
    threads: int


@dataclass(frozen=True, slots=True)
class Call:
    """Ask a worker to call a method of a model."""

    model: int
    method: str
    texts: tuple[list[str], ...]
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a task: a value, or what went wrong; and what the model has counted so far."""

    value: Any = None
    error: str = ""
    counts: dict[str, int] = field(default_factory=dict)


class Team:
    """The processes of one command, as each of them sees it; see :func:`stm_rl.lm.sharded.run`.

    Attributes:
        rank: Number of this process; 0 is the driver.
        size: How many there are.
        models: The models that were loaded here, by number.
    """

    def __init__(self) -> None:
        """Join the others.

        Raises:
            StmError: accelerate is not installed, or the others cannot be reached.
        """
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise StmError("accelerate is not installed; run: pip install 'stm-rl[multi-gpu]'") from error
        with _connected("cannot start"):
            state = PartialState(cpu=not torch.cuda.is_available(), backend="gloo", timeout=TIMEOUT)
            # A bell of its own, for an idle worker may wait for longer than a working one may take.
            self._bell: Any = torch.distributed.new_group(backend="gloo", timeout=IDLE)
        self.rank, self.size = int(state.process_index), int(state.num_processes)
        self.models: dict[int, LanguageModel] = {}
        self._lock = threading.Lock()
        self._in_step = True

    def ask(self, tasks: Sequence[Load | Call]) -> list[Answer]:
        """Have process ``i`` do ``tasks[i]``; return the answers in the same order. Only the driver may ask.

        Raises:
            StmError: A worker was lost, or could not do its task.
        """
        with self._lock:
            if not self._in_step:
                raise StmError("the scoring workers were lost or interrupted earlier; start the command again")
            self._in_step = False  # until all is done: who is interrupted on the way cannot go on
            failure: Exception | None = None
            answers: list[Any] = [None] * self.size
            with _connected("a scoring worker was lost"):
                self._ring(1)
                torch.distributed.scatter_object_list([None], [None, *tasks[1:]], src=0)
            try:
                own = self._do(tasks[0])
            except Exception as error:
                failure, own = error, Answer()
            with _connected("a scoring worker was lost"):
                torch.distributed.gather_object(None, answers, dst=0)
            self._in_step = True
        if failure is not None:
            raise failure
        for rank, answer in enumerate(answers[1:], 1):
            if answer.error:
                raise StmError(f"scoring worker {rank} of {self.size - 1}: {answer.error}")
        return [own, *answers[1:]]

    def serve(self) -> None:
        """Do what the driver asks for until it ends or is lost."""
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the driver shows one
        received: list[Any] = [None]
        try:
            while self._ring(0):
                torch.distributed.scatter_object_list(received, None, src=0)
                try:
                    answer = self._do(received[0])
                except Exception as error:
                    answer = Answer(error=str(error) if isinstance(error, StmError) else repr(error))
                torch.distributed.gather_object(answer, None, dst=0)
        except (RuntimeError, OSError) as error:
            logger.warning("scoring worker %d ends: process 0 is gone (%s)", self.rank, _first_line(error))

    def close(self) -> None:
        """Let the workers go, when they have done what another thread may have asked for."""
        with self._lock:
            if self.rank == 0 and self._in_step:
                with _connected("a scoring worker was lost"):
                    self._ring(0)
            self._in_step = False
            self._bell = None  # models that live on would keep its threads alive until Python ends, which aborts then
            torch.distributed.destroy_process_group()

    def _ring(self, value: int) -> int:
        """Tell the workers that there is something to do (1) or that it is over (0); return what the driver told."""
        bell = torch.tensor([value])
        torch.distributed.broadcast(bell, src=0, group=self._bell)
        return int(bell)

    def _do(self, task: Load | Call) -> Answer:
        if isinstance(task, Load):
            torch.set_num_threads(task.threads)
            self.models[task.number] = task.load(task.name, **task.options)
            return Answer()
        lm = self.models[task.model]
        value = getattr(lm, task.method)(*task.texts, **task.options)
        return Answer(value, counts={name: getattr(lm, name, 0) for name in COUNTERS})


@contextmanager
def _connected(what: str) -> Iterator[None]:
    """Say in one line what torch.distributed raises if a process cannot be reached."""
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        raise StmError(
            f"{what} ({_first_line(error)}); look above for what it said, such as too little memory, and start the "
            "command again: what was saved is kept"
        ) from error


def _first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"^\[\S+\] ", "", line)[:160]  # gloo begins with a line of its own source
