"""Environments stepped with the same transcripts and the same actions: a plain loop, and the engine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from bench.forward import Request
from bench.models import PlainModel
from stm_rl.encoders import Joined, LMEmbedding
from stm_rl.features import HashedWords
from stm_rl.lm import ScoringEngine, load_engine
from stm_rl_agents import Agent
from stm_rl_envs.vector import MemoryVectorEnv

TRANSCRIPTS = 10**8
"""Transcripts to choose from: all that the world has."""


@dataclass(frozen=True, slots=True)
class World:
    """Which environments are stepped.

    Attributes:
        env_id: Name in Gymnasium's registry.
        options: What they are made with.
        num_envs: How many.
    """

    env_id: str
    options: dict[str, Any]
    num_envs: int

    def vector(self, lm: Any, encoder: Any) -> MemoryVectorEnv:
        """Return them as one vector environment, each of which rests at the end of its episode."""
        options = self.options | {"lm": lm, "encoder": encoder, "episodes": TRANSCRIPTS, "autoreset": False}
        made = gym.make_vec(self.env_id, self.num_envs, vectorization_mode="vector_entry_point", **options)
        return made.unwrapped  # type: ignore[return-value]

    def scalar(self, lm: Any, encoder: Any) -> gym.Env[Any, Any]:
        """Return one of them as its user would make it."""
        return gym.make(self.env_id, lm=lm, encoder=encoder, episodes=TRANSCRIPTS, **self.options)


@dataclass(slots=True)
class Recording:
    """One episode of each environment, as it was played.

    Attributes:
        transcripts: Which transcript each environment plays.
        actions: Shape ``(steps, num_envs, 1 + reads)``; whatever, where an episode has ended.
        alive: Which environments were under way, shape ``(steps, num_envs)``.
        requests: What was asked of the language model in each step.
    """

    transcripts: list[int]
    actions: NDArray[np.int64]
    alive: NDArray[np.bool_]
    requests: list[list[Request]]


class Listener:
    """A language model that gives every text the same score, and remembers what it was asked."""

    id = "listener"
    max_tokens = 10**9

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def score(self, contexts: Any, targets: Any) -> NDArray[np.float64]:
        """Return zeros."""
        self.asked += zip(contexts, targets, strict=True)
        return np.zeros(len(contexts))


class Played:
    """What playing a recording took and gave.

    Attributes:
        steps: Environment steps.
        seconds: Of the clock.
        gains: Coherence gains in nats, shape ``(steps, num_envs)``; not a number where nothing was played.
        counts: What was counted besides, by name.
    """

    def __init__(self, recording: Recording) -> None:
        self.steps = 0
        self.seconds = 0.0
        self.gains = np.full(recording.alive.shape, np.nan)
        self.counts: defaultdict[str, float] = defaultdict(float)


def fresh_encoder() -> Joined:
    """Return the encoder that environments have by default, with nothing encoded yet."""
    return Joined(HashedWords(), LMEmbedding(load_engine().lm))


def record(world: World, agent: Agent, first: int) -> Recording:
    """Play the transcripts from number ``first`` on with an agent; no language model is asked."""
    listener = Listener()
    env = world.vector(ScoringEngine(listener, cache_size=0), fresh_encoder())  # type: ignore[arg-type]
    agent.start(env)
    transcripts = list(range(first, first + world.num_envs))
    observation, _ = env.reset(options={"transcripts": transcripts})
    actions, alive, requests = [], [], []
    while not env.resting.all():
        alive.append(~env.resting)
        actions.append(agent.act(observation, env.action_masks(), deterministic=False))
        observation = env.step(actions[-1])[0]
        requests.append(listener.asked)
        listener.asked = []
    return Recording(transcripts, np.stack(actions), np.stack(alive), requests)


def play(env: MemoryVectorEnv, recording: Recording, played: Played) -> Iterator[float]:
    """Play a recording in a vector environment; after each step say which share is done."""
    for step in range(-1, len(recording.actions)):
        before = _counters(env)
        begin = time.perf_counter()
        if step < 0:
            env.reset(options={"transcripts": recording.transcripts})
        else:
            infos = env.step(recording.actions[step])[4]
        played.seconds += time.perf_counter() - begin
        for name, value in _counters(env).items():
            played.counts[name] += value - before[name]
        if step >= 0:
            alive = recording.alive[step]
            played.gains[step, alive] = infos["coherence_gain"][alive]
            played.steps += int(alive.sum())
        yield (step + 1) / len(recording.actions)


def _counters(env: MemoryVectorEnv) -> dict[str, float]:
    """Return what the engine, the encoder and the language model have counted so far."""
    engine, encoder = env.episodes.prepare.scorer, env.episodes.encoder
    found = {name: float(getattr(engine, name)) for name in ("requests", "computed", "cached")}
    found |= {f"lm_{name}": float(getattr(engine.lm, name)) for name in ("tokens", "padding", "reused", "seconds")}
    return found | {"scoring_seconds": engine.seconds, "encoding_seconds": float(getattr(encoder, "seconds", 0.0))}


def play_plainly(
    env: gym.Env[Any, Any], plain: PlainModel, recording: Recording, limit: float, played: Played
) -> Iterator[float]:
    """Play whole episodes of a recording one after the other until ``limit`` seconds have gone by.

    Every step calls the model once, also where nothing is read and no score is needed. What those calls took is
    counted as ``needless_seconds``: the kinder plain loop is the one that does without. After each step it says which
    share of the seconds is over.
    """
    episodes, counts = env.unwrapped.episodes, played.counts  # type: ignore[attr-defined]
    for row, transcript in enumerate(recording.transcripts):
        begin = time.perf_counter()
        env.reset(options={"transcript": transcript})
        played.seconds += time.perf_counter() - begin
        for step in np.flatnonzero(recording.alive[:, row]).tolist():
            calls, fed, item, turn = plain.calls, plain.fed, episodes.current[0], int(episodes.step_index[0]) + 1
            begin = time.perf_counter()
            gain = env.step(recording.actions[step, row])[4]["coherence_gain"]
            middle = time.perf_counter()
            needless = plain.calls == calls
            if needless:
                plain.score([episodes.prepare.context(item, turn)] * 2, [item.targets[turn]] * 2)
            end = time.perf_counter()
            played.gains[step, row] = gain
            played.steps += 1
            played.seconds += end - begin
            counts["calls"] += 1
            counts["tokens"] += plain.fed - fed
            if needless:
                counts["needless_calls"] += 1
                counts["needless_tokens"] += plain.fed - fed
                counts["needless_seconds"] += end - middle
            yield min(played.seconds / limit, 1.0)
        if played.seconds > limit:
            return


def in_turns(*ways: Iterator[float]) -> None:
    """Let several go on step by step, always the one that has done the smallest share."""
    shares = dict.fromkeys(ways, 0.0)
    while shares:
        way = min(shares, key=shares.__getitem__)
        share = next(way, None)
        if share is None:
            del shares[way]
        else:
            shares[way] = share
