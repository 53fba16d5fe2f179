#!/usr/bin/env python3
"""Train neural memories on POPGym tasks (Morad et al., POPGym: Benchmarking Partially Observable RL, 2023).

Every run trains one memory on one task with one seed. It ends when the mean return of the last 200 training episodes
reaches ``--stop-at``, or after ``--steps``. The policy of the run's best such mean is then evaluated on 200 new
episodes, once with actions drawn as in training and once with the likeliest ones.

    pip install popgym
    python scripts/bench_popgym.py --tasks RepeatPreviousHard --cores attention --seeds 0 1 2 --out runs/popgym
    python scripts/bench_popgym.py --table runs/popgym

The discount is the same for every memory. Rewards of these tasks follow at once, so a short horizon (0.5) loses nothing
and keeps the noise of later rewards out of the advantages; Concentration, where looking now pays later, gets 0.9.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from stm_rl.files import write_json
from stm_rl.memory import CORES
from stm_rl_agents.recurrent import RecurrentPPOSettings, RecurrentPPOTrainer, evaluate, make_envs

BEST = {
    "RepeatPreviousEasy": 1.0,
    "RepeatPreviousMedium": 0.789,
    "RepeatPreviousHard": 0.191,
    "RepeatFirstHard": 0.969,
    "AutoencodeMedium": -0.420,
}
"""The best published returns of those tasks."""
OPTIONS = {"attention": {"history": 96}, "linked": {"slots": 256, "cursors": 32, "slot_size": 8}}
"""Sizes of memories that differ from their defaults."""
EVALUATED = 200


def run(task: str, core: str, seed: int, args: argparse.Namespace) -> None:
    """Train and evaluate once; write a JSON file."""
    file = args.out / f"{task}-{core}-{seed}.json"
    if file.exists():
        print(f"{file} exists; left as it is")
        return
    settings = RecurrentPPOSettings(
        core=core,
        core_options=OPTIONS.get(core, {}),
        width=args.width,
        steps=args.steps,
        num_envs=args.envs,
        rollout=args.rollout,
        minibatches=8,
        gamma=args.gamma if args.gamma is not None else 0.9 if task.startswith("Concentration") else 0.5,
        stagger=args.stagger,
        seed=seed,
    )
    bar, crossed, curve, shown = BEST.get(task), None, [], time.monotonic()

    def progress(steps: int, row: dict[str, float]) -> bool:
        nonlocal crossed, shown
        reached = row.get("return", -np.inf) if len(trainer.recent) == trainer.recent.maxlen else -np.inf
        curve.append((steps, row.get("return")))
        if bar is not None and crossed is None and reached > bar:
            crossed = steps
        if time.monotonic() - shown > 20:
            shown = time.monotonic()
            print(f"{task} {core} {seed}: {steps:,} steps, {row['seconds']:.0f} s, return {reached:.3f}", flush=True)
        return bool(reached >= args.stop_at or row["seconds"] > args.seconds)

    trainer = RecurrentPPOTrainer(make_envs(f"popgym:popgym-{task}-v0", settings.num_envs), settings, progress)
    network = trainer.train()
    envs = make_envs(f"popgym:popgym-{task}-v0", 50)
    drawn, greedy = (evaluate(network, envs, EVALUATED, 1_000_000 + seed, likeliest) for likeliest in (False, True))
    write_json(
        file,
        {
            "task": task,
            "core": core,
            "seed": seed,
            "return": float(drawn.mean()),
            "greedy_return": float(greedy.mean()),
            "steps": trainer.done,
            "policy_steps": trainer.policy_steps,
            "best_published": bar,
            "steps_to_best_published": crossed,
            "seconds": round(trainer.seconds, 1),
            "parameters": sum(value.numel() for value in network.parameters()),
            "settings": settings.as_dict(),
            "curve": curve[:: max(1, len(curve) // 100)],
        },
    )
    print(
        f"{task} {core} {seed}: evaluated {drawn.mean():.3f}, greedy {greedy.mean():.3f}, after {trainer.done:,} steps",
        flush=True,
    )


def table(folder: Path) -> None:
    """Print the results in a folder as a table."""
    rows: dict[tuple[str, str], list[dict]] = {}  # type: ignore[type-arg]
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        rows.setdefault((result["task"], result["core"]), []).append(result)
    heads = (
        "task",
        "memory",
        "return, each seed",
        "mean ± 95%",
        "greedy",
        "published",
        "passed after",
        "steps",
        "steps/s",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for (task, core), runs in sorted(rows.items()):
        returns = np.array([run["return"] for run in runs])
        each = ", ".join(f"{value:.3f}" for value in returns)
        greedy = np.mean([run["greedy_return"] for run in runs])
        spread = ""
        if len(returns) > 1:
            half = stats.t.ppf(0.975, len(returns) - 1) * returns.std(ddof=1) / np.sqrt(len(returns))
            spread = f" ± {half:.3f}"
        crossed = [run["steps_to_best_published"] for run in runs if run["steps_to_best_published"]]
        passed = f"{max(crossed):,} ({len(crossed)} of {len(runs)})" if crossed else "–"
        bar = "" if runs[0]["best_published"] is None else f"{runs[0]['best_published']:.3f}"
        steps, seconds = (sum(run[name] for run in runs) for name in ("steps", "seconds"))
        print(
            f"| {task} | `{core}` | {each} | {returns.mean():.3f}{spread} | {greedy:.3f} | {bar} | {passed} "
            f"| {max(run['steps'] for run in runs):,} | {steps / seconds:,.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(BEST), help="POPGym tasks, such as RepeatPreviousHard")
    parser.add_argument("--cores", nargs="+", default=["attention"], choices=sorted(CORES), help="neural memories")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=15_000_000, help="most environment steps of a run")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="most seconds of a run's training")
    parser.add_argument("--stop-at", type=float, default=0.999, help="mean training return that ends a run")
    parser.add_argument("--envs", type=int, default=64, help="environments stepped together")
    parser.add_argument("--rollout", type=int, default=160, help="steps of each environment in a rollout")
    parser.add_argument(
        "--stagger", type=int, default=0, help="steps over which environments begin, each at a random one"
    )
    parser.add_argument("--width", type=int, default=64, help="width of encoder, memory and heads")
    parser.add_argument("--gamma", type=float, help="discount, for every task")
    parser.add_argument("--out", type=Path, default=Path("runs/popgym"), help="folder for a JSON file a run")
    parser.add_argument("--table", type=Path, metavar="FOLDER", help="print the results in FOLDER and do nothing else")
    args = parser.parse_args()
    if args.table:
        return table(args.table)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for task in args.tasks:
        for core in args.cores:
            for seed in args.seeds:
                run(task, core, seed, args)
    return None


if __name__ == "__main__":
    main()
