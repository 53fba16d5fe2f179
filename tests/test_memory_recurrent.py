"""Recurrent cells and the linear recurrence as memories."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from core_checks import check_core
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stm_rl.errors import StmError
from stm_rl.memory.core import MemoryCore, detached
from stm_rl.memory.linear import LONGEST, LinearCore, MinGRULayer, Scan, scan
from stm_rl.memory.recurrent import AttentiveCore, GRUCore, LSTMCore

SYMBOLS = 4


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def accuracy(core: MemoryCore, time: int, shift: int | None, steps: int, lr: float) -> float:
    """Train ``core`` to name the first symbol, or the one ``shift`` steps ago, and return how often it does at last."""
    head = nn.Linear(core.output_size, SYMBOLS)
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], lr=lr)
    rates = []
    for _ in range(steps):
        symbols = torch.randint(SYMBOLS, (32, time))
        outputs, _ = core(nn.functional.one_hot(symbols, SYMBOLS).float(), core.initial_state(32))
        logits = head(outputs[:, shift or 0 :])
        targets = symbols[:, :1].expand(-1, time) if shift is None else symbols[:, : time - shift]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(core.parameters(), 1.0)
        optimizer.step()
        rates.append((logits.argmax(-1) == targets)[:, -8:].float().mean().item())
    return sum(rates[-10:]) / 10


@pytest.mark.parametrize("kind", [LSTMCore, GRUCore, AttentiveCore, LinearCore])
def test_core_keeps_the_protocol(kind: type[LSTMCore | GRUCore | AttentiveCore | LinearCore]) -> None:
    check_core(kind(3, 6, hidden_size=10) if kind is GRUCore else kind(5, 8))


def test_core_keeps_the_protocol_with_other_sizes() -> None:
    check_core(AttentiveCore(5, 8, history=3, hidden_size=5))
    check_core(LinearCore(5, 8, layers=3))


def test_linear_core_remembers_the_first_symbol() -> None:
    assert accuracy(LinearCore(SYMBOLS, 32), time=64, shift=None, steps=100, lr=5e-3) > 0.95


@pytest.mark.slow
def test_linear_core_remembers_the_first_symbol_for_800_steps() -> None:
    assert accuracy(LinearCore(SYMBOLS, 32), time=800, shift=None, steps=250, lr=3e-3) > 0.95


def test_attentive_core_copies_with_a_delay() -> None:
    assert accuracy(AttentiveCore(SYMBOLS, 32), time=16, shift=5, steps=60, lr=1e-2) > 0.95


def test_gru_core_copies_with_a_delay() -> None:
    assert accuracy(GRUCore(SYMBOLS, 32), time=24, shift=5, steps=220, lr=2e-2) > 0.95


@pytest.mark.parametrize("kind", [LSTMCore, GRUCore])
def test_a_sequence_without_resets_is_what_torch_computes(kind: type[LSTMCore | GRUCore]) -> None:
    core, inputs = kind(3, 4), torch.randn(2, 9, 3)
    outputs, state = core(inputs, core.initial_state(2))
    torch.testing.assert_close(outputs, core.cell(inputs)[0])
    torch.testing.assert_close(state["hidden"], outputs[:, -1])


def test_attentive_core_keeps_its_last_hidden_states_oldest_first() -> None:
    core, inputs = AttentiveCore(3, 4, history=6), torch.randn(2, 20, 3)
    _, state = core(inputs, core.initial_state(2))
    hidden, _ = core.cell(core.from_input(inputs), core.initial_state(2))
    torch.testing.assert_close(state["past"], hidden[:, -6:, :4])
    assert state["count"].tolist() == [6, 6]
    assert torch.equal(core.read(state), state["past"])


def test_attentive_core_ignores_places_of_the_past_that_do_not_count() -> None:
    core, inputs = AttentiveCore(3, 4, history=6), torch.randn(2, 4, 3)
    initial = core.initial_state(2)
    filled = initial | {"past": torch.cat([torch.randn(2, 5, 4), initial["past"][:, 5:]], 1)}
    torch.testing.assert_close(core(inputs[:, :1], filled)[0], core(inputs[:, :1], initial)[0])


@settings(max_examples=30, deadline=None)
@given(time=st.integers(1, 50), seed=st.integers(0, 1000))
def test_scan_is_the_loop_over_time(time: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    decay = torch.rand(2, time, 3, generator=generator, dtype=torch.float64)
    decay[torch.rand(2, time, 3, generator=generator) < 0.2] = 0
    added = torch.randn(2, time, 3, generator=generator, dtype=torch.float64)
    hidden = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    states = scan(decay, added, hidden)
    for t in range(time):
        hidden = decay[:, t] * hidden + added[:, t]
        torch.testing.assert_close(states[:, t], hidden)


@pytest.mark.parametrize("time", [1, 2, 7, 9])
def test_gradient_of_the_scan_is_right(time: int) -> None:
    def inputs(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(Scan.apply, (inputs(2, time, 3), inputs(2, time, 3), inputs(2, 3)))


def test_units_of_the_linear_core_forget_at_all_speeds() -> None:
    biases = first_layer(LinearCore(3, 64)).from_values.bias[:64].detach()
    steps = 1 / biases.sigmoid()
    assert steps.min() < 2.1
    assert LONGEST < steps.max() < 1.01 * LONGEST
    torch.testing.assert_close(biases.diff(), torch.full((63,), -math.log(LONGEST) / 63))


@pytest.mark.parametrize("begins", [False, True])
def test_gradient_reaches_the_learned_initial_state_only_where_an_episode_begins(begins: bool) -> None:
    core = LinearCore(3, 4)
    state = detached(core(torch.randn(2, 5, 3), core.initial_state(2))[1])
    done = torch.zeros(2, 5, dtype=torch.bool)
    done[1, 2] = begins
    core(torch.randn(2, 5, 3), state, done)[0][:, :, 0].sum().backward()
    gradient = first_layer(core).initial.grad
    assert gradient is not None
    assert bool(gradient.any()) == begins


def first_layer(core: LinearCore) -> MinGRULayer:
    return next(module for module in core.modules() if isinstance(module, MinGRULayer))


@pytest.mark.parametrize("kind", [LSTMCore, GRUCore, AttentiveCore, LinearCore])
def test_sizes_that_cannot_be_are_refused(kind: type[LSTMCore | GRUCore | AttentiveCore | LinearCore]) -> None:
    with pytest.raises(StmError, match="hidden_size is 0; expected at least 1"):
        kind(3, 4, hidden_size=0)
    with pytest.raises(StmError, match="history is 0"):
        AttentiveCore(3, 4, history=0)
    with pytest.raises(StmError, match="layers is 0"):
        LinearCore(3, 4, layers=0)
