"""``stm-rl eval``, and the evaluation at the end of ``stm-rl train``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stm_rl.cli.cache import NO_CACHE, say_found
from stm_rl.cli.labels import expert_of
from stm_rl.cli.output import print_json, print_table
from stm_rl.cli.task import Task, TaskRequest, check_env_id, engine_of, make_task
from stm_rl.cluster import LOCAL, Cluster, Stage, connect, play_on
from stm_rl.errors import StmError
from stm_rl.evaluation import Bootstrap, Played, difference, play, summarize
from stm_rl.evaluation.runner import Player
from stm_rl.files import write_json, write_jsonl
from stm_rl.rewards import as_reward
from stm_rl.transcript import Transcript
from stm_rl_agents import Agent, FullContext, Informed, Oracle, heuristics
from stm_rl_agents.imitation.expert import EXPERT
from stm_rl_agents.loading import Trained, load_agent
from stm_rl_envs.vector import MemoryVectorEnv

TRACED_EPISODES = 3
"""The first episodes are recorded turn by turn."""
EXTREME_EPISODES = 2
"""So are as many of the best, and of the worst, of each learned agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest(TaskRequest):
    """The command-line values of ``stm-rl eval``; see ``stm-rl eval --help``."""

    agents: list[str]
    episodes: int
    ray: str | None = None
    ray_workers: int | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out.

    Attributes:
        report: Contents of ``eval.json``.
        details: Contents of ``episodes.json``: what each agent earned in each episode.
        traces: Contents of ``traces.jsonl``.
        against_best: Paired difference of returns between each learned agent and the best budgeted
            heuristic, by agent.
        best_heuristic: Its name.
    """

    report: dict[str, Any]
    details: dict[str, Any]
    traces: list[dict[str, Any]]
    against_best: dict[str, dict[str, Any]]
    best_heuristic: str


def load_agents(
    specs: Sequence[str], device: str = "cpu", dtype: str = "float32"
) -> tuple[dict[str, list[Trained]], list[int]]:
    """Return the learned agents that ``--agent`` names, each once for each seed, and all their seeds.

    Args:
        specs: Values of ``--agent``.
        device: Torch device of language models.
        dtype: Torch dtype of language models.
    """
    groups: dict[str, list[Trained]] = {}
    seeds: list[int] = []
    builtin = {agent.name for agent in references(True)} | {agent.name for agent in heuristics()} | {EXPERT}
    for spec in specs:
        if spec in builtin:
            continue  # always there, or asked for by name
        whole = "=" not in spec or Path(spec).is_dir()  # folders such as runs/lr=0.001 hold a "=", too
        name, folders = ("", spec) if whole else spec.split("=", 1)
        if not all(folders.split(",")):
            raise StmError(f"--agent {spec!r} names no folder; expected FOLDER, or NAME=FOLDER,FOLDER for seeds")
        paths = [Path(folder) for folder in folders.split(",")]
        for path in paths:
            if not path.is_dir():
                raise StmError(
                    f"unknown agent {str(path)!r}: it is neither a run folder nor one of {', '.join(sorted(builtin))}"
                )
        policies = [load_agent(path, device, dtype) for path in paths]
        label = name or policies[0].name
        if label in groups or label in builtin:
            label = f"{label}:{paths[0]}"
        if label in groups:
            raise StmError(f"--agent {spec!r} is given twice; name one of them: --agent NAME={folders}")
        for policy in policies:
            policy.name = label
            seeds.append(int(policy.card.get("seed", 0)))
        groups[label] = policies
    return groups, seeds


def references(procedural: bool) -> list[Agent]:
    """Return the references that know more than an agent may; ``informed`` needs a procedural world."""
    return [FullContext(), *([Informed()] if procedural else []), Oracle()]


def _can_play(agent: Agent, task: Task, transcripts: Sequence[Transcript], count: int) -> bool:
    """Return whether a reference can play the first transcripts; without scores the oracle needs annotated evidence."""
    if task.engine is not None:
        return True
    return not agent.full_context and (agent.name != Oracle.name or all(transcripts[i].probes for i in range(count)))


def stage_of(
    task: Task,
    learned: dict[str, list[Trained]],
    episodes: int,
    seed: int,
    split: str,
    more: Sequence[Agent] = (),
) -> Stage:
    """Return all agents of an evaluation, ``more`` references than are always there too, and their environment."""
    make = partial(_make_env, task, split)
    transcripts = make(1, False).episodes.prepare.transcripts
    count = min(episodes, len(transcripts))
    known = references(procedural="keys" in transcripts[0].turns[0].meta)
    playable = [agent for agent in known if _can_play(agent, task, transcripts, count)]
    always = {agent.name: [agent] for agent in (*heuristics(seed), *playable, *more)}
    return Stage({**always, **learned}, make)


def _make_env(task: Task, split: str, num_envs: int, full_context: bool) -> MemoryVectorEnv:
    return task.make(num_envs, split=split, autoreset=False, full_context=full_context)


def _stage_on_actor(
    request: EvalRequest, task: Task, learned: dict[str, list[Trained]], split: str, level: float | None
) -> Stage:
    """Return the stage of an evaluation on another machine.

    Args:
        request: What was asked for.
        task: The task, without what has to be made on each machine: language model and reward.
        learned: The policies.
        split: Part of the transcripts.
        level: Noise of the labels of the hindsight expert; none if it does not play.
    """
    check_env_id(task.env)
    task = replace(task, engine=engine_of(request), reward=as_reward(request.rewards or None))
    more = [] if level is None else [expert_of(task, level)]
    return stage_of(task, learned, request.episodes, request.seed, split, more)


def evaluate_task(
    task: Task,
    learned: dict[str, list[Trained]],
    episodes: int,
    seeds: list[int],
    seed: int,
    split: str,
    more: Sequence[Agent] = (),
    on: tuple[Cluster, Callable[[], Stage]] | None = None,
) -> Evaluation:
    """Play the held-out episodes with every agent, and with ``more`` references than are always there.

    Args:
        task: What is played.
        learned: Policies, each once for each seed.
        episodes: How many episodes.
        seeds: Seeds of the policies, for the report.
        seed: Seeds random agents and the bootstrap.
        split: Part of the transcripts.
        more: More references.
        on: Play on this cluster, and what makes the stage there.
    """
    stage = stage_of(task, learned, episodes, seed, split, more)
    probe = stage.make_env(1, False)
    indices = range(min(episodes, len(probe.episodes.prepare.transcripts)))
    traced = (*learned, EXPERT, "oracle", "none")
    recorded = {name: TRACED_EPISODES for name in stage.agents if name in traced}
    played: dict[str, list[Played]] = {}
    with _progress(len(indices) * sum(map(len, stage.agents.values()))) as (say, advance):
        if on is not None:
            say(f"on {on[0].workers} actors")
            played = play_on(*on, stage.agents, indices, recorded, advance)
        else:
            for name, agents in stage.agents.items():
                say(name)
                traces = recorded.get(name, 0)
                played[name] = [
                    play(agent, stage.make_env, indices, traces=traces, on_episodes=advance) for agent in agents
                ]
    bootstrap = Bootstrap(len(indices), seed)
    settings = probe.episodes.settings
    report: dict[str, Any] = {
        "env": task.name,
        "settings": {
            "slots": settings.slots,
            "window": settings.window,
            "reads": settings.reads,
            "lm": task.lm_id,
            **({"reward": task.reward.specs} if task.reward else {}),
            **task.overrides,
        },
        "episodes": len(indices),
        "seeds": seeds or [seed],
        "agents": {
            name: {**summarize(results, bootstrap), **malformed(stage.agents[name])} for name, results in played.items()
        },
    }
    details = {
        "env": task.name,
        "agents": {
            name: [_details(agent, one, seed) for agent, one in zip(stage.agents[name], results, strict=True)]
            for name, results in played.items()
        },
    }
    budgeted = [agent.name for agent in heuristics()]
    best = max(budgeted, key=lambda name: report["agents"][name]["return"]["mean"])
    against = {name: difference(played[name], played[best], bootstrap) for name in learned}
    shown = [trace for results in played.values() for trace in results[0].traces]
    shown += trace_extremes(stage, list(learned), played)
    return Evaluation(report, details, shown, against, best)


def _details(agent: Player, played: Played, seed: int) -> dict[str, Any]:
    """Return what one agent earned in each episode; ``seed`` is that of agents that were not trained."""
    return {
        "seed": int(getattr(agent, "card", {}).get("seed", seed)),
        **{
            name: [round(value, 4) for value in values]
            for name, values in (("return", played.returns.tolist()), ("coherence_gain", played.gains.tolist()))
        },
        "terms": {name: [round(value, 4) for value in values] for name, values in played.terms.items()},
    }


def trace_extremes(stage: Stage, learned: Sequence[str], played: dict[str, list[Played]]) -> list[dict[str, Any]]:
    """Return traces of the best and worst episodes of each learned agent, and of ``none`` in the same episodes.

    They are known only after all episodes were played, so these few are played again; scores are in the cache.

    Args:
        stage: The agents and their environment.
        learned: Names of learned agents; of each the first seed is traced.
        played: What each agent did in all episodes, once for each seed.
    """
    none = "none"
    found: list[dict[str, Any]] = []
    wanted: dict[str, list[int]] = {none: []}
    for name in learned:
        gained = np.argsort(played[name][0].returns - played[none][0].returns, kind="stable").tolist()
        wanted[name] = list(dict.fromkeys([*gained[-EXTREME_EPISODES:], *gained[:EXTREME_EPISODES]]))
        wanted[none] += wanted[name]
    for name, episodes in wanted.items():
        known = {trace["episode"] for trace in played[name][0].traces}
        left = sorted(set(episodes) - known)
        if left:
            found += play(stage.agents[name][0], stage.make_env, left, traces=len(left)).traces
    return found


def write_evaluation(result: Evaluation, out: Path) -> None:
    """Write ``eval.json``, or whatever its name shall be, and ``episodes.json`` beside it."""
    write_json(out, result.report)
    write_json(details_path(out), result.details)


def details_path(out: Path) -> Path:
    """Return where the details of an evaluation are: ``episodes.json``, or ``NAME.episodes.json`` beside NAME.json."""
    return out.with_name("episodes.json" if out.name == "eval.json" else f"{out.stem}.episodes.json")


def malformed(agents: Sequence[Player]) -> dict[str, float]:
    """Return the share of decisions with malformed tool calls; nothing for agents that make none, or elsewhere."""
    decisions = sum(getattr(agent, "decisions", 0) for agent in agents)
    return {"malformed": sum(getattr(agent, "bad", 0) for agent in agents) / decisions} if decisions else {}


@contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """Show a bar on stderr, if it is a terminal; yield what says who plays, and what advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:28s}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("evaluating", total=total)
        yield (
            lambda who: progress.update(bar, description=f"evaluating {who}"),
            lambda count: progress.advance(bar, count),
        )


