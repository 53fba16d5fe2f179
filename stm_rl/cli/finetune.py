"""``stm-rl finetune``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import disable_progress_bars
from rich.console import Console

from stm_rl.cli.finetune_methods import Finetuning, reference_of
from stm_rl.cli.imitate import TEXT_REWARD
from stm_rl.cli.labels import LabelledRequest, Labels, label_training, make_expert, make_labels
from stm_rl.cli.progress import say
from stm_rl.cli.running import finish, new_run, restored, say_interrupted
from stm_rl.cli.task import NO_LM, Task, make_task
from stm_rl.errors import StmError
from stm_rl.evaluation import play
from stm_rl.files import reading
from stm_rl.runs import Run
from stm_rl_agents.language.agent import LanguageAgent
from stm_rl_agents.language.callbacks import Report, RunLog
from stm_rl_agents.language.card import write_card
from stm_rl_agents.language.learner import Learner
from stm_rl_agents.language.settings import DPO, PPO, FinetuneSettings, make_settings
from stm_rl_agents.loading import is_language
from stm_rl_envs.vector import MemoryVectorEnv

SHOWN = {"return": "return", "malformed": "malformed", "validation/return": "validation return"}
"""What is shown of rows that are logged, and as what; the loss only without a return, beside which it says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRequest(LabelledRequest):
    """The command-line values of ``stm-rl finetune``; see ``stm-rl finetune --help``."""

    out: Path
    init: Path | None
    pairs: Path | None
    eval_episodes: int


def new_settings(
    method: str, config: Path | None, steps: int | None, lr: float | None, **given: Any
) -> FinetuneSettings:
    """Return the settings that a command line asks for; what it says wins over the file."""
    trl = {name: value for name, value in (("max_steps", steps), ("learning_rate", lr)) if value is not None}
    return make_settings(method, config, {**given, "trl": trl})


def run_finetune(request: FinetuneRequest, settings: FinetuneSettings | None, *, force: bool, as_json: bool) -> None:
    """Do what ``stm-rl finetune`` asks for.

    Every process of `accelerate launch` comes here; the main one makes the data, writes the run folder and evaluates.

    Args:
        request: Values of the command line.
        settings: How to train; None: go on with the run in ``request.out``.
        force: Move an existing run folder aside.
        as_json: Print the evaluation as JSON.
    """
    resume = settings is None
    if settings is None:
        run = Run.open(request.out)
        with reading(run.folder / "config.yaml", "restore it, or begin anew with --force"):
            found = restored(FinetuneRequest, run.config["request"])
            request = replace(found, out=request.out, cache=request.cache or found.cache)
            settings = FinetuneSettings(**run.config["finetune"])
    if request.init is not None and not is_language(request.init):
        raise StmError(
            f"--init {str(request.init)!r} holds no language.json; give the folder of a run of stm-rl finetune"
        )
    if request.pairs is not None and settings.method != DPO:
        raise StmError(f"--pairs is for --method dpo, and the method is {settings.method}; leave it out")
    if request.lm == NO_LM and not request.rewards:
        request = replace(request, rewards=[TEXT_REWARD])
    disable_progress_bars()
    torch.set_num_threads(request.threads)
    processes = PartialState(cpu=bool(settings.trl.get("use_cpu")))
    task = make_task(request)
    task.check()
    device = str(processes.device)
    learner = Learner(settings, request.init, device)
    labels = make_labels(task, request.label_options, request.labels, settings.gamma)
    expert = make_expert(labels)
    reference = reference_of(settings.reference, expert, settings.seed, device)
    if not resume and processes.is_main_process:
        run = new_run(request.out, request, {"finetune": settings.as_dict()}, force=force)
    processes.wait_for_everyone()
    run = Run.open(request.out)
    if settings.method != PPO and request.pairs is None:  # these never ask the expert about what is learned from
        indices = settings.chosen(len(task.make(1).episodes.prepare.transcripts))
        with processes.main_process_first():
            label_training(task, labels, request.labels or run.folder / "labels.sqlite", indices)
    folder = run.folder / "checkpoint"
    finetuning = Finetuning(task, expert, learner, settings, folder, processes, reference, request.pairs)
    try:
        _train(finetuning, run)
    except KeyboardInterrupt:
        say_interrupted("finetune", "while learning", run)
        raise
    if processes.is_main_process:
        best = learner.take_best(folder)
        if best is not None:
            say(f"kept the model that validation found best: return {best:.2f}")
        learner.save(run.folder, _card(task, request, settings, labels))
        agent = LanguageAgent.load(run.folder, device, settings.model_dtype)
        finish(
            task,
            run,
            agent,
            command="finetune",
            episodes=request.eval_episodes,
            seed=settings.seed,
            as_json=as_json,
            more=[expert],
            unit="training steps",
        )
        write_card(run.folder, run.config)


def _train(finetuning: Finetuning, run: Run) -> None:
    settings, learner = finetuning.settings, finetuning.learner

    def validate(model: Any) -> dict[str, float]:
        found = _validation(finetuning.task, learner.agent(model), settings.validation_episodes)
        learner.keep_if_best(model, found["return"], finetuning.folder)
        return found

    before = 0
    for number, make_trainer in enumerate(finetuning.rounds()):
        with _progress(settings.method, number) as report:
            callback = partial(RunLog, run, before, number, report, validate, settings.validation_every)
            before += learner.train(make_trainer, finetuning.folder / f"round-{number}", callback)


def _validation(task: Task, agent: LanguageAgent, count: int) -> dict[str, float]:
    def make(num_envs: int, full_context: bool) -> MemoryVectorEnv:
        return task.make(num_envs, split="validation", autoreset=False, full_context=full_context)

    indices = range(min(count, len(make(1, False).episodes.prepare.transcripts)))
    played = play(agent, make, indices)
    gains = {"return": float(played.returns.mean()), "coherence_gain": float(played.gains.mean())}
    return {**gains, "malformed": agent.bad / max(agent.decisions, 1)}


def _card(task: Task, request: FinetuneRequest, settings: FinetuneSettings, labels: Labels) -> dict[str, Any]:
    """Return what to keep about the agent."""
    return {
        "method": settings.method,
        "model": settings.model,
        "env": task.name,
        "settings": task.overrides,
        "lm": task.lm_id,
        "reward": task.make(1).episodes.reward.specs,
        "seed": settings.seed,
        "labels": labels.card,
        **({"init": str(request.init)} if request.init else {}),
    }


@contextmanager
def _progress(method: str, number: int) -> Iterator[Report]:
    """Show on a terminal what goes on, and elsewhere a line for each validation and each tenth of a round."""
    console = Console(stderr=True)
    with console.status(method) if console.is_terminal else nullcontext() as status:
        said = 0

        def report(step: int, total: int, row: dict[str, Any]) -> None:
            nonlocal said
            text = f"{method} · round {number}, step {step} of {total}"
            shown = SHOWN if "return" in row else {"loss": "loss", **SHOWN}
            text += "".join(f" · {name} {row[key]:.3f}" for key, name in shown.items() if key in row)
            if status is not None and not row:
                status.update(text)
            if "validation/return" in row or (row and step - said >= total / 10):
                said = step
                console.print(text, highlight=False, soft_wrap=True)

        yield report
