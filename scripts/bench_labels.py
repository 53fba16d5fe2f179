#!/usr/bin/env python3
"""Measure how fast hindsight labels are made, against a plain loop that scores one pair a call.

    python scripts/bench_labels.py
    python scripts/bench_labels.py --env stm_rl/Story-v0 --transcripts 20 --lm Qwen/Qwen3-0.6B --device cuda --json

Both work on the same transcripts, in turns, so that a machine that slows down slows both; the plain loop takes pairs
spread evenly over one of them. It keeps no score and asks the model twice a pair: with the turn read, and without.
Also: which share of pairs and of gain each prefilter keeps.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import stm_rl  # noqa: F401 (registers the environments)
from stm_rl.labels import Labeller, PairSettings, measure_noise
from stm_rl.labels.pairs import pairs_of
from stm_rl.lm import ScoringEngine, load_engine
from stm_rl.prepare import Prepared, Preparer
from stm_rl_envs.vector import MemoryVectorEnv

ROUNDS = 4
PLAIN_PAIRS = 200
"""Pairs that the plain loop scores in a round."""


def plain_seconds(prepare: Preparer, item: Prepared, pairs: list[list[int]]) -> float:
    """Return how long it takes to score pairs one by one."""
    lm = prepare.scorer.lm
    start = time.perf_counter()
    for turn, step in pairs:
        target = [item.targets[step + 1]]
        lm.score([prepare.context(item, step + 1, (turn,))], target)
        lm.score([prepare.context(item, step + 1)], target)
    return time.perf_counter() - start


def measure(env_id: str, transcripts: int, lm: str, device: str) -> dict[str, Any]:
    """Return pairs a second both ways, and what prefilters keep."""
    model = load_engine(lm, device).lm
    env = gym.make_vec(env_id, 1, vectorization_mode="vector_entry_point", lm=ScoringEngine(model)).unwrapped
    assert isinstance(env, MemoryVectorEnv)
    prepare = env.episodes.prepare
    items = prepare(range(ROUNDS * transcripts))
    seconds = {"batched": 0.0, "plain": 0.0}
    counts = {"batched": 0, "plain": 0}
    everything = Labeller(prepare)
    for first in range(0, len(items), transcripts):
        chunk = items[first : first + transcripts]
        start = time.perf_counter()
        counts["batched"] += sum(map(len, everything.label(chunk)))
        seconds["batched"] += time.perf_counter() - start
        found = pairs_of(chunk[0], prepare.window, PairSettings())
        chosen = np.unique(np.linspace(0, len(found) - 1, PLAIN_PAIRS).astype(int))
        pairs = found[chosen].tolist()
        counts["plain"] += len(pairs)
        seconds["plain"] += plain_seconds(prepare, chunk[0], pairs)
    speed = {name: counts[name] / seconds[name] for name in seconds}
    level = measure_noise(prepare, items).level
    reads = env.episodes.settings.reads

    def gain(settings: PairSettings) -> tuple[int, float]:
        tables = Labeller(prepare, settings).label(items)
        return sum(map(len, tables)), sum(float(one.at_least(level).best(reads).gains.sum()) for one in tables)

    pairs_of_all, gain_of_all = gain(PairSettings())
    kept = {}
    for settings in (
        PairSettings(prefilter="words"),
        *(PairSettings(prefilter="embedding", candidates=count) for count in (2, 4, 8)),
    ):
        pairs, found = gain(settings)
        name = settings.prefilter + (f", {settings.candidates}" if settings.prefilter == "embedding" else "")
        kept[name] = {"pairs": round(pairs / pairs_of_all, 4), "gain": round(found / gain_of_all, 4)}
    return {
        "env": env_id,
        "lm": prepare.scorer.lm_name,
        "device": device,
        "pairs_per_second": {name: round(value, 1) for name, value in speed.items()},
        "ratio": round(speed["batched"] / speed["plain"], 2),
        "noise_level": round(level, 3),
        "prefilters": kept,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="stm_rl/Dialogue-v0")
    parser.add_argument("--transcripts", type=int, default=10, help="transcripts of each of four rounds")
    parser.add_argument("--lm", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = measure(arguments.env, arguments.transcripts, arguments.lm, arguments.device)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    speed = found["pairs_per_second"]
    print(f"{found['env']}, {found['lm']} on {found['device']}: pairs of a turn and a step a second")
    print(f"  batched {speed['batched']:.0f}, one by one {speed['plain']:.0f}: {found['ratio']:.1f} times")
    for name, kept in found["prefilters"].items():
        print(f"  prefilter {name}: {kept['pairs']:.1%} of the pairs, {kept['gain']:.1%} of the gain")


if __name__ == "__main__":
    main()
