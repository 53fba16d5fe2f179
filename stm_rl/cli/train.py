"""``stm-rl train``."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import stm_rl
from stm_rl.cli.evaluate import evaluate_run, show
from stm_rl.cli.sources import parse_source
from stm_rl.cli.task import Task, TaskRequest, make_task
from stm_rl.evaluation.plot import plot_learning_curve
from stm_rl.files import reading
from stm_rl.readers import READERS
from stm_rl.runs import Run
from stm_rl_agents.policy import PolicyAgent
from stm_rl_agents.ppo import PPOSettings, PPOTrainer, Stage
from stm_rl_agents.presets import preset


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest(TaskRequest):
    """The command-line values of ``stm-rl train``; see ``stm-rl train --help``."""

    out: Path
    preset: str
    steps: int | None
    eval_episodes: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for ``config.yaml``."""
        sources = [parse_source(text, self.format) for text in self.transcripts]
        paths = [f"{format}:{path.resolve()}" if format in READERS else str(path.resolve()) for format, path in sources]
        return {**asdict(self), "out": str(self.out), "transcripts": paths}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainRequest:
        """Return the request that :meth:`as_dict` wrote."""
        return cls(**{**values, "out": Path(values["out"])})


def run_training(request: TrainRequest, *, resume: bool, force: bool, as_json: bool) -> None:
    """Do what ``stm-rl train`` asks for."""
    if resume:
        run = Run.open(request.out)
        stored = run.config
        with reading(run.folder / "config.yaml", "restore it, or train anew with --force"):
            request = replace(TrainRequest.from_dict(stored["request"]), out=request.out)
            settings = _settings(stored["ppo"])
            check_types(request)
            check_types(settings)
    else:
        settings = preset(request.preset, "" if request.transcripts else request.env)
        settings = replace(settings, seed=request.seed, steps=request.steps or settings.steps)
    torch.set_num_threads(request.threads)
    task = make_task(request)
    task.check()
    if not resume:
        versions = {name: version(name) for name in ("torch", "transformers", "stable-baselines3", "gymnasium")}
        config = {
            "command": " ".join(["stm-rl", *sys.argv[1:]]),
            "request": request.as_dict(),
            "ppo": settings.as_dict(),
            "versions": {"stm-rl": stm_rl.__version__, "python": platform.python_version(), **versions},
        }
        run = Run.create(request.out, config, force=force)
    policy = _train(task, settings, run, resume)
    title = f"{task.name}, seed {settings.seed}"
    if request.eval_episodes:
        try:
            result = evaluate_run(task, run, policy, request.eval_episodes, settings.seed)
        except KeyboardInterrupt:
            _say_interrupted("while evaluating", run)
            raise
        agents = result.report["agents"]
        names = [name for name in ("oracle", "informed", result.best_heuristic) if name in agents]
        references = {name: agents[name]["return"]["mean"] for name in names}
        plot_learning_curve(
            {"ppo": run.metrics()}, run.folder / "learning_curve.png", title=title, references=references
        )
        show(result, as_json)
    else:
        plot_learning_curve({"ppo": run.metrics()}, run.folder / "learning_curve.png", title=title)
    print(f"wrote {run.folder}", file=sys.stderr)


def _settings(values: dict[str, Any]) -> PPOSettings:
    return PPOSettings(**{**values, "curriculum": tuple(Stage(**stage) for stage in values["curriculum"])})


def check_types(record: Any) -> None:
    """Raise TypeError if a field of a dataclass does not hold what it is declared to hold."""
    for name, hint in get_type_hints(type(record)).items():
        expected = (int, float) if hint is float else get_origin(hint) if get_origin(hint) in (list, tuple) else hint
        if not isinstance(getattr(record, name), expected):
            raise TypeError(f"{name} is {getattr(record, name)!r}")


def _train(task: Task, settings: PPOSettings, run: Run, resume: bool) -> PolicyAgent:
    card = {
        "env": task.name,
        "settings": task.overrides,
        "lm": task.lm_id,
        "reward": task.make(1).episodes.reward.specs,
        "seed": settings.seed,
        "steps": settings.steps,
    }
    with _progress(settings.steps) as report:
        trainer = PPOTrainer(task.make, settings, run, card, report)
        if resume:
            trainer.load_checkpoint()
        try:
            return trainer.train()
        except KeyboardInterrupt:
            _say_interrupted(f"after {trainer.done:,} steps", run)
            raise


def _say_interrupted(when: str, run: Run) -> None:
    print(
        f"stm-rl: interrupted {when}; what was trained is in {run.folder}; "
        f"go on with: stm-rl train --resume --out {run.folder}",
        file=sys.stderr,
    )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Show a bar on a terminal, and a line for each validation elsewhere."""
    console = Console(stderr=True)
    shown = {"text": "training"}
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(shown["text"], total=total)

        def report(steps: int, row: dict[str, Any]) -> None:
            if "validation/return" in row:
                shown["text"] = f"training · validation return {row['validation/return']:.2f}"
                if not console.is_terminal:
                    seconds = row["seconds"]
                    console.print(
                        f"{steps:>9,} of {total:,} steps  {seconds:5.0f} s  training return "
                        f"{row.get('train/return', 0):6.2f}  validation return {row['validation/return']:6.2f}",
                        highlight=False,
                        soft_wrap=True,
                    )
            progress.update(bar, completed=steps, description=shown["text"])

        yield report
