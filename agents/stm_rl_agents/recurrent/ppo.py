"""Recurrent PPO: any neural memory on any Gymnasium environment."""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn

from stm_rl.errors import StmError
from stm_rl.files import saved, write_json, write_tensors
from stm_rl_agents.checkpoint import packed, unpack
from stm_rl_agents.recurrent.network import RecurrentNetwork
from stm_rl_agents.recurrent.rollout import Collector, Rollout


@dataclass(frozen=True, slots=True)
class RecurrentPPOSettings:
    """Settings of training.

    Attributes:
        core: Name of a neural memory, a key of :data:`stm_rl.memory.CORES`.
        core_options: Its further sizes.
        width: Width of encoder, memory and heads.
        steps: Environment steps in all.
        num_envs: Environments stepped together.
        rollout: Steps of each environment in a rollout; gradients reach back as far.
        minibatches: Parts of a rollout that are trained on one after the other. A part holds whole rows, never pieces
            of one, so that a memory is run over everything since the rollout began; a divisor of ``num_envs``.
        epochs: Passes over each rollout.
        lr: Learning rate at the start; falls linearly to a tenth.
        gamma: Discount.
        gae_lambda: Lambda of generalised advantage estimation.
        entropy: Weight of the entropy bonus.
        value_weight: Weight of the value loss.
        clip: Clip range of the policy ratio.
        max_kl: Nats that a rollout may move the policy away from the one that played it. An optimizer step that moves
            it further is taken back, and the next rollout is played. Where memories make hard decisions, one step
            may turn one over, and all that is read after it.
        stagger: Steps over which the environments begin, each at a random one. Give about the length of an episode
            where all are equally long and longer than a rollout: otherwise every rollout shows one phase only.
        max_grad_norm: Gradients are scaled down to this norm.
        seed: Seeds everything.
    """

    core: str = "linear"
    core_options: dict[str, Any] = field(default_factory=dict)
    width: int = 64
    steps: int = 1_000_000
    num_envs: int = 64
    rollout: int = 128
    minibatches: int = 4
    epochs: int = 4
    lr: float = 1e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    entropy: float = 0.01
    value_weight: float = 0.5
    clip: float = 0.2
    max_kl: float = 0.3
    stagger: int = 0
    max_grad_norm: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings that cannot be trained with."""
        for name in ("width", "steps", "num_envs", "rollout", "minibatches", "epochs"):
            if getattr(self, name) < 1:
                raise StmError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.num_envs % self.minibatches:
            raise StmError(f"minibatches is {self.minibatches}, which does not divide num_envs {self.num_envs}")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise StmError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        for name in ("lr", "clip", "max_kl", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise StmError(f"{name} is {getattr(self, name)}; expected more than 0")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for files."""
        return asdict(self)


def make_envs(env_id: str, num_envs: int, **options: Any) -> VectorEnv[Any, Any, Any]:
    """Return environments of a registered id that can be trained on.

    Args:
        env_id: A Gymnasium id; ``module:id`` imports the module first.
        num_envs: How many.
        options: Given to the environment.
    """
    return gym.make_vec(
        env_id,
        num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        **options,
    )


