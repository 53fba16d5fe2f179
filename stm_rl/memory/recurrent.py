"""Recurrent cells: LSTM and GRU as references, and a gated cell that attends over its own past states."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from stm_rl.errors import StmError
from stm_rl.memory.core import MemoryCore, State, SteppedCore
from stm_rl.memory.kernels import PackedGRU, Stretches, lstm_with_resets, stretches

READ_VECTORS = 4
"""Vectors into which a reader sees a hidden state cut, as long as its size can be divided by it."""


def cut(hidden: Tensor) -> Tensor:
    """Return hidden states of shape ``(batch, size)`` as vectors: ``(batch, n, size / n)``, see :func:`cut_shape`."""
    return hidden.reshape(len(hidden), *cut_shape(hidden.shape[-1]))


def cut_shape(size: int) -> tuple[int, int]:
    """Return how many vectors a hidden state of ``size`` numbers is cut into, and how long each is."""
    vectors = math.gcd(size, READ_VECTORS)
    return vectors, size // vectors


class KernelCore(MemoryCore):
    """A cell with the equations and the parameters of one of torch's.

    A sequence in which no row is reset after the first step is one call of torch's kernel. Otherwise a CPU has a way of
    its own for each cell; on other devices rows are cut where they are reset, and torch (cuDNN) runs them side by side.
    """

    cell: nn.LSTM | nn.GRU
    parts: tuple[str, ...]
    """Names of the tensors of a state."""

    def __init__(self, input_size: int, output_size: int, hidden_size: int | None) -> None:
        super().__init__(input_size, output_size)
        self.hidden_size = chosen_size(hidden_size, output_size)
        same = self.hidden_size == output_size
        self.to_output = nn.Identity() if same else nn.Linear(self.hidden_size, output_size)

    def initial_state(self, batch: int) -> State:
        """Return zeros, shape ``(batch, hidden_size)`` each."""
        like = next(self.cell.parameters())
        return {name: like.new_zeros(batch, self.hidden_size) for name in self.parts}

    def forward(self, inputs: Tensor, state: State, done: Tensor | None = None) -> tuple[Tensor, State]:
        """Read a sequence; see :meth:`MemoryCore.forward`."""
        if done is not None and done.any():
            state = cleared(state, done[:, 0])
        if done is None or not done[:, 1:].any():
            hidden, state = self._torch(inputs, state)
        else:
            run = self._on_cpu if inputs.device.type == "cpu" else self._in_stretches
            hidden, state = run(inputs, state, functional.pad(done[:, 1:], (1, 0)))
        return self.to_output(hidden), state

    def read(self, state: State) -> Tensor:
        """Return the hidden state, cut into vectors."""
        return cut(state["hidden"])

    @property
    def read_shape(self) -> tuple[int, int]:
        """See :attr:`MemoryCore.read_shape`."""
        return cut_shape(self.hidden_size)

    @abstractmethod
    def _on_cpu(self, inputs: Tensor, state: State, done: Tensor) -> tuple[Tensor, State]:
        """Return hidden states of rows that are reset, though not before the first step, and the last state."""

    def _in_stretches(self, inputs: Tensor, state: State, done: Tensor) -> tuple[Tensor, State]:
        """Let torch read rows that are reset, though not before the first step."""
        cuts = stretches(done)
        packed = PackedSequence(inputs.flatten(0, 1).index_select(0, cuts.steps), torch.tensor(cuts.sizes))
        hidden, after = self._torch(packed, self._before(cuts, state))
        hidden = hidden.data.index_select(0, cuts.places).view(*done.shape, -1)
        return hidden, {name: value[cuts.last] for name, value in after.items()}

    def _before(self, cuts: Stretches, state: State) -> State:
        """Return the state before each stretch."""
        return cleared({name: value[cuts.rows] for name, value in state.items()}, cuts.fresh)

    def _torch(self, inputs: Any, state: State) -> tuple[Any, State]:
        """Let torch read a batch, or a packed sequence."""
        given = tuple(state[name][None].contiguous() for name in self.parts)
        hidden, last = self.cell(inputs, given if len(given) > 1 else given[0])
        lasts = last if len(given) > 1 else (last,)
        return hidden, {name: value[0] for name, value in zip(self.parts, lasts, strict=True)}


class LSTMCore(KernelCore):
    """Long short-term memory (Hochreiter & Schmidhuber, 1997, with the forget gate of Gers et al., 2000).

    Args:
        input_size: Numbers in an input.
        output_size: Numbers in an output.
        hidden_size: Units of the cell; None: as many as outputs. Otherwise a linear layer makes the outputs.
    """

    parts = ("hidden", "cell")

    def __init__(self, input_size: int, output_size: int, *, hidden_size: int | None = None) -> None:
        super().__init__(input_size, output_size, hidden_size)
        self.cell: nn.LSTM = nn.LSTM(input_size, self.hidden_size, batch_first=True)

    def _torch(self, inputs: Any, state: State) -> tuple[Any, State]:
        if isinstance(inputs, PackedSequence) or inputs.shape[1] > 1:
            return super()._torch(inputs, state)
        # As of a policy that acts: torch has a cheaper way for one step.
        hidden, cell = torch.lstm_cell(inputs[:, 0], (state["hidden"], state["cell"]), *self.cell.all_weights[0])
        return hidden[:, None], {"hidden": hidden, "cell": cell}

    def _on_cpu(self, inputs: Tensor, state: State, done: Tensor) -> tuple[Tensor, State]:
        hidden, cell = lstm_with_resets(self.cell, inputs, state["hidden"], state["cell"], done)
        return hidden, {"hidden": hidden[:, -1], "cell": cell}


class GRUCore(KernelCore):
    """Gated recurrent unit (Cho et al., 2014).

    Args:
        input_size: Numbers in an input.
        output_size: Numbers in an output.
        hidden_size: Units of the cell; None: as many as outputs. Otherwise a linear layer makes the outputs.
    """

    parts = ("hidden",)

    def __init__(self, input_size: int, output_size: int, *, hidden_size: int | None = None) -> None:
        super().__init__(input_size, output_size, hidden_size)
        self.cell = nn.GRU(input_size, self.hidden_size, batch_first=True)

    def _on_cpu(self, inputs: Tensor, state: State, done: Tensor) -> tuple[Tensor, State]:
        size, cuts = self.hidden_size, stretches(done)
        from_input, from_hidden, bias, other_bias = self.cell.all_weights[0]
        to_gates, to_echo = other_bias.split_with_sizes([2 * size, size])
        hidden = PackedGRU.apply(  # type: ignore[no-untyped-call]
            inputs.flatten(0, 1).index_select(0, cuts.steps),
            from_input,
            from_hidden.roll(size, 0),  # torch has the candidate last, the kernel has it first
            bias + functional.pad(to_gates, (0, size)),
            to_echo,
            self._before(cuts, state)["hidden"],
            cuts.sizes,
        )
        hidden = hidden.index_select(0, cuts.places).view(*done.shape, -1)
        return hidden, {"hidden": hidden[:, -1]}


class AttentiveCore(MemoryCore):
    """A gated recurrent unit that attends over its own past states.

    After the long short-term memory-network of Cheng et al. (2016): at each step the cell looks back at its last
    ``history`` hidden states, and what it sees enters its gates and its output. The input and the present state decide
    where it looks: by content, through a query that is multiplied with every past state, and by age, through a score
    for every age.

    Args:
        input_size: Numbers in an input.
        output_size: Numbers in an output.
        hidden_size: Units of the cell; None: as many as outputs.
        history: Hidden states that are kept, the present one included.
    """

    def __init__(self, input_size: int, output_size: int, *, hidden_size: int | None = None, history: int = 32) -> None:
        super().__init__(input_size, output_size)
        if history < 1:
            raise StmError(f"history is {history}; expected at least 1")
        size = chosen_size(hidden_size, output_size)
        self.from_input = nn.Linear(input_size, 4 * size + history)
        self.cell = AttentiveCell(size, history)
        self.to_output = nn.Linear(2 * size, output_size)

    def initial_state(self, batch: int) -> State:
        """See :meth:`AttentiveCell.initial_state`."""
        return self.cell.initial_state(batch)

    def forward(self, inputs: Tensor, state: State, done: Tensor | None = None) -> tuple[Tensor, State]:
        """Read a sequence; see :meth:`MemoryCore.forward`."""
        hidden, state = self.cell(self.from_input(inputs), state, done)
        return self.to_output(hidden), state

    def read(self, state: State) -> Tensor:
        """Return the past hidden states, the oldest first, zeros where there is none yet."""
        return state["past"]

    @property
    def read_shape(self) -> tuple[int, int]:
        """See :attr:`MemoryCore.read_shape`."""
        return self.cell.history, self.cell.size


class AttentiveCell(SteppedCore):
    """The part of :class:`AttentiveCore` that goes step by step.

    Its inputs are what the query, the scores of the ages and the gates take from the inputs of the core, which one
    product computes for a whole sequence; its outputs are the hidden state and what the cell saw when it looked back.

    Args:
        size: Units of the cell.
        history: Hidden states that are kept.
    """

    def __init__(self, size: int, history: int) -> None:
        super().__init__(4 * size + history, 2 * size)
        self.size, self.history = size, history
        self.from_hidden = nn.Linear(size, 4 * size + history)
        self.from_seen = nn.Linear(size, 3 * size, bias=False)
        self.register_buffer("age", torch.arange(history).flip(0), persistent=False)
        self.age: Tensor

    def initial_state(self, batch: int) -> State:
        """Return the state in which an episode begins.

        Args:
            batch: Number of rows.

        Returns:
            ``hidden``, zeros of shape ``(batch, size)``; ``past``, the last hidden states, the present one as the
            last, zeros of shape ``(batch, history, size)``; ``count``, how many of them count, shape ``(batch,)``. The
            present one always does, so there is something to attend to.
        """
        weight = self.from_hidden.weight
        return {
            "hidden": weight.new_zeros(batch, self.size),
            "past": weight.new_zeros(batch, self.history, self.size),
            "count": torch.ones(batch, dtype=torch.long, device=weight.device),
        }

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one step; see :meth:`SteppedCore.step`."""
        hidden, past, count = state["hidden"], state["past"], state["count"]
        sizes = [self.size, self.history, 2 * self.size, self.size]
        # A split has a cheaper gradient than as many slices, each of which fills a tensor of the whole size.
        query_in, ages_in, gates_in, new_in = inputs.split_with_sizes(sizes, 1)
        query, ages, gates, new = self.from_hidden(hidden).split_with_sizes(sizes, 1)
        content = (past @ (query_in + query)[:, :, None]).squeeze(2) * self.size**-0.5
        scores = (content + ages_in + ages).masked_fill(self.age >= count[:, None], -torch.inf)
        seen = (scores.softmax(1)[:, None] @ past).squeeze(1)
        seen_gates, seen_new = self.from_seen(seen).split_with_sizes([2 * self.size, self.size], 1)
        keep, take = (gates_in + gates + seen_gates).sigmoid().chunk(2, 1)
        candidate = (new_in + take * new + seen_new).tanh()
        hidden = torch.lerp(candidate, hidden, keep)
        _, kept = past.split_with_sizes([1, self.history - 1], 1)
        past = torch.cat([kept, hidden[:, None]], 1)
        count = (count + 1).clamp(max=self.history)
        return torch.cat([hidden, seen], 1), {"hidden": hidden, "past": past, "count": count}


def cleared(state: State, done: Tensor) -> State:
    """Return a state of vectors with zeros in the rows marked in ``done``, shape ``(batch,)``."""
    return {name: value.masked_fill(done[:, None], 0) for name, value in state.items()}


def chosen_size(hidden_size: int | None, output_size: int) -> int:
    """Return the units of a cell: ``hidden_size``, or as many as outputs."""
    size = output_size if hidden_size is None else hidden_size
    if size < 1:
        raise StmError(f"hidden_size is {size}; expected at least 1")
    return size
