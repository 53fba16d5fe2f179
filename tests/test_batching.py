from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stm_rl.lm.batching import SHORT, Family, Row, bucket, families, lay_out, merged, packed

tokens = st.lists(st.integers(0, 2), min_size=2, max_size=8)
requests = st.lists(tokens.flatmap(lambda ids: st.tuples(st.just(ids), st.integers(1, len(ids) - 1))), max_size=12)


@given(requests)
def test_every_request_is_a_span_of_one_row_and_no_row_begins_another(pairs: list[tuple[list[int], int]]) -> None:
    rows = merged(pairs)
    found = {request: (row.ids[:end], end - start) for row in rows for start, end, request in row.spans}
    assert found == dict(enumerate(pairs))
    assert sum(len(row.spans) for row in rows) == len(pairs)
    ids = [row.ids for row in rows]
    assert ids == sorted(ids)
    assert not any(a != b and b[: len(a)] == a for a in ids for b in ids)
    assert len({tuple(one) for one in ids}) == len(ids)


stems = st.sampled_from([[0] * 20, [0] * 40, [1] * 18, [1] * 18 + [2] * 30, []])
long_requests = st.lists(
    st.tuples(stems, st.lists(st.integers(3, 9), min_size=2, max_size=4)).map(lambda part: (part[0] + part[1], 1)),
    min_size=1,
    max_size=14,
)


@given(long_requests, st.integers(1, 120))
def test_families_share_what_they_say_and_save_enough(pairs: list[tuple[list[int], int]], least: int) -> None:
    rows = merged(pairs)
    found = families(rows, least)
    assert sorted(id(row) for family in found for row in family.rows) == sorted(map(id, rows))
    for family in found:
        if family.shared:
            assert family.shared >= SHORT
            assert family.shared * (len(family.rows) - 1) >= least
            assert len({tuple(row.ids[: family.shared]) for row in family.rows}) == 1
            assert all(row.first > family.shared for row in family.rows)
    assert sum(family.shared == 0 for family in found) <= 1


def test_the_family_that_saves_most_comes_first() -> None:
    rows = merged([([0] * 20 + [1] * 30 + [i, i], 1) for i in range(2, 6)] + [([0] * 20 + [i, i], 1) for i in (7, 8)])
    family, rest = families(rows, 60)
    assert (family.shared, len(family.rows)) == (50, 4)  # saves 150; all six with 20 would save 100
    assert (rest.shared, len(rest.rows)) == (0, 2)
    assert families(rows, 151) == [Family(0, rows)]


def best_saving(rows: list[Row]) -> int:
    """Return the most that one run of rows saves, by trying all."""
    most = 0
    for start in range(len(rows)):
        for stop in range(start + 2, len(rows) + 1):
            some = rows[start:stop]
            shared = min(row.first - 1 for row in some)
            while len({tuple(row.ids[:shared]) for row in some}) > 1:
                shared -= 1
            most = max(most, shared * (len(some) - 1) if shared >= SHORT else 0)
    return most


@given(long_requests)
def test_no_run_of_rows_saves_more_than_the_best_family(pairs: list[tuple[list[int], int]]) -> None:
    rows = merged(pairs)
    saved = [family.shared * (len(family.rows) - 1) for family in families(rows, 1) if family.shared]
    assert max(saved, default=0) == best_saving(rows)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200), st.integers(1, 4))
def test_groups_hold_every_row_once_and_keep_to_the_budget(lengths: list[int], budget: int, parts: int) -> None:
    groups = packed(lengths, budget, parts)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[row] for row in group) <= max(budget, 256)
    widths = [[lengths[row] for row in group] for group in groups]
    assert [length for group in widths for length in group] == sorted(lengths)


def test_large_requests_are_shared_out_evenly() -> None:
    assert [len(group) for group in packed([32] * 64, 1024)] == [32, 32]
    assert [len(group) for group in packed([32] * 60, 1024, 4)] == [16, 16, 16, 12]
    assert len(packed([8] * 16, 1024, 4)) == 1  # too few tokens to share


@pytest.mark.parametrize("skip", [0, 1])
def test_positions_are_those_before_the_scored_tokens(skip: int) -> None:
    rows = [Row([5, 6, 7, 8], [(2, 3, 1), (3, 4, 0)]), Row([5, 9, 9], [(2, 3, 2)])]
    layout = lay_out(rows, skip, 3, 6, pad=0)
    assert layout.ids.shape == (3, 6)
    assert layout.ids[0, : 4 - skip].tolist() == [5, 6, 7, 8][skip:]
    assert (layout.ids[0, 4 - skip :] == 0).all()
    np.testing.assert_array_equal(layout.labels, [7, 8, 9])
    np.testing.assert_array_equal(layout.owners, [1, 0, 2])
    np.testing.assert_array_equal(layout.ids.flatten()[layout.positions], [6, 7, 9])


@given(st.integers(1, 10_000), st.integers(1, 64))
def test_buckets_are_few_and_not_much_larger(size: int, least: int) -> None:
    found = bucket(size, least)
    assert max(size, least) <= found <= max(2 * least, 1.5 * size + 1)
    assert bucket(found) == found


def test_there_are_two_buckets_for_each_doubling() -> None:
    assert len({bucket(size) for size in range(16, 1025)}) == 13
