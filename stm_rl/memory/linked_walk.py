"""How the cursors of :class:`~stm_rl.memory.linked.LinkedCore` walk: on integers, without gradients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stm_rl.memory.core import State

FRONT, STAY, OLDER, NEWER = range(4)
MOVES = 4
"""What a cursor chooses from: the front of the list, its own slot, the next older and the next newer one."""

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Walk(NamedTuple):
    """Where a sequence was written to and read from, as places in a table.

    The table of a row holds what its slots held before the sequence, what each step would write, and an empty entry.

    Attributes:
        places: Where each cursor could read at each step, shape (batch, time, cursors, 1 + MOVES): what the step
            writes, what was in front before it, then what the own, the older and the newer slot hold after writing.
        held: What each slot holds in the end, shape (batch, slots).
        state: Links, front and cursors after the sequence.
    """

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
    places = np.empty((time, batch, cursors, 1 + MOVES), np.int64)
    numbers = np.arange(batch * cursors)
    could = np.empty((batch, cursors, MOVES), np.int64)
    for t in range(time):
        if some_end[t]:
            ring.clear(np.flatnonzero(ended[:, t]))
        places[t, :, :, 1] = ring.held[ring.front][:, None]
        if some_write[t]:
            ring.write(np.flatnonzero(written[:, t]), t)
        ring.look(could)
        places[t, :, :, 2:] = ring.held[could[:, :, 1:]]
        ring.cursors = could.reshape(-1, MOVES)[numbers, steps[t]].reshape(batch, cursors)
        if touch:
            ring.touch()
    places[..., 0] = ring.slots + np.arange(time)[:, None, None]
    device = opened.device
    return Walk(
        torch.from_numpy(places).transpose(0, 1).to(device),
        torch.from_numpy(ring.held.reshape(batch, -1)).to(device),
        {name: torch.from_numpy(value).to(device) for name, value in ring.state().items()},
    )


class _Ring:
    """The linked lists of all rows in one array: slot ``i`` of row ``b`` is number ``b * slots + i``."""

    def __init__(self, state: State, time: int) -> None:
        batch, self.slots = state["older"].shape
        self.empty = self.slots + time
        self.base = np.arange(batch) * self.slots
        column = self.base[:, None]
        self.older = (state["older"].cpu().numpy() + column).reshape(-1)
        self.newer = (state["newer"].cpu().numpy() + column).reshape(-1)
        self.front = state["front"].cpu().numpy() + self.base
        self.cursors = state["cursors"].cpu().numpy() + column
        self.held = np.tile(np.arange(self.slots), batch)

    def state(self) -> dict[str, IntArray]:
        column = self.base[:, None]
        return {
            "older": self.older.reshape(-1, self.slots) - column,
            "newer": self.newer.reshape(-1, self.slots) - column,
            "front": self.front - self.base,
            "cursors": self.cursors - column,
        }

    def clear(self, rows: IntArray) -> None:
        """Empty rows: as in the initial state."""
        slots, column = np.arange(self.slots), self.base[rows, None]
        self.older.reshape(-1, self.slots)[rows] = (slots + 1) % self.slots + column
        self.newer.reshape(-1, self.slots)[rows] = (slots - 1) % self.slots + column
        self.held.reshape(-1, self.slots)[rows] = self.empty
        self.front[rows] = self.base[rows]
        self.cursors[rows] = column

    def write(self, rows: IntArray, step: int) -> None:
        """Put what step ``step`` writes into the oldest slots. The list is a ring: the oldest slot becomes its front.

        A cursor that stood on the slot is in front now.
        """
        oldest = self.newer[self.front[rows]]
        self.front[rows] = oldest
        self.held[oldest] = self.slots + step

    def look(self, could: IntArray) -> None:
        """Set where each cursor could go; the ends of the list are not passed."""
        front, here = self.front[:, None], self.cursors
        could[:, :, 0], could[:, :, 1] = front, here
        older = self.older[here]
        could[:, :, 2] = np.where(older == front, here, older)
        could[:, :, 3] = np.where(here == front, here, self.newer[here])

    def touch(self) -> None:
        """Move the slots of the cursors to the front, one cursor after the other."""
        for slots in self.cursors.T:
            rows = np.flatnonzero(slots != self.front)
            slot, front = slots[rows], self.front[rows]
            older, newer = self.older[slot], self.newer[slot]
            self.older[newer], self.newer[older] = older, newer
            oldest = self.newer[front]
            self.older[oldest] = self.newer[front] = slot
            self.older[slot], self.newer[slot] = front, oldest
            self.front[rows] = slot
