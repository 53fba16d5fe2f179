"""``stm-rl demos export`` and ``stm-rl demos show``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from stm_rl.cli.labels import expert_of
from stm_rl.cli.output import print_json, wide_console
from stm_rl.cli.progress import counted
from stm_rl.cli.task import Task, TaskRequest, make_task
from stm_rl.errors import StmError
from stm_rl_agents import Agent, Informed, Oracle, heuristics
from stm_rl_agents.demonstrations import Demonstrations, card_of, record
from stm_rl_agents.imitation.expert import EXPERT
from stm_rl_agents.loading import load_agent
from stm_rl_agents.offline import check_writable, format_of, read_demonstrations, write_demonstrations
from stm_rl_agents.policy import PolicyAgent
from stm_rl_envs.vector import MemoryVectorEnv

BATCH = 64
"""Most environments stepped together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest(TaskRequest):
    """The command-line values of ``stm-rl demos export``; see its ``--help``."""

    agent: str
    episodes: int
    out: Path
    to: str
    force: bool


def demonstrator(name: str, env: MemoryVectorEnv, seed: int = 0) -> Agent:
    """Return the agent that ``--agent`` names: one that is always there, or the policy in a run folder.

    Args:
        name: What the user gave.
        env: Where it shall play.
        seed: Seeds agents that draw lots.

    Raises:
        StmError: It is unknown or cannot play there.
    """
    agents: dict[str, Agent] = {agent.name: agent for agent in (*heuristics(seed), Informed(), Oracle())}
    if name in agents:
        if name == Oracle.name and env.episodes.engine is None and not env.episodes.prepare.transcripts[0].probes:
            raise StmError("the oracle needs a language model, or transcripts that say what they depend on; give --lm")
        return agents[name]
    if not Path(name).is_dir():
        raise StmError(
            f"unknown agent {name!r}: it is neither a run folder nor one of {', '.join(sorted([*agents, EXPERT]))}"
        )
    policy = load_agent(name)
    if isinstance(policy, PolicyAgent):
        policy.check_fits(env)
    return policy


def run_export(request: ExportRequest, *, as_json: bool) -> None:
    """Do what ``stm-rl demos export`` asks for."""
    check_writable(request.out, request.to, force=request.force)
    torch.set_num_threads(request.threads)
    task = make_task(request)
    task.check()
    demonstrations = demonstrate(task, request)
    write_demonstrations(demonstrations, request.out, request.to, force=request.force)
    _print(summary(demonstrations, request.to), as_json)
    print(f"wrote {request.out}", file=sys.stderr)


def demonstrate(task: Task, request: ExportRequest) -> Demonstrations:
    """Play the first transcripts of the train split."""

    def make(num_envs: int) -> MemoryVectorEnv:
        return task.make(num_envs, autoreset=False)

    available = len(make(1).episodes.prepare.transcripts)
    count = min(request.episodes, available)
    env = make(min(BATCH, count))
    if request.agent == EXPERT:
        agent: Agent = expert_of(task)
    else:
        agent = demonstrator(request.agent, env, request.seed)
    source = agent.name if agent.name == request.agent else f"{agent.name}:{Path(request.agent).resolve().name}"
    options = {
        **task.overrides,
        "split": "train",
        "lm": request.lm if task.engine else None,
        **({"reward": task.reward.specs} if task.reward else {}),
    }
    with counted(f"playing {source}", count) as advance:
        episodes = record(agent, env, range(count), advance)
    return Demonstrations(episodes, card_of(env, source, task.name, options=options))


def run_show(folder: Path, *, as_json: bool) -> None:
    """Do what ``stm-rl demos show`` asks for."""
    format = format_of(folder)
    _print(summary(read_demonstrations(folder), format), as_json)


def summary(demonstrations: Demonstrations, format: str) -> dict[str, Any]:
    """Return what demonstrations are, in numbers."""
    episodes, steps = demonstrations.episodes, len(demonstrations)
    returns = [float(episode.rewards.sum(dtype=np.float64)) for episode in episodes]
    chosen = sum((episode.actions > 0).sum(0) for episode in episodes)
    return {
        "format": format,
        **demonstrations.card,
        "episodes": len(episodes),
        "steps": steps,
        "terminated": sum(episode.terminated for episode in episodes),
        "mean_return": float(np.mean(returns)),
        "writes_per_step": float(chosen[0] / steps),
        "reads_per_step": float(chosen[1:].sum() / steps),
    }


def _print(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(values)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, value in values.items():
        shown = ", ".join(f"{key}={one}" for key, one in value.items()) if isinstance(value, dict) else value
        table.add_row(name.replace("_", " "), f"{shown:.3f}" if isinstance(shown, float) else str(shown))
    console = wide_console()
    console.print(table, highlight=False, markup=False)
