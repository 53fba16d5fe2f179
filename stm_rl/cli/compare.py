"""``stm-rl compare``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from stm_rl.cli.cache import say_found
from stm_rl.cli.demonstrate import demonstrator
from stm_rl.cli.output import print_json, wide_console
from stm_rl.cli.progress import counted
from stm_rl.cli.task import DEFAULT_ENV, NO_LM, Task, TaskRequest, make_task
from stm_rl.comparison import FILE, MEASURES, Continuation, write_continuations
from stm_rl.comparison import compare as summarize
from stm_rl.comparison.continuation import KINDS
from stm_rl.comparison.measures import LESS_IS_BETTER
from stm_rl.encoders import sentence_encoder
from stm_rl.errors import StmError
from stm_rl.evaluation.statistics import verdict
from stm_rl.files import write_json
from stm_rl_agents.continuations import Writing, continuations, moments
from stm_rl_envs.settings import TEACHER_FORCED

WORLDS = ("stm_rl/Dialogue-v0", "stm_rl/Story-v0", "stm_rl/Screenplay-v0")
"""What is compared unless something is named."""
SUMMARY = "comparison.json"
GREEDY = "greedy"
BATCH = 32
"""Most episodes played together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest(TaskRequest):
    """The command-line values of ``stm-rl compare``; see its ``--help``."""

    envs: list[str]
    agent: str
    episodes: int
    samples: str
    encoder: str
    out: Path | None


def run_compare(request: CompareRequest, *, as_json: bool) -> None:
    """Do what ``stm-rl compare`` asks for."""
    torch.set_num_threads(request.threads)
    temperature = _temperature(request.samples)
    if request.lm == NO_LM:
        raise StmError("--lm none cannot write texts; give a language model")
    if request.transcripts and len(request.envs) > 1:
        raise StmError(f"--transcripts goes with one --env; got {', '.join(request.envs)}")
    folder = _folder(request)
    envs = request.envs or ([DEFAULT_ENV] if request.transcripts else list(WORLDS))
    tasks = [make_task(replace(request, env=env)) for env in envs]
    encoder = sentence_encoder(request.encoder)
    found: list[Continuation] = []
    for task in tasks:
        how = Writing(kind=_kind(task), env=task.name, seed=request.seed, temperature=temperature, encoder=encoder)
        found += _continued(request, task, how)
    if not found:
        raise StmError(
            "no turn was continued: none is the model's to write or known to depend on earlier ones; give longer "
            "transcripts, or --set authors=[NAME]"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_continuations(folder / FILE, found)
    report = {
        "agent": found[0].agent,
        "lm": found[0].lm,
        "samples": request.samples,
        "seed": request.seed,
        "settings": tasks[0].overrides,
        "kinds": summarize(found, request.seed),
    }
    write_json(folder / SUMMARY, report)
    if as_json:
        print_json(report)
    else:
        print_comparison(report)
    say_found(tasks[0].engine, as_json)
    print(f"wrote {folder / FILE}; `stm-rl review {folder}` shows them to people", file=sys.stderr)


def _temperature(samples: str) -> float | None:
    if samples == GREEDY:
        return None
    try:
        value = float(samples)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise StmError(f"--samples is {samples!r}; expected greedy, or a temperature of more than 0 such as 0.8")
    return value


def _folder(request: CompareRequest) -> Path:
    """Return where to write."""
    if request.out is not None:
        folder = request.out
    else:
        folder = Path(request.agent)
        if not folder.is_dir():
            folder = Path("runs") / f"compare-{folder.name}"
    if folder.exists() and not folder.is_dir():
        raise StmError(f"{folder} is a file; expected a folder to write (--out)")
    return folder


def _kind(task: Task) -> str:
    """Return what an environment's transcripts are: the kind that its id names."""
    name = task.env.rpartition("/")[2].lower()
    return next((kind for kind in KINDS if name.startswith(kind) and not task.sets), KINDS[-1])


def _continued(request: CompareRequest, task: Task, how: Writing) -> list[Continuation]:
    split = "all" if task.sets else "test"
    task.check()
    available = len(task.make(1, split=split, autoreset=False).episodes.prepare.transcripts)
    count = min(request.episodes, available)
    env = task.make(min(BATCH, count), split=split, autoreset=False, mode=TEACHER_FORCED)
    agent = demonstrator(request.agent, env, request.seed)
    with counted(f"{agent.name} plays {task.name}", count) as advance:
        met = moments(agent, env, range(count), advance)
    return continuations(agent.name, env, met, how)


def print_comparison(report: dict[str, Any]) -> None:
    """Print a table for each kind of transcript, and what the measures mean."""
    console = wide_console()
    shown: set[str] = set()
    for kind, entry in report["kinds"].items():
        console.print(
            f"{kind} · {entry['episodes']} episodes · {entry['turns']} turns continued, of which memory changed "
            f"{entry['different']} · {report['agent']} · {report['lm']} · {report['samples']}",
            style="italic", highlight=False, soft_wrap=True,
        )  # fmt: skip
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("measure", no_wrap=True)
        for column in ("turns", "without", "with", "difference [95% CI]", "with memory"):
            table.add_column(column, justify="right", no_wrap=True)
        for name, values in entry["measures"].items():
            low, high = values["difference"]["ci95"]
            table.add_row(
                name,
                str(values["turns"]),
                f"{values['without']:.3f}",
                f"{values['with']:.3f}",
                f"{values['difference']['mean']:+.3f} [{low:+.3f}, {high:+.3f}]",
                _verdict(name, low, high),
            )
            shown.add(name)
        console.print(table)
        console.print()
    for name in (name for name in MEASURES if name in shown):
        console.print(f"{name}: {MEASURES[name]}", highlight=False, soft_wrap=True, style="dim")


def _verdict(name: str, low: float, high: float) -> str:
    """Return in a word what an interval of differences says."""
    return verdict(-high, -low) if name in LESS_IS_BETTER else verdict(low, high)
