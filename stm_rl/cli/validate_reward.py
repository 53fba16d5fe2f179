"""``stm-rl validate reward``: terms are tried on recorded play of many agents."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from stm_rl.cli.task import Task
from stm_rl.cli.validate_play import MUCH, TOO_MUCH
from stm_rl.evaluation import play
from stm_rl.rewards import DEFAULT_WEIGHTS, Reward, Steps, Term
from stm_rl.rewards.base import FloatArray
from stm_rl.validation import ERROR, Check, Finding, error, ok, run_checks, warning
from stm_rl_agents import Agent, Informed, Oracle
from stm_rl_agents.constant import constant_agents, idle_agents

ENVS = ("stm_rl/Dialogue-v0", "stm_rl/Story-v0", "stm_rl/Screenplay-v0")
"""Environments that rewards are tried in unless others are named."""
SLOW = 0.01
"""Seconds a step from which a reward holds up training."""
DROWNS, HARDLY = 3.0, 0.003
"""Sizes of a reward relative to the coherence gain beyond which one of the two hardly matters."""


class Recording(Reward):
    """Keeps the steps that are played and pays nothing."""

    def __init__(self) -> None:
        super().__init__({"coherence": 1.0})
        self.steps: list[Steps] = []

    @property
    def needs_steps(self) -> bool:
        """Single steps are wanted: a term may look at anything in them."""
        return True

    def __call__(self, steps: Steps) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Keep the steps."""
        self.steps.append(steps)
        return np.zeros(len(steps)), {}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What agents did in one environment: the steps of ``episodes`` episodes by agent."""

    env: str
    episodes: int
    steps: Mapping[str, Sequence[Steps]]

    def earned(self, reward: Reward, agent: str) -> float:
        """Return what an agent's play earns in an episode, on average."""
        return float(sum(reward(steps)[0].sum() for steps in self.steps[agent])) / self.episodes


def record(task: Task, episodes: int, seed: int) -> Recorded:
    """Let references, agents that keep nothing and agents that look at no text play the same episodes."""
    steps: dict[str, Sequence[Steps]] = {}
    agents: list[Agent] = [Oracle(), *idle_agents(), *constant_agents(seed)]
    test = task.make(1, split="test").episodes.prepare.transcripts
    if "keys" in test[0].turns[0].meta:
        agents.append(Informed())
    chosen = range(min(episodes, len(test)))
    for agent in agents:
        recording = Recording()
        make = partial(_make, Task(task.name, task.env, task.engine, task.overrides, reward=recording))
        play(agent, make, chosen)
        steps[agent.name] = recording.steps
    return Recorded(task.env.rpartition(":")[2], len(chosen), steps)


def _make(task: Task, num_envs: int, full_context: bool) -> object:
    return task.make(num_envs, split="test", autoreset=False, full_context=full_context)


