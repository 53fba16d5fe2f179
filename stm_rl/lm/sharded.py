"""One language model on several processes: process 0 runs the command, the others score for it.

``accelerate launch --num_processes N -m stm_rl.cli ...`` starts the processes, each with a GPU of its own where there
are any. Process 0 is the driver: environments, agents and training are there and nowhere else. The others are scoring
workers: they load the models that the driver loads and do their share of every batch.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.lm.protocol import LanguageModel
from stm_rl.lm.team import COUNTERS, Call, Load, Team

LEAST = 2
"""Requests a process below which the driver scores a batch alone."""


class ShardedLM:
    """A language model that every process of a command has a copy of; see :class:`~stm_rl.lm.protocol.LanguageModel`.

    ``score``, ``embed`` and ``generate`` divide their texts among the processes and return the results in order;
    ``count_tokens`` and all other attributes are those of the driver's own copy.

    Attributes:
        tokens, padding, reused, truncated: Sums over the copies, of what they count.
    """

    def __init__(self, lm: LanguageModel, number: int, team: Team) -> None:
        """Share ``lm``, the driver's copy of the model with this number."""
        self.lm, self.number, self.team = lm, number, team
        self.id, self.max_tokens = lm.id, lm.max_tokens
        self.tokens = self.padding = self.reused = self.truncated = 0
        self._counts: list[dict[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["lm"], name)

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(target | context) in nats, shape ``(n,)``."""
        return np.array(self._shared("score", contexts, targets), np.float64)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape ``(n, d)``."""
        return np.array(self._shared("embed", texts), np.float32)

    def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
        """Continue each context until the end of its line or ``max_new_tokens`` tokens."""
        return list(self._shared("generate", contexts, max_new_tokens=max_new_tokens))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has."""
        return self.lm.count_tokens(texts)

    def _shared(self, method: str, *texts: Sequence[str], **options: Any) -> Sequence[Any]:
        """Return what ``method`` gives for each text."""
        result: Any
        if len(texts[0]) < LEAST * self.team.size or len({len(column) for column in texts}) > 1:
            result = getattr(self.lm, method)(*texts, **options)  # which also says what does not fit together
        else:
            rows = shares(texts, self.team.size)
            columns = [tuple([column[row] for row in own] for column in texts) for own in rows]
            answers = self.team.ask([Call(self.number, method, own, options) for own in columns])
            self._counts = [answer.counts for answer in answers[1:]]
            result = [None] * len(texts[0])
            for own, answer in zip(rows, answers, strict=True):
                for row, value in zip(own, answer.value, strict=True):
                    result[row] = value
        for name in COUNTERS:
            total = getattr(self.lm, name, 0) + sum(counts[name] for counts in self._counts)
            setattr(self, name, total)
        return result  # type: ignore[no-any-return]


def shares(texts: Sequence[Sequence[str]], count: int) -> list[list[int]]:
    """Divide requests into ``count`` shares of about equal length, in letters.

    Requests that begin alike stay together, since a model computes what they have in common once.

    Args:
        texts: Columns of ``n`` texts each; a request is a row of them.
        count: How many shares.

    Returns:
        The rows of each share; every row is in one.
    """
    rows = sorted(range(len(texts[0])), key=lambda row: [column[row] for column in texts])
    lengths = np.array([1 + sum(len(column[row]) for column in texts) for row in rows], np.float64)
    middles = np.cumsum(lengths) - lengths / 2
    owners = (middles * count / lengths.sum()).astype(np.int64)
    return [[rows[at] for at in np.flatnonzero(owners == owner)] for owner in range(count)]


_team: Team | None = None
"""The processes of this command; none with a single process. Only the driver's is here."""


def load_shared(load: Callable[..., LanguageModel], name: str, *, device: str, **options: Any) -> LanguageModel:
    """Return ``load(name, device=device, **options)``, or a :class:`ShardedLM` if scoring workers are there.

    Args:
        load: Loads a model; a function of a module, since workers import it.
        name: The model's name.
        device: A torch device; ``cuda`` and ``auto`` are the GPU of each process.
        options: Other arguments of ``load``.

    Raises:
        StmError: The model cannot be loaded, or all processes would load it on one GPU.
    """
    if _team is None:
        return load(name, device=device, **options)
    if ":" in device:
        raise StmError(
            f"the device is {device!r}, which every one of the {_team.size} processes would use; give 'cuda' or "
            "'auto', so that each takes its own"
        )
    number = len(_team.models)
    _team.ask([Load(number, load, name, {"device": device, **options}, torch.get_num_threads())] * _team.size)
    return ShardedLM(_team.models[number], number, _team)


def run(command: Callable[[], None]) -> None:
    """Run a command on process 0 of those that ``accelerate launch`` started, and score for it on the others.

    However the command ends, the workers end with it. A worker that dies, or does not answer for half an hour
    (:data:`~stm_rl.lm.team.TIMEOUT`), ends the command with a clear error.

    Args:
        command: What to run; models that it loads with :func:`load_shared` are shared.

    Raises:
        StmError: The processes cannot reach each other.
    """
    global _team
    team = Team()
    if team.rank:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver says when it is over
        try:
            team.serve()
        finally:
            team.close()
        return
    _team = team
    try:
        command()
    finally:
        _team = None
        team.close()
