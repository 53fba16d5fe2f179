"""``stm-rl bench recall``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stm_rl.cli.output import print_json, wide_console
from stm_rl.cli.sources import read_saying
from stm_rl.errors import StmError
from stm_rl.evaluation.recall import Measured, Stream, check_counts, streams_of
from stm_rl.evaluation.recall_keepers import keepers
from stm_rl.evaluation.recall_report import METRICS, bench_recall
from stm_rl.files import write_json
from stm_rl.readers.split import split_transcripts
from stm_rl.transcript import Transcript

if TYPE_CHECKING:
    from stm_rl_agents.loading import Trained
    from stm_rl_agents.policy import PolicyAgent

BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallRequest:
    """The command-line values of ``stm-rl bench recall``; see ``stm-rl bench recall --help``."""

    data: Path
    format: str = "auto"
    slots: Sequence[int] = (4, 8, 16)
    agents: Sequence[str] = ()
    tasks: Sequence[int] = ()
    split: str = "all"
    limit: int | None = None
    skip_bad: bool = False
    metric: str = BOTH
    seed: int = 0
    threads: int = 1


def run_recall(request: RecallRequest, *, out: Path | None = None, as_json: bool = False) -> None:
    """Do what ``stm-rl bench recall`` asks for."""
    if request.metric not in (*METRICS, BOTH):
        raise StmError(f"--metric is {request.metric!r}; expected {', '.join(METRICS)} or {BOTH}")
    if wrong := [slots for slots in request.slots if slots < 1]:
        raise StmError(f"--slots is {wrong[0]}; expected at least 1")
    if out is not None:
        if out.is_dir():
            raise StmError(f"{out} is a folder; expected the name of a file, such as {out / 'recall.json'}")
        out.parent.mkdir(parents=True, exist_ok=True)
    groups = _groups(request)
    streams = streams_of(_read(request))
    report = _measure(request, streams, groups)
    if out is not None:
        write_json(out, report)
    if as_json:
        print_json(report)
    else:
        print_recall(report)


def _groups(request: RecallRequest) -> dict[str, list[Measured]]:
    """Return what is compared: every keeper, then the agents asked for, then the optimum."""
    groups = keepers(request.seed)
    oracle = groups.pop("oracle")
    others = [spec for spec in dict.fromkeys(request.agents) if spec not in (*groups, "oracle")]
    for spec in others:
        if "=" not in spec and not Path(spec).is_dir():
            raise StmError(
                f"unknown agent {spec!r}: it is neither a run folder nor one of {', '.join(sorted(groups))}, oracle"
            )
    if others:
        groups |= _policies(others, request.threads, {*groups, "oracle"})
    return groups | {"oracle": oracle}


def _policies(specs: Sequence[str], threads: int, taken: set[str]) -> dict[str, list[Measured]]:
    """Return the trained policies that ``--agent`` names."""
    import torch  # only here, for it takes seconds

    from stm_rl.cli.evaluate import load_agents
    from stm_rl_agents.keepers import AgentKeeper

    torch.set_num_threads(threads)
    learned, _ = load_agents(specs)
    if clash := sorted(taken & learned.keys()):
        raise StmError(f"an agent is named {clash[0]!r}, as a keeper is; give it another name: --agent NAME=FOLDER")
    return {name: [AgentKeeper.of_policy(_slot_policy(name, one)) for one in found] for name, found in learned.items()}


def _slot_policy(name: str, agent: Trained) -> PolicyAgent:
    from stm_rl_agents.policy import PolicyAgent

    if not isinstance(agent, PolicyAgent):
        raise StmError(f"{name} is a language model that decides; `stm-rl bench recall` measures slot policies")
    return agent


def _read(request: RecallRequest) -> list[Transcript]:
    found = read_saying(request.data, request.format, None, request.skip_bad)
    if request.tasks:
        found = (transcript for transcript in found if transcript.meta.get("task") in request.tasks)
    transcripts = list(islice(found, request.limit))
    transcripts = split_transcripts(transcripts, request.split) if transcripts else []
    if not transcripts:
        which = f"of task {', '.join(map(str, request.tasks))}" if request.tasks else "at all"
        raise StmError(f"{request.data} holds no transcript {which}; expected at least one; check --data and --tasks")
    return transcripts


def _measure(request: RecallRequest, streams: list[Stream], groups: dict[str, list[Measured]]) -> dict[str, Any]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:32s}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    budgets = tuple(dict.fromkeys(request.slots))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("measuring", total=len(budgets) * sum(map(len, groups.values())))
        slots = bench_recall(
            streams,
            groups,
            budgets,
            seed=request.seed,
            on_played=lambda name, budget: progress.update(bar, advance=1, description=f"{name} with {budget} slots"),
        )
    wanted = METRICS if request.metric == BOTH else (request.metric,)
    return {
        "benchmark": "recall",
        "data": str(request.data),
        "format": request.format,
        **({"tasks": list(request.tasks)} if request.tasks else {}),
        "split": request.split,
        "transcripts": len(streams),
        "probes": int(check_counts(streams).sum()),
        "seed": request.seed,
        "slots": {
            budget: {name: {metric: entry[metric] for metric in wanted} for name, entry in agents.items()}
            for budget, agents in slots.items()
        },
    }


def print_recall(report: dict[str, Any]) -> None:
    """Print the report as one table for each size of the memory, best last."""
    console = wide_console()
    console.print(
        f"evidence recall · {report['data']} · {report['transcripts']} transcripts, {report['probes']} probes · %",
        highlight=False,
        soft_wrap=True,
    )
    for budget, agents in report["slots"].items():
        metrics = list(next(iter(agents.values())))
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(f"{budget} slots", no_wrap=True, min_width=20)
        for metric in metrics:
            table.add_column(f"{metric} [95% CI]", justify="right", no_wrap=True, min_width=22)
        for name, entry in sorted(agents.items(), key=lambda item: item[1][metrics[0]]["mean"]):
            table.add_row(name, *(_percent(entry[metric]) for metric in metrics))
        console.print()
        console.print(table)


def _percent(value: dict[str, Any]) -> str:
    low, high = value["ci95"]
    return f"{100 * value['mean']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
