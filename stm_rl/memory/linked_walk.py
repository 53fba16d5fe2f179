"""How the cursors of :class:`~stm_rl.memory.linked.LinkedCore` walk: on integers, without gradients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stm_rl.memory.core import State

MOVES = 4
"""What a cursor chooses from: the start of the list, its own slot, the next older and the next newer one."""

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Walk(NamedTuple):
    """Where a sequence was written to and read from, as places in a table.

    The table of a row holds what its slots held before the sequence, what each step would write, and an empty entry.

    Attributes:
        front: What is in front before each step writes, shape (batch, time).
        places: What each cursor could read at each step, after writing, but for the start, where there is nothing:
            its own, the older and the newer slot; shape (batch, time, cursors, MOVES - 1).
        held: What each slot holds in the end, shape (batch, slots).
        state: Links and cursors after the sequence.
    """

    front: Tensor
    places: Tensor
    held: Tensor
    state: State


@torch.no_grad()
def walk(opened: Tensor, chosen: Tensor, state: State, done: Tensor | None, touch: bool) -> Walk:
    """Follow the decisions of a sequence.

    Args:
        opened: Whether each step is written, shape (batch, time), bool.
        chosen: The move of each cursor, shape (batch, time, cursors), int64.
        state: The state before, see :class:`~stm_rl.memory.linked.LinkedCore`; it is not changed.
        done: As of :meth:`~stm_rl.memory.core.MemoryCore.forward`.
        touch: Whether the slot that a cursor goes to moves to the front.
    """
    batch, time, cursors = chosen.shape
    ring = _Ring(state, time)
    written: BoolArray = opened.cpu().numpy()
    done = torch.zeros_like(opened) if done is None else done
    ended: BoolArray = done.cpu().numpy()
    steps = chosen.flatten(2).transpose(0, 1).cpu().numpy().reshape(time, -1)
    some_end, some_write = done.any(0).tolist(), opened.any(0).tolist()
    front = np.empty((batch, time), np.int64)
    places = np.empty((batch, time, cursors, MOVES - 1), np.int64)
    numbers = np.arange(batch * cursors)
    could = np.empty((batch, cursors, MOVES), np.int64)
    could[:, :, 0] = ring.start[:, None]
    for t in range(time):
        if some_end[t]:
            ring.clear(np.flatnonzero(ended[:, t]))
        front[:, t] = ring.held[ring.older[ring.start]]
        if some_write[t]:
            ring.write(np.flatnonzero(written[:, t]), t)
        here = ring.cursors
        could[:, :, 1], could[:, :, 2], could[:, :, 3] = here, ring.older[here], ring.newer[here]
        places[:, t] = ring.held[could[:, :, 1:]]
        ring.cursors = could.reshape(-1, MOVES)[numbers, steps[t]].reshape(batch, cursors)
        if touch:
            ring.touch()
    device = opened.device
    return Walk(
        torch.from_numpy(front).to(device),
        torch.from_numpy(places).to(device),
        torch.from_numpy(ring.held.reshape(batch, -1)[:, :-1]).to(device),
        {name: torch.from_numpy(value).to(device) for name, value in ring.state().items()},
    )


class _Ring:
    """The lists of all rows in one array; a row's start comes after its slots, and closes its list to a ring."""

    def __init__(self, state: State, time: int) -> None:
        batch, self.nodes = state["older"].shape
        self.slots = self.nodes - 1
        self.empty = self.slots + time
        self.base = np.arange(batch)[:, None] * self.nodes
        self.start = self.base[:, 0] + self.slots
        self.older = (state["older"].cpu().numpy() + self.base).reshape(-1)
        self.newer = (state["newer"].cpu().numpy() + self.base).reshape(-1)
        self.cursors = state["cursors"].cpu().numpy() + self.base
        self.held = np.tile(np.arange(self.nodes), batch)
        self.held[self.start] = self.empty

    def state(self) -> dict[str, IntArray]:
        return {
            "older": self.older.reshape(-1, self.nodes) - self.base,
            "newer": self.newer.reshape(-1, self.nodes) - self.base,
            "cursors": self.cursors - self.base,
        }

    def clear(self, rows: IntArray) -> None:
        """Empty rows: as in the initial state."""
        nodes, base = np.arange(self.nodes), self.base[rows]
        self.older.reshape(-1, self.nodes)[rows] = (nodes + 1) % self.nodes + base
        self.newer.reshape(-1, self.nodes)[rows] = (nodes - 1) % self.nodes + base
        self.held.reshape(-1, self.nodes)[rows] = self.empty
        self.cursors[rows] = self.start[rows, None]

    def write(self, rows: IntArray, step: int) -> None:
        """Put what step ``step`` writes into the oldest slots and those in front, with the cursors on them."""
        start = self.start[rows]
        oldest = self.newer[start]
        self.held[oldest] = self.slots + step
        self.to_front(oldest, start)

    def touch(self) -> None:
        """Move the slots of the cursors to the front, one cursor after the other."""
        for slots in self.cursors.T:
            rows = np.flatnonzero(slots != self.start)
            self.to_front(slots[rows], self.start[rows])

    def to_front(self, slot: IntArray, start: IntArray) -> None:
        """Take slots out of their lists and put them in after the start."""
        older, newer = self.older[slot], self.newer[slot]
        self.older[newer], self.newer[older] = older, newer
        front = self.older[start]
        self.older[start] = self.newer[front] = slot
        self.older[slot], self.newer[slot] = front, start
