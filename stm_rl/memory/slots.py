"""Slot memory: a bounded store of turns, for many episodes at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError

EMPTY = -1
IntArray = NDArray[np.int64]


class SlotMemory:
    """``K`` slots for each of ``n`` episodes; a slot holds one turn or nothing.

    Writing to a slot supersedes what it held. Nothing is ever changed in place and every slot keeps
    where its content came from, so a trace can show what was lost and when.

    Attributes:
        turn: Provenance, shape ``(n, K)``: index of the turn a slot holds, or ``EMPTY``.
        written: Step at which the slot was last written, shape ``(n, K)``; ``EMPTY`` if never.
        reads: How often its content has been read, shape ``(n, K)``.
        last_read: Step at which its content was last read or, if it was not, written.
    """

    def __init__(self, episodes: int, slots: int) -> None:
        if slots < 1:
            raise StmError(f"a memory of {slots} slots was asked for; expected at least 1")
        shape = (episodes, slots)
        self.turn: IntArray = np.full(shape, EMPTY)
        self.written: IntArray = np.full(shape, EMPTY)
        self.reads: IntArray = np.zeros(shape, np.int64)
        self.last_read: IntArray = np.full(shape, EMPTY)

    @property
    def slots(self) -> int:
        """Number of slots, ``K``."""
        return int(self.turn.shape[1])

    @property
    def occupied(self) -> NDArray[np.bool_]:
        """Which slots hold a turn, shape ``(n, K)``."""
        return np.asarray(self.turn != EMPTY)

    def clear(self, rows: IntArray) -> None:
        """Empty the memories of the episodes ``rows``."""
        self.turn[rows] = self.written[rows] = self.last_read[rows] = EMPTY
        self.reads[rows] = 0

    def empty(self, rows: IntArray, slot: IntArray) -> None:
        """Empty single slots, 0 to K - 1, shape ``(m,)`` each."""
        self.turn[rows, slot] = self.written[rows, slot] = self.last_read[rows, slot] = EMPTY
        self.reads[rows, slot] = 0

    def write(self, rows: IntArray, slot: IntArray, turn: IntArray, step: IntArray) -> IntArray:
        """Put turns into slots.

        Args:
            rows: Episodes that write, shape ``(m,)``, each at most once.
            slot: Slot of each, 0 to K - 1, shape ``(m,)``.
            turn: Index of the turn to keep, shape ``(m,)``.
            step: Current step of each episode, shape ``(m,)``.

        Returns:
            The turns that were superseded, ``EMPTY`` where the slot was free, shape ``(m,)``.
        """
        superseded = self.turn[rows, slot]
        self.turn[rows, slot] = turn
        self.written[rows, slot] = self.last_read[rows, slot] = step
        self.reads[rows, slot] = 0
        return np.asarray(superseded)

    def read(self, rows: IntArray, slot: IntArray, step: IntArray) -> IntArray:
        """Return the turns held by slots, shape ``(m,)``, and count the use; ``EMPTY`` for a free slot."""
        used = self.turn[rows, slot] != EMPTY
        self.reads[rows[used], slot[used]] += 1
        self.last_read[rows[used], slot[used]] = step[used]
        return np.asarray(self.turn[rows, slot])

    def get_state(self) -> dict[str, Any]:
        """Return a copy of everything the memory holds."""
        return {name: getattr(self, name).copy() for name in ("turn", "written", "reads", "last_read")}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_state` returned."""
        for name, value in state.items():
            if value.shape != self.turn.shape:
                raise StmError(f"the state is of a memory of shape {value.shape}; expected {self.turn.shape}")
            setattr(self, name, value.copy())
