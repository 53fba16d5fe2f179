"""An external memory matrix with content- and location-based attention, gated write and erase."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from stm_rl.errors import StmError
from stm_rl.memory.core import MemoryCore, State, SteppedCore

SCALARS = 6
"""What a head is told besides its key: strength, sharpness, content or place, and three logits of shifts."""
FLOOR = 1e-6
"""Attention that every slot has at least, so that its logarithm is finite."""
USED = 0.95
"""What is left of a slot's use after a step (Santoro et al., 2016, section 3)."""


class MatrixCore(MemoryCore):
    """A matrix of ``slots`` rows that attention heads read and one of them writes (see :class:`MatrixCell`).

    Args:
        input_size: Numbers in an input.
        output_size: Numbers in an output.
        slots: Rows of the matrix.
        width: Numbers in a row.
        reads: Heads that only read; one more reads and writes.
        gated: Write with erase and add vectors. Off: the additive update.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        slots: int = 16,
        width: int = 32,
        reads: int = 2,
        gated: bool = True,
    ) -> None:
        super().__init__(input_size, output_size)
        if slots < 3 or width < 1 or reads < 0:
            raise StmError(
                f"slots is {slots}, width {width} and reads {reads}; expected at least 3 slots, width 1 and 0 reads"
            )
        self.cell = MatrixCell(slots, width, 1 + reads, gated)
        self.from_input = nn.Linear(input_size, self.cell.input_size)
        self.to_output = nn.Sequential(
            nn.Linear(input_size + self.cell.output_size, output_size), nn.ReLU(), nn.Linear(output_size, output_size)
        )
        self.cell.start_gates(self.from_input.bias)

    def initial_state(self, batch: int) -> State:
        """See :meth:`MatrixCell.initial_state`."""
        return self.cell.initial_state(batch)

    def forward(self, inputs: Tensor, state: State, done: Tensor | None = None) -> tuple[Tensor, State]:
        """Read a sequence; see :meth:`MemoryCore.forward`."""
        seen, state = self.cell(self.from_input(inputs), state, done)
        return self.to_output(torch.cat([inputs, seen], -1)), state

    def read(self, state: State) -> Tensor:
        """Return the rows of the matrix."""
        return state["matrix"]

    @property
    def read_shape(self) -> tuple[int, int]:
        """``(slots, width)``."""
        return self.cell.slots, self.cell.width


class MatrixCell(SteppedCore):
    """The part of :class:`MatrixCore` that goes step by step.

    Addressing is that of Graves et al., Neural Turing Machines (2014), equations 5 to 9: a head's attention ``a`` is a
    softmax of cosine similarities with its key, mixed with its last attention, shifted by -1, 0 or 1 rows and
    sharpened. It reads ``r = sum_i a_i M_i``. The first head also writes, where it reads or, as a further gate says,
    to the least used row (as in Santoro et al., Meta-learning with memory-augmented neural networks, 2016), with
    weights ``w`` that a write gate scales. All heads read before anything is written.

    - Gated: ``M <- M - w (e * M) + w v`` with an erase vector ``e`` in 0..1 and an add vector ``v`` in -1..1
      (Graves et al., equations 3 and 4).
    - Additive: ``M_{t+1} = M_t + W read(M_t, t) + U write(M_t, t)``, where ``W read`` is ``w (W r)`` and ``U write``
      is ``w (U v)``: learned matrices ``W`` and ``U`` map what was read and what is new, and ``w`` says into which rows
      that goes. ``W`` begins as minus the identity: what was read is taken away, as in the delta rule
      (Schlag et al., Linear transformers are secretly fast weight programmers, 2021).

    After either update, a row longer than ``sqrt(width)`` is cut to that length. So the matrix stays bounded for
    any weights and any number of steps.

    Args:
        slots: Rows of the matrix.
        width: Numbers in a row.
        heads: Heads; the first also writes.
        gated: Which update.
    """

    def __init__(self, slots: int, width: int, heads: int, gated: bool) -> None:
        # The writing head has two gates, a new vector and, if gated, an erase vector.
        self.sizes = [heads * (width + SCALARS), 2, width, width if gated else 0]
        super().__init__(sum(self.sizes), heads * width)
        self.slots, self.width, self.heads, self.gated = slots, width, heads, gated
        self.from_seen = nn.Linear(heads * width, sum(self.sizes), bias=False)
        self.matrix = nn.Parameter(0.1 * torch.randn(slots, width))
        places = torch.arange(heads) * slots // heads
        self.places = nn.Parameter(8.0 * functional.one_hot(places, slots))
        # Among rows that are used about equally little, the first is taken, and not one that rounding errors choose.
        self.register_buffer("order", 0.01 * torch.arange(slots), persistent=False)
        self.order: Tensor
        if not gated:
            self.read_map = nn.Parameter(-torch.eye(width))  # W
            self.write_map = nn.Parameter(torch.eye(width))  # U

    def start_gates(self, bias: Tensor) -> None:
        """Set the biases of the inputs so that a head stays where it is and the first one writes to unused rows."""
        heads, write, _, erase = torch.split(bias.detach(), self.sizes)
        heads.view(self.heads, -1)[:, self.width :] += torch.tensor([5.0, 0.0, 1.0, 0.0, 2.0, 0.0])
        write += 1
        erase += 1

    def initial_state(self, batch: int) -> State:
        """Return the learned first matrix and attention, and the rest zeros; see :meth:`MemoryCore.initial_state`.

        Returns:
            ``matrix`` (batch, slots, width); ``attention`` (batch, heads, slots); ``used`` (batch, slots): how much a
            slot has been used lately; ``seen`` (batch, heads * width): unit vectors of what was read last.
        """
        return {
            "matrix": bounded(self.matrix).expand(batch, -1, -1),
            "attention": self.places.softmax(1).expand(batch, -1, -1),
            "used": self.matrix.new_zeros(batch, self.slots),
            "seen": self.matrix.new_zeros(batch, self.heads * self.width),
        }

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one step; see :meth:`SteppedCore.step`."""
        matrix, used = state["matrix"], state["used"]
        told, gates, new, erase = torch.split(inputs + self.from_seen(state["seen"]), self.sizes, 1)
        attention = self._attention(told.reshape(-1, self.heads, self.width + SCALARS), matrix, state["attention"])
        seen = attention @ matrix
        write, unused = gates.sigmoid().chunk(2, 1)
        least = functional.one_hot((used + self.order).argmin(1), self.slots).to(matrix.dtype)
        weights = write * torch.lerp(attention[:, 0], least, unused)
        new = new.tanh()
        if self.gated:
            change = torch.addcmul(new.unsqueeze(1), erase.sigmoid().unsqueeze(1), matrix, value=-1)
        else:
            change = (seen[:, 0] @ self.read_map + new @ self.write_map).unsqueeze(1)
        matrix = bounded(torch.addcmul(matrix, weights.unsqueeze(2), change))
        # Which slot is least used is a hard choice without a gradient.
        used = USED * used + (attention[:, 1:].sum(1) + weights).detach()
        # The heads are told by unit vectors: longer ones would have them amplify rounding errors.
        told_next = unit(seen).flatten(1)
        return seen.flatten(1), {"matrix": matrix, "attention": attention, "used": used, "seen": told_next}

    def _attention(self, told: Tensor, matrix: Tensor, last: Tensor) -> Tensor:
        key, scalars = torch.split(told, [self.width, SCALARS], 2)
        likeness = unit(key) @ unit(matrix).transpose(1, 2)
        content = (functional.softplus(scalars[..., :1]) * likeness).softmax(2)
        mixed = torch.lerp(last, content, scalars[..., 2:3].sigmoid())
        around = torch.cat([mixed[..., -1:], mixed, mixed[..., :1]], 2).unfold(2, 3, 1)
        shifted = (around @ scalars[..., 3:].softmax(2).unsqueeze(3)).squeeze(3)
        # Sharpened by an exponent of 1 to 3: larger ones have attention amplify rounding errors.
        return torch.softmax((1 + 2 * scalars[..., 1:2].sigmoid()) * (shifted + FLOOR).log(), 2)


def unit(vectors: Tensor) -> Tensor:
    """Return vectors scaled to length 1; very short ones stay shorter."""
    return functional.normalize(vectors, dim=-1, eps=1e-2)


def bounded(rows: Tensor) -> Tensor:
    """Return rows whose root mean square is at most 1: longer ones are shortened."""
    longest = math.sqrt(rows.shape[-1])
    length: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows * (longest / length.clamp(min=longest))
