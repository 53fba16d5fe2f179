"""An estimate of how often memory matters in transcripts without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from stm_rl.evaluation import play
from stm_rl.lm import ScoringEngine
from stm_rl.transcript import Transcript
from stm_rl.validation import Finding, ok, warning
from stm_rl_agents import Oracle
from stm_rl_envs.vector import MemoryVectorEnv

TURNS = 60
"""Turns of each transcript that are looked at."""


def check_memory(transcripts: Sequence[Transcript], engine: ScoringEngine, count: int = 4) -> Iterator[Finding]:
    """Let an oracle look for the earlier turn that helps most with each turn, in the longest transcripts."""
    longest = sorted(transcripts, key=len, reverse=True)[:count]
    chosen = [replace(item, turns=item.turns[:TURNS], probes=(), questions=()) for item in longest]
    oracle = Oracle(lookback=24)

    def make(num_envs: int, full_context: bool) -> MemoryVectorEnv:
        return MemoryVectorEnv(num_envs, chosen, lm=engine, autoreset=False)

    played = play(oracle, make, range(len(chosen)))
    turns = float(played.turns.sum())
    helped, gain = float(played.reads.sum()) / turns, float(played.gains.sum()) / turns
    found = (
        f"in {len(chosen)} transcripts an oracle gains {gain:.2f} nats a turn with {engine.lm.id}, reading at "
        f"{helped:.0%} of turns (an earlier turn must help by at least {oracle.threshold} nats)"
    )
    if helped < 0.02:
        yield warning(
            "need of memory",
            found,
            "this model hardly uses what was said before here: try a stronger one (--lm), or longer transcripts",
        )
    else:
        yield ok("need of memory", found)
