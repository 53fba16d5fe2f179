#!/usr/bin/env python3
"""Measure what a step of each neural memory costs, and how large its state is, as an episode goes on.

Every memory reads 100,000 steps one by one, as a policy does while it acts; all take turns at each stretch of steps,
so that a busy machine slows all of them alike.

    python scripts/bench_memory.py --plot docs/memory_cost.png --json docs/memory_cost.json
    python scripts/bench_memory.py --cores linked matrix --steps 10000
"""

from __future__ import annotations

import argparse
import time
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from stm_rl.evaluation.plot import BLUE, GREEN, GREY, ORANGE, PURPLE
from stm_rl.files import write_json
from stm_rl.memory import CORES, state_bytes

MEASURED = 200
"""Steps that are timed at each stretch's end."""


def measure(names: list[str], steps: int, batch: int, width: int) -> dict[str, dict[str, list[float]]]:
    """Return by memory the steps at which it was measured, microseconds a step (median) and bytes of a row's state."""
    marks = [0, *np.unique(np.geomspace(10, steps, 9).astype(int)).tolist()]
    cores = {name: CORES[name](width, width).eval() for name in names}
    states = {name: core.initial_state(batch) for name, core in cores.items()}
    found: dict[str, dict[str, list[float]]] = {name: {"steps": [], "us": [], "bytes": []} for name in names}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for begin, end in pairwise(marks):
            for name, core in cores.items():
                state, seconds = states[name], []
                for step in range(begin, end):
                    inputs = torch.randn(batch, 1, width, generator=generator)
                    start = time.perf_counter()
                    _, state = core(inputs, state)
                    if step >= end - MEASURED:
                        seconds.append(time.perf_counter() - start)
                states[name] = state
                found[name]["steps"].append(end)
                found[name]["us"].append(1e6 * float(np.median(seconds)))
                found[name]["bytes"].append(state_bytes(state) / batch)
    return found


def plot(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw time per step and state size over the steps of an episode."""
    figure = Figure(figsize=(9, 3.8), dpi=150, layout="constrained")
    styles = zip(cycle((BLUE, ORANGE, GREEN, PURPLE, GREY)), "oooooxxxxx", strict=False)
    axes: Any = figure.subplots(1, 2)
    for (name, row), (colour, marker) in zip(found.items(), styles, strict=False):
        axes[0].plot(row["steps"], row["us"], color=colour, marker=marker, markersize=4, label=name)
        axes[1].plot(row["steps"], np.array(row["bytes"]) / 1024, color=colour, marker=marker, markersize=4)
    for each, label in zip(axes, ("µs a step, 8 rows", "KiB of state, one row"), strict=True):
        each.set(xscale="log", yscale="log", xlabel="step of the episode", ylabel=label)
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="+", default=list(CORES), choices=list(CORES), help="neural memories")
    parser.add_argument("--steps", type=int, default=100_000, help="steps of the episode")
    parser.add_argument("--batch", type=int, default=8, help="rows side by side")
    parser.add_argument("--width", type=int, default=64, help="numbers in an input and in an output")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="write a picture here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = measure(args.cores, args.steps, args.batch, args.width)
    heads = "memory", "parameters", "KiB of state", "µs a step at step 1,000", "at the last", "ratio"
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, row in found.items():
        size = sum(value.numel() for value in CORES[name](args.width, args.width).parameters())
        early = row["us"][int(np.searchsorted(row["steps"], min(1_000, args.steps)))]
        last, state = row["us"][-1], row["bytes"][-1] / 1024
        print(f"| `{name}` | {size:,} | {state:,.1f} | {early:,.0f} | {last:,.0f} | {last / early:.2f} |")
    if args.json:
        write_json(args.json, {"batch": args.batch, "width": args.width, "memories": found})
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
