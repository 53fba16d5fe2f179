"""``stm-rl imitate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from stm_rl.cli.labels import LabelledRequest, Labels, label_training, make_expert, make_labels
from stm_rl.cli.progress import say
from stm_rl.cli.running import check_types, finish, new_run, restored, say_interrupted
from stm_rl.cli.task import NO_LM, Task, make_task
from stm_rl.errors import StmError
from stm_rl.files import reading
from stm_rl.memory_tools import tool_mapping, tool_script
from stm_rl.readers.split import split_transcripts
from stm_rl.rewards import as_reward
from stm_rl.runs import Run
from stm_rl_agents.demonstrations import Demonstrations, card_of
from stm_rl_agents.imitation.settings import ImitationSettings
from stm_rl_agents.imitation.trainer import ImitationTrainer, check_learnable
from stm_rl_agents.policy import PolicyAgent
from stm_rl_agents.tool_calls import tool_demonstrations
from stm_rl_envs.vector import MemoryVectorEnv

TEXT_REWARD = "hindsight[shaped=false]=1"
"""What episodes are paid with where there is no language model, unless the user says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImitateRequest(LabelledRequest):
    """The command-line values of ``stm-rl imitate``; see ``stm-rl imitate --help``."""

    out: Path
    method: str
    loss: str
    episodes: int
    rounds: int | None
    demonstrations: Path | None
    tools: str | None
    eval_episodes: int


def run_imitation(request: ImitateRequest, *, resume: bool, force: bool, as_json: bool) -> None:
    """Do what ``stm-rl imitate`` asks for."""
    if resume:
        run = Run.open(request.out)
        config = run.config
        with reading(run.folder / "config.yaml", "restore it, or begin anew with --force"):
            found = restored(ImitateRequest, config["request"])
            request = replace(found, out=request.out, cache=request.cache or found.cache)
            settings = ImitationSettings(**config["imitation"])
            check_types(settings)
    else:
        settings = _new_settings(request)
    if request.lm == NO_LM and not request.rewards:
        request = replace(request, rewards=[TEXT_REWARD])
    options = request.label_options
    torch.set_num_threads(request.threads)
    task = make_task(request)
    task.check()
    task, demonstrations = _demonstrations(request, task)
    available = len(task.make(1).episodes.prepare.transcripts)
    check_learnable(settings, available, demonstrations)
    labels = None
    if demonstrations is None:  # before anything is written: noise cannot be measured everywhere, nor any file be used
        labels = make_labels(task, options, request.labels, settings.gamma)
    if not resume:
        run = new_run(request.out, request, {"imitation": settings.as_dict()}, force=force)
    try:
        if labels is not None:
            indices = range(min(settings.transcripts, available))
            label_training(task, labels, request.labels or run.folder / "labels.sqlite", indices)
        policy = _train(task, settings, run, labels, demonstrations, resume)
    except KeyboardInterrupt:
        say_interrupted("imitate", "while learning", run)
        raise
    more = [make_expert(labels)] if labels else []
    finish(
        task,
        run,
        policy,
        command="imitate",
        episodes=request.eval_episodes,
        seed=settings.seed,
        as_json=as_json,
        more=more,
    )


def _new_settings(request: ImitateRequest) -> ImitationSettings:
    settings = ImitationSettings(
        method=request.method,
        loss=request.loss,
        transcripts=request.episodes,
        seed=request.seed,
    )
    return replace(settings, rounds=request.rounds) if request.rounds is not None else settings


def _demonstrations(request: ImitateRequest, task: Task) -> tuple[Task, Demonstrations | None]:
    """Return the demonstrations the user has, if any, and the task without the tool calls they were made of."""
    if request.demonstrations is not None and request.tools is not None:
        raise StmError("--demonstrations and --tools were both given; expected one of them")
    if request.demonstrations is not None:
        from stm_rl_agents.offline import read_demonstrations

        found = read_demonstrations(request.demonstrations)
        found.check(card_of(task.make(1), "", task.name))
        return task, found
    if request.tools is None:
        return task, None
    if not task.sets:
        raise StmError("--tools takes memory tool calls from transcripts; give the files that hold them")
    return _from_tool_calls(request.tools, task)


def _from_tool_calls(tools: str, task: Task) -> tuple[Task, Demonstrations]:
    """Return the demonstrations that tool calls of the training part are, and the task without these calls."""
    mapping = tool_mapping(tools)
    pairs = [[(one, tool_script(one, mapping).transcript) for one in found] for found in task.sets]
    pairs = [[(whole, told) for whole, told in found if told is not None] for found in pairs]
    if not all(pairs):
        raise StmError("a file holds no transcript of at least 2 turns once tool calls are taken out; leave it out")
    task = replace(task, sets=tuple(tuple(told for _, told in found if told is not None) for found in pairs))
    training = [one for found in pairs for one in split_transcripts([whole for whole, _ in found], "train")]
    env = task.make(1)
    demonstrations, report = tool_demonstrations(
        training, mapping, env.episodes.settings, env.episodes.encoder, env_name=task.name
    )
    mapped = ", ".join(f"{count} {operation}" for operation, count in report.mapped.items())
    say(f"{report.demonstrations} of {report.transcripts} transcripts demonstrate: {report.calls} calls, {mapped}")
    for reason, entry in list(report.as_dict()["unmappable"].items())[:5]:
        say(f"  not mapped: {entry['count']} because {reason}, first {entry['first']}")
    return task, demonstrations


def _train(
    task: Task,
    settings: ImitationSettings,
    run: Run,
    labels: Labels | None,
    demonstrations: Demonstrations | None,
    resume: bool,
) -> PolicyAgent:
    unscored = replace(task, engine=None, reward=as_reward({"write_cost": 1.0}))  # of no account, and needs no model

    def lesson_env(num_envs: int) -> MemoryVectorEnv:
        return unscored.make(num_envs, autoreset=False)

    env = task.make(1)
    source = {"labels": labels.card} if labels else {}
    told = {"demonstrations": demonstrations.card} if demonstrations else {}
    card = {
        "env": task.name,
        "settings": task.overrides,
        "lm": task.lm_id,
        "reward": env.episodes.reward.specs,
        "seed": settings.seed,
        **source,
        **told,
    }
    expert = make_expert(labels) if labels else None
    with _progress() as report:
        trainer = ImitationTrainer(task.make, lesson_env, expert, settings, run, card, demonstrations, report)
        if resume:
            trainer.load_checkpoint()
        return trainer.train()


@contextmanager
def _progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show on a terminal what goes on, and elsewhere a line for each validation."""
    console = Console(stderr=True)
    with console.status("learning") if console.is_terminal else nullcontext() as status:
        episodes = 0

        def report(row: dict[str, Any]) -> None:
            nonlocal episodes
            text = None
            if "episodes" in row:
                episodes += row["episodes"]
                text = f"learning · {episodes} episodes played"
            elif "epoch" in row:
                loss = row["imitation/held_out_loss"]
                text = f"learning · round {row['round']}, epoch {row['epoch']} · held-out loss {loss:.4f}"
            elif "validation/return" in row:
                console.print(
                    f"round {row['round']}: {row['steps']:>9,} steps  {row['seconds']:5.0f} s  validation return "
                    f"{row['validation/return']:6.2f}",
                    highlight=False,
                    soft_wrap=True,
                )
            if status is not None and text:
                status.update(text)

        yield report