def run_evaluation(request: EvalRequest, *, out: Path | None, traces: Path | None, as_json: bool) -> None:
    """Do what ``stm-rl eval`` asks for."""
    torch.set_num_threads(request.threads)
    learned, seeds = load_agents(request.agents, request.device, request.dtype)
    task = make_task(request)
    task.check()
    for path in filter(None, (out, traces)):
        if path.is_dir():
            raise StmError(f"{path} is a folder; expected the name of a file, such as {path / 'eval.json'}")
        path.parent.mkdir(parents=True, exist_ok=True)
    split = "all" if request.transcripts else "test"
    more = [expert_of(task)] if EXPERT in request.agents else []
    play_all = partial(evaluate_task, task, learned, request.episodes, seeds, request.seed, split, more)
    if request.ray is None:
        result = play_all()
    else:
        # Several machines cannot share the file of scores.
        there = request if request.ray == LOCAL else replace(request, cache=NO_CACHE)
        level = more[0].level if more else None
        sent = replace(task, engine=None, reward=None)
        with connect(request.ray, request.device, request.ray_workers, request.threads) as cluster:
            result = play_all(on=(cluster, partial(_stage_on_actor, there, sent, learned, split, level)))
    if out is not None:
        write_evaluation(result, out)
    if traces is not None:
        write_jsonl(traces, result.traces)
    show(result, as_json)
    say_found(task.engine, as_json)


def show(result: Evaluation, as_json: bool) -> None:
    """Print an evaluation as a table or as JSON."""
    if as_json:
        print_json(result.report)
    else:
        print_table(result.report, result.against_best, result.best_heuristic)
        for name, entry in result.report["agents"].items():
            if "malformed" in entry:
                print(f"{name}: {entry['malformed']:.2%} of decisions had malformed tool calls")