class RewardChecks:
    """The checks of one reward, tried on what was ``played``."""

    def __init__(self, weights: Mapping[str | Term, float], played: Sequence[Recorded]) -> None:
        self.weights, self.played = dict(weights), played
        self.reward = Reward(self.weights)

    def run(self) -> Iterator[Finding]:
        """Yield what is found; if the reward cannot even be computed, no more than that."""
        first = list(run_checks([("values", self.check_values)]))
        yield from first
        if any(finding.level == ERROR for finding in first):
            return
        checks: list[tuple[str, Check]] = [
            ("pure", self.check_pure),
            ("no memory", self.check_no_memory),
            ("pays", self.check_pays),
            ("alone", self.check_alone),
            ("beside coherence", self.check_beside_coherence),
            ("scale", self.check_scale),
            ("speed", self.check_speed),
        ]
        yield from run_checks(checks)

    def all_steps(self) -> Iterator[tuple[str, str, Steps]]:
        """Yield environment, agent and every recorded step."""
        for recorded in self.played:
            for agent, sequence in recorded.steps.items():
                for steps in sequence:
                    yield recorded.env, agent, steps

    def sample(self) -> list[Steps]:
        """Return some steps of the oracle and of random play in each environment."""
        return [
            steps
            for recorded in self.played
            for agent in ("oracle", "random", "read-everything")
            for steps in recorded.steps[agent][3::6]
        ]

    def check_values(self) -> Iterator[Finding]:
        """Compute the reward of everything that was played."""
        count = 0
        for _, _, steps in self.all_steps():
            before = _copy(steps)
            self.reward(steps)  # raises an error that says which term gave what
            if before != _copy(steps):
                yield error("pure", "it changes the steps it is given", "copy arrays before changing them")
                return
            count += len(steps)
        names = ", ".join(recorded.env for recorded in self.played)
        yield ok("values", f"one finite number for each of {count:,} steps ({names})")

    def check_pure(self) -> Iterator[Finding]:
        """Ask again, one by one and in another order."""
        name, reward = "pure", self.reward
        for steps in self.sample():
            first = reward(steps)[0]
            if not np.array_equal(first, reward(steps)[0]):
                yield error(name, "the same steps earn something else the second time", _PURE_ADVICE)
                return
            backwards = reward(_part(steps, range(len(steps))[::-1]))[0][::-1]
            alone = np.concatenate([reward(_part(steps, [row]))[0] for row in range(len(steps))])
            for how, values in (("in another order", backwards), ("one by one", alone)):
                if not np.allclose(first, values, rtol=1e-4, atol=1e-6):
                    yield error(name, f"the same steps earn something else {how}", _PURE_ADVICE)
                    return
        yield ok(name, "the same steps always earn the same: again, one by one and in another order")

    def check_no_memory(self) -> Iterator[Finding]:
        """Look for anything that agents earn which keep nothing."""
        idle = [agent.name for agent in idle_agents()]
        for env, agent, steps in self.all_steps():
            if agent in idle and (values := self.reward(steps)[0]).any():
                yield error(
                    "no memory",
                    f"{agent} keeps nothing and earns {values[values != 0][0]:.4g} in a step of {env}; must be 0",
                    "pay for what memory changed only: subtract what is earned without reads (stm_rl.rewards.Judged "
                    "does so for text)",
                )
                return
        yield ok("no memory", "agents that keep nothing earn exactly 0")

    def check_pays(self) -> Iterator[Finding]:
        """Count the steps at which the reward says anything."""
        values = np.concatenate([self.reward(steps)[0] for _, agent, steps in self.all_steps() if agent != "abstain"])
        share = float((values != 0).mean())
        if share == 0:
            yield warning(
                "pays",
                "it is 0 in every step of every agent",
                "check that it fits these environments; name others (--env)",
            )
        else:
            yield ok("pays", f"not 0 in {share:.1%} of steps, {values.min():.3g} to {values.max():.3g}")

    def check_alone(self) -> Iterator[Finding]:
        """Compare agents that look at no text with references under this reward alone."""
        highest = max(float(self.reward(steps)[0].max(initial=0)) for _, _, steps in self.all_steps())
        if highest <= 0:
            yield ok("alone", "it never pays: a cost, to be used beside terms that do")
            return
        found, share = self.worst(self.reward, self.played)
        if share >= 1:
            yield warning(
                "alone",
                found,
                "by itself it teaches a fixed rule; use it beside coherence only, with a weight that leaves the next "
                "check fine",
            )
        else:
            yield ok("alone", found)

    def check_beside_coherence(self) -> Iterator[Finding]:
        """Compare them under this reward beside the usual one."""
        name, given = "beside coherence", self.reward.weights
        usual: dict[str | Term, float] = {term: value for term, value in DEFAULT_WEIGHTS.items() if term not in given}
        both = Reward(usual | self.weights)
        fair = [recorded for recorded in self.played if _share(Reward(), recorded)[1] <= MUCH]
        if "coherence" not in given:
            for recorded in self.played:
                if recorded not in fair:
                    found, _ = _share(Reward(), recorded)
                    advice = f"nothing is said about this reward there; look at: stm-rl validate env {recorded.env}"
                    yield warning(name, f"under coherence alone, {found}", advice)
        found, share = self.worst(both, self.played if "coherence" in given else fair)
        advice = "give it less weight, or make it pay only where memory helped (step.gain, step.probe)"
        if share > TOO_MUCH:
            yield error(name, found, advice)
        elif share > MUCH:
            yield warning(name, found, advice)
        elif found:
            yield ok(name, found)

    def worst(self, reward: Reward, played: Sequence[Recorded]) -> tuple[str, float]:
        """Return what :func:`_share` does, where the share is largest."""
        return max((_share(reward, recorded) for recorded in played), key=lambda item: item[1], default=("", 0.0))

    def check_scale(self) -> Iterator[Finding]:
        """Compare its size with that of the coherence gain."""
        taken = [steps for _, agent, steps in self.all_steps() if agent in ("oracle", "informed", "random")]
        size = float(np.abs(np.concatenate([self.reward(steps)[0] for steps in taken])).mean())
        gain = float(np.abs(np.concatenate([steps.gain for steps in taken])).mean())
        found = f"{size:.3g} a step on average, where the coherence gain is {gain:.3g} nats"
        if gain > 0 and size > DROWNS * gain:
            yield warning(
                "scale", found, f"it drowns out coherence; about {gain / size:.2g} of its weight is even with it"
            )
        elif 0 < size < HARDLY * gain:
            yield warning("scale", found, "it hardly matters beside coherence; give it more weight, or use it alone")
        else:
            yield ok("scale", found)

    def check_speed(self) -> Iterator[Finding]:
        """Time it."""
        sample = self.sample()
        start = time.perf_counter()
        for steps in sample:
            self.reward(steps)
        seconds = (time.perf_counter() - start) / max(sum(map(len, sample)), 1)
        found = f"{seconds * 1e3:.2g} ms a step"
        if seconds > SLOW:
            yield warning("speed", found, "judge many steps in one call of a model, and look only at steps that matter")
        else:
            yield ok("speed", found)


_PURE_ADVICE = (
    "let each step's number depend on that step alone: no random numbers, no memory of earlier calls (episodes are "
    "stepped together and mix), no averages over the batch"
)


def _share(reward: Reward, recorded: Recorded) -> tuple[str, float]:
    """Return the best agent that looks at no text, in words, and its share of what the best reference earns."""
    earned = {agent: recorded.earned(reward, agent) for agent in recorded.steps}
    best = max((name for name in ("oracle", "informed") if name in earned), key=earned.__getitem__)
    most = max((agent.name for agent in constant_agents()), key=earned.__getitem__)
    told = f"{most} looks at no text and earns {earned[most]:.3g} in {recorded.env}, {best} {earned[best]:.3g}"
    if earned[best] <= 0:
        return told, float("inf") if earned[most] > earned[best] else 0.0
    return told, earned[most] / earned[best]


def _part(steps: Steps, rows: Sequence[int]) -> Steps:
    chosen = list(rows)
    return Steps(steps.gain[chosen], steps.wrote[chosen], steps.reads[chosen], [steps.each[row] for row in chosen])


def _copy(steps: Steps) -> tuple[object, ...]:
    return steps.gain.tolist(), steps.wrote.tolist(), steps.reads.tolist(), tuple(map(id, steps.each))
