"""Rollouts of a recurrent policy, and the advantages of what it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray
from torch import Tensor

from stm_rl.errors import StmError
from stm_rl.memory import State, detached
from stm_rl_agents.advantages import advantages_of
from stm_rl_agents.recurrent.network import RecurrentNetwork


@dataclass(frozen=True, slots=True)
class Rollout:
    """What ``n`` environments did in ``t`` steps each.

    Attributes:
        observations: Flat, shape ``(n, t, size)``.
        first: Which observations began an episode, shape ``(n, t)``.
        actions: Shape ``(n, t, parts)``.
        log_probs: Of the actions when they were drawn, shape ``(n, t)``, nats.
        values: Shape ``(n, t)``.
        advantages: Shape ``(n, t)``.
        state: The memory before the first step, as the policy that acted had it; training starts from it (stored
            state, Kapturowski et al., Recurrent Experience Replay in Distributed RL, 2019).
        episodes: Of those that ended: the sum of rewards as the environment gave them, and the length in steps.
    """

    observations: Tensor
    first: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    state: State
    episodes: list[tuple[float, int]]


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of every environment; tensors as in a :class:`Rollout`, without time."""

    TENSORS: ClassVar = ("observations", "first", "outputs", "actions", "values")
    observations: Tensor
    first: Tensor
    outputs: Tensor
    actions: Tensor
    values: Tensor
    rewards: NDArray[np.float32]
    ended: NDArray[np.bool_]
    episodes: list[tuple[float, int]]


class RewardScale:
    """Divides rewards by the running deviation of discounted returns, so that one learning rate fits all tasks.

    Args:
        envs: Number of environments.
        gamma: Discount.
    """

    def __init__(self, envs: int, gamma: float) -> None:
        self.gamma, self.discounted = gamma, np.zeros(envs)
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    def numbers(self) -> dict[str, float]:
        """Return the running numbers, for a checkpoint: :meth:`restore` goes on from them."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def restore(self, numbers: dict[str, float]) -> None:
        """Go on from what :meth:`numbers` returned."""
        self.count, self.mean, self.squares = (float(numbers[name]) for name in ("count", "mean", "squares"))

    def __call__(self, rewards: NDArray[Any], ended: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return rewards of one step of every environment, scaled."""
        self.discounted = self.discounted * self.gamma + rewards
        count = self.count + len(rewards)
        gap = self.discounted.mean() - self.mean
        self.squares += float(self.discounted.var() * len(rewards) + gap**2 * self.count * len(rewards) / count)
        self.mean += float(gap * len(rewards) / count)
        self.count = count
        self.discounted[ended] = 0
        return np.asarray(rewards / (np.sqrt(self.squares / self.count) + 1e-8), np.float32)


class Collector:
    """Steps environments with a recurrent policy; :meth:`restart` comes first.

    Args:
        envs: Environments that begin the next episode in the step that ends one (``AutoresetMode.SAME_STEP``).
        network: The policy.
        gamma: Discount.
        gae_lambda: Lambda of generalised advantage estimation.
        stagger: Steps over which the environments begin, each at a random one, so that episodes of one length are not
            all in the same phase.

    Raises:
        StmError: The environments reset in another way.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        network: RecurrentNetwork,
        gamma: float,
        gae_lambda: float,
        stagger: int = 0,
    ) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise StmError(f"the vector environment's autoreset_mode is {mode}; make it with AutoresetMode.SAME_STEP")
        self.envs, self.network, self.gamma, self.gae_lambda = envs, network, gamma, gae_lambda
        self.stagger, self.scale = stagger, RewardScale(envs.num_envs, gamma)

    def restart(self, seed: int) -> int:
        """Begin all episodes anew, with memories that hold nothing.

        Args:
            seed: Seeds environments and actions.

        Returns:
            The environment steps that staggering took.
        """
        envs, stagger = self.envs, self.stagger
        self.generator = torch.Generator().manual_seed(seed)
        observation, _ = envs.reset(seed=seed)
        self.observation = self._flat(observation)
        self.first = torch.ones(envs.num_envs, dtype=torch.bool)
        self.state = detached(self.network.core.initial_state(envs.num_envs))
        self.sums, self.steps = np.zeros(envs.num_envs), np.zeros(envs.num_envs, np.int64)
        self.scale.discounted[:] = 0
        starts = np.random.default_rng(seed).integers(max(1, stagger), size=envs.num_envs)
        for step in range(stagger):
            self._play()
            if (begin := starts == step).any():
                observation, _ = envs.reset(options={"reset_mask": begin})
                self.observation = self._flat(observation)
                self.first |= torch.from_numpy(begin)
                self.sums[begin], self.steps[begin], self.scale.discounted[begin] = 0, 0, 0
        return stagger * envs.num_envs

    def _flat(self, observation: Any) -> Tensor:
        return torch.from_numpy(self.network.flatten(observation))

    def collect(self, steps: int) -> Rollout:
        """Play ``steps`` steps in every environment."""
        before, played = self.state, [self._play() for _ in range(steps)]
        stack = {name: torch.stack([getattr(step, name) for step in played], 1) for name in _Step.TENSORS}
        with torch.no_grad():
            _, last, _ = self.network(self.observation.unsqueeze(1), self.first.unsqueeze(1), self.state)
            log_probs, _ = self.network.actions.evaluate(stack.pop("outputs"), stack["actions"])
        advantages = advantages_of(
            np.stack([step.rewards for step in played]),
            np.stack([step.ended for step in played]),
            stack["values"].T.numpy(),
            last[:, 0].numpy(),
            self.gamma,
            self.gae_lambda,
        )
        episodes = [episode for step in played for episode in step.episodes]
        return Rollout(
            **stack,
            log_probs=log_probs,
            advantages=torch.from_numpy(np.ascontiguousarray(advantages.T)),
            state=before,
            episodes=episodes,
        )

    @torch.no_grad()
    def _play(self) -> _Step:
        """Take one step in every environment."""
        network, observed, first = self.network, self.observation, self.first
        outputs, values, self.state = network(observed.unsqueeze(1), first.unsqueeze(1), self.state)
        actions = network.actions.draw(outputs[:, 0], self.generator)
        observation, rewards, terminated, truncated, info = self.envs.step(network.actions.for_env(actions))
        ended = terminated | truncated
        self.sums += rewards
        self.steps += 1
        scaled = self.scale(rewards, ended)
        if cut := np.flatnonzero(truncated & ~terminated).tolist():
            scaled[cut] += self.gamma * self._values_of(info["final_obs"], cut)
        episodes = list(zip(self.sums[ended].tolist(), self.steps[ended].tolist(), strict=True))
        self.sums[ended], self.steps[ended] = 0, 0
        self.observation, self.first = self._flat(observation), torch.from_numpy(ended)
        return _Step(observed, first, outputs[:, 0], actions, values[:, 0], scaled, ended, episodes)

    def _values_of(self, final: Any, rows: list[int]) -> NDArray[np.float32]:
        """Return the values of the observations at which episodes were cut off by a time limit."""
        space = self.envs.single_observation_space
        batch = _stacked([final[row] for row in rows], space)
        state = {name: value[rows] for name, value in self.state.items()}
        flat = self._flat(batch).unsqueeze(1)
        _, values, _ = self.network(flat, torch.zeros(len(rows), 1, dtype=torch.bool), state)
        return np.asarray(values[:, 0].numpy())


def _stacked(observations: list[Any], space: Any) -> Any:
    """Return single observations as one batch, in the form that vector environments give them."""
    empty: Any = create_empty_array(space, len(observations))
    return concatenate(space, observations, empty)
