"""LSTM and GRU over rows that are reset at different steps: what torch's own kernels are slow at on a CPU.

Calling torch anew wherever some row is reset costs a call for almost every step of a batch of short episodes.
:func:`lstm_with_resets` needs one call of torch's fast kernel; torch has no such kernel for a GRU on a CPU, so
:class:`PackedGRU` is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

SHUT = 1e9
"""What is taken from the log odds of a gate that is to be shut, to the last bit, whatever the weights add to them."""

through_sigmoid, through_tanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
"""Gradient and result of the function to the gradient of what it was given, in one pass."""


def lstm_with_resets(
    cell: nn.LSTM, inputs: Tensor, hidden: Tensor, memory: Tensor, done: Tensor
) -> tuple[Tensor, Tensor]:
    """Run an LSTM of one layer over rows that are reset to zeros.

    Before a step at which a row is reset, a step is put in that shuts all gates, which leaves zeros in both states,
    exactly. Shorter rows are filled up with steps that keep the cell state. Two more inputs, with weights of their own
    that are no parameters, tell those steps from others.

    Args:
        cell: The LSTM.
        inputs: Shape ``(batch, time, input_size)``.
        hidden: The hidden state before the first step, shape ``(batch, hidden_size)``.
        memory: The cell state, likewise.
        done: Which rows are reset before which step, shape ``(batch, time)``; not before the first.

    Returns:
        The hidden states, shape ``(batch, time, hidden_size)``, and the cell state after the last step.
    """
    batch, time = done.shape
    at = torch.arange(time) + done.cumsum(1)
    length = int(at[:, -1].max()) + 1
    places = (at + length * torch.arange(batch)[:, None]).flatten()
    keeps = torch.arange(length) > at[:, -1:]
    shuts = (~keeps).flatten().index_fill(0, places, False).view(batch, length)
    given = inputs.new_zeros(batch * length, inputs.shape[2]).index_copy(0, places, inputs.flatten(0, 1))
    marks = torch.stack([shuts, keeps], 2).to(inputs.dtype)
    from_input, *others = cell.all_weights[0]
    # Of input gate, forget gate, candidate and output gate.
    from_marks = from_input.new_tensor([[-SHUT, -SHUT], [-SHUT, SHUT], [0, 0], [-SHUT, 0]])
    weights = [torch.cat([from_input, from_marks.repeat_interleave(cell.hidden_size, 0)], 1), *others]
    steps = torch.cat([given.view(batch, length, -1), marks], 2)
    states = hidden[None].contiguous(), memory[None].contiguous()
    hiddens, _, last = torch.lstm(steps, states, weights, True, 1, 0.0, cell.training, False, True)
    return hiddens.flatten(0, 1).index_select(0, places).view(batch, time, -1), last[0]


class Stretches(NamedTuple):
    """Rows of a batch, cut where they are reset into ``s`` stretches that run side by side, the longest first.

    So nothing is padded: this is the order of :class:`torch.nn.utils.rnn.PackedSequence`.

    Attributes:
        rows: The row of each stretch, shape ``(s,)``.
        fresh: Whether the stretch begins with a reset, and not with the state before the sequence, shape ``(s,)``.
        last: The stretch in which each row ends, shape ``(batch,)``.
        steps: Places of the steps in the batch, row by row, in packed order: the first step of each stretch, then the
            second of each that has one, and so on; shape ``(batch * time,)``.
        places: Places of the steps in packed order, row by row, shape ``(batch * time,)``.
        sizes: How many stretches have a first step, a second one, and so on.
    """

    rows: Tensor
    fresh: Tensor
    last: Tensor
    steps: Tensor
    places: Tensor
    sizes: list[int]


def stretches(done: Tensor) -> Stretches:
    """Return where rows are cut that are reset before the steps marked in ``done``, shape ``(batch, time)``."""
    time = done.shape[1]
    begins = functional.pad(done[:, 1:], (1, 0), value=True).flatten()
    starts = begins.nonzero().squeeze(1)
    lengths = torch.diff(starts, append=starts.new_tensor([done.numel()]))
    order = lengths.argsort(descending=True, stable=True)
    rank = order.argsort()
    stretch = begins.cumsum(0) - 1
    age = torch.arange(len(stretch), device=done.device) - starts[stretch]
    steps = (age * len(starts) + rank[stretch]).argsort()
    return Stretches(
        rows=starts[order] // time,
        fresh=done.flatten()[starts[order]],
        last=rank[stretch[time - 1 :: time]],
        steps=steps,
        places=steps.argsort(),
        sizes=age.bincount().tolist(),
    )


class PackedGRU(torch.autograd.Function):
    """The equations of :class:`torch.nn.GRU` over packed stretches, see :class:`Stretches`.

    Forward, one product serves the inputs of all steps, and each step works in place on its part of it. Backward, all
    that does not depend on the gradient of later steps is computed beforehand, and the weights' gradients afterwards,
    for all steps at once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        from_input: Tensor,
        from_hidden: Tensor,
        bias: Tensor,
        echo_bias: Tensor,
        hidden: Tensor,
        sizes: list[int],
    ) -> Tensor:
        """Run all steps.

        Args:
            ctx: Of autograd.
            inputs: In packed order, shape ``(steps, input_size)``.
            from_input: Weights of shape ``(3 * hidden_size, input_size)``: of reset and update gate and of the
                candidate.
            from_hidden: Weights of shape ``(3 * hidden_size, hidden_size)``: of the candidate (what the reset gate
                lets through of it), and of reset and update gate.
            bias: In the order of ``from_input``, shape ``(3 * hidden_size,)``.
            echo_bias: Added to what the reset gate lets through, shape ``(hidden_size,)``.
            hidden: The hidden state before each stretch, shape ``(stretches, hidden_size)``.
            sizes: See :class:`Stretches`.

        Returns:
            The hidden states in packed order.
        """
        size = from_hidden.shape[1]
        to_echo, to_gates = from_hidden[:size].t(), from_hidden[size:].t()
        parts = torch.addmm(bias, inputs, from_input.t())
        hiddens, echoes = (parts.new_empty(len(parts), size) for _ in range(2))
        before = hidden
        views = (parts[:, : 2 * size], *parts.chunk(3, 1), echoes, hiddens)
        for gates, let, keep, new, echo, after in by_step(views, sizes):
            before = before[: len(gates)]
            gates.addmm_(before, to_gates).sigmoid_()
            torch.addmm(echo_bias, before, to_echo, out=echo)
            new.addcmul_(let, echo).tanh_()
            before = torch.lerp(new, before, keep, out=after)
        ctx.save_for_backward(inputs, from_input, from_hidden, hidden, parts, echoes, hiddens)
        ctx.sizes = sizes
        return hiddens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, hiddens_gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments."""
        inputs, from_input, from_hidden, hidden, parts, echoes, hiddens = ctx.saved_tensors
        sizes, size = ctx.sizes, from_hidden.shape[1]
        let, keep, new = parts.chunk(3, 1)
        hidden_before = earlier(hidden, hiddens, sizes)
        # Becomes the gradient of what goes into echo, gates and candidate: the first three come from the hidden state,
        # the last three from the input.
        slopes = parts.new_empty(len(parts), 4 * size)
        to_echo, to_let, to_keep, to_new = slopes.chunk(4, 1)
        through_tanh(1 - keep, new, grad_input=to_new)
        through_sigmoid(hidden_before - new, keep, grad_input=to_keep)
        through_sigmoid(to_new * echoes, let, grad_input=to_let)
        torch.mul(to_new, let, out=to_echo)
        flow = hiddens_gradient.clone()
        later: tuple[Tensor, Tensor, Tensor] | None = None
        views = (slopes[:, : 3 * size], slopes.view(-1, 4, size), keep, flow)
        for inward, slope, kept, gradient in reversed(by_step(views, sizes)):
            if later is not None:
                gradient[: len(later[0])].addmm_(later[0], from_hidden).addcmul_(*later[1:])
            slope.mul_(gradient[:, None])
            later = inward, kept, gradient
        inward, direct = slopes[:, : 3 * size], slopes[:, size:]
        first = torch.addcmul(inward[: len(hidden)] @ from_hidden, flow[: len(hidden)], keep[: len(hidden)])
        weights = direct.t() @ inputs, inward.t() @ hidden_before
        return direct @ from_input, *weights, direct.sum(0), to_echo.sum(0), first, None


def by_step(tensors: Sequence[Tensor], sizes: list[int]) -> list[tuple[Tensor, ...]]:
    """Return the parts of tensors in packed order that belong to each step."""
    return list(zip(*(torch.split_with_sizes(tensor, sizes) for tensor in tensors), strict=True))


def earlier(initial: Tensor, afters: Tensor, sizes: list[int]) -> Tensor:
    """Return the states before each step, given those before each stretch and those after each step; packed order."""
    states = initial, *torch.split_with_sizes(afters, sizes)[:-1]
    return torch.cat([state[:size] for state, size in zip(states, sizes, strict=True)])
