"""A linear recurrence: a memory that is trained in parallel over time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from stm_rl.errors import StmError
from stm_rl.memory.core import MemoryCore, State
from stm_rl.memory.recurrent import cut, cut_shape

LONGEST = 1000.0
"""Steps over which the slowest units forget before they have learned anything."""
SPREAD = 4.0
"""Standard deviation at the start of what the input adds to the log odds of a gate, and of an initial state.

With gates as weak as usual everything is kept a little; a symbol then has to be held over 800 others before there is a
gradient to hold it by. Decisive gates and a strong mark of the first step let some units hold it by chance.
"""


class LinearCore(MemoryCore):
    """Layers of minimal gated recurrent units (minGRU; Feng et al., Were RNNs All We Needed?, 2024).

    What a unit forgets depends on the input alone and not on its state, so a whole sequence is a linear recurrence,
    ``h_t = a_t h_{t-1} + b_t`` with ``a_t = 1 - z_t`` and ``b_t = z_t c_t``, which needs no loop over time.
    A layer learns its initial state, of which a trace is left for as long as a unit forgets slowly: that is how the
    next layer tells the first steps of an episode from later ones. A layer reads a normalised input and adds to it;
    what it adds is gated by the input (as in De et al., Griffin, 2024), so that an input can ask for what is kept.

    Args:
        input_size: Numbers in an input.
        output_size: Numbers in an output.
        hidden_size: Units of a layer; None: as many as outputs.
        layers: Number of layers.
    """

    def __init__(self, input_size: int, output_size: int, *, hidden_size: int | None = None, layers: int = 2) -> None:
        super().__init__(input_size, output_size)
        size = output_size if hidden_size is None else hidden_size
        for name, value in (("hidden_size", size), ("layers", layers)):
            if value < 1:
                raise StmError(f"{name} is {value}; expected at least 1")
        self.from_input = nn.Linear(input_size, size)
        self.layers = nn.ModuleList(MinGRULayer(size) for _ in range(layers))
        self.norm = nn.LayerNorm(size)
        self.to_output = nn.Linear(size, output_size)
        self.size = size

    def initial_state(self, batch: int) -> State:
        """Return the learned hidden states of the layers, shape ``(batch, layers, hidden_size)``."""
        return {"hidden": torch.stack([layer.initial for layer in self._layers]).expand(batch, -1, -1)}

    def forward(self, inputs: Tensor, state: State, done: Tensor | None = None) -> tuple[Tensor, State]:
        """Read a sequence; see :meth:`MemoryCore.forward`."""
        values = self.from_input(inputs)
        last = []
        for layer, hidden in zip(self._layers, state["hidden"].unbind(1), strict=True):
            values, hidden = layer(values, hidden, done)
            last.append(hidden)
        return self.to_output(self.norm(values)), {"hidden": torch.stack(last, 1)}

    def read(self, state: State) -> Tensor:
        """Return the hidden states of the layers, each cut into vectors."""
        hidden = state["hidden"]
        return cut(hidden.flatten(0, 1)).reshape(len(hidden), *self.read_shape)

    @property
    def read_shape(self) -> tuple[int, int]:
        """See :attr:`MemoryCore.read_shape`."""
        vectors, length = cut_shape(self.size)
        return len(self.layers) * vectors, length

    @property
    def _layers(self) -> list[MinGRULayer]:
        return list(self.layers)  # type: ignore[arg-type]


class MinGRULayer(nn.Module):
    """One layer of :class:`LinearCore`: values of shape ``(batch, time, size)`` in and out.

    The gates begin with biases under which a unit forgets over 2 to about 1,000 steps, the units spread evenly on a
    logarithmic scale (after Tallec & Ollivier, Can recurrent neural networks warp time?, 2018).

    Args:
        size: Numbers in a value, and units.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.from_values = nn.Linear(size, 3 * size)
        self.to_values = nn.Linear(size, size)
        self.initial = nn.Parameter(SPREAD * torch.randn(size))
        with torch.no_grad():
            self.from_values.bias[:size] = -torch.linspace(0, math.log(LONGEST), size)
            self.from_values.weight[:size].normal_(std=SPREAD / math.sqrt(size))

    def forward(self, values: Tensor, hidden: Tensor, done: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the values and the hidden states after the last step, shape ``(batch, size)``."""
        gate, candidate, ask = self.from_values(self.norm(values)).chunk(3, -1)
        update = gate.sigmoid()
        decay, added = 1 - update, update * candidate
        if done is not None:
            # A reset is exact: nothing of the state before is left, and the initial state takes its place.
            added = added + done[..., None] * decay * self.initial
            decay = decay.masked_fill(done[..., None], 0)
        states = Scan.apply(decay, added, hidden)  # type: ignore[no-untyped-call]
        return values + self.to_values(states * functional.silu(ask)), states[:, -1]


class Scan(torch.autograd.Function):
    """``h_t = a_t h_{t-1} + b_t`` for all steps at once, with the gradient by the same recurrence backwards in time."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, added: Tensor, hidden: Tensor) -> Tensor:
        """Return ``h``, shape ``(batch, time, size)``; see :func:`scan`."""
        states = scan(decay, added, hidden)
        ctx.save_for_backward(decay, hidden, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of the three arguments."""
        decay, hidden, states = ctx.saved_tensors
        later = functional.pad(decay[:, 1:], (0, 0, 0, 1))
        flow = scan(later.flip(1), gradient.flip(1), torch.zeros_like(hidden)).flip(1)
        before = torch.cat([hidden[:, None], states[:, :-1]], 1)
        return flow * before, flow, flow[:, 0] * decay[:, 0]


def scan(decay: Tensor, added: Tensor, hidden: Tensor) -> Tensor:
    """Return all states of a linear recurrence.

    Time is cut into about ``sqrt(time)`` blocks. All blocks go side by side, each as if it began with zeros; then each
    in turn adds what remains of the state that the block before it hands on (Blelloch, Prefix sums and their
    applications, 1990). So ``2 sqrt(time)`` operations follow one another instead of ``time``.

    Args:
        decay: What remains of a state, shape ``(batch, time, size)``.
        added: What is added to it, same shape.
        hidden: The state before the first step, shape ``(batch, size)``.

    Returns:
        The states after each step, shape ``(batch, time, size)``.
    """
    batch, time, size = added.shape
    if time == 1:
        return torch.addcmul(added, decay, hidden[:, None])
    length = math.isqrt(time)
    blocks = -(-time // length)
    remains, states = (x.new_zeros(batch, blocks * length, size) for x in (decay, added))
    remains[:, :time], states[:, :time] = decay, added
    remains, states = (x.view(batch, blocks, length, size) for x in (remains, states))
    for i in range(1, length):
        states[:, :, i].addcmul_(remains[:, :, i], states[:, :, i - 1])
        remains[:, :, i] *= remains[:, :, i - 1]
    for block in range(blocks):
        states[:, block].addcmul_(remains[:, block], hidden[:, None])
        hidden = states[:, block, -1]
    return states.reshape(batch, -1, size)[:, :time]
