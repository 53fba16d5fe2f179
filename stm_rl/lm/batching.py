"""Which token sequences go through a language model together, and which need not go through it at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHORT = 16
"""A common prefix of fewer tokens is not worth a look."""


@dataclass(slots=True)
class Row:
    """One sequence of tokens, and the targets in it.

    Attributes:
        ids: The tokens.
        spans: For each target its first token, the end of its tokens, and the number of its request.
    """

    ids: list[int]
    spans: list[tuple[int, int, int]]

    @property
    def first(self) -> int:
        """Position of the first token that is scored."""
        return min(start for start, _, _ in self.spans)


@dataclass(slots=True)
class Family:
    """Rows whose first ``shared`` tokens are equal.

    Attributes:
        shared: How many tokens; 0 for rows that have nothing in common.
        rows: The rows; at least one token of each is not shared.
    """

    shared: int
    rows: list[Row]


def merged(pairs: Sequence[tuple[list[int], int]]) -> list[Row]:
    """Return the sequences to put through the model, in order of their tokens.

    A sequence that another one begins with needs no pass of its own: no token of a causal model sees those
    after it, so its target is scored within the longer one.

    Args:
        pairs: The tokens of each request, and how many at their end are its target's.
    """
    rows: list[Row] = []
    order = sorted(range(len(pairs)), key=lambda request: pairs[request][0], reverse=True)
    for request in order:  # a sequence comes right after one that begins with it, if there is any
        ids, count = pairs[request]
        if not rows or rows[-1].ids[: len(ids)] != ids:
            rows.append(Row(ids, []))
        rows[-1].spans.append((len(ids) - count, len(ids), request))
    rows.reverse()
    return rows


def families(rows: Sequence[Row], least_saved: int) -> list[Family]:
    """Group rows by the tokens they begin with.

    Args:
        rows: Rows in order of their tokens.
        least_saved: A family is made only if it saves so many tokens.

    Returns:
        The families, and at the end one of all other rows, if there are any.
    """
    shared = np.zeros(len(rows) + 1, np.int64)  # with the row before
    firsts = [row.first - 1 for row in rows]  # the token that predicts the first scored one is needed itself
    for i in range(1, len(rows)):
        if rows[i - 1].ids[:SHORT] == rows[i].ids[:SHORT]:
            shared[i] = min(_common(rows[i - 1].ids, rows[i].ids), firsts[i - 1], firsts[i])
    shared[shared < SHORT] = 0
    found: list[Family] = []
    taken = np.zeros(len(rows), bool)
    cuts = np.flatnonzero(shared == 0)
    for begin, end in itertools.pairwise(cuts):
        for start, stop, length in _runs(shared, int(begin), int(end), least_saved):
            found.append(Family(length, list(rows[start:stop])))
            taken[start:stop] = True
    rest = [row for row, is_taken in zip(rows, taken, strict=True) if not is_taken]
    return [*found, Family(0, rest)] if rest else found


def _runs(shared: NDArray[np.int64], begin: int, end: int, least: int) -> Iterator[tuple[int, int, int]]:
    """Yield the runs of rows in ``begin`` to ``end`` that save most, and how many tokens they share."""
    if (end - begin - 1) * int(shared[begin + 1 : end].max(initial=0)) < least:
        return
    saved, start, stop, length = max(_rectangles(shared, begin, end))
    if saved < least:
        return
    yield start, stop, length
    yield from _runs(shared, begin, start, least)
    yield from _runs(shared, stop, end, least)


def _rectangles(shared: NDArray[np.int64], begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield every run of rows that cannot be longer with what it shares: tokens saved, start, stop, shared.

    That is the largest rectangle under a histogram, found with a stack.
    """
    stack: list[tuple[int, int]] = []  # (first row, shared)
    for i in range(begin + 1, end + 1):
        height = int(shared[i]) if i < end else 0
        first = i - 1
        while stack and stack[-1][1] >= height:
            first, length = stack.pop()
            yield (i - 1 - first) * length, first, i, length
        stack.append((first, height))


def _common(a: list[int], b: list[int]) -> int:
    """Return how many first elements are equal."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def packed(
    lengths: Sequence[int], budget: int, parts: int = 1, shape: Callable[[int], int] = lambda width: width
) -> list[list[int]]:
    """Return row numbers in groups of similar length.

    Args:
        lengths: Tokens of each row.
        budget: Most tokens of a group, padding included; a row that has more is alone.
        parts: The groups can be shared out evenly among so many, if they are not too small for that.
        shape: The width that rows of a length are padded to.
    """
    if parts > 1:
        total = sum(lengths)
        wanted = -(-total // (budget * parts)) * parts
        budget = min(budget, max(total // wanted + max(lengths, default=0), 256))
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not groups or (len(groups[-1]) + 1) * shape(lengths[row]) > budget:
            groups.append([])
        groups[-1].append(row)
    return groups


@dataclass(slots=True)
class Layout:
    """A batch as arrays.

    Attributes:
        ids: Tokens, shape ``(height, width)``, padded on the right.
        positions: Where the tokens before the scored ones are in the flattened batch, shape ``(n,)``.
        labels: The scored tokens, shape ``(n,)``.
        owners: The requests they belong to, shape ``(n,)``.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    owners: NDArray[np.int64]


def lay_out(rows: Sequence[Row], skip: int, height: int, width: int, pad: int) -> Layout:
    """Return the batch of ``rows`` without their first ``skip`` tokens, padded to ``(height, width)``."""
    ids = padded([row.ids[skip:] for row in rows], height, width, pad)
    positions, labels, owners = [], [], []
    for number, row in enumerate(rows):
        for start, end, request in row.spans:
            begin = start - skip - 1
            positions.append(np.arange(number * width + begin, number * width + begin + end - start))
            labels.append(ids[number, begin + 1 : end - skip])
            owners.append(np.full(end - start, request))
    return Layout(ids, np.concatenate(positions), np.concatenate(labels), np.concatenate(owners))


def padded(sequences: Sequence[Sequence[int]], height: int, width: int, pad: int) -> NDArray[np.int64]:
    """Return sequences as the first rows of an array of shape ``(height, width)``, padded on the right."""
    ids = np.full((height, width), pad, np.int64)
    for row, tokens in zip(ids, sequences, strict=False):
        row[: len(tokens)] = tokens
    return ids


def bucket(size: int, least: int = 1) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16 ... that is ``size`` or more, at least ``least``."""
    power = 1
    while power < max(size, least):
        power *= 2
    smaller = power * 3 // 4
    return smaller if smaller >= max(size, least) and power >= 4 else power
