"""``stm-rl validate env``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from stm_rl.cli.task import Task
from stm_rl.cli.validate_api import (
    check_checkers,
    check_determinism,
    check_future,
    check_reward_finite,
    check_snapshot,
    check_speed,
    check_vector,
)
from stm_rl.cli.validate_play import Plays, check_constant, check_need, check_no_memory, check_oracle, check_splits
from stm_rl.cli.validate_trajectory import Processes
from stm_rl.validation import ERROR, Check, Finding, ok, run_checks, warning


class EnvChecks:
    """The checks of one environment; what several of them need is made once."""

    def __init__(self, task: Task, lm: str | None, episodes: int, seed: int) -> None:
        self.task, self.lm, self.episodes, self.seed = task, lm, episodes, seed

    @cached_property
    def plays(self) -> Plays:
        """What agents earn."""
        return Plays(self.task, self.episodes, self.seed)

    def run(self) -> Iterator[Finding]:
        """Yield what is found; if the environment cannot even be made and stepped, no more than that."""
        task, seed = self.task, self.seed
        first = list(run_checks([("making it", lambda: check_makes(task))]))
        yield from first
        if any(finding.level == ERROR for finding in first):
            return
        processes = Processes(task, self.lm, seed)
        try:
            checks: list[tuple[str, Check]] = [
                ("checkers", lambda: check_checkers(task)),
                ("vector form", lambda: check_vector(task, seed)),
                ("snapshots", lambda: check_snapshot(task, seed)),
                ("rewards", lambda: check_reward_finite(task, seed)),
                ("no look ahead", lambda: check_future(task, seed)),
                ("splits", lambda: check_splits(task)),
                ("need of memory", lambda: check_need(self.plays)),
                ("oracle", lambda: check_oracle(self.plays)),
                ("no memory", lambda: check_no_memory(self.plays)),
                ("constant policies", lambda: check_constant(self.plays)),
                ("determinism", lambda: check_determinism(task, seed, processes)),
                ("speed", lambda: check_speed(task, seed)),  # last, when nothing else runs
            ]
            yield from run_checks(checks)
        finally:
            processes.stop()


def check_makes(task: Task) -> Iterator[Finding]:
    """Make both forms, play a step, and read the documentation."""
    task.check()
    spec = gym.spec(task.env.rpartition(":")[2])
    yield ok("making it", f"{spec.id} is made and stepped")
    entry = spec.entry_point
    described = (load_env_creator(entry) if isinstance(entry, str) else entry).__doc__ or ""
    if spec.id.partition("/")[2].rpartition("-v")[2].isdigit() is False:
        yield warning(
            "id", f"{spec.id} has no version", "register it as NAMESPACE/Name-v0, and count up with its rules"
        )
    if "Reward" not in described:
        yield warning(
            "documentation", "the class docstring does not say what is paid", "describe task and Reward in it"
        )
