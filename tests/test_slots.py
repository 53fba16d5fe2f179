from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stm_rl.errors import StmError
from stm_rl.memory import EMPTY, SlotMemory

ROWS, SLOTS = 2, 2
FIELDS = ("turn", "written", "reads", "last_read")
Naive = dict[tuple[int, int], dict[str, int]]

places = st.dictionaries(st.integers(0, ROWS - 1), st.integers(0, SLOTS - 1), min_size=1)
names = st.sampled_from(["write", "write", "read", "read", "clear", "save", "restore"])
operations = st.lists(st.tuples(names, places), min_size=8, max_size=30)


def empty() -> dict[str, int]:
    return {"turn": EMPTY, "written": EMPTY, "reads": 0, "last_read": EMPTY}


def fresh() -> Naive:
    return {(row, slot): empty() for row in range(ROWS) for slot in range(SLOTS)}


def assert_equal(memory: SlotMemory, naive: Naive) -> None:
    for field in FIELDS:
        values = getattr(memory, field)
        assert [values[place] for place in naive] == [cell[field] for cell in naive.values()]


@settings(max_examples=200)
@given(operations)
def test_memory_does_what_a_dictionary_would(steps: list[tuple[str, dict[int, int]]]) -> None:
    memory, naive = SlotMemory(ROWS, SLOTS), fresh()
    saved: tuple[dict[str, Any], Naive] = memory.get_state(), fresh()
    for now, (name, chosen) in enumerate(steps):
        rows, slots = np.array(list(chosen), int), np.array(list(chosen.values()), int)
        time = np.full(len(rows), now)
        if name == "write":
            expected = [naive[place]["turn"] for place in chosen.items()]
            assert memory.write(rows, slots, time + 100, time).tolist() == expected
            for place in chosen.items():
                naive[place] = {"turn": now + 100, "written": now, "reads": 0, "last_read": now}
        elif name == "read":
            expected = [naive[place]["turn"] for place in chosen.items()]
            assert memory.read(rows, slots, time).tolist() == expected
            for place in chosen.items():
                if naive[place]["turn"] != EMPTY:
                    naive[place] |= {"reads": naive[place]["reads"] + 1, "last_read": now}
        elif name == "clear":
            memory.clear(rows)
            naive |= {(row, slot): empty() for row in chosen for slot in range(SLOTS)}
        elif name == "save":
            saved = memory.get_state(), {place: dict(cell) for place, cell in naive.items()}
        else:
            memory.set_state(saved[0])
            naive = {place: dict(cell) for place, cell in saved[1].items()}
        assert_equal(memory, naive)
        assert (memory.occupied == (memory.turn >= 0)).all()


def test_state_is_a_copy() -> None:
    memory = SlotMemory(1, 2)
    state = memory.get_state()
    row = np.array([0])
    memory.write(row, row, row + 7, row)
    assert (state["turn"] == EMPTY).all()
    state["turn"][:] = 5
    assert memory.turn.tolist() == [[7, EMPTY]]


def test_state_can_be_restored_again() -> None:
    memory = SlotMemory(1, 2)
    state, row = memory.get_state(), np.array([0])
    for _ in range(2):
        memory.set_state(state)
        assert not memory.occupied.any()
        memory.write(row, row, row, row)


def test_what_is_written_anew_was_never_read() -> None:
    memory, row = SlotMemory(1, 2), np.array([0])
    memory.write(row, row, row, row)
    memory.read(row, row, row + 1)
    assert (memory.reads[0, 0], memory.last_read[0, 0]) == (1, 1)
    memory.write(row, row, row + 2, row + 2)
    assert (memory.reads[0, 0], memory.last_read[0, 0]) == (0, 2)


def test_new_memory_is_empty() -> None:
    memory = SlotMemory(2, 3)
    assert memory.slots == 3
    assert memory.occupied.shape == (2, 3)
    assert not memory.occupied.any()


@pytest.mark.parametrize("slots", [0, -1])
def test_memory_without_slots_is_an_error(slots: int) -> None:
    with pytest.raises(StmError, match=f"{slots} slots"):
        SlotMemory(1, slots)


def test_state_of_another_shape_is_an_error() -> None:
    with pytest.raises(StmError, match=r"\(1, 3\); expected \(1, 2\)"):
        SlotMemory(1, 2).set_state(SlotMemory(1, 3).get_state())
