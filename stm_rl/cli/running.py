"""What commands that train have in common: how a run begins, is stored, is interrupted and ends."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import stm_rl
from stm_rl.cli.cache import say_found
from stm_rl.cli.evaluate import evaluate_task, show, write_evaluation
from stm_rl.cli.sources import parse_source
from stm_rl.cli.task import Task, TaskRequest
from stm_rl.evaluation.plot import ENV_STEPS, plot_learning_curve
from stm_rl.files import write_jsonl
from stm_rl.readers import READERS
from stm_rl.runs import Run
from stm_rl_agents.base import Agent
from stm_rl_agents.loading import Trained

PACKAGES = ("torch", "transformers", "stable-baselines3", "gymnasium")


def stored(request: TaskRequest) -> dict[str, Any]:
    """Return a request as plain values for ``config.yaml``, with the full paths of its transcripts."""
    sources = [parse_source(text, request.format) for text in request.transcripts]
    paths = [f"{format}:{path.resolve()}" if format in READERS else str(path.resolve()) for format, path in sources]
    values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    return {**values, "transcripts": paths}


def restored(kind: type[Any], values: dict[str, Any]) -> Any:
    """Return the request of a class that :func:`stored` wrote.

    Raises:
        TypeError: A value is not what the class declares.
    """
    hints = get_type_hints(kind)
    paths = {name for name, hint in hints.items() if Path in (hint, *get_args(hint))}
    request = kind(**{n: Path(v) if n in paths and v is not None else v for n, v in values.items()})
    check_types(request)
    return request


def check_types(record: Any) -> None:
    """Raise TypeError if a field of a dataclass does not hold what it is declared to hold."""
    for name, hint in get_type_hints(type(record)).items():
        expected = (int, float) if hint is float else get_origin(hint) if get_origin(hint) in (list, tuple) else hint
        if not isinstance(getattr(record, name), expected):
            raise TypeError(f"{name} is {getattr(record, name)!r}")


def new_run(out: Path, request: TaskRequest, settings: dict[str, dict[str, Any]], *, force: bool) -> Run:
    """Make the run folder of a command, with everything needed to repeat it in ``config.yaml``."""
    return Run.create(out, config_of(stored(request), settings), force=force)


def config_of(request: dict[str, Any], settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return everything needed to repeat a run."""
    return {
        "command": " ".join(["stm-rl", *sys.argv[1:]]),
        "request": request,
        **settings,
        "versions": {
            "stm-rl": stm_rl.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    }


def say_interrupted(command: str, when: str, run: Run) -> None:
    """Say what was kept and how to go on."""
    print(
        f"stm-rl: interrupted {when}; what was trained is in {run.folder}; "
        f"go on with: stm-rl {command} --resume --out {run.folder}",
        file=sys.stderr,
    )


def finish(
    task: Task,
    run: Run,
    policy: Trained,
    *,
    command: str,
    episodes: int,
    seed: int,
    as_json: bool,
    more: Sequence[Agent] = (),
    unit: str = ENV_STEPS,
) -> None:
    """Evaluate the policy of a run; write ``eval.json``, ``episodes.json``, ``traces.jsonl`` and the learning curve.

    Prints the table.
    """
    title = f"{task.name}, seed {seed}"
    references: dict[str, float] = {}
    result = None
    if episodes:
        try:
            result = evaluate_task(task, {policy.name: [policy]}, episodes, [seed], seed, "test", more)
        except KeyboardInterrupt:
            say_interrupted(command, "while evaluating", run)
            raise
        write_evaluation(result, run.folder / "eval.json")
        write_jsonl(run.folder / "traces.jsonl", result.traces)
        agents = result.report["agents"]
        names = [name for name in ("oracle", "informed", result.best_heuristic) if name in agents]
        references = {name: agents[name]["return"]["mean"] for name in names}
    curve = run.folder / "learning_curve.png"
    plot_learning_curve({policy.name: [run.metrics()]}, curve, title=title, references=references, unit=unit)
    if result is not None:
        show(result, as_json)
    say_found(task.engine, as_json)
    print(f"wrote {run.folder}", file=sys.stderr)
