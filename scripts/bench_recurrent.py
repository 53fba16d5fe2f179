#!/usr/bin/env python3
"""Compare the speed of recurrent PPO with that of sb3-contrib: same environment, LSTM, network size and epochs.

All train in turns in the same process, so that a busy machine slows all; the ratio is reported of each round. Since a
machine may be busier in one turn than in the next, the ratios are also given for steps per second of processor time,
which on an idle machine is the same: all run on one thread. Making environments and networks is not counted.
sb3-contrib trains once with minibatches as large as ours and once with those of its defaults (128 steps).

    python scripts/bench_recurrent.py --env CartPole-v1 --rounds 3 --json docs/bench_recurrent.json
    python scripts/bench_recurrent.py --env popgym:popgym-RepeatPreviousEasy-v0
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env

from stm_rl.files import write_json
from stm_rl_agents.recurrent import RecurrentPPOSettings, RecurrentPPOTrainer, make_envs

CORES = ("lstm", "gru", "linear", "attention", "linked")


Speed = tuple[float, float]
"""Environment steps a second, and a second of processor time."""


def timed(train: Callable[[], object], done: Callable[[], int]) -> Speed:
    wall, processor = time.monotonic(), time.process_time()
    train()
    return done() / (time.monotonic() - wall), done() / (time.process_time() - processor)


def ours(env: str, core: str, args: argparse.Namespace) -> Speed:
    """Train our policy."""
    settings = RecurrentPPOSettings(
        core=core,
        width=args.width,
        steps=args.steps,
        num_envs=args.envs,
        rollout=args.rollout,
        minibatches=args.minibatches,
        epochs=args.epochs,
        max_kl=1e9,  # every epoch to its end
    )
    trainer = RecurrentPPOTrainer(make_envs(env, args.envs), settings)
    return timed(trainer.train, lambda: trainer.done)


def theirs(env: str, batch: int, args: argparse.Namespace) -> Speed:
    """Train sb3-contrib's, with one LSTM for actor and critic as ours has."""
    model = RecurrentPPO(
        "MlpLstmPolicy",
        make_vec_env(env, args.envs),
        n_steps=args.rollout,
        batch_size=batch,
        n_epochs=args.epochs,
        device="cpu",
        policy_kwargs={
            "lstm_hidden_size": args.width,
            "net_arch": [args.width],
            "shared_lstm": True,
            "enable_critic_lstm": False,
        },
    )
    return timed(lambda: model.learn(args.steps), lambda: int(model.num_timesteps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="Gymnasium id")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=32_768, help="environment steps of each training")
    parser.add_argument("--envs", type=int, default=64, help="environments stepped together")
    parser.add_argument("--rollout", type=int, default=128, help="steps of each environment in a rollout")
    parser.add_argument("--minibatches", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--width", type=int, default=64, help="width of memory and heads")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    equal = args.envs * args.rollout // args.minibatches
    batches = {f"sb3-contrib, minibatches of {equal:,}": equal, "sb3-contrib, minibatches of 128": 128}
    speeds: dict[str, list[Speed]] = {name: [] for name in (*batches, *CORES)}
    for _ in range(args.rounds):
        for name, batch in batches.items():
            speeds[name].append(theirs(args.env, batch, args))
        for core in CORES:
            speeds[core].append(ours(args.env, core, args))
    print(f"{args.env}, {args.envs} environments, rollouts of {args.rollout}, {args.epochs} epochs, width {args.width}")
    for column, unit in enumerate(("steps/s", "steps per second of processor time")):
        print(f"\n| trainer | {unit} | times {' | times '.join(batches)} |\n|---|---|---|---|")
        values = {name: np.array(rounds)[:, column] for name, rounds in speeds.items()}
        for name, own in values.items():
            ratios = [own / values[base] for base in batches]
            shown = " | ".join(f"{np.median(r):.1f} ({r.min():.1f}–{r.max():.1f})" for r in ratios)
            print(f"| {name} | {np.median(own):,.0f} | {shown} |")
    if args.json:
        result: dict[str, object] = {"settings": {name: value for name, value in vars(args).items() if name != "json"}}
        result["machine"] = platform.processor()
        for column, unit in enumerate(("steps_per_second", "steps_per_processor_second")):
            result[unit] = {name: [speed[column] for speed in rounds] for name, rounds in speeds.items()}
        write_json(args.json, result)


if __name__ == "__main__":
    main()
