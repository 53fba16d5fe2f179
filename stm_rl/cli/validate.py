"""``stm-rl validate``: findings as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from stm_rl.cli.output import wide_console
from stm_rl.validation import ERROR, OK, WARNING, Finding

if TYPE_CHECKING:
    from stm_rl.cli.task import Task

_STYLES = {OK: "green", WARNING: "yellow", ERROR: "bold red"}


def report(kind: str, target: str, findings: Iterable[Finding], as_json: bool) -> int:
    """Print findings; return the exit status: 1 if one is an error, else 0."""
    found = list(findings)
    counts = {level: sum(finding.level == level for finding in found) for level in (ERROR, WARNING, OK)}
    if as_json:
        rows = [asdict(finding) for finding in found]
        print(json.dumps({"kind": kind, "target": target, "ok": not counts[ERROR], "findings": rows}, indent=1))
    else:
        _print_table(found)
        verdict = "is fine" if not counts[ERROR] else "needs work"
        print(f"{kind} {target} {verdict}: {counts[ERROR]} error(s), {counts[WARNING]} warning(s), {counts[OK]} ok")
    return int(counts[ERROR] > 0)


def _print_table(findings: Iterable[Finding]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found, and what to change", overflow="fold")
    for finding in findings:
        change = f"\n→ {finding.change}" if finding.change else ""
        table.add_row(finding.level, finding.check, escape(finding.found + change), style=_STYLES[finding.level])
    console = wide_console()
    console.print(table)


def _task(env: str, sets: list[str], lm: str, rewards: list[str], seed: int) -> Task:
    import torch

    from stm_rl.cli.task import TaskRequest, make_task

    torch.set_num_threads(1)
    request = TaskRequest(
        env=env, transcripts=[], format="auto", limit=None, sets=sets, lm=lm, device="cpu", dtype="float32",
        seed=seed, threads=1, rewards=rewards,
    )  # fmt: skip
    return make_task(request)


def validate_env(
    env: str, *, sets: list[str], rewards: list[str], lm: str, episodes: int, seed: int, as_json: bool
) -> int:
    """Do what ``stm-rl validate env`` asks for; return the exit status."""
    from stm_rl.cli.task import NO_LM
    from stm_rl.cli.validate_env import EnvChecks

    task = _task(env, sets, lm, rewards, seed)
    return report("env", env, EnvChecks(task, None if lm == NO_LM else lm, episodes, seed).run(), as_json)


def validate_reward(
    specs: list[str], *, envs: list[str], sets: list[str], lm: str, episodes: int, seed: int, as_json: bool
) -> int:
    """Do what ``stm-rl validate reward`` asks for; return the exit status.

    Args:
        specs: Terms, each ``TERM=WEIGHT`` or just ``TERM``.
        envs: Environments to try it in; none for the usual ones.
        sets: Settings of these environments.
        lm: Name of the language model.
        episodes: Episodes of each environment.
        seed: Seeds everything.
        as_json: Print JSON.
    """
    from stm_rl.cli.validate_reward import ENVS, RewardChecks, record
    from stm_rl.rewards import Reward, parse_weights

    weights = parse_weights(spec if _has_weight(spec) else f"{spec}=1.0" for spec in specs)
    judges = Reward(weights).needs_text  # what is wrong with them is said before a model is loaded
    mode = ["mode=generate"] if judges and not any(text.startswith("mode=") for text in sets) else []
    tasks = [_task(env, [*sets, *mode], lm, [], seed) for env in envs or ENVS]
    played = [record(task, episodes, seed) for task in tasks]
    return report("reward", " ".join(specs), RewardChecks(weights, played).run(), as_json)


def _has_weight(spec: str) -> bool:
    return "=" in spec.rpartition("]")[2]


def validate_transcripts(path: Path, *, format: str, limit: int | None, lm: str, memory: bool, as_json: bool) -> int:
    """Do what ``stm-rl validate transcripts`` asks for; return the exit status."""
    import torch

    from stm_rl.cli.validate_memory import check_memory
    from stm_rl.lm import load_engine
    from stm_rl.validation import run_checks
    from stm_rl.validation.transcripts import TranscriptChecks

    torch.set_num_threads(1)
    engine = load_engine(lm)
    checks = TranscriptChecks(path, format, engine.lm, limit)
    findings = list(checks.run())
    if memory and checks.transcripts:
        findings += run_checks([("need of memory", lambda: check_memory(checks.transcripts, engine))])
    return report("transcripts", str(path), findings, as_json)


def validate_policy(folder: Path, *, episodes: int, seed: int, as_json: bool) -> int:
    """Do what ``stm-rl validate policy`` asks for; return the exit status."""
    import torch

    from stm_rl.cli.running import restored
    from stm_rl.cli.task import TaskRequest, make_task
    from stm_rl.cli.validate_policy import PolicyChecks
    from stm_rl.files import reading
    from stm_rl.runs import Run
    from stm_rl_agents.policy import PolicyAgent

    torch.set_num_threads(1)
    run = Run.open(folder)
    policy = PolicyAgent.load(folder)
    with reading(folder / "config.yaml", "restore it, or train anew with --force"):
        values = run.config["request"]  # of whichever command trained it
        request = restored(
            TaskRequest, {one.name: values[one.name] for one in fields(TaskRequest) if one.name in values}
        )
    return report("policy", str(folder), PolicyChecks(policy, make_task(request), episodes, seed).run(), as_json)
