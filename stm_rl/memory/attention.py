"""Multi-head attention over a bounded history, with relative positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stm_rl.errors import StmError
from stm_rl.memory.core import MemoryCore, State

BIAS_SCALE = 8.0
"""Multiplies the learned position biases, so that usual learning rates move them as far as attention needs."""


class AttentionCore(MemoryCore):
    """Looks back at the last ``history`` steps, by what they held and by how long ago they were.

    A pre-norm transformer layer (Vaswani et al., Attention Is All You Need, 2017) whose scores are
    ``q_t · k_s / sqrt(d) + b[t - s]`` with a learned bias for every head and distance (Shaw et al., Self-Attention
    with Relative Position Representations, 2018; the form is that of T5, without buckets). Keys and values of earlier
    steps are carried in the state and are not recomputed, so a sequence can be read in segments
    (Dai et al., Transformer-XL, 2019), and the state never grows.

    Args:
        input_size: Numbers in an input.
        output_size: Numbers in an output.
        history: Steps that attention reaches, the current one included.
        heads: Attention heads; a divisor of ``output_size``.
        layers: Layers; each reaches ``history`` steps further back than the one below.
    """

    def __init__(
        self, input_size: int, output_size: int, *, history: int = 128, heads: int = 4, layers: int = 1
    ) -> None:
        super().__init__(input_size, output_size)
        if output_size % heads:
            raise StmError(f"heads is {heads}, which does not divide output_size {output_size}; use a divisor of it")
        if history < 1 or layers < 1:
            raise StmError(f"history is {history} and layers is {layers}; expected at least 1 of each")
        self.history, self.heads = history, heads
        self.embed = nn.Linear(input_size, output_size)
        self.layers = nn.ModuleList(_Layer(output_size, heads, history) for _ in range(layers))
        self.norm = nn.LayerNorm(output_size)

    def initial_state(self, batch: int) -> State:
        """Return an empty history; see :meth:`MemoryCore.initial_state`."""
        weight = self.embed.weight
        past = self.history - 1
        shape = (batch, self.heads, past, self.output_size // self.heads)
        state = {"held": torch.zeros(batch, past, dtype=torch.bool, device=weight.device)}
        for number in range(len(self.layers)):
            state[f"keys{number}"] = weight.new_zeros(shape)
            state[f"values{number}"] = weight.new_zeros(shape)
        return state

    def forward(self, inputs: Tensor, state: State, done: Tensor | None = None) -> tuple[Tensor, State]:
        """Read a sequence in parallel; see :meth:`MemoryCore.forward`."""
        allowed, held = self._allowed(state["held"], inputs.shape[1], done)
        hidden = self.embed(inputs)
        after = {"held": held}
        for number, layer in enumerate(self.layers):
            names = (f"keys{number}", f"values{number}")
            hidden, *kept = layer(hidden, *(state[name] for name in names), allowed)
            # What is over is wiped, so that states are the same however an episode was come to.
            after |= {name: value * held[:, None, :, None] for name, value in zip(names, kept, strict=True)}
        return self.norm(hidden), after

    def _allowed(self, held: Tensor, time: int, done: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return which steps each step may look at, shape (batch, time, past + time), and which are held after."""
        batch, past = held.shape
        new = torch.ones(batch, time, dtype=torch.bool, device=held.device)
        exists = torch.cat([held, new], 1)
        near = _distances(past, time, held.device)
        allowed = exists.unsqueeze(1) & ((near >= 0) & (near < self.history))
        if done is not None and bool(done.any()):
            episode = done.long().cumsum(1)
            episodes = torch.cat([episode.new_zeros(batch, past), episode], 1)
            allowed = allowed & (episode.unsqueeze(2) == episodes.unsqueeze(1))
            exists = exists & (episodes == episode[:, -1:])
        return allowed, exists[:, time:]

    def read(self, state: State) -> Tensor:
        """Return the values of the last layer, oldest first; zeros where the history is not full yet."""
        values = state[f"values{len(self.layers) - 1}"] * state["held"][:, None, :, None]
        return values.transpose(1, 2).flatten(2)

    @property
    def read_shape(self) -> tuple[int, int]:
        """``(history - 1, output_size)``."""
        return self.history - 1, self.output_size


class _Layer(nn.Module):
    def __init__(self, size: int, heads: int, history: int) -> None:
        super().__init__()
        self.heads, self.history = heads, history
        self.before = nn.LayerNorm(size)
        self.project = nn.Linear(size, 3 * size)
        self.bias = nn.Parameter(_tiles(heads, history))
        self.join = nn.Linear(size, size)
        self.feed = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, hidden: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, time, size = hidden.shape
        split = self.project(self.before(hidden)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        keys, values = torch.cat([keys, split[1]], 2), torch.cat([values, split[2]], 2)
        past = keys.shape[2] - time
        near = _distances(past, time, hidden.device).clamp(0, self.history - 1)
        bias = BIAS_SCALE * self.bias[:, near]
        mask = torch.where(allowed.unsqueeze(1), bias, -torch.inf)
        weights = torch.softmax(torch.matmul(split[0] * (size / self.heads) ** -0.5, keys.transpose(2, 3)) + mask, -1)
        attended = torch.matmul(weights, values).transpose(1, 2).reshape(batch, time, size)
        hidden = hidden + self.join(attended)
        hidden = hidden + self.feed(hidden)
        return hidden, keys[:, :, time:], values[:, :, time:]


def _tiles(heads: int, history: int) -> Tensor:
    """Return position biases that share the history out: each head but the first begins by looking at one stretch.

    An even look at a hundred steps shows each of them at a hundredth of its strength, too faint for noisy policy
    gradients to find the one that matters.
    """
    bias = torch.zeros(heads, history)
    if heads > 1:
        width = history / (heads - 1)
        centers = width * (torch.arange(heads - 1) + 0.5)
        bias[1:] = -0.5 * ((torch.arange(history) + 0.5 - centers[:, None]) / (0.5 * width)).square() / BIAS_SCALE
        bias.clamp_(min=-1.0)
    return bias


def _distances(past: int, time: int, device: torch.device) -> Tensor:
    """Return how many steps before step ``t`` each step of history and sequence was, shape (time, past + time)."""
    return past + torch.arange(time, device=device)[:, None] - torch.arange(past + time, device=device)