class RecurrentPPOTrainer:
    """Trains a recurrent policy with PPO (Schulman et al., 2017) on sequences.

    Each row of a minibatch is one environment's whole rollout. The memory starts from the state that it had when the
    rollout began and is reset where an episode begins, so no padding is needed and every step counts once.

    The weights are kept with which the mean return of the last 200 training episodes was best, so that a later update
    that does harm costs time and not the policy.

    Args:
        envs: Environments; see :func:`make_envs`. As many as ``settings.num_envs``.
        settings: How to train.
        on_progress: Called after each rollout with the steps done and the last metrics; return True to stop.

    Attributes:
        network: The policy as it is now.
        done: Environment steps taken.
        recent: Returns of the last training episodes, 200 at most.
        best: The best mean of ``recent``, -inf before there were 200 episodes.
        best_steps: How many steps the policy had been trained for that reached it.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        settings: RecurrentPPOSettings,
        on_progress: Callable[[int, dict[str, float]], bool | None] = lambda steps, row: None,
    ) -> None:
        if envs.num_envs != settings.num_envs:
            raise StmError(f"there are {envs.num_envs} environments; settings.num_envs is {settings.num_envs}")
        self.settings, self.on_progress = settings, on_progress
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = RecurrentNetwork(
                envs.single_observation_space,
                envs.single_action_space,
                settings.core,
                settings.width,
                settings.core_options,
            )
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.lr, eps=1e-5, fused=True)
        self.collector = Collector(envs, self.network, settings.gamma, settings.gae_lambda, settings.stagger)
        self.generator = torch.Generator().manual_seed(settings.seed + 1)
        self.playing = False
        self.done, self.seconds = 0, 0.0
        self.recent: deque[float] = deque(maxlen=200)
        self.best, self.best_steps, self.best_weights = -math.inf, 0, dict[str, Tensor]()

    def train(self) -> RecurrentNetwork:
        """Train to the end, or until ``on_progress`` asks to stop.

        Returns:
            The policy to use, see :meth:`policy`.
        """
        settings, start = self.settings, time.monotonic() - self.seconds
        if not self.playing:
            self.done += self.collector.restart(settings.seed + self.done)
            self.playing = True
        while self.done < settings.steps:
            rate = settings.lr * (1 - 0.9 * self.done / settings.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            rollout = self.collector.collect(settings.rollout)
            self.recent.extend(total for total, _ in rollout.episodes)
            self._keep_best()  # the weights that played, before they change
            self.done += settings.num_envs * settings.rollout
            row = self._update(rollout)
            self.seconds = time.monotonic() - start
            if self.recent:
                row["return"] = float(np.mean(self.recent))
            row["seconds"] = self.seconds
            if self.on_progress(self.done, row):
                break
        return self.policy()

    def policy(self) -> RecurrentNetwork:
        """Return a copy of the network as it was at its best; as it is now if there were too few episodes to tell."""
        policy = copy.deepcopy(self.network)
        if self.best_weights:
            policy.load_state_dict(self.best_weights)
        return policy

    @property
    def policy_steps(self) -> int:
        """How many steps :meth:`policy` was trained for."""
        return self.best_steps if self.best_weights else self.done

    def save_checkpoint(self, folder: Path) -> None:
        """Write the network as it is and as it was at its best, the optimizer, and how far training has come."""
        folder.mkdir(parents=True, exist_ok=True)
        best = {f"best.{name}": value for name, value in self.best_weights.items()}
        write_tensors(folder / "state.safetensors", packed(self.network, self.optimizer) | best)
        state: dict[str, Any] = {"done": self.done, "seconds": self.seconds, "best_steps": self.best_steps}
        state["best"] = self.best if self.best_weights else None  # JSON knows no infinity
        state |= {"reward_scale": self.collector.scale.numbers(), "recent": list(self.recent)}
        write_json(folder / "state.json", state)

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from what :meth:`save_checkpoint` wrote; episodes begin anew, with other seeds than at the start.

        If they are staggered, the steps that takes are counted again when training goes on.

        Raises:
            StmError: There is no readable checkpoint.
        """
        advice = "it cannot be resumed: train anew with --force, which moves the old run aside"
        with saved(folder, "state", "checkpoint", advice) as (state, tensors):
            unpack(tensors, self.network, self.optimizer)
            self.done, self.seconds = int(state["done"]), float(state["seconds"])
            prefix = "best."
            self.best_weights = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
            self.best = -math.inf if state["best"] is None else float(state["best"])
            self.best_steps, self.recent = int(state["best_steps"]), deque(state["recent"], self.recent.maxlen)
            self.collector.scale.restore(state["reward_scale"])
        self.playing = False

    def _keep_best(self) -> None:
        if len(self.recent) == self.recent.maxlen and (mean := float(np.mean(self.recent))) > self.best:
            self.best, self.best_steps = mean, self.done
            self.best_weights = _copied(self.network)

    def _update(self, rollout: Rollout) -> dict[str, float]:
        settings, network = self.settings, self.network
        targets = rollout.advantages + rollout.values
        advantages = (rollout.advantages - rollout.advantages.mean()) / (rollout.advantages.std() + 1e-8)
        parts = [rows for _ in range(settings.epochs) for rows in self._parts()]
        sums = {"policy_loss": 0.0, "value_loss": 0.0, "entropy": 0.0, "kl": 0.0}
        before, taken_back, updates = _copied(network), False, 0
        for rows in parts:
            log_probs, entropy, values = self._outcomes(rollout, rows)
            change = log_probs - rollout.log_probs[rows]
            ratio = change.exp()
            kl = _kl(change.detach())
            if taken_back := kl > settings.max_kl:
                break
            clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            policy_loss = -torch.min(ratio * advantages[rows], clipped * advantages[rows]).mean()
            value_loss = 0.5 * (values - targets[rows]).square().mean()
            loss = policy_loss + settings.value_weight * value_loss - settings.entropy * entropy.mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
            before = _copied(network)
            self.optimizer.step()
            updates += 1
            numbers = (policy_loss.item(), value_loss.item(), entropy.mean().item(), kl)
            for name, value in zip(sums, numbers, strict=True):
                sums[name] += value
        else:
            with torch.no_grad():
                log_probs, _, _ = self._outcomes(rollout, parts[-1])
            taken_back = _kl(log_probs - rollout.log_probs[parts[-1]]) > settings.max_kl
        if taken_back:
            network.load_state_dict(before)
        return {name: value / max(updates, 1) for name, value in sums.items()} | {"taken_back": float(taken_back)}

    def _parts(self) -> tuple[Tensor, ...]:
        return torch.randperm(self.settings.num_envs, generator=self.generator).chunk(self.settings.minibatches)

    def _outcomes(self, rollout: Rollout, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities of the actions, entropies and values as the network sees them now."""
        state = {name: value[rows] for name, value in rollout.state.items()}
        outputs, values, _ = self.network(rollout.observations[rows], rollout.first[rows], state)
        return *self.network.actions.evaluate(outputs, rollout.actions[rows]), values


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _kl(change: Tensor) -> float:
    """Estimate the KL divergence of two policies, in nats, from log-probabilities of actions of the first.

    See Schulman, Approximating KL divergence, 2020: unbiased, and never negative.
    """
    return float((change.exp() - 1 - change).mean())
