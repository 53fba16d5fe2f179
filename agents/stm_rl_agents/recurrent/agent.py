"""A trained recurrent policy: acts, is evaluated, is saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.files import saved, write_json, write_tensors
from stm_rl_agents.recurrent.network import RecurrentNetwork

FORMAT = "stm-rl recurrent policy 1"


class RecurrentAgent:
    """Acts in many environments at once and carries a memory for each.

    Args:
        network: The policy.
        seed: Seeds actions that are drawn.
    """

    def __init__(self, network: RecurrentNetwork, seed: int = 0) -> None:
        self.network = network
        self.generator = torch.Generator().manual_seed(seed)
        self.state = network.core.initial_state(0)

    @torch.no_grad()
    def act(self, observation: Any, first: NDArray[np.bool_], deterministic: bool = False) -> NDArray[Any]:
        """Return an action for every environment.

        Args:
            observation: A batch of observations, as a vector environment gives them.
            first: Which of them begin an episode, shape ``(n,)``: those memories are reset.
            deterministic: Whether to take the most likely actions.

        Returns:
            A batch of actions.
        """
        flat = torch.from_numpy(self.network.flatten(observation))
        if len(next(iter(self.state.values()))) != len(flat):
            self.state = self.network.core.initial_state(len(flat))
        starts = torch.from_numpy(np.asarray(first, np.bool_))
        outputs, _, self.state = self.network(flat.unsqueeze(1), starts.unsqueeze(1), self.state)
        actions = self.network.actions
        return actions.for_env(actions.draw(outputs[:, 0], self.generator, deterministic))

    def save(self, folder: str | Path, card: dict[str, Any] | None = None) -> None:
        """Write ``policy.safetensors`` and ``policy.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / "policy.safetensors", self.network.state_dict())
        write_json(folder / "policy.json", {"format": FORMAT, "network": self.network.sizes, **(card or {})})

    @classmethod
    def load(cls, folder: str | Path, envs: VectorEnv[Any, Any, Any]) -> RecurrentAgent:
        """Read what :meth:`save` wrote.

        Args:
            folder: Where it was written.
            envs: Environments to act in, for their spaces.

        Raises:
            StmError: The folder holds no such policy, or the environments have other spaces.
        """
        folder = Path(folder)
        advice = "expected policy.json and policy.safetensors as `stm-rl recurrent` writes them"
        with saved(folder, "policy", "policy", advice) as (card, weights):
            if card.get("format") != FORMAT:
                raise StmError(f"{folder / 'policy.json'} has format {card.get('format')!r}; expected {FORMAT!r}")
            network = RecurrentNetwork(envs.single_observation_space, envs.single_action_space, **card["network"])
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise StmError(f"the policy in {folder} does not fit the environment's spaces: {error}") from error
        return cls(network)


def evaluate(
    network: RecurrentNetwork,
    envs: VectorEnv[Any, Any, Any],
    episodes: int,
    seed: int = 0,
    deterministic: bool = False,
) -> NDArray[np.float64]:
    """Play episodes to their ends.

    Every environment plays the same number of them, so that short episodes do not count more than long ones.

    Args:
        network: The policy.
        envs: Environments that reset in the step that ends an episode; see :func:`make_envs`.
        episodes: How many, at least; rounded up to a multiple of the number of environments.
        seed: Seeds environments and actions.
        deterministic: Whether to take the most likely actions.

    Returns:
        The returns, in the environment's own units.
    """
    agent = RecurrentAgent(network, seed)
    observation, _ = envs.reset(seed=seed)
    first = np.ones(envs.num_envs, np.bool_)
    sums = np.zeros(envs.num_envs)
    returns: list[list[float]] = [[] for _ in range(envs.num_envs)]
    wanted = -(-episodes // envs.num_envs)
    while min(map(len, returns)) < wanted:
        observation, reward, terminated, truncated, _ = envs.step(agent.act(observation, first, deterministic))
        first = terminated | truncated
        sums += reward
        for row in np.flatnonzero(first):
            returns[row].append(float(sums[row]))
        sums[first] = 0
    return np.array([value for row in returns for value in row[:wanted]])
