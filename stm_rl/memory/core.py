"""What every neural memory has in common: a module with a state that it carries from step to step."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from stm_rl.errors import StmError

State = dict[str, Tensor]
"""What a memory carries from one step to the next: named tensors, the batch first in each."""


class MemoryCore(nn.Module):
    """A neural memory: reads a sequence step by step and answers at every step from what it has kept.

    The same module serves as the memory of a policy (a step is an observation) and of a language model (a step is a
    segment). Sequences may be given whole or in pieces: the outputs are the same, as long as the state of
    one piece is handed to the next.

    Args:
        input_size: Numbers in an input.
        output_size: Numbers in an output.
    """

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("output_size", output_size)):
            if size < 1:
                raise StmError(f"{name} is {size}; expected at least 1")
        self.input_size, self.output_size = input_size, output_size

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """Return the state in which an episode begins.

        Args:
            batch: Number of rows.

        Returns:
            Tensors of shape ``(batch, ...)`` on the module's device. Learned ones keep their gradient.
        """

    @abstractmethod
    def forward(self, inputs: Tensor, state: State, done: Tensor | None = None) -> tuple[Tensor, State]:
        """Read a sequence.

        Args:
            inputs: Shape ``(batch, time, input_size)``.
            state: The state before the first step; it is not changed.
            done: Booleans of shape ``(batch, time)``: the episode before this step is over, so the row's state is
                reset before the step is read. None: no episode ends.

        Returns:
            Outputs of shape ``(batch, time, output_size)``, where output ``t`` depends on inputs up to and
            including ``t``, and the state after the last step.
        """

    def read(self, state: State) -> Tensor:
        """Return what the memory holds as a set of vectors, for a reader that attends to it.

        Args:
            state: A state.

        Returns:
            Shape ``(batch, n, m)``; ``n`` and ``m`` are :attr:`read_shape`.
        """
        raise NotImplementedError

    @property
    def read_shape(self) -> tuple[int, int]:
        """The number of vectors that :meth:`read` returns and the numbers in each."""
        raise NotImplementedError


class SteppedCore(MemoryCore):
    """A memory whose state at a step depends on its state before in a way that only going step by step can follow."""

    @abstractmethod
    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one step.

        Args:
            inputs: Shape ``(batch, input_size)``.
            state: The state before the step; it is not changed.

        Returns:
            Outputs of shape ``(batch, output_size)`` and the state after the step.
        """

    def forward(self, inputs: Tensor, state: State, done: Tensor | None = None) -> tuple[Tensor, State]:
        """Read a sequence; see :meth:`MemoryCore.forward`."""
        resets = done.any(0).tolist() if done is not None else [False] * inputs.shape[1]
        initial = self.initial_state(len(inputs)) if any(resets) else {}
        outputs = []
        # Taken apart at once: the gradient of one step's slice would fill zeros of the size of the whole sequence.
        for t, (given, anew) in enumerate(zip(inputs.unbind(1), resets, strict=True)):
            if anew and done is not None:
                state = reset(state, initial, done[:, t])
            output, state = self.step(given, state)
            outputs.append(output)
        return torch.stack(outputs, 1), state


def reset(state: State, initial: State, done: Tensor) -> State:
    """Return ``state`` with the rows marked in ``done``, shape ``(batch,)``, taken from ``initial``."""
    return {
        name: torch.where(done.reshape(-1, *[1] * (value.ndim - 1)), initial[name], value)
        for name, value in state.items()
    }


def detached(state: State) -> State:
    """Return the state cut off from the gradient: where backpropagation through time is truncated."""
    return {name: value.detach() for name, value in state.items()}


def state_bytes(state: State) -> int:
    """Return the size of a state in bytes."""
    return sum(value.numel() * value.element_size() for value in state.values())
