#!/usr/bin/env python3
"""Measure what the memory of a chat costs a turn: everything a chat server does but ask its model.

A policy of the default size keeps the memory of dialogues that it has never seen, on one thread: each turn is encoded
(words and the embedded model), shown, decided on, written and read (`add`); the context is laid out (`context`); and
the state of the session is taken and written as JSON (`state`). The memory is full all the time. The weights of the
policy are random, which costs the same. On a busy machine, look at the processor's time.

    python scripts/bench_serving.py
    python scripts/bench_serving.py --slots 16 --turns 2000 --json docs/bench_serving.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stm_rl.encoders import default_encoder
from stm_rl.errors import StmError
from stm_rl.files import write_json
from stm_rl.worlds import DialogueWorld
from stm_rl_agents import heuristics
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PolicyAgent
from stm_rl_agents.serving import LiveSession
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.view import GLOBAL_FEATURES, SLOT_FEATURES

BAR = 15.0
"""Most milliseconds a turn, as median, with 16 slots."""
PARTS = ("add", "context", "state", "all")
UNITS = ("wall", "processor")
Times = tuple[float, float]
"""Milliseconds of the clock and of the processor."""


def policy(reads: int) -> PolicyAgent:
    """Return a policy of the default size that would rather write and read than not."""
    torch.manual_seed(0)
    network = PointerNetwork(default_encoder().dimension, len(SLOT_FEATURES), len(GLOBAL_FEATURES), reads)
    with torch.no_grad():
        list(network.leave.parameters())[-1].fill_(-10.0)
    return PolicyAgent(network)


def timed(work: Callable[[], object]) -> Times:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)


def measure(settings: MemorySettings, turns: int) -> dict[str, NDArray[np.float64]]:
    """Return the milliseconds of each part at each turn, as :data:`Times`; shape ``(turns, 2)``."""
    length = 2 * ((turns + settings.slots) // 2 + 1)
    chat = DialogueWorld(turns=length).generate(settings.slots).turns
    (fifo,) = (agent for agent in heuristics() if agent.name == "fifo")
    before = LiveSession(fifo, settings)
    for turn in chat[: settings.slots]:
        before.add(turn)
    session = LiveSession.restore(policy(settings.reads), settings, before.state())
    taken: dict[str, list[NDArray[np.float64]]] = {name: [] for name in PARTS}
    for turn in chat[settings.slots : settings.slots + turns]:
        add = timed(lambda turn=turn: session.add(turn))
        context = timed(lambda: session.context("assistant"))
        state = timed(lambda: json.dumps(session.state()))
        for name, value in zip(PARTS, (add, context, state, np.sum([add, context, state], axis=0)), strict=True):
            taken[name].append(np.array(value))
    if not all(session.slots()):
        raise StmError("a slot is free; the memory was to be full all the time")
    return {name: np.array(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="+", default=[4, 16, 64], help="numbers of slots K")
    parser.add_argument("--turns", type=int, default=600, help="turns that are measured with each K")
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--reads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for slots in args.slots:
        found = measure(MemorySettings(slots=slots, window=args.window, reads=args.reads), args.turns)
        rows[str(slots)] = {
            unit: {
                name: dict(zip(("median", "p95"), np.percentile(values[:, column], (50, 95)).tolist(), strict=True))
                for name, values in found.items()
            }
            for column, unit in enumerate(UNITS)
        }
    print(f"{args.turns} turns of a dialogue, full memory, window {args.window}, {args.reads} reads, one thread")
    for unit in UNITS:
        print(f"\nmilliseconds a turn ({unit}), median (95th percentile)\n\n| slots | {' | '.join(PARTS)} |")
        print(f"|---|{'---|' * len(PARTS)}")
        for number, units in rows.items():
            shown = " | ".join(f"{units[unit][name]['median']:.2f} ({units[unit][name]['p95']:.2f})" for name in PARTS)
            print(f"| {number} | {shown} |")
    if "16" in rows:
        median, own = (rows["16"][unit]["all"]["median"] for unit in UNITS)
        verdict = "met" if median <= BAR else "MISSED"
        print(
            f"\nbar: at most {BAR:g} ms median with 16 slots: {verdict} ({median:.2f} ms, {own:.2f} of the processor)"
        )
    if args.json:
        settings = {"turns": args.turns, "window": args.window, "reads": args.reads}
        machine = {"processor": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
        write_json(args.json, {"settings": settings, "machine": machine, "milliseconds": rows})


if __name__ == "__main__":
    main()
