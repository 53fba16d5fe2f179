"""Every way of scoring the same steps, side by side and in turns."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from bench.forward import Forward, Request, batches, best_budget, run, tokenize, ways
from bench.models import PlainModel, check_same, matrix_rate, model_flops
from bench.play import Played, Recording, World, fresh_encoder, in_turns, play, play_plainly, record
from stm_rl.errors import StmError
from stm_rl.lm import CausalLM, ScoringEngine
from stm_rl.lm.cache import ScoreCache
from stm_rl_agents import Agent
from stm_rl_envs.vector import MemoryVectorEnv

MOST_SEQUENCES = 4096
"""Sequences of a round that go through the bare forward passes."""
FIRST_BARE, FIRST_WARM = 10**6, 2 * 10**6
"""First transcripts of the bare forward passes and of the warm-up, which no environment plays."""
PLAIN, KINDER = "plain loop, a call every step", "plain loop, a call where something is read"
FIRST, KEPT = "first sight", "first sight, scores kept on disk"
REPEAT, DISK = "repeat epoch, scores in memory", "repeat epoch, scores on disk"
AT_ONCE, STEPWISE = "engine, all requests at once", "engine, step by step"

PARTS = 4
"""Turns that each way takes with the requests of a round."""

Row = dict[str, float]
"""Figures of one way in one round: ``seconds``, and how many ``steps``, ``scores`` and ``tokens`` it did in them."""


@dataclass
class Sides:
    """Measures every way in rounds.

    Args:
        world: The environments.
        lm: The language model.
        agent: Decides the actions, which are then the same for all.
        seconds: How long the plain loop goes on in each round.

    Attributes:
        rounds: The rows of each round by way.
        missing: Why a way could not be measured.
        peaks: Peak memory in bytes by way.
        difference: Largest difference of scores found, in nats.
        contexts: Lengths in tokens of the sequences of the last round.
        matrix_rates: Operations a second of large matrix products, in each round.
        cores: How many CPU cores the process had, in each round; on a busy machine fewer than it has threads.
    """

    world: World
    lm: CausalLM
    agent: Agent
    seconds: float
    rounds: list[dict[str, Row]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    difference: float = 0.0
    contexts: dict[str, float] = field(default_factory=dict)
    matrix_rates: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plain = PlainModel(self.lm)
        self.exact = self.lm.model.dtype == torch.float32
        self.device = self.lm.model.device.type
        self.budgets: dict[str, int] = {}

    def warm_up(self) -> None:
        """Play once with the engine and call the plain model: nothing shall be done for the first time by the clock."""
        recording = record(self.world, self.agent, FIRST_WARM)
        with self._peak(FIRST):
            in_turns(play(self._vector(ScoringEngine(self.lm)), recording, Played(recording)))
        for asked in recording.requests[-8:]:
            with self._peak(PLAIN):
                self.plain.score([context for context, _ in asked[:2]], [target for _, target in asked[:2]])

    def measure(self) -> None:
        """Add a round."""
        number = len(self.rounds)
        used, begin = time.process_time(), time.perf_counter()
        rows: dict[str, Row] = {}
        self.rounds.append(rows)
        self._environments(record(self.world, self.agent, number * self.world.num_envs), rows)
        self._requests(record(self.world, self.agent, FIRST_BARE + number * self.world.num_envs), rows, number)
        self.matrix_rates.append(matrix_rate(self.device, str(self.lm.model.dtype).removeprefix("torch.")))
        self.cores.append((time.process_time() - used) / (time.perf_counter() - begin))

    # Environments.

    def _environments(self, recording: Recording, rows: dict[str, Row]) -> None:
        """Play a recording in every way."""
        sequences = tokenize(self.plain, _distinct(recording.requests))
        lengths = [len(ids) for ids in sequences.ids]
        self.contexts = {
            "mean_tokens": float(np.mean(lengths)),
            "longest_tokens": float(max(lengths)),
            "mean_target_tokens": float(np.mean(sequences.counts)),
        }
        found = {name: Played(recording) for name in (FIRST, KEPT, REPEAT, DISK, PLAIN)}
        scalar = self.world.scalar(ScoringEngine(self.plain, cache_size=0), fresh_encoder())
        first = self._vector(ScoringEngine(self.lm))
        with tempfile.TemporaryDirectory() as folder:
            caches = [ScoreCache(folder), ScoreCache(folder)]
            kept, disk = (self._vector(ScoringEngine(self.lm, cache=cache)) for cache in caches)
            in_turns(
                play(first, recording, found[FIRST]),
                play(kept, recording, found[KEPT]),
                play_plainly(scalar, self.plain, recording, self.seconds, found[PLAIN]),
            )
            caches[0].close()
            in_turns(play(first, recording, found[REPEAT]), play(disk, recording, found[DISK]))
            caches[1].close()
        for name in (FIRST, KEPT, REPEAT, DISK):
            played = found[name]
            # In a repeat epoch all scores of the first one are known: to the environment, or to the engine.
            scores = found[FIRST].counts["requests"] if name in (REPEAT, DISK) else played.counts["computed"]
            rows[name] = {"steps": played.steps, "seconds": played.seconds, "scores": scores, **played.counts}
            if name in (FIRST, KEPT):
                flops = model_flops(self.lm.model, lengths, sequences.counts)
                rows[name] |= {"tokens": sequences.tokens, "flops": flops}
            elif played.counts["computed"]:
                raise StmError(f"{name}: {played.counts['computed']:.0f} scores were computed; expected none")
        rows[PLAIN], rows[KINDER] = _plain_rows(found[PLAIN])
        for name, played in found.items():
            self._same(played.gains, found[FIRST].gains, f"gains of {name} and of {FIRST}")

    def _vector(self, engine: ScoringEngine) -> MemoryVectorEnv:
        return self.world.vector(engine, fresh_encoder())

    # Requests alone.

    def _requests(self, recording: Recording, rows: dict[str, Row], number: int) -> None:
        """Score the same requests with the engine and with bare forward passes, a part of them in each turn."""
        steps = _some([asked for asked in recording.requests if asked])
        distinct = _distinct(steps)
        sequences = tokenize(self.plain, distinct)
        forwards: dict[str, Forward] = {}
        for name, forward in ways().items():
            if isinstance(forward, str):
                self.missing[name] = forward
                continue
            forwards[name] = forward
            if name not in self.budgets:
                self.budgets[name] = best_budget(forward, self.lm.model, sequences)
        names = [AT_ONCE, STEPWISE, *forwards]
        seconds = dict.fromkeys(names, 0.0)
        scores: dict[str, list[float]] = {name: [] for name in names}
        engines = {name: ScoringEngine(self.lm) for name in (AT_ONCE, STEPWISE)}
        known = 0
        for part in range(min(PARTS, len(steps))):
            some = steps[part * len(steps) // PARTS : (part + 1) * len(steps) // PARTS]
            last = len(_distinct(steps[: (part + 1) * len(steps) // PARTS]))
            new, tokens = distinct[known:last], sequences.part(known, last)
            known = last
            turn = (number + part) % len(names)
            for name in names[turn:] + names[:turn]:
                if not new:
                    continue
                with self._peak(name):
                    if name in engines:
                        asked = some if name == STEPWISE else [new]
                        took, values = _score(engines[name], asked, new)
                    else:
                        ready = batches(tokens, self.budgets[name], self.lm.model.device)
                        took, values = run(forwards[name], self.lm.model, ready, len(new))
                seconds[name] += took
                scores[name] += values.tolist()
        flops = model_flops(self.lm.model, [len(ids) for ids in sequences.ids], sequences.counts)
        done: Row = {"scores": len(distinct), "tokens": sequences.tokens, "flops": flops}
        for name in names:
            rows[name] = {"seconds": seconds[name], **done}
            self._same(np.array(scores[name]), np.array(scores[AT_ONCE]), f"scores of {name} and of {AT_ONCE}")

    # What all have in common.

    def _same(self, a: NDArray[np.float64], b: NDArray[np.float64], what: str) -> None:
        known = np.isfinite(a) & np.isfinite(b)
        self.difference = max(self.difference, check_same(a[known], b[known], what, self.exact))

    @contextmanager
    def _peak(self, name: str) -> Iterator[None]:
        """Note the peak memory of a way: of the GPU, or else of the process while only the engine has run in it."""
        if self.device != "cuda":
            yield
            if not self.peaks:
                self.peaks[name] = process_peak()
            return
        torch.cuda.reset_peak_memory_stats()
        yield
        self.peaks[name] = max(self.peaks.get(name, 0), torch.cuda.max_memory_allocated())

    def utilisation(self, name: str) -> list[float]:
        """Return a way's operations as a share of the rate of matrix products, in each round."""
        rows = [row[name] for row in self.rounds]
        return [row["flops"] / row["seconds"] / rate for row, rate in zip(rows, self.matrix_rates, strict=True)]


