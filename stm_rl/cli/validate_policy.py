"""``stm-rl validate policy``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stm_rl.cli.task import Task
from stm_rl.cli.validate_trajectory import random_actions
from stm_rl.evaluation import Bootstrap, Played, difference, play
from stm_rl.validation import ERROR, Check, Finding, error, ok, run_checks, warning
from stm_rl_agents.heuristics import heuristics
from stm_rl_agents.policy import PolicyAgent
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import Observation

SLOT_COUNTS = (1, 2, 8, 16)
SAME = 1e-3
"""Difference of logits that is only rounding."""
CONSTANT = 0.99


@dataclass(slots=True)
class Seen:
    """Observations of random play, with masks."""

    observations: list[Observation] = field(default_factory=list)
    masks: list[NDArray[np.bool_]] = field(default_factory=list)


def look(env: MemoryVectorEnv, seed: int, steps: int) -> Seen:
    """Play at random and keep what is seen."""
    seen, rng = Seen(), np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    for _ in range(steps):
        masks = env.action_masks()
        seen.observations.append(observation)
        seen.masks.append(masks)
        observation, *_ = env.step(random_actions(rng, masks, env.episodes.settings.slots))
    return seen


class PolicyChecks:
    """The checks of one policy in the environment it was trained in."""

    def __init__(self, policy: PolicyAgent, task: Task, episodes: int, seed: int) -> None:
        self.policy, self.task, self.episodes, self.seed = policy, task, episodes, seed

    def run(self) -> Iterator[Finding]:
        """Yield what is found; if the policy cannot act in the environment, no more than that."""
        first = list(run_checks([("weights", self.check_weights), ("fits", self.check_fits)]))
        yield from first
        if any(finding.level == ERROR for finding in first):
            return
        checks: list[tuple[str, Check]] = [
            ("legal", self.check_legal),
            ("deterministic", self.check_deterministic),
            ("order of slots", self.check_order),
            ("slot counts", self.check_slot_counts),
            ("decisions", self.check_decisions),
            ("worth", self.check_worth),
        ]
        yield from run_checks(checks)

    @cached_property
    def seen(self) -> Seen:
        """What random play shows."""
        return look(self.task.make(8), self.seed, 40)

    @cached_property
    def played(self) -> dict[str, Played]:
        """What the policy, and agents that learn nothing, did on held-out episodes."""
        transcripts = self.task.make(1, split="test").episodes.prepare.transcripts
        chosen = range(min(self.episodes, len(transcripts)))

        def make(num_envs: int, full_context: bool) -> MemoryVectorEnv:
            return self.task.make(num_envs, split="test", autoreset=False, full_context=full_context)

        agents = heuristics(self.seed)
        return {agent.name: play(agent, make, chosen) for agent in agents} | {"": play(self.policy, make, chosen)}

    def act(self, observation: Observation, masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the policy's likeliest actions."""
        return self.policy.act_batch(observation, masks, True)

    def check_weights(self) -> Iterator[Finding]:
        """Look at each weight."""
        count = sum(weight.numel() for weight in self.policy.network.parameters())
        bad = [name for name, weight in self.policy.network.state_dict().items() if not torch.isfinite(weight).all()]
        if bad:
            yield error("weights", f"{', '.join(bad[:3])} hold numbers that are not finite", "train anew, less fast")
        else:
            yield ok("weights", f"{count:,} finite numbers, read by policy.json and policy.safetensors alone")

    def check_fits(self) -> Iterator[Finding]:
        """Start it in its environment and let it act."""
        env = self.task.make(2)
        self.policy.start(env)
        observation, _ = env.reset(seed=self.seed)
        self.act(observation, env.action_masks())
        yield ok(
            "fits", f"acts in {self.task.name}: encoder {env.episodes.encoder.id}, {env.episodes.settings.reads} reads"
        )

    def check_legal(self) -> Iterator[Finding]:
        """Compare actions with masks."""
        yield from _legal("legal", self.policy, self.seen)

    def check_deterministic(self) -> Iterator[Finding]:
        """Act twice, and on observations one by one."""
        name, worst = "deterministic", 0.0
        for observation, masks in zip(self.seen.observations[::8], self.seen.masks[::8], strict=True):
            if not np.array_equal(self.act(observation, masks), self.act(observation, masks)):
                yield error(name, "the same observation gives another action", "let nothing random into act_batch")
                return
            slots = observation["slots"].shape[1]
            alone = [
                self._logits({key: value[row : row + 1] for key, value in observation.items()}, slots)[0]
                for row in range(len(masks))
            ]  # actions may differ: slots that are free are as good as each other, and rounding decides
            worst = max(worst, float(np.abs(self._logits(observation, slots) - np.stack(alone)).max()))
        if worst > SAME:
            yield error(
                name,
                f"logits change by {worst:.2g} when observations come one by one",
                "let no observation see the others of its batch",
            )
        else:
            yield ok(name, "the same observation gives the same decision, alone or beside others")

    def check_order(self) -> Iterator[Finding]:
        """Exchange slots; the logits must be exchanged with them."""
        rng, worst = np.random.default_rng(self.seed), 0.0
        for observation in self.seen.observations[::4]:
            slots = observation["slots"].shape[1]
            order = rng.permutation(slots)
            other = {
                key: value[:, order] if key in ("slots", "slot_features") else value
                for key, value in observation.items()
            }
            one = self._logits(observation, slots)
            one = one[..., np.concatenate([[0], order + 1])]
            worst = max(worst, float(np.abs(one - self._logits(other, slots)).max()))
        if worst > SAME:
            yield error(
                "order of slots",
                f"exchanging slots changes logits by {worst:.2g}",
                "tell slots apart by what they hold only: no position, no index",
            )
        else:
            yield ok("order of slots", "exchanging slots exchanges decisions, and nothing else")

    def check_slot_counts(self) -> Iterator[Finding]:
        """Act with other memories than in training."""
        found: list[Finding] = []
        for slots in SLOT_COUNTS:
            found += _legal(f"{slots} slots", self.policy, look(self.task.make(4, slots=slots), self.seed, 20))
        bad = [finding for finding in found if finding.level == ERROR]
        yield from bad
        if not bad:
            yield ok("slot counts", f"acts legally with {', '.join(map(str, SLOT_COUNTS))} slots, too")

    def check_decisions(self) -> Iterator[Finding]:
        """Look whether decisions depend on what is seen."""
        played = self.played[""]
        turns = played.turns.sum()
        writes, reads = float(played.writes.sum() / turns), float(played.reads.sum() / turns)
        found = f"writes {writes:.0%} of turns, puts {reads:.2f} turns in front of the model each step"
        if writes == 0 or reads == 0:
            what = "writes" if writes == 0 else "reads"
            yield warning(
                "decisions", f"never {what}: {found}", "train longer, or lower the cost of writing and reading"
            )
        elif writes > CONSTANT:
            yield warning("decisions", f"always writes: {found}", "train longer; always writing is what fifo does")
        else:
            yield ok("decisions", found)

    def check_worth(self) -> Iterator[Finding]:
        """Compare it with agents that learn nothing."""
        mine = self.played[""]
        others = {name: played for name, played in self.played.items() if name}
        best = max(others, key=lambda name: float(others[name].returns.mean()))
        bootstrap = Bootstrap(len(mine.returns), self.seed)
        for name in dict.fromkeys(("none", "random", best)):
            gap = difference([mine], [others[name]], bootstrap)
            low, high = gap["ci95"]
            label = f"{name} (the best that learns nothing)" if name == best else name
            found = f"earns {gap['mean']:+.2f} [{low:+.2f}, {high:+.2f}] an episode against {label}"
            if low > 0:
                yield ok("worth", found)
            elif high < 0 and name in ("none", "random"):
                yield error("worth", found, "do not use it: train longer (--preset demo), or look at metrics.jsonl")
            else:
                yield warning("worth", found, "train longer (--preset demo); or look at more episodes (--episodes)")

    def _logits(self, observation: Observation, slots: int) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits, _ = self.policy.network({name: torch.as_tensor(value) for name, value in observation.items()})
        return np.asarray(logits.numpy().reshape(len(observation["turn"]), -1, slots + 1))


def _legal(name: str, policy: Any, seen: Seen) -> Iterator[Finding]:
    """Look for actions that masks forbid."""
    count = 0
    for observation, masks in zip(seen.observations, seen.masks, strict=True):
        slots = observation["slots"].shape[1]
        actions = policy.act_batch(observation, masks, True)
        parts = masks.reshape(len(masks), -1, slots + 1)
        inside = actions.shape == parts.shape[:2] and (actions >= 0).all() and (actions <= slots).all()
        if not inside or not np.take_along_axis(parts, actions[..., None], -1).all():
            yield error(name, f"acts {actions.tolist()[0]}, which masks forbid", "apply action_masks before choosing")
            return
        count += len(actions)
    yield ok(name, f"{count:,} actions, all legal")
