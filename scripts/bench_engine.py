#!/usr/bin/env python3
"""Measure how fast scores are computed, against a plain loop and against the bare forward pass.

    python scripts/bench_engine.py                              # the embedded model on a CPU
    python scripts/bench_engine.py --json docs/bench_engine_cpu.json --table
    python scripts/bench_engine.py --device cuda --json docs/bench_engine_cuda.json --table
    python scripts/bench_engine.py --scaling --json docs/bench_engine_scaling.json --table
    python scripts/bench_engine.py --load docs/bench_engine_cpu.json --table  # write the table again
    python scripts/bench_engine.py --policy runs/my-run         # the actions of a trained policy, not random ones

All ways work on the same transcripts with the same actions, recorded before, and take turns, so that a machine that
slows down slows all:

- plain loop: an environment made with ``gym.make`` and stepped alone; one ``model(...)`` call a step, which scores the
  next turn with and without what was read, as a batch of two with all logits; nothing is kept. At steps where nothing
  is read both scores are the same and the environment asks for none; ``a call every step`` calls the model there too,
  ``a call where something is read`` leaves those calls out of the time.
- first sight: the vector environment with a new engine. Repeat epoch: the same again, so that no score is computed.
- engine and bare: the same requests scored by the engine, tokenization included, and by ``transformers``' forward pass
  of their tokens, sorted, padded and put on the device beforehand, in batches of the fastest size.
- trl: the log-probabilities of TRL's trainers on the same batches, if trl is installed.

With ``--device cuda`` the model has Qwen3-0.6B's sizes and random weights, and contexts of about 512 tokens.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench import report, scaling
from bench.models import QWEN3, load_model
from bench.play import World
from bench.sides import Sides

import stm_rl  # noqa: F401 (registers the environments)
from stm_rl.errors import StmError
from stm_rl.files import write_json
from stm_rl_agents.heuristics import RandomAgent
from stm_rl_agents.policy import PolicyAgent

DOCS = Path(__file__).parent.parent / "docs"
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {"lm": "tiny", "dtype": "float32", "num_envs": 64, "rounds": 5},
    "cuda": {
        "lm": "qwen3-0.6b-random",
        "dtype": "bfloat16",
        "num_envs": 256,
        "rounds": 3,
        "turns": 96,
        "window": 54,
        "slots": 64,
        "reads": 16,
    },
}
"""What is measured unless told otherwise."""
ENV_OPTIONS = ("turns", "window", "slots", "reads")


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--lm", help=f"tiny, a folder, a Hub id, or one of {', '.join(QWEN3)}")
    parser.add_argument("--dtype", help="float32 on a CPU, bfloat16 on a GPU by default")
    parser.add_argument("--compile", action="store_true", help="compile the engine's model with torch.compile")
    parser.add_argument("--env", default="stm_rl/Dialogue-v0")
    parser.add_argument("--num-envs", type=int, help="64 environments on a CPU, 256 on a GPU by default")
    for name in ENV_OPTIONS:
        parser.add_argument(f"--{name}", type=int, help="of the environments, if not what is usual for them")
    parser.add_argument("--policy", type=Path, help="run folder of a policy that acts, instead of chance")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="how often all take turns")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long the plain loop goes on in each round")
    parser.add_argument("--scaling", action="store_true", help="measure growth instead, and draw it")
    parser.add_argument("--points", type=int, help="how many sizes of each kind to measure for --scaling (all)")
    parser.add_argument("--plot", type=Path, default=DOCS / "scaling.png", help="file of the plot of --scaling")
    parser.add_argument("--json", metavar="FILE", help="write the figures there; - prints them")
    parser.add_argument("--load", type=Path, metavar="FILE", help="take the figures from there; measure nothing")
    parser.add_argument(
        "--table", type=Path, nargs="?", const=DOCS / "performance.md", metavar="PAGE",
        help="write the tables between the markers of this page (docs/performance.md)",
    )  # fmt: skip
    args = parser.parse_args(words)
    for name, value in PRESETS[args.device].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.device == "cuda" and not torch.cuda.is_available() and not args.load:
        raise StmError("there is no GPU that torch can use here; leave out --device cuda")
    return args


def measure(args: argparse.Namespace, command: str) -> dict[str, Any]:
    """Return all figures."""
    torch.set_num_threads(args.threads)
    lm = load_model(args.lm, args.device, args.dtype, args.compile)
    found: dict[str, Any] = {
        "command": command,
        "machine": report.machine(args.device),
        "model": {
            "name": args.lm,
            "dtype": args.dtype,
            "parameters": lm.model.num_parameters(),
            "compiled": args.compile,
        },
        "number": args.rounds,
    }
    if args.scaling:
        return {"kind": "scaling", **found, "scaling": scaling.scaling(args.env, lm, args.rounds, args.points)}
    options = {name: getattr(args, name) for name in ENV_OPTIONS if getattr(args, name) is not None}
    world = World(args.env, options, args.num_envs)
    agent = PolicyAgent.load(args.policy) if args.policy else RandomAgent()
    sides = Sides(world, lm, agent, args.seconds)
    sides.warm_up()
    for number in range(args.rounds):
        sides.measure()
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)
    described = {"env_id": args.env, "options": options, "num_envs": args.num_envs, "agent": agent.name}
    return {"kind": args.device, **found, "world": described, **report.summary(sides)}


def main(words: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    args = arguments(words)
    command = shlex.join(["python", "scripts/bench_engine.py", *(sys.argv[1:] if words is None else words)])
    found = json.loads(args.load.read_text(encoding="utf-8")) if args.load else measure(args, command)
    scaled = found["kind"] == "scaling"
    text = scaling.table(found) if scaled else report.table(found)
    if scaled:
        scaling.plot(found["scaling"], args.plot)
        text = f"![Cost over environments, turns and slots]({args.plot.name})\n\n{text}"
    if args.json == "-":
        print(json.dumps(found, indent=1))
    else:
        print(text)
        if args.json:
            write_json(Path(args.json), found)
    if args.table:
        report.write_block(args.table, f"bench_engine_{found['kind']}", text)


if __name__ == "__main__":
    try:
        main()
    except StmError as error:
        sys.exit(f"error: {error}")
