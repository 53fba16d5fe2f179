#!/usr/bin/env python3
"""Measure how fast environments step, and how much of the time is the language model's.

    python scripts/bench_env.py                  # 32 environments, one thread
    python scripts/bench_env.py --num-envs 64 --seconds 20 --json

Three figures: ``first sight`` steps through transcripts no score is known of, with a policy that acts
at random (which reads at nearly every step: the most work a policy can make); ``trained policy`` the
same with a policy's reads, if a run folder is given; ``known`` goes through the same steps again.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import gymnasium as gym
import torch

import stm_rl  # noqa: F401 (registers the environments)
from stm_rl.lm import CausalLM, ScoringEngine
from stm_rl_agents import Agent
from stm_rl_agents.heuristics import RandomAgent
from stm_rl_agents.policy import PolicyAgent


def measure(agent: Agent, engine: ScoringEngine, num_envs: int, seconds: float, seed: int) -> dict[str, float]:
    """Step for some seconds; return steps per second and the share of time outside the model."""
    env = gym.make_vec(
        "stm_rl/Dialogue-v0", num_envs, vectorization_mode="vector_entry_point", lm=engine, episodes=10**6
    ).unwrapped
    in_agent = in_env = 0.0
    steps = 0
    encoder = env.episodes.encoder  # embeds turns with the embedded model
    before, computed = engine.seconds + encoder.seconds, engine.computed
    start = time.perf_counter()
    observation, _ = env.reset(seed=seed)
    in_env += time.perf_counter() - start
    while in_env + in_agent < seconds:
        start = time.perf_counter()
        actions = agent.act(observation, env.action_masks(), deterministic=False)
        middle = time.perf_counter()
        observation, *_ = env.step(actions)
        in_agent += middle - start
        in_env += time.perf_counter() - middle
        steps += num_envs
    in_lm = engine.seconds + encoder.seconds - before
    return {
        "steps_per_second": round(steps / in_env, 1),
        "share_outside_lm": round((in_env - in_lm) / in_env, 4),
        "scores_per_step": round((engine.computed - computed) / steps, 3),
        "agent_seconds": round(in_agent, 2),
        "lm_seconds": round(in_lm, 2),
        "other_seconds": round(in_env - in_lm, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=15.0, help="time for each figure")
    parser.add_argument("--lm", default="tiny", help="language model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--policy", type=Path, help="run folder of a trained policy")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lm = CausalLM.load(args.lm, device=args.device, dtype=args.dtype)
    warm = ScoringEngine(lm)
    measure(RandomAgent(), warm, args.num_envs, 1.0, 10**6)
    engine = ScoringEngine(lm)
    results = {
        "first sight": measure(RandomAgent(), engine, args.num_envs, args.seconds, 0),
        "known": measure(RandomAgent(), engine, args.num_envs, args.seconds / 3, 0),
    }
    if args.policy:
        policy = PolicyAgent.load(args.policy)
        results["trained policy"] = measure(policy, ScoringEngine(lm), args.num_envs, args.seconds, 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if args.json:
        print(json.dumps({"num_envs": args.num_envs, "peak_memory_mib": round(peak), "results": results}, indent=1))
        return
    print(f"{args.num_envs} environments, model {args.lm} on {args.device}, {args.threads} thread(s)")
    for name, row in results.items():
        print(
            f"  {name:15s} {row['steps_per_second']:8.0f} steps/s   {row['share_outside_lm']:6.1%} outside the model   "
            f"{row['scores_per_step']:.2f} scores a step"
        )
    print(f"  peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
