"""``stm-rl recurrent``."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import yaml

from stm_rl.cli.progress import say, training
from stm_rl.cli.running import check_types, config_of, say_interrupted
from stm_rl.errors import StmError
from stm_rl.evaluation.statistics import Bootstrap
from stm_rl.files import reading, write_json
from stm_rl.runs import Run
from stm_rl_agents.recurrent import (
    RecurrentAgent,
    RecurrentNetwork,
    RecurrentPPOSettings,
    RecurrentPPOTrainer,
    evaluate,
    make_envs,
)

HELD_OUT = 1_000_000
"""Evaluation seeds are this much above that of training."""


@dataclass(frozen=True, slots=True)
class RecurrentRequest:
    """The command-line values of ``stm-rl recurrent`` that are not settings of training."""

    env: str
    eval_episodes: int


def parse_options(texts: list[str]) -> dict[str, Any]:
    """Return ``NAME=VALUE`` texts as numbers and booleans by name.

    Raises:
        StmError: One is not of that form.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        parsed = yaml.safe_load(value) if equals else None
        if not name or not isinstance(parsed, int | float):
            raise StmError(f"--core-option is {text!r}; expected NAME=NUMBER, such as history=64")
        options[name] = parsed
    return options


def run_recurrent(
    request: RecurrentRequest,
    settings: RecurrentPPOSettings,
    out: Path,
    *,
    resume: bool,
    force: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Do what ``stm-rl recurrent`` asks for."""
    torch.set_num_threads(threads)
    if resume:
        run = Run.open(out)
        with reading(run.folder / "config.yaml", "restore it, or train anew with --force"):
            request = RecurrentRequest(**run.config["request"])
            settings = RecurrentPPOSettings(**run.config["recurrent_ppo"])
            check_types(request)
    trainer = RecurrentPPOTrainer(_envs(request.env, settings.num_envs), settings)
    if resume:
        trainer.load_checkpoint(run.folder / "checkpoint")
        run.forget_after(trainer.done)
    else:
        values = {field.name: getattr(request, field.name) for field in fields(request)}
        run = Run.create(out, config_of(values, {"recurrent_ppo": settings.as_dict()}), force=force)
    policy = _train(trainer, run)
    card = {"env": request.env, "seed": settings.seed, "steps": trainer.policy_steps}
    RecurrentAgent(policy).save(run.folder, card)
    if request.eval_episodes:
        _evaluate(request, policy, trainer, run, as_json)
    say(_kept(trainer))
    say(f"wrote {run.folder}")


def _kept(trainer: RecurrentPPOTrainer) -> str:
    if not trainer.best_weights:
        return f"kept the last policy: fewer than {trainer.recent.maxlen} episodes ended, so none is known to be best"
    of = f"of {trainer.policy_steps:,} of {trainer.done:,} steps"
    return f"kept the policy {of}: the best mean return of {trainer.recent.maxlen} episodes, {trainer.best:.3f}"


def _envs(env: str, count: int) -> Any:
    try:
        return make_envs(env, count)
    except (gym.error.Error, ImportError) as error:
        raise StmError(
            f"cannot make {env!r} ({error}); give a Gymnasium id, or module:id to import it first"
        ) from error


def _train(trainer: RecurrentPPOTrainer, run: Run) -> RecurrentNetwork:
    total = trainer.settings.steps
    said = trainer.done

    def describe(row: dict[str, Any]) -> str | None:
        nonlocal said
        if "return" not in row or (trainer.done - said < total / 20 and trainer.done < total):
            return None
        said = trainer.done
        return f"return {row['return']:.3f}"

    with training(total, describe) as report:

        def progress(steps: int, row: dict[str, float]) -> None:
            run.log({"steps": steps, **{name: round(value, 5) for name, value in row.items()}})
            report(steps, row)

        trainer.on_progress = progress
        try:
            return trainer.train()
        except KeyboardInterrupt:
            say_interrupted("recurrent", f"after {trainer.done:,} steps", run)
            raise
        finally:
            trainer.save_checkpoint(run.folder / "checkpoint")


def _evaluate(
    request: RecurrentRequest, policy: RecurrentNetwork, trainer: RecurrentPPOTrainer, run: Run, as_json: bool
) -> None:
    settings, count = trainer.settings, min(request.eval_episodes, 50)
    returns = evaluate(policy, _envs(request.env, count), request.eval_episodes, HELD_OUT + settings.seed)
    summary = Bootstrap(len(returns)).interval(np.atleast_2d(returns))
    result = {"env": request.env, "core": settings.core, "steps": trainer.done}
    result |= {"policy_steps": trainer.policy_steps, "episodes": len(returns)}
    write_json(run.folder / "eval.json", {**result, "seed": settings.seed, "return": summary})
    if as_json:
        print(json.dumps({**result, "return": summary}))
    else:
        low, high = summary["ci95"]
        print(f"{request.env} · {settings.core} · {len(returns)} new episodes: return {summary['mean']:.3f}", end=" ")
        print(f"[{low:.3f}, {high:.3f}] after {trainer.policy_steps:,} steps")
