"""Checks of what agents earn in an environment: memory pays, and nothing but memory does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from stm_rl.cli.task import Task
from stm_rl.evaluation import Bootstrap, Played, difference, play
from stm_rl.transcript import Transcript
from stm_rl.validation import Finding, error, ok, warning
from stm_rl_agents import Agent, Oracle
from stm_rl_agents.constant import constant_agents, idle_agents
from stm_rl_envs.vector import MemoryVectorEnv

SPLITS = ("train", "validation", "test")
COMPARED = 64
"""Transcripts of each split that are compared."""
MUCH, TOO_MUCH = 0.35, 0.7
"""Shares of the oracle's return from which an agent that looks at no text earns suspiciously, or far too, much."""


class Plays:
    """What agents did on the same held-out episodes; each agent plays once, when asked for."""

    def __init__(self, task: Task, episodes: int, seed: int) -> None:
        self.task, self.seed = task, seed
        transcripts = task.make(1, split="test").episodes.prepare.transcripts
        labelled = bool(transcripts[0].probes)
        self.episodes = range(min(episodes if labelled else min(episodes, 4), len(transcripts)))
        self.oracle = Oracle() if labelled else Oracle(lookback=16)  # without labels it asks the model, which is slow
        self.labelled = labelled
        self._played: dict[str, Played] = {}

    def of(self, agent: Agent) -> Played:
        """Return what an agent did."""
        if agent.name not in self._played:
            self._played[agent.name] = play(agent, self._make, self.episodes)
        return self._played[agent.name]

    @cached_property
    def best(self) -> float:
        """Mean return of the oracle."""
        return float(self.of(self.oracle).returns.mean())

    def _make(self, num_envs: int, full_context: bool) -> MemoryVectorEnv:
        return self.task.make(num_envs, split="test", autoreset=False, full_context=full_context)


def check_splits(task: Task) -> Iterator[Finding]:
    """Look for transcripts that are in two splits, or twice in one."""
    texts = {}
    for split in SPLITS:
        transcripts = task.make(1, split=split).episodes.prepare.transcripts
        texts[split] = [_text(transcripts[index]) for index in range(min(COMPARED, len(transcripts)))]
    shared = {
        f"{a} and {b}": len(set(texts[a]) & set(texts[b])) for a, b in zip(SPLITS, SPLITS[1:] + SPLITS[:1], strict=True)
    }
    for pair, count in shared.items():
        if count:
            advice = (
                "give each split its own seeds (stm_rl.worlds.GeneratedTranscripts) or files; at least 3 transcripts"
            )
            yield error("splits", f"{pair} share {count} of {COMPARED} transcripts", advice)
    again = {split: len(found) - len(set(found)) for split, found in texts.items() if len(set(found)) < len(found)}
    for split, count in again.items():
        yield warning(
            "splits",
            f"{count} of the first {len(texts[split])} transcripts of {split} are repeated",
            "let the world vary more, or leave duplicates out: repeated episodes make intervals too narrow",
        )
    if not again and not any(shared.values()):
        counts = ", ".join(f"{len(found)} of {split}" for split, found in texts.items())
        yield ok("splits", f"no transcript is repeated or shared ({counts})")


def _text(transcript: Transcript) -> str:
    return str(transcript)


def check_need(plays: Plays) -> Iterator[Finding]:
    """Count the turns that need memory."""
    if not plays.labelled:
        yield ok("need of memory", "no probes are given; the oracle goes by what the model gains (it may miss some)")
        return
    asked = plays.of(plays.oracle).asked
    found = f"{asked.mean():.1f} turns an episode depend on turns outside the window"
    if asked.mean() < 1:
        yield warning("need of memory", found, "put more turns between evidence and need, or make the window smaller")
    else:
        yield ok("need of memory", found)


def check_oracle(plays: Plays) -> Iterator[Finding]:
    """Compare the oracle with an agent without memory."""
    oracle, never = plays.of(plays.oracle), plays.of(idle_agents()[0])
    gap = difference([oracle], [never], Bootstrap(len(plays.episodes), plays.seed))
    low, high = gap["ci95"]
    found = f"the oracle earns {gap['mean']:.2f} [{low:.2f}, {high:.2f}] more than no memory an episode"
    advice = (
        "memory must pay for who knows what is needed: check that probes name the right turns, that their texts hold "
        "the answer, and that the language model uses what it reads (try another with --lm)"
    )
    if gap["mean"] <= 0:
        yield error("oracle", found, advice)
    elif low <= 0:
        yield warning("oracle", found, f"{advice}; or look at more episodes (--episodes)")
    else:
        yield ok("oracle", found)


def check_no_memory(plays: Plays) -> Iterator[Finding]:
    """Look for anything that agents earn which keep nothing."""
    for agent in idle_agents():
        returns = plays.of(agent).returns
        if returns.any():
            worst = float(returns[np.abs(returns).argmax()])
            yield error(
                "no memory",
                f"{agent.name} keeps nothing and earns {worst:.4g} in an episode; expected exactly 0",
                "pay only for what memory changed: the reward minus what it would be without reads (see Judged)",
            )
            return
    yield ok("no memory", "agents that keep nothing earn exactly 0")


def check_constant(plays: Plays) -> Iterator[Finding]:
    """Compare agents that look at no text with the oracle."""
    if plays.best <= 0:
        return  # the check of the oracle says so
    earned = {agent.name: float(plays.of(agent).returns.mean()) for agent in constant_agents(plays.seed)}
    name, most = max(earned.items(), key=lambda item: item[1])
    found = f"{name} looks at no text and earns {most:.2f}, {most / plays.best:.0%} of the oracle's {plays.best:.2f}"
    advice = (
        "make what must be kept compete: more that looks as if it mattered, fewer slots, longer gaps, evidence at no "
        "fixed place"
    )
    if most <= MUCH * plays.best:
        yield ok("constant policies", found)
        return
    played = plays.of(next(agent for agent in constant_agents(plays.seed) if agent.name == name))
    gain, dependent = float(played.gains.sum()), float(played.dependent_gains.sum())
    if plays.labelled and gain > 0 and dependent < gain / 2:
        found += f"; {1 - max(dependent, 0) / gain:.0%} of its gain is where nothing earlier is needed"
        advice = (
            "the language model does not know this kind of text, so that reading any of it helps: take one that does "
            "(--lm), or words and phrasings that this one knows"
        )
    level = error if most > TOO_MUCH * plays.best else warning
    yield level("constant policies", found, advice)
