"""A doubly linked least-recently-used memory, through which cursors walk."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stm_rl.errors import StmError
from stm_rl.memory.core import MemoryCore, State
from stm_rl.memory.gather import gather, gather_sum
from stm_rl.memory.linked_walk import FRONT, MOVES, NEWER, OLDER, STAY, Walk, walk

SPREAD = 2.0
"""Standard deviation of the logits before anything is learned: cursors differ, and most know what they do."""


class LinkedCore(MemoryCore):
    """Slots in a doubly linked list, the most recently written in front, and cursors that walk along it.

    At every step a gate decides whether the input is kept; if so it takes the place of what has not been written for
    the longest time, and that slot moves to the front. Then each cursor goes to the front, stays, or goes one slot
    towards the older or the newer ones. It reads the four slots it could go to, weighted by the softmax of the logits
    of the moves, and goes to the likeliest. Every operation takes the same time whatever the number of slots.

    Gate and moves depend on the current and the previous input alone, so all decisions of a sequence are known before
    its first step: the walk is done on integers without gradients, and all reading is done at once after it. The gate
    is a straight-through estimator (Bengio et al., Estimating or propagating gradients through stochastic neurons,
    2013): a decision forwards, a sigmoid backwards. Moves get gradients through the weights of what is read. That
    improves a walk but hardly finds one, for whoever stands still learns only from the first step away from there. So
    every cursor begins as one that walks: some inputs, half of them at random, send it to the front, and the others one
    slot towards the older ones. The more cursors there are, the likelier one of them walks where that is of use.

    Args:
        input_size: Numbers in an input.
        output_size: Numbers in an output.
        slots: Number of slots.
        cursors: Number of cursors.
        slot_size: Numbers in a slot.
        touch: Whether reading counts as use: the slot that a cursor goes to moves to the front of the list. Off, the
            list is in the order of writing, and can be walked back through.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        slots: int = 128,
        cursors: int = 8,
        slot_size: int = 32,
        touch: bool = False,
    ) -> None:
        super().__init__(input_size, output_size)
        if slots < 1 or cursors < 1 or slot_size < 1:
            raise StmError(f"slots is {slots}, cursors {cursors}, slot_size {slot_size}; expected at least 1 of each")
        self.slots, self.cursors, self.slot_size, self.touch = slots, cursors, slot_size, touch
        self.value = nn.Linear(input_size, slot_size)
        self.decide = nn.Linear(2 * input_size, 1 + MOVES * cursors)
        self.output = nn.Sequential(
            nn.Linear(input_size + cursors * slot_size, output_size), nn.ReLU(), nn.Linear(output_size, output_size)
        )
        self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        """Set the decisions before anything is learned."""
        weight, bias, cursors, inputs = self.decide.weight, self.decide.bias, self.cursors, self.input_size
        scale = (2 * inputs) ** -0.5
        weight.normal_(0, 0.5 * scale)
        bias.zero_()
        bias[0] = 2.0  # keep most of what comes
        bias[1:].view(cursors, MOVES)[:, [STAY, NEWER]] = -1.0
        directions = torch.randn(cursors, 2, inputs) * SPREAD * scale
        if inputs > 1:  # without what inputs behind a ReLU have in common, which would send a cursor one way only
            directions -= directions.mean(2, keepdim=True)
        moves = weight[1:].view(cursors, MOVES, 2 * inputs)
        moves[:, FRONT] += directions.flatten(1)
        moves[:, OLDER] -= directions.flatten(1)

    def initial_state(self, batch: int) -> State:
        """Return empty slots in a list of any order, and all cursors in front; see :meth:`MemoryCore.initial_state`.

        Returns:
            ``values`` (batch, slots, slot_size); links ``older`` and ``newer`` (batch, slots), int64: the list is a
            ring, so the oldest slot's next older one is the front; ``front`` (batch), int64; ``cursors``
            (batch, cursors), int64; and the previous input, ``before`` (batch, input_size).
        """
        weight = self.value.weight
        slots = torch.arange(self.slots, device=weight.device)
        return {
            "values": weight.new_zeros(batch, self.slots, self.slot_size),
            "older": ((slots + 1) % self.slots).repeat(batch, 1),
            "newer": ((slots - 1) % self.slots).repeat(batch, 1),
            "front": slots.new_zeros(batch),
            "cursors": slots.new_zeros(batch, self.cursors),
            "before": weight.new_zeros(batch, self.input_size),
        }

    def forward(self, inputs: Tensor, state: State, done: Tensor | None = None) -> tuple[Tensor, State]:
        """Read a sequence; see :meth:`MemoryCore.forward`."""
        batch = len(inputs)
        before = torch.cat([state["before"].unsqueeze(1), inputs[:, :-1]], 1)
        if done is not None:
            before = before.masked_fill(done.unsqueeze(2), 0)
        gate, moves = self._decisions(inputs, before)
        new = self.value(inputs)
        # The straight-through factor is 1 where something is written; elsewhere nothing can be read of the step.
        new, empty = new * (1 + (gate - gate.detach())), new.new_zeros(batch, 1, self.slot_size)
        table = torch.cat([state["values"], new, empty], 1)
        walked = walk(gate.squeeze(2) > 0.5, moves.argmax(3), state, done, self.touch)
        read = self._read(table, walked, gate, moves)
        after = walked.state | {"values": gather(table, walked.held), "before": inputs[:, -1]}
        return self.output(torch.cat([inputs, read], -1)), after

    def read(self, state: State) -> Tensor:
        """Return what the slots hold, the oldest first; slots that nothing was written to are zeros."""
        order, jump = state["front"].unsqueeze(1), state["older"]
        while order.shape[1] < self.slots:  # pointer doubling: as many gathers as the number of slots has bits
            order = torch.cat([order, jump.gather(1, order)], 1)
            jump = jump.gather(1, jump)
        return gather(state["values"], order[:, : self.slots].flip(1))

    @property
    def read_shape(self) -> tuple[int, int]:
        """``(slots, slot_size)``."""
        return self.slots, self.slot_size

    def _decisions(self, inputs: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gate, shape (batch, time, 1), and the moves' weights, shape (batch, time, cursors, MOVES)."""
        # Both inputs are brought to the same length, so that the logits have the spread that they are made for.
        size = [self.input_size]
        seen = torch.cat([functional.rms_norm(x, size, eps=1e-6) for x in (inputs, before)], -1)
        gate, moves = self.decide(seen).split([1, MOVES * self.cursors], -1)
        return gate.sigmoid(), moves.unflatten(-1, (self.cursors, MOVES)).softmax(-1)

    def _read(self, table: Tensor, walked: Walk, gate: Tensor, moves: Tensor) -> Tensor:
        """Return the weighted sums of what the cursors could go to, shape (batch, time, cursors * slot_size)."""
        # The front is what is written now or what was there before: so the gate learns also where it is closed.
        opened = (gate - gate.detach() + (gate > 0.5).to(gate.dtype)).unsqueeze(2)
        front = moves[..., :1]
        weights = torch.cat([front * opened, front * (1 - opened), moves[..., 1:]], -1)
        return gather_sum(table, walked.places, weights).flatten(2)
