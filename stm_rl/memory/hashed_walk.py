"""What the tables of :class:`~stm_rl.memory.hashed.HashedCore` hold at each step: on integers, without gradients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stm_rl.memory.core import State

IntArray = NDArray[np.int64]


class Walk(NamedTuple):
    """Where a sequence was written to and read from, as places in a list.

    The list of a row has what all slots held before the sequence, what each step would write, and an empty entry.

    Attributes:
        places: What each lookup finds, shape (batch, time, tables * probes * entries).
        held: What each slot holds in the end, shape (batch, slots).
        written: How often each bucket was written to, shape (batch, buckets).
    """

    places: Tensor
    held: Tensor
    written: Tensor


@torch.no_grad()
def walk(opened: Tensor, keys: Tensor, probes: Tensor, state: State, entries: int, done: Tensor | None) -> Walk:
    """Follow the decisions of a sequence; each step looks up first and writes then.

    Args:
        opened: Whether each step is written, shape (batch, time), bool.
        keys: The buckets it is written to, one in each table, shape (batch, time, tables).
        probes: The buckets it looks into, shape (batch, time, tables, probes).
        state: The state before, see :class:`~stm_rl.memory.hashed.HashedCore`; it is not changed.
        entries: Entries of a bucket.
        done: As of :meth:`~stm_rl.memory.core.MemoryCore.forward`.
    """
    batch, time = opened.shape
    slots, buckets = state["entries"].shape[1], state["written"].shape[1]
    empty = slots + time
    opened = opened.cpu()
    done = torch.zeros_like(opened) if done is None else done.cpu()
    some_end, some_write = done.any(0).tolist(), opened.any(0).tolist()
    ends, writes = np.asarray(done), np.asarray(opened)
    # The buckets of all rows have numbers in one array.
    row = np.arange(batch)[:, None] * buckets
    to = keys.cpu().numpy() + row[:, None]
    look = probes.flatten(2).cpu().numpy() + row[:, None]
    written: IntArray = state["written"].cpu().numpy().reshape(-1).copy()
    before = np.tile(np.arange(slots).reshape(buckets, entries), (batch, 1))
    held: IntArray = np.where(np.arange(entries) < written[:, None], before, empty)
    places = np.empty((batch, time, look.shape[2], entries), np.int64)
    for t in range(time):
        if some_end[t]:
            rows = np.flatnonzero(ends[:, t])
            written.reshape(batch, -1)[rows] = 0
            held.reshape(batch, -1)[rows] = empty
        places[:, t] = held[look[:, t]]
        if some_write[t]:
            bucket = to[np.flatnonzero(writes[:, t]), t]
            held[bucket, written[bucket] % entries] = slots + t
            written[bucket] += 1
    device = keys.device
    return Walk(
        torch.from_numpy(places.reshape(batch, time, -1)).to(device),
        torch.from_numpy(held.reshape(batch, -1)).to(device),
        torch.from_numpy(written.reshape(batch, -1)).to(device),
    )
