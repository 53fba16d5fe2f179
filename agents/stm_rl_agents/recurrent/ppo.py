"""Recurrent PPO: any neural memory on any Gymnasium environment."""

from __future__ import annotations

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
        for name in ("lr", "clip", "max_grad_norm"):
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

    Args:
        envs: Environments; see :func:`make_envs`. As many as ``settings.num_envs``.
        settings: How to train.
        on_progress: Called after each rollout with the steps done and the last metrics; return True to stop.
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
        self.collector = Collector(
            envs, self.network, settings.gamma, settings.gae_lambda, settings.seed, settings.stagger
        )
        self.generator = torch.Generator().manual_seed(settings.seed + 1)
        self.done = self.collector.warmup
        self.recent: deque[float] = deque(maxlen=200)
        self.seconds = 0.0

    def train(self) -> RecurrentNetwork:
        """Train to the end, or until ``on_progress`` asks to stop; return the network."""
        settings, start = self.settings, time.monotonic() - self.seconds
        while self.done < settings.steps:
            rate = settings.lr * (1 - 0.9 * self.done / settings.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            rollout = self.collector.collect(settings.rollout)
            self.done += settings.num_envs * settings.rollout
            self.recent.extend(total for total, _ in rollout.episodes)
            row = self._update(rollout)
            self.seconds = time.monotonic() - start
            if self.recent:
                row["return"] = float(np.mean(self.recent))
            row["seconds"] = self.seconds
            if self.on_progress(self.done, row):
                break
        return self.network

    def save_checkpoint(self, folder: Path) -> None:
        """Write network, optimizer, and how far training has come to ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / "state.safetensors", packed(self.network, self.optimizer))
        write_json(folder / "state.json", {"done": self.done, "seconds": self.seconds})

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from what :meth:`save_checkpoint` wrote; episodes begin anew, with other seeds than at the start.

        Raises:
            StmError: There is no readable checkpoint.
        """
        advice = "it cannot be resumed: train anew with --force, which moves the old run aside"
        with saved(folder, "state", "checkpoint", advice) as (state, tensors):
            unpack(tensors, self.network, self.optimizer)
            self.done, self.seconds = int(state["done"]), float(state["seconds"])
        self.collector.restart(self.settings.seed + self.done)

    def _update(self, rollout: Rollout) -> dict[str, float]:
        settings, network = self.settings, self.network
        targets = rollout.advantages + rollout.values
        advantages = (rollout.advantages - rollout.advantages.mean()) / (rollout.advantages.std() + 1e-8)
        sums = {"policy_loss": 0.0, "value_loss": 0.0, "entropy": 0.0, "kl": 0.0}
        for _ in range(settings.epochs):
            order = torch.randperm(settings.num_envs, generator=self.generator)
            for rows in order.chunk(settings.minibatches):
                state = {name: value[rows] for name, value in rollout.state.items()}
                outputs, values, _ = network(rollout.observations[rows], rollout.first[rows], state)
                log_probs, entropy = network.actions.evaluate(outputs, rollout.actions[rows])
                change = log_probs - rollout.log_probs[rows]
                ratio = change.exp()
                clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
                policy_loss = -torch.min(ratio * advantages[rows], clipped * advantages[rows]).mean()
                value_loss = 0.5 * (values - targets[rows]).square().mean()
                loss = policy_loss + settings.value_weight * value_loss - settings.entropy * entropy.mean()
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
                self.optimizer.step()
                kl = (ratio.detach() - 1 - change.detach()).mean()
                for name, value in zip(sums, (policy_loss, value_loss, entropy.mean(), kl), strict=True):
                    sums[name] += _number(value)
        return {name: value / (settings.epochs * settings.minibatches) for name, value in sums.items()}


def _number(value: Tensor) -> float:
    return float(value.detach())
