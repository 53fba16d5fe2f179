"""The kernels of LSTM and GRU over rows that are cut into episodes, against torch's."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stm_rl.memory.core import State, detached
from stm_rl.memory.kernels import PackedGRU, stretches
from stm_rl.memory.recurrent import GRUCore, LSTMCore

KINDS = [LSTMCore, GRUCore]
Kind = type[LSTMCore | GRUCore]


def a_core(kind: Kind) -> LSTMCore | GRUCore:
    torch.manual_seed(0)
    return kind(3, 4, hidden_size=5).double()


def some(batch: int, time: int, chance: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs, and flags of which one at least is set after the first step."""
    generator = torch.Generator().manual_seed(seed)
    done = torch.rand(batch, time, generator=generator) < chance
    done[seed % batch, 1 + seed % (time - 1)] = True
    return torch.randn(batch, time, 3, generator=generator, dtype=torch.float64), done


def some_state(core: LSTMCore | GRUCore, batch: int) -> State:
    return {name: torch.rand_like(value) - 0.5 for name, value in core.initial_state(batch).items()}


def row_by_row(core: LSTMCore | GRUCore, inputs: Tensor, state: State, done: Tensor) -> tuple[Tensor, State]:
    """Return what torch's kernel gives for one stretch of one row after the other."""
    outputs, lasts = [], []
    for row in range(len(inputs)):
        own = {name: value[[row]] for name, value in state.items()}
        starts = sorted({0, *done[row].nonzero().flatten().tolist()})
        for start, end in zip(starts, [*starts[1:], done.shape[1]], strict=True):
            own = core.initial_state(1) if done[row, start] else own
            hidden, own = core._torch(inputs[[row], start:end], own)
            outputs.append(core.to_output(hidden))
        lasts.append(own)
    whole = torch.cat(outputs, 1).reshape(*done.shape, -1)
    return whole, {name: torch.cat([last[name] for last in lasts]) for name in state}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("batch", "time", "chance"), [(3, 12, 0.3), (4, 9, 0.9), (2, 20, 0.0), (1, 2, 0.0), (5, 7, 1.0)]
)
def test_results_and_gradients_are_those_of_torch(kind: Kind, batch: int, time: int, chance: float) -> None:
    core = a_core(kind)
    inputs, done = some(batch, time, chance)
    results = []
    for run in (core, lambda *given: row_by_row(core, *given)):
        given = inputs.clone().requires_grad_()
        torch.manual_seed(1)
        state = {name: value.requires_grad_() for name, value in some_state(core, batch).items()}
        outputs, after = run(given, state, done)
        shown = [outputs, *(after[name] for name in state)]
        sum((value * torch.randn_like(value)).sum() for value in shown).backward()  # type: ignore[union-attr]
        leaves = {"inputs": given, **state, **dict(core.named_parameters())}
        # A state that every row is reset from has no gradient; torch, which never sees it, leaves it None.
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves.values()]
        results.append([*shown, *gradients])
        assert leaves.keys() == {"inputs", *core.parts, *core.state_dict()}
        core.zero_grad()
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-12)


def leaf(*shape: int) -> Tensor:
    return (torch.rand(*shape, dtype=torch.float64) - 0.5).requires_grad_()


