"""Observations of any Gymnasium space as vectors, and distributions over actions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from stm_rl.errors import StmError

Flatten = Callable[[Any], NDArray[np.float32]]


def flattener(space: spaces.Space[Any]) -> tuple[int, Flatten]:
    """Return how to make vectors of a batch of observations.

    The numbers are those of :func:`gymnasium.spaces.flatten`: categories are one-hot, parts of tuples and
    dictionaries stand side by side; bytes (images) are scaled to 0..1.

    Args:
        space: The space of one observation.

    Returns:
        The length of a vector, and a function from a batch of observations, as vector environments return it, to an
        array of shape ``(batch, length)``.

    Raises:
        StmError: The space has no vectors of a fixed length (text, graphs, sequences).
    """
    if isinstance(space, spaces.Discrete):
        return _categories(np.array([space.n]), np.array([space.start]))
    if isinstance(space, spaces.MultiDiscrete):
        return _categories(space.nvec.reshape(-1), space.start.reshape(-1))
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        size = math.prod(space.shape)
        scale = 1 / 255 if space.dtype == np.uint8 else 1.0
        return size, lambda batch: np.asarray(batch, np.float32).reshape(len(batch), size) * np.float32(scale)
    if isinstance(space, spaces.Tuple):
        return _side_by_side(dict(enumerate(space.spaces)))
    if isinstance(space, spaces.Dict):
        return _side_by_side(space.spaces)
    raise StmError(
        f"observations are of {space}; expected a space of Box, Discrete, MultiDiscrete, MultiBinary, or a Tuple or "
        "Dict of those; wrap the environment so that it gives one of them"
    )


def _categories(counts: NDArray[Any], starts: NDArray[Any]) -> tuple[int, Flatten]:
    size = int(counts.sum())
    offsets = np.concatenate([[0], np.cumsum(counts)[:-1]]) - starts

    def flatten(batch: Any) -> NDArray[np.float32]:
        places = np.asarray(batch).reshape(len(batch), len(counts)) + offsets
        vectors = np.zeros((len(batch), size), np.float32)
        np.put_along_axis(vectors, places, 1, 1)
        return vectors

    return size, flatten


def _side_by_side(parts: dict[Any, spaces.Space[Any]]) -> tuple[int, Flatten]:
    flatteners = {name: flattener(space) for name, space in parts.items()}
    size = sum(length for length, _ in flatteners.values())

    def flatten(batch: Any) -> NDArray[np.float32]:
        return np.concatenate([flatten(batch[name]) for name, (_, flatten) in flatteners.items()], 1)

    return size, flatten


class Actions(nn.Module):
    """Distribution over the actions of a space: categorical for each part, or normal with a learned deviation.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary, or Box of floats.

    Attributes:
        outputs: Numbers that a network must give for each distribution.

    Raises:
        StmError: The space is another.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.space = space
        self.deviation: nn.Parameter | None = None
        self.parts: list[int] = []
        if isinstance(space, spaces.Discrete):
            self.parts = [int(space.n)]
        elif isinstance(space, spaces.MultiDiscrete):
            self.parts = space.nvec.reshape(-1).tolist()
        elif isinstance(space, spaces.MultiBinary):
            self.parts = [2] * math.prod(space.shape)
        elif isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            self.deviation = nn.Parameter(torch.zeros(math.prod(space.shape)))
        else:
            raise StmError(f"actions are of {space}; expected Discrete, MultiDiscrete, MultiBinary or a Box of floats")
        self.outputs = sum(self.parts) if self.deviation is None else len(self.deviation)

    def _log_probs(self, outputs: Tensor) -> list[Tensor]:
        return [torch.log_softmax(part, -1) for part in torch.split(outputs, self.parts, -1)]

    @torch.no_grad()
    def draw(self, outputs: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        """Draw actions.

        Args:
            outputs: Shape ``(..., outputs)``.
            generator: Where chance comes from.
            deterministic: Whether to take the most likely action instead.

        Returns:
            Shape ``(..., number of parts)``, integers, or floats for a Box.
        """
        if self.deviation is not None:
            noise = torch.randn(outputs.shape, generator=generator)
            return outputs if deterministic else outputs + self.deviation.exp() * noise
        picked = []
        for part in torch.split(outputs, self.parts, -1):
            if not deterministic:  # Gumbel-max: the negative logarithm of an exponential is a Gumbel variable
                part = part - torch.empty_like(part).exponential_(generator=generator).log()
            picked.append(part.argmax(-1))
        return torch.stack(picked, -1)

    def evaluate(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of actions and entropies, both of shape ``(...)``, in nats."""
        if self.deviation is not None:
            deviation = self.deviation.exp()
            chance = -0.5 * ((actions - outputs) / deviation) ** 2 - self.deviation - 0.5 * math.log(2 * math.pi)
            entropy = (self.deviation + 0.5 * math.log(2 * math.pi * math.e)).sum()
            return chance.sum(-1), entropy.expand(outputs.shape[:-1])
        chances, entropies = [], []
        for number, log_probs in enumerate(self._log_probs(outputs)):
            chances.append(log_probs.gather(-1, actions[..., number : number + 1]).squeeze(-1))
            entropies.append(-(log_probs.exp() * log_probs).sum(-1))
        if len(chances) == 1:
            return chances[0], entropies[0]
        return torch.stack(chances).sum(0), torch.stack(entropies).sum(0)

    def for_env(self, actions: Tensor) -> NDArray[Any]:
        """Return drawn actions, shape ``(batch, parts)``, as a vector environment takes them."""
        space = self.space
        if isinstance(space, spaces.Box):
            values = actions.numpy().reshape(len(actions), *space.shape)
            return np.asarray(np.clip(values, space.low, space.high), space.dtype)
        if isinstance(space, spaces.Discrete):
            return np.asarray(actions[:, 0].numpy() + space.start, space.dtype)
        values = actions.numpy().reshape(len(actions), *(space.shape or ()))
        start = space.start if isinstance(space, spaces.MultiDiscrete) else 0
        return np.asarray(values + start, space.dtype)
