"""Keepers that learn nothing: what simple rules recall at the same budget."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from heapq import heappush, heapreplace
from math import fsum, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.evaluation.recall import Held, Keeper, Measured, Stream
from stm_rl.evaluation.recall_optimum import Oracle
from stm_rl.features import STOP_WORDS, TURN_FEATURES, WORD, turn_features
from stm_rl.transcript import Turn

FloatArray = NDArray[np.float64]
Worth = Callable[[Sequence[Stream]], list[FloatArray]]
"""Gives the worth of each turn of each stream; each array of shape ``(T,)``."""

SEEDED = 5
"""How many seeds keepers that draw lots are played with."""


class KeepBest(Keeper):
    """Keeps the ``k`` turns worth most of those seen so far; among equals the newest.

    Args:
        name: Name in tables.
        worth: What a turn is worth.
    """

    def __init__(self, name: str, worth: Worth) -> None:
        self.name = name
        self.worth = worth

    def play(self, streams: Sequence[Stream], slots: int) -> list[Held]:
        """Return what is held at each check."""
        return [keep_best(stream, worth, slots) for stream, worth in zip(streams, self.worth(streams), strict=True)]


def keep_best(stream: Stream, worth: FloatArray, slots: int) -> Held:
    """Return what is held at each check by a memory that keeps the writable turns worth most."""
    memory: list[tuple[float, int]] = []
    values = worth.tolist()

    def write(turn: int) -> None:
        if len(memory) < slots:
            heappush(memory, (values[turn], turn))
        elif (values[turn], turn) > memory[0]:
            heapreplace(memory, (values[turn], turn))

    return play_stream(stream, write, lambda: (turn for _, turn in memory))


def play_stream(stream: Stream, write: Callable[[int], None], held: Callable[[], Iterable[int]]) -> Held:
    """Offer each writable turn of a stream to a memory, and look into it at each check.

    Args:
        stream: The stream.
        write: Is offered a turn as it arrives, and may put it into the memory.
        held: Returns what the memory holds.
    """
    writable = stream.writable.tolist()
    seen: list[frozenset[int]] = []
    first = 0
    for check in stream.checks:
        for turn in range(first, check.step + 1):
            if writable[turn]:
                write(turn)
        first = max(first, check.step + 1)
        seen.append(frozenset(held()))
    return seen


class RandomSlot(Keeper):
    """Draws a slot, or none, evenly for each turn."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def play(self, streams: Sequence[Stream], slots: int) -> list[Held]:
        """Return what is held at each check."""
        rng = np.random.default_rng(self.seed)

        def one(stream: Stream) -> Held:
            memory: dict[int, int] = {}
            drawn = rng.integers(slots + 1, size=len(stream)).tolist()

            def write(turn: int) -> None:
                if drawn[turn]:
                    memory[drawn[turn]] = turn

            return play_stream(stream, write, memory.values)

        return [one(stream) for stream in streams]


class NewestPerSubject(Keeper):
    """Keeps the newest turn of each subject; when there are more subjects than slots, those heard of last.

    The subject of a turn is its first word, or its first two if it begins with an article.
    """

    name = "newest-per-subject"

    def play(self, streams: Sequence[Stream], slots: int) -> list[Held]:
        """Return what is held at each check."""
        return [self._one(stream, slots) for stream in streams]

    def _one(self, stream: Stream, slots: int) -> Held:
        memory: dict[tuple[str, ...], int] = {}
        turns = stream.transcript.turns

        def write(turn: int) -> None:
            subject = subject_of(turns[turn].text)
            memory.pop(subject, None)
            if len(memory) == slots:
                memory.pop(next(iter(memory)))
            memory[subject] = turn

        return play_stream(stream, write, memory.values)


def subject_of(text: str) -> tuple[str, ...]:
    """Return the first word of a text in lower case, or its first two if it begins with an article."""
    words = [word.lower() for word in WORD.findall(text)[:2]]
    return tuple(words if words[:1] in (["the"], ["a"], ["an"]) else words[:1])


def _newest(streams: Sequence[Stream]) -> list[FloatArray]:
    return [np.arange(len(stream), dtype=float) for stream in streams]


def _oldest(streams: Sequence[Stream]) -> list[FloatArray]:
    return [-np.arange(len(stream), dtype=float) for stream in streams]


def _by_turn(worth: Callable[[Turn], float]) -> Worth:
    return lambda streams: [np.array([worth(turn) for turn in stream.transcript.turns], float) for stream in streams]


def _length(turn: Turn) -> float:
    return len(turn.text)


def _salience(turn: Turn) -> float:
    """Return names + 2 numbers + 1 in the first person - 1 for a question; at most 4 names and 4 numbers count."""
    values = dict(zip(TURN_FEATURES, turn_features(turn).tolist(), strict=True))
    return float(4 * values["names"] + 8 * values["numbers"] + values["first_person"] - values["question"])


def _lots(seed: int) -> Worth:
    def draw(streams: Sequence[Stream]) -> list[FloatArray]:
        rng = np.random.default_rng(seed)
        return [rng.random(len(stream)) for stream in streams]

    return draw


def _tf_idf(streams: Sequence[Stream]) -> list[FloatArray]:
    """Sum the inverse document frequencies of a turn's distinct words that are not stop words.

    Documents are the writable turns of the *other* streams of the same data set; the tasks of bAbI are data sets of
    their own. Of ``N`` such turns, ``f`` hold the word: its idf is log((1 + N) / (1 + f)).
    """
    words = [[_words(turn) for turn in stream.transcript.turns] for stream in streams]
    tasks = [stream.transcript.meta.get("task") for stream in streams]
    sizes = [int(stream.writable.sum()) for stream in streams]
    own = [
        Counter(word for turn in np.flatnonzero(stream.writable) for word in turns[turn])
        for stream, turns in zip(streams, words, strict=True)
    ]
    total: defaultdict[Any, Counter[str]] = defaultdict(Counter)
    documents: Counter[Any] = Counter()
    for task, counter, size in zip(tasks, own, sizes, strict=True):
        total[task].update(counter)
        documents[task] += size

    def worth(i: int) -> FloatArray:
        number, all_counts = documents[tasks[i]] - sizes[i], total[tasks[i]]
        idf = {w: log((1 + number) / (1 + all_counts[w] - own[i][w])) for turn in words[i] for w in turn}
        return np.array([fsum(idf[word] for word in turn) for turn in words[i]])  # the same in any order of words

    return [worth(i) for i in range(len(streams))]


def _words(turn: Turn) -> frozenset[str]:
    """Return the distinct words of a turn that are not stop words."""
    return frozenset(word.lower() for word in WORD.findall(turn.text)) - STOP_WORDS


def keepers(seed: int = 0) -> dict[str, list[Measured]]:
    """Return every keeper that learns nothing, those that draw lots with several seeds, and the oracle last."""
    seeds = range(seed, seed + SEEDED)
    listed: list[list[Measured]] = [
        [RandomSlot(s) for s in seeds],
        [KeepBest("fifo", _newest)],
        [KeepBest("reservoir", _lots(s)) for s in seeds],
        [KeepBest("first", _oldest)],
        [KeepBest("longest", _by_turn(_length))],
        [KeepBest("tf-idf", _tf_idf)],
        [KeepBest("salience", _by_turn(_salience))],
        [NewestPerSubject()],
        [Oracle()],
    ]
    return {group[0].name: group for group in listed}
