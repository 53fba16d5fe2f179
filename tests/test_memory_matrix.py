"""Memories with a place for each thing: matrix, hash tables, linked list."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from core_checks import check_core
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stm_rl.errors import StmError
from stm_rl.memory.core import MemoryCore
from stm_rl.memory.gather import gather, gather_sum
from stm_rl.memory.hashed import HashedCore
from stm_rl.memory.linked import LinkedCore
from stm_rl.memory.linked_walk import FRONT, MOVES, OLDER, STAY, walk
from stm_rl.memory.matrix import MatrixCore


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MatrixCore(5, 8),
        lambda: MatrixCore(5, 8, slots=6, width=6, reads=0, gated=False),
        lambda: HashedCore(5, 8, bits=2, entries=2),
        lambda: LinkedCore(5, 8, slots=20),
        lambda: LinkedCore(5, 8, slots=6, cursors=2, slot_size=6, touch=True),
    ],
    ids=["matrix", "additive", "hashed", "linked", "touch"],
)
def test_core_keeps_the_protocol(make: Callable[[], MemoryCore]) -> None:
    check_core(make())


@pytest.mark.parametrize("options", [{"slots": 2}, {"width": 0}, {"reads": -1}])
def test_matrix_refuses_sizes(options: dict[str, int]) -> None:
    with pytest.raises(StmError, match="expected at least"):
        MatrixCore(5, 8, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"bits": 0}, {"bits": 17}, {"tables": 0}, {"entries": 0}, {"entry_size": 0}])
def test_hashed_refuses_sizes(options: dict[str, int]) -> None:
    with pytest.raises(StmError, match="expected at least"):
        HashedCore(5, 8, **options)


@pytest.mark.parametrize("options", [{"slots": 0}, {"cursors": 0}, {"slot_size": 0}])
def test_linked_refuses_sizes(options: dict[str, int]) -> None:
    with pytest.raises(StmError, match="expected at least"):
        LinkedCore(5, 8, **options)  # type: ignore[arg-type]


def test_gathering_is_indexing_with_gradients() -> None:
    table = torch.randn(3, 7, 4, dtype=torch.double, requires_grad=True)
    places = torch.randint(0, 7, (3, 5, 2))
    weights = torch.randn(3, 5, 2, dtype=torch.double, requires_grad=True)
    expected = torch.stack([table[row, places[row]] for row in range(3)])
    assert torch.equal(gather(table, places), expected)
    torch.testing.assert_close(gather_sum(table, places, weights), (expected * weights.unsqueeze(3)).sum(2))
    assert torch.autograd.gradcheck(lambda t, w: gather_sum(t, places, w), (table, weights))


# The linked list.


class PlainList:
    """What a row of the linked memory does, in plain Python: newest first."""

    def __init__(self, slots: int, cursors: int) -> None:
        self.order = list(range(slots))
        self.held: list[int | None] = [None] * slots
        self.cursors = [0] * cursors

    def step(self, opened: bool, moves: list[int], content: int, touch: bool) -> list[list[int | None]]:
        if opened:
            self.order.insert(0, self.order.pop())
            self.held[self.order[0]] = content
        could = []
        for number, move in enumerate(moves):
            at = self.order.index(self.cursors[number])
            could.append([self.order[i] for i in (0, at, min(at + 1, len(self.order) - 1), max(at - 1, 0))])
            self.cursors[number] = could[-1][move]
        for slot in self.cursors if touch else []:
            self.order.remove(slot)
            self.order.insert(0, slot)
        return [[self.held[slot] for slot in slots] for slots in could]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_cursors_walk_as_on_a_plain_list(slots: int, cursors: int, touch: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch, time = 2, 12
    opened, moves = rng.random((batch, time)) < 0.6, rng.integers(0, 4, (batch, time, cursors))
    done = rng.random((batch, time)) < 0.1
    state = LinkedCore(1, 1, slots=slots, cursors=cursors, slot_size=1).initial_state(batch)
    walked = walk(*map(torch.from_numpy, (opened, moves)), state, torch.from_numpy(done), touch)

    def same(places: Tensor, expected: list[int | None]) -> bool:
        # What was there before the sequence is as empty as what a reset leaves.
        return [place if slots <= place < slots + time else None for place in places.tolist()] == expected

    for row in range(batch):
        plain = PlainList(slots, cursors)
        for t in range(time):
            if done[row, t]:
                plain = PlainList(slots, cursors)
            seen = plain.step(bool(opened[row, t]), moves[row, t].tolist(), slots + t, touch)
            # The front is the first place if the step is written, and the second if not.
            kept = [not opened[row, t], opened[row, t], False, False, False]
            found = walked.places[row, t][:, ~torch.tensor(kept)]
            assert all(map(same, found, seen))
        assert same(walked.held[row], plain.held)
        order = [int(walked.state["front"][row])]
        for _ in range(slots - 1):
            order.append(int(walked.state["older"][row, order[-1]]))
        assert order == plain.order
        assert [int(walked.state["newer"][row, slot]) for slot in order] == [order[-1], *order[:-1]]
        assert walked.state["cursors"][row].tolist() == plain.cursors


def steered(core: LinkedCore, watch: int, play: int) -> LinkedCore:
    """Have the gate follow the first number of an input, and all cursors make one of two moves by it, for sure."""
    with torch.no_grad():
        core.decide.weight.zero_()
        core.decide.bias.zero_()
        core.decide.weight[0, 0] = 50
        for cursor in range(core.cursors):
            core.decide.weight[1 + 4 * cursor + watch, 0] += 50
            core.decide.weight[1 + 4 * cursor + play, 0] -= 50
            core.decide.bias[[1 + 4 * cursor + watch, 1 + 4 * cursor + play]] = 20
        core.value.weight.copy_(torch.eye(2)[1:])
        core.value.bias.zero_()
        core.output = nn.Identity()
    return core


def test_a_cursor_walks_back_through_what_was_written() -> None:
    core = steered(LinkedCore(2, 1, slots=8, cursors=1, slot_size=1), watch=FRONT, play=OLDER)
    watch = torch.stack([torch.full((5,), 9.0), torch.arange(1.0, 6.0)], 1)
    play = torch.tensor([[-9.0, 0.0]]).repeat(6, 1)
    with torch.no_grad():
        outputs, state = core(torch.cat([watch, play]).unsqueeze(0), core.initial_state(1))
    torch.testing.assert_close(outputs[0, :, 2], torch.tensor([1.0, 2, 3, 4, 5, 4, 3, 2, 1, 0, 0]))
    torch.testing.assert_close(core.read(state)[0, :, 0], torch.tensor([0.0, 0, 0, 1, 2, 3, 4, 5]))


def test_what_is_read_stays_if_reading_counts_as_use() -> None:
    outcomes = {}
    for touch in (False, True):
        core = steered(LinkedCore(2, 1, slots=3, cursors=1, slot_size=1, touch=touch), watch=STAY, play=STAY)
        inputs = torch.tensor([[9.0, 1.0], [-9.0, 0.0], [9.0, 2.0], [9.0, 3.0], [9.0, 4.0], [9.0, 5.0]])
        with torch.no_grad():
            _, state = core(inputs[:1].unsqueeze(0), core.initial_state(1))
            state["cursors"] = state["values"].argmax(1)  # on the first thing written, to stay there
            _, state = core(inputs[1:].unsqueeze(0), state)
        outcomes[touch] = set(core.read(state).flatten().tolist())
    assert outcomes == {False: {3.0, 4.0, 5.0}, True: {1.0, 4.0, 5.0}}


def test_steps_cost_the_same_with_any_number_of_slots() -> None:
    # Counted, not timed: the arrays a step touches depend on rows and cursors only.
    opened, moves = torch.ones(2, 9, dtype=torch.bool), torch.zeros(2, 9, 3, dtype=torch.long)
    for slots in (10, 10_000):
        state = LinkedCore(1, 1, slots=slots, cursors=3, slot_size=1).initial_state(2)
        assert walk(opened, moves, state, None, False).places.shape == (2, 9, 3, 5)


def test_gate_learns_where_it_is_closed() -> None:
    core = LinkedCore(2, 1, cursors=1, slot_size=1)
    with torch.no_grad():
        core.decide.bias[0] = -3
        core.decide.weight[0].zero_()
    outputs, _ = core(torch.randn(1, 4, 2), core.initial_state(1))
    outputs.sum().backward()
    assert core.decide.bias.grad is not None
    assert core.decide.bias.grad[0] != 0


def learn(core: MemoryCore, sample: Callable[[], tuple[Tensor, Tensor]], steps: int, rate: float) -> float:
    """Train ``core`` and a head to name a class at the last steps; return the accuracy of the last 10 batches."""
    inputs, classes = sample()
    head = nn.Linear(core.output_size, int(classes.max()) + 1)
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=rate)
    right = []
    for _ in range(steps):
        inputs, classes = sample()
        outputs, _ = core(inputs, core.initial_state(len(inputs)))
        logits = head(outputs[:, -classes.shape[1] :])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), classes.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(core.parameters(), 1.0)
        optimizer.step()
        right.append(float((logits.argmax(2) == classes).float().mean()))
    return sum(right[-10:]) / 10


def reverse_replay(batch: int = 64, length: int = 12) -> tuple[Tensor, Tensor]:
    """Symbols with a flag "watch", but "play" with the last, from which on they are wanted from the last to the first.

    As in POPGym's Autoencode, while they are wanted the inputs look like those with the first of the symbols.
    """
    symbols = torch.randint(0, 4, (batch, length))
    inputs = torch.zeros(batch, 2 * length - 1, 6)
    inputs[:, : length - 1, 0] = inputs[:, length - 1 :, 1] = 1
    inputs[:, :length, 2:] = nn.functional.one_hot(symbols, 4)
    inputs[:, length:, 2] = 1
    return inputs, symbols.flip(1)


def test_every_cursor_begins_as_one_that_walks() -> None:
    """Of inputs behind a ReLU about half send it to the front, and nearly all of the others to the older ones."""
    torch.manual_seed(0)
    core = LinkedCore(64, 8, cursors=32)
    with torch.no_grad():
        inputs = torch.relu(torch.randn(2000, 1, 64) + 0.5)
        _, moves = core._decisions(inputs, inputs.roll(1, 0))
    chosen = moves.argmax(3).squeeze(1)
    shares = torch.stack([(chosen == move).float().mean(0) for move in range(MOVES)], 1)
    assert bool((shares[:, [FRONT, OLDER]] > 0.02).all())
    assert float(shares[:, [FRONT, OLDER]].mean(0).min()) > 0.3
    assert float(shares[:, [FRONT, OLDER]].sum(1).mean()) > 0.85


def test_linked_core_learns_reverse_replay() -> None:
    assert learn(LinkedCore(6, 64, slots=32), reverse_replay, 150, 3e-3) > 0.95


def lookup(batch: int = 64, pairs: int = 4) -> tuple[Tensor, Tensor]:
    """Pairs of a key (of 8) and a value (of 4), then one of the keys again, whose value is wanted."""
    keys = torch.rand(batch, 8).argsort(1)[:, :pairs]
    values = torch.randint(0, 4, (batch, pairs))
    inputs = torch.zeros(batch, pairs + 1, 12)
    inputs[:, :pairs, :8] = nn.functional.one_hot(keys, 8)
    inputs[:, :pairs, 8:] = nn.functional.one_hot(values, 4)
    asked = torch.randint(0, pairs, (batch, 1))
    inputs[:, pairs, :8] = nn.functional.one_hot(keys.gather(1, asked).squeeze(1), 8)
    return inputs, values.gather(1, asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: MatrixCore(12, 32),
        lambda: MatrixCore(12, 32, gated=False),
        lambda: HashedCore(12, 32),
    ],
    ids=["matrix", "additive", "hashed"],
)
def test_core_learns_to_look_up_a_key(make: Callable[[], MemoryCore]) -> None:
    assert learn(make(), lookup, 300, 1e-2) > 0.9  # 0.25 by chance


# The matrix.


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("steps", [200, pytest.param(10_000, marks=pytest.mark.slow)])
@torch.no_grad()
def test_matrix_stays_bounded(steps: int, gated: bool) -> None:
    core = MatrixCore(3, 4, slots=4, width=4, reads=0, gated=gated)
    for weight in core.parameters():
        weight += torch.randn_like(weight)  # an expansive W among them
    outputs, state = core(torch.randn(1, steps, 3), core.initial_state(1))
    assert outputs.isfinite().all()
    assert all(value.isfinite().all() for value in state.values())
    assert state["matrix"].square().mean(2).max() <= 1 + 1e-5
    assert state["used"].max() < 2 / (1 - 0.95)


def test_additive_update_is_that_of_the_formula() -> None:
    core = MatrixCore(3, 4, slots=5, width=4, reads=1, gated=False).double()
    cell = core.cell
    with torch.no_grad():
        cell.read_map += 0.1 * torch.randn(4, 4)
        cell.write_map += 0.1 * torch.randn(4, 4)
        cell.matrix.mul_(0.1)  # far from the bound
        told = core.from_input(torch.randn(2, 3).double())
        before = core.initial_state(2)
        seen, after = cell.step(told, before)
    read = (after["attention"].unsqueeze(3) * before["matrix"].unsqueeze(1)).sum(2)  # sum_i a_i M_i
    torch.testing.assert_close(seen, read.flatten(1))
    sizes = [2 * (4 + 6), 2, 4]
    _, gates, new = told.split(sizes, 1)
    write, unused = gates.sigmoid().chunk(2, 1)
    first = torch.tensor([1.0, 0, 0, 0, 0]).double()  # nothing is used yet
    weights = write * (unused * first + (1 - unused) * after["attention"][:, 0])
    change = read[:, 0] @ cell.read_map + new.tanh() @ cell.write_map
    torch.testing.assert_close(after["matrix"], before["matrix"] + weights.unsqueeze(2) * change.unsqueeze(1))


def test_erasing_and_writing_with_full_gates_replaces_a_row() -> None:
    core = MatrixCore(3, 4, slots=5, width=4, reads=0)
    told = torch.zeros(1, core.cell.input_size)
    told[:, 10:12] = 50  # write, to the least used row
    told[:, 12:16] = torch.tensor([9.0, -9.0, 9.0, -9.0])
    told[:, 16:] = 50  # erase
    state = core.initial_state(1)
    with torch.no_grad():
        for row in range(3):
            before = state["matrix"]
            _, state = core.cell.step(told * 1.0, state | {"used": 1 - torch.eye(5)[[row]], "seen": torch.zeros(1, 4)})
            torch.testing.assert_close(state["matrix"][0, row], torch.tensor([1.0, -1.0, 1.0, -1.0]), atol=1e-4, rtol=0)
            others = [other for other in range(5) if other != row]
            assert torch.equal(state["matrix"][0, others], before[0, others])


# Hash tables.


def test_hash_table_finds_the_value_of_a_key_and_forgets_the_oldest() -> None:
    core = HashedCore(2, 1, tables=1, bits=1, entries=2, entry_size=1)
    with torch.no_grad():
        core.project.weight.copy_(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 0]]))  # key, query, value, gate
        core.project.bias.copy_(torch.tensor([0.0, 0, 0, 9]))
        core.hash.weight.fill_(1)
        core.agreement.fill_(99)
        core.nothing.fill_(-99)
    core.output = nn.Identity()  # type: ignore[assignment]
    # The keys are 1 and -1, one bucket each; a step looks up before it writes.
    inputs = torch.tensor([[1.0, 5], [-1, 7], [1, 0], [-1, 0], [1, 0], [1, 0]])
    with torch.no_grad():
        outputs, _ = core(inputs.unsqueeze(0), core.initial_state(1))
    found = outputs[0, :, 2]
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 5.0, 7.0, 2.5, 0.0]), atol=1e-3, rtol=0)


def test_hashing_learns_which_side_a_query_belongs_on() -> None:
    # What is wanted lies in the other bucket, close to the hyperplane: the gradient draws the query over.
    core = HashedCore(3, 1, tables=1, bits=1, entries=1, entry_size=2)
    with torch.no_grad():
        core.project.weight.zero_()
        core.project.weight[0, 0] = core.project.weight[2, 1] = core.project.weight[4, 2] = 1
        core.project.bias.copy_(torch.tensor([0.0, 1, 0.1, 1, 0, 0, 9]))
        core.hash.weight.copy_(torch.tensor([[1.0, 0.0]]))
    core.output = nn.Identity()  # type: ignore[assignment]
    inputs = torch.tensor([[[-1.0, 0, 1], [0, 0, 0]]])  # a key on the negative side; a query on the positive
    outputs, _ = core(inputs, core.initial_state(1))
    outputs[0, 1, 3].backward()
    assert core.hash.weight.grad is not None
    assert core.hash.weight.grad[0, 0] < 0
