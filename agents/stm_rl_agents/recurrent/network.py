"""Actor and critic around a neural memory."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from stm_rl.errors import StmError
from stm_rl.memory import CORES, State
from stm_rl_agents.recurrent.spaces import Actions, flattener


class RecurrentNetwork(nn.Module):
    """Encoder, memory, and one head each for actions and value.

    The encoder sees the observation and whether it is the first of an episode.

    Args:
        observation_space: Space of one observation.
        action_space: Space of one action.
        core: Name of a neural memory, a key of :data:`stm_rl.memory.CORES`.
        width: Width of encoder, memory and heads.
        core_options: Further sizes of the memory.

    Raises:
        StmError: There is no such memory, or it or a space cannot be used.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        core: str,
        width: int = 64,
        core_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if core not in CORES:
            raise StmError(f"core is {core!r}; expected one of {', '.join(sorted(CORES))}")
        self.sizes = {"core": core, "width": width, "core_options": dict(core_options or {})}
        size, self.flatten = flattener(observation_space)
        try:
            self.core = CORES[core](width, width, **(core_options or {}))
        except TypeError as error:
            raise StmError(f"core {core!r} cannot be made with {core_options} ({error})") from error
        self.encoder = nn.Sequential(nn.Linear(size + 1, width), nn.ReLU())
        self.actions = Actions(action_space)
        last = nn.Linear(width, self.actions.outputs)
        self.actor = nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)
        self.critic = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        with torch.no_grad():  # start close to evenly random
            last.weight.mul_(0.01)
            last.bias.zero_()

    def forward(self, observations: Tensor, first: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Read observations.

        Args:
            observations: Flat, shape ``(batch, time, size)``, float32.
            first: Which of them begin an episode, shape ``(batch, time)``, bool; the memory is reset before those.
            state: The memory's state before.

        Returns:
            What the action distribution needs, shape ``(batch, time, outputs)``, values of shape ``(batch, time)``,
            and the state after.
        """
        inputs = torch.cat([observations, first.unsqueeze(-1).to(observations.dtype)], -1)
        hidden, state = self.core(self.encoder(inputs), state, first)
        return self.actor(hidden), self.critic(hidden).squeeze(-1), state
