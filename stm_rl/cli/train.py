"""``stm-rl train``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stm_rl.cli.progress import training
from stm_rl.cli.running import check_types, finish, new_run, restored, say_interrupted
from stm_rl.cli.task import Task, TaskRequest, make_task
from stm_rl.errors import StmError
from stm_rl.files import reading
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
    init: Path | None = None
    kl_anchor: float | None = None


def run_training(request: TrainRequest, *, resume: bool, force: bool, as_json: bool) -> None:
    """Do what ``stm-rl train`` asks for."""
    if resume:
        run = Run.open(request.out)
        config = run.config
        with reading(run.folder / "config.yaml", "restore it, or train anew with --force"):
            found = restored(TrainRequest, config["request"])
            request = replace(found, out=request.out, cache=request.cache or found.cache)
            settings = _settings(config["ppo"])
            check_types(settings)
        init = PolicyAgent.load(run.folder / "checkpoint" / "init") if request.init else None
    else:
        init = PolicyAgent.load(request.init) if request.init else None
        settings = _new_settings(request, init)
    torch.set_num_threads(request.threads)
    task = make_task(request)
    task.check()
    if init is not None:
        init.check_fits(task.make(1))
    if not resume:
        run = new_run(request.out, request, {"ppo": settings.as_dict()}, force=force)
    policy = _train(task, request, settings, run, init, resume)
    episodes, seed = request.eval_episodes, settings.seed
    finish(task, run, policy, command="train", episodes=episodes, seed=seed, as_json=as_json)


def _new_settings(request: TrainRequest, init: PolicyAgent | None) -> PPOSettings:
    if init is None and request.kl_anchor is not None:
        raise StmError(
            f"--kl-anchor needs --init, and was given as {request.kl_anchor:g} without it; name the folder of the "
            "policy to start from, or leave --kl-anchor out"
        )
    env = "" if request.transcripts else request.env
    settings = preset(request.preset, env, steps=request.steps, warm=init is not None)
    settings = replace(settings, seed=request.seed)
    if init is None:
        return settings
    kl_anchor = settings.kl_anchor if request.kl_anchor is None else request.kl_anchor
    shape = init.network.shape
    return replace(settings, kl_anchor=kl_anchor, width=shape["width"], layers=shape["layers"])


def _settings(values: dict[str, Any]) -> PPOSettings:
    return PPOSettings(**{**values, "curriculum": tuple(Stage(**stage) for stage in values["curriculum"])})


def _train(
    task: Task, request: TrainRequest, settings: PPOSettings, run: Run, init: PolicyAgent | None, resume: bool
) -> PolicyAgent:
    card: dict[str, Any] = {
        "env": task.name,
        "settings": task.overrides,
        "lm": task.lm_id,
        "reward": task.make(1).episodes.reward.specs,
        "seed": settings.seed,
        "steps": settings.steps,
    }
    if init is not None:
        method = {"method": init.card["method"]} if "method" in init.card else {}
        card["init"] = {"folder": str(request.init), **method}
    with training(settings.steps, _shown) as report:
        trainer = PPOTrainer(task.make, settings, run, card, report, init)
        if resume:
            trainer.load_checkpoint()
        try:
            return trainer.train()
        except KeyboardInterrupt:
            say_interrupted("train", f"after {trainer.done:,} steps", run)
            raise


def _shown(row: dict[str, Any]) -> str | None:
    if "validation/return" not in row:
        return None
    training = f"training return {row['train/return']:6.2f}  " if "train/return" in row else ""
    return f"{training}validation return {row['validation/return']:6.2f}"