def test_gradients_of_the_kernel_are_right() -> None:
    torch.manual_seed(0)
    cuts = stretches(some(3, 6, 0.3)[1])
    given = (leaf(18, 3), leaf(12, 3), leaf(12, 4), leaf(12), leaf(4), leaf(len(cuts.rows), 4))
    assert torch.autograd.gradcheck(lambda *leaves: PackedGRU.apply(*leaves, cuts.sizes), given)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right(kind: Kind) -> None:
    core = a_core(kind)
    _, done = some(2, 5, 0.3)
    given = (leaf(2, 5, 3), *(leaf(2, 5) for _ in core.parts))

    def run(inputs: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        outputs, after = core(inputs, dict(zip(core.parts, state, strict=True)), done)
        return outputs, *after.values()

    assert torch.autograd.gradcheck(run, given)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_what_came_before_in_single_precision(kind: Kind) -> None:
    """To the last bit, and with weights and inputs that are large."""
    core = a_core(kind).float()
    with torch.no_grad():
        for weight in core.parameters():
            weight.mul_(100)
    inputs, done = some(4, 30, 0.2)
    inputs = 100 * inputs.float()
    begun = done.cummax(1).values
    others = torch.where(begun[..., None], inputs, torch.randn_like(inputs))
    results = [core(given, some_state(core, 4), done) for given in (inputs, others)]
    (one, last), (other, last_of_other) = results
    assert begun[:, -1].all()
    assert not torch.equal(one, other)
    assert torch.equal(one[begun], other[begun])
    assert all(torch.equal(value, last_of_other[name]) for name, value in last.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_state_alone_has_a_gradient(kind: Kind) -> None:
    """As where a sequence is only read for the sake of what comes after it."""
    core = a_core(kind)
    inputs, done = some(3, 8, 0.2)
    gradients = []
    for run in (core, lambda *given: row_by_row(core, *given)):
        given = inputs.clone().requires_grad_()
        _, after = run(given, core.initial_state(3), done)
        after[core.parts[-1]].square().sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_other_devices_give_the_same(kind: Kind) -> None:
    """What is handed to torch's kernel there gives what a CPU gives."""
    core = a_core(kind)
    inputs, done = some(4, 10, 0.3)
    done[:, 0] = False
    state = some_state(core, 4)
    (one, last), (other, last_of_other) = core._on_cpu(inputs, state, done), core._in_stretches(inputs, state, done)
    torch.testing.assert_close(one, other)
    for name, value in last.items():
        torch.testing.assert_close(value, last_of_other[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU on this machine")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_what_the_cpu_gives(kind: Kind) -> None:
    core = a_core(kind)
    there = copy.deepcopy(core).cuda()
    inputs, done = some(4, 20, 0.2)
    state = some_state(core, 4)
    outputs, after = core(inputs, state, done)
    outputs.square().sum().backward()
    moved = {name: value.cuda() for name, value in state.items()}
    outputs_there, after_there = there(inputs.cuda(), moved, done.cuda())
    outputs_there.square().sum().backward()
    torch.testing.assert_close(outputs_there.cpu(), outputs)
    for name in after:
        torch.testing.assert_close(after_there[name].cpu(), after[name])
    for ours, theirs in zip(core.parameters(), there.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(theirs.grad.cpu(), ours.grad)


@settings(max_examples=50, deadline=None)
@given(
    batch=st.integers(1, 5),
    time=st.integers(1, 12),
    chance=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_stretches_hold_every_step_once_in_order(batch: int, time: int, chance: float, seed: int) -> None:
    done = torch.rand(batch, time, generator=torch.Generator().manual_seed(seed)) < chance
    done[:, 0] = False
    cuts = stretches(done)
    assert sum(cuts.sizes) == batch * time
    assert cuts.sizes == sorted(cuts.sizes, reverse=True)
    assert cuts.steps[cuts.places].tolist() == list(range(batch * time))
    parts = cuts.steps.split(cuts.sizes)
    seen = []
    for number, (row, fresh) in enumerate(zip(cuts.rows.tolist(), cuts.fresh.tolist(), strict=True)):
        steps = [int(part[number]) for part in parts if number < len(part)]
        assert steps == list(range(steps[0], steps[0] + len(steps)))
        assert {step // time for step in steps} == {row}
        assert fresh == bool(done.flatten()[steps[0]])
        assert fresh or steps[0] % time == 0
        assert not done.flatten()[steps[1:]].any()
        if steps[-1] % time == time - 1:
            seen.append(row)
            assert int(cuts.last[row]) == number
    assert sorted(seen) == list(range(batch))


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_the_same_where_no_gradient_is_wanted(kind: Kind) -> None:
    core = a_core(kind)
    inputs, done = some(3, 8, 0.2)
    with torch.no_grad():
        outputs, after = core(inputs, core.initial_state(3), done)
    assert not outputs.requires_grad
    wanted, state = core(inputs, core.initial_state(3), done)
    torch.testing.assert_close(outputs, wanted.detach(), rtol=1e-12, atol=1e-12)
    for name, value in detached(state).items():
        torch.testing.assert_close(after[name], value, rtol=1e-12, atol=1e-12)
