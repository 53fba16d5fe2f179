"""The clairvoyant optimum of evidence recall: what a memory could hold that knew the future, exactly.

A stream is reduced to what matters. Only turns that are evidence are worth a slot; number them by arrival, 0 to
``m - 1``. A check after the arrival of number ``j`` and before the next wants a group of them; a turn is held for it
from its own arrival through arrival ``j``. The memory is fullest right after an arrival, so the capacity needs to be
respected only there, and of the arrivals between two checks only at the last. With

- ``x[e, i]`` in {0, 1}: turn ``e`` is held from its arrival through the ``i``-th moment at which it is wanted;
  ``x[e, i] <= x[e, i - 1]``, since a dropped turn cannot come back;
- ``y[g]`` in {0, 1}: group ``g`` is held whole; ``y[g] <= x[e, i]`` for each of its turns at its moment;
- at each arrival the ``x`` that span it sum to at most ``k``,

the greatest sum of the weights of held groups is the optimum: for **joint** a group is the evidence of a check, for
**mean** each turn of it is a group of its own that weighs its share. Solved by branch and bound with a gap of zero
(HiGHS through SciPy). It is the offline optimum of Belady (1966) for requests that ask for several pages at once,
where misses cannot be fetched again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from stm_rl.errors import StmError
from stm_rl.evaluation.recall import Recall, Stream

Group = tuple[int, tuple[int, ...], Fraction]
"""The number of evidence turns that have arrived when the group is wanted, the group, and its weight."""


class Oracle:
    """Holds as much evidence as any memory could: for ``joint`` and for ``mean`` by a plan of its own."""

    name = "oracle"

    def recall(self, streams: Sequence[Stream], slots: int) -> Recall:
        """Return the greatest possible recall of each stream with a memory of ``slots`` slots."""
        best = [optimum(stream, slots) for stream in streams]
        return Recall(np.array([joint for joint, _ in best], float), np.array([mean for _, mean in best], float))


def optimum(stream: Stream, slots: int) -> tuple[float, float]:
    """Return the most checks with all evidence held, and the greatest sum of shares held; each by its own plan."""
    wanted = [
        (check.step, [turn for turn in sorted(check.evidence) if stream.writable[turn]], len(check.evidence))
        for check in stream.checks
    ]
    joint = ((step, turns, Fraction(1)) for step, turns, size in wanted if len(turns) == size)
    mean = ((step, [turn], Fraction(1, size)) for step, turns, size in wanted for turn in turns)
    return float(most_held(_numbered(joint), slots)), float(most_held(_numbered(mean), slots))


def _numbered(wanted: Iterable[tuple[int, list[int], Fraction]]) -> tuple[Group, ...]:
    """Number the turns by arrival and merge groups that are wanted at the same moment."""
    listed = list(wanted)
    arrivals = sorted({turn for _, turns, _ in listed for turn in turns})
    weights: defaultdict[tuple[int, tuple[int, ...]], Fraction] = defaultdict(Fraction)
    for step, turns, weight in listed:
        moment = bisect_right(arrivals, step)
        weights[moment, tuple(bisect_left(arrivals, turn) for turn in turns)] += weight
    return tuple((moment, group, weight) for (moment, group), weight in sorted(weights.items()))


@lru_cache(maxsize=100_000)  # short transcripts often pose the same problem
def most_held(groups: tuple[Group, ...], slots: int) -> Fraction:
    """Return the greatest total weight of groups that a memory of ``slots`` slots can hold when they are wanted."""
    moments: dict[int, list[int]] = defaultdict(list)
    for moment, group, _ in groups:  # ascending by moment
        for turn in group:
            if not moments[turn] or moments[turn][-1] != moment:
                moments[turn].append(moment)
    column = {(turn, moment): i for i, (turn, moment) in enumerate((t, m) for t, ms in moments.items() for m in ms)}
    full = []
    for moment in sorted({moment for moment, _, _ in groups}):
        arrival = moment - 1
        spans = [(turn, bisect_left(ms, moment)) for turn, ms in moments.items() if turn <= arrival]
        columns = [column[turn, moments[turn][i]] for turn, i in spans if i < len(moments[turn])]
        if len(columns) > slots:
            full.append(columns)
    if not full:
        return sum((weight for _, _, weight in groups), Fraction(0))
    below = [(column[t, later], column[t, sooner]) for t, ms in moments.items() for sooner, later in pairwise(ms)]
    below += [
        (len(column) + number, column[turn, moment])
        for number, (moment, group, _) in enumerate(groups)
        for turn in group
    ]
    return _solve(len(column), [weight for _, _, weight in groups], full, below, slots)


def _solve(
    held: int, weights: list[Fraction], full: list[list[int]], below: list[tuple[int, int]], slots: int
) -> Fraction:
    """Maximise the weight of the chosen groups.

    Args:
        held: Number of ``x``; the ``y`` follow, one for each weight.
        weights: Weights of the groups.
        full: Sets of ``x`` that may sum to at most ``slots``.
        below: Pairs of variables, the first at most the second.
        slots: Slots of the memory.
    """
    rows = [index for index, columns in enumerate(full) for _ in columns]
    columns = [column for row in full for column in row]
    entries = [1.0] * len(columns)
    for index, (lower, upper) in enumerate(below, len(full)):
        rows += [index, index]
        columns += [lower, upper]
        entries += [1.0, -1.0]
    count, size = len(full) + len(below), held + len(weights)
    limits = np.zeros(count)
    limits[: len(full)] = slots
    matrix = csr_array((entries, (rows, columns)), shape=(count, size))
    result = milp(
        np.concatenate([np.zeros(held), [-float(weight) for weight in weights]]),
        constraints=LinearConstraint(matrix, ub=limits),
        integrality=np.ones(size),  # x would follow from y, but with continuous variables HiGHS may print on stdout
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    chosen = None if result.x is None else np.rint(result.x)
    if chosen is None or result.status != 0 or (matrix @ chosen > limits).any():
        raise StmError(f"SciPy's MILP solver found no optimum ({result.message}); expected one: report this problem")
    return sum((weight for weight, y in zip(weights, chosen[held:], strict=True) if y), Fraction(0))