def process_peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _distinct(steps: Sequence[Sequence[Request]]) -> list[Request]:
    found = list(dict.fromkeys(request for asked in steps for request in asked))
    if not found:
        raise StmError("the agent read nothing, so there is nothing to score; play longer episodes")
    return found


def _score(
    engine: ScoringEngine, steps: Sequence[Sequence[Request]], new: Sequence[Request]
) -> tuple[float, NDArray[np.float64]]:
    """Return how long the engine takes for the requests of some steps, and the scores of the new ones among them."""
    begin = time.perf_counter()
    for asked in steps:
        engine.score([context for context, _ in asked], [target for _, target in asked])
    seconds = time.perf_counter() - begin
    return seconds, engine.score([context for context, _ in new], [target for _, target in new])


def _some(steps: list[list[Request]]) -> list[list[Request]]:
    """Return steps spread evenly over an episode, as many as make about :data:`MOST_SEQUENCES` requests."""
    total = sum(map(len, steps))
    count = min(len(steps), max(1, len(steps) * MOST_SEQUENCES // max(total, 1)))
    return [steps[number] for number in np.unique(np.linspace(0, len(steps) - 1, count).astype(int))]


def _plain_rows(played: Played) -> tuple[Row, Row]:
    counts = played.counts
    every: Row = {
        "steps": played.steps,
        "seconds": played.seconds,
        "scores": 2 * counts["calls"],
        "tokens": counts["tokens"],
    }
    kinder: Row = {
        "steps": played.steps,
        "seconds": played.seconds - counts["needless_seconds"],
        "scores": 2 * (counts["calls"] - counts["needless_calls"]),
        "tokens": counts["tokens"] - counts["needless_tokens"],
    }
    return every, kinder
