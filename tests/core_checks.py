"""What every memory core promises, as checks that the tests of each core run."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor

from stm_rl.memory.core import MemoryCore, State, detached, state_bytes

BATCH, TIME = 3, 13


def check_core(core: MemoryCore, without_gradient: Collection[str] = (), large: float = 100.0) -> None:
    """Fail unless ``core`` keeps the protocol of :class:`~stm_rl.memory.core.MemoryCore`; it is not changed.

    Args:
        core: A core in float32.
        without_gradient: Names of parameters that the outputs may leave without a gradient.
        large: Standard deviation of the inputs that 2,000 steps must survive.
    """
    generator = torch.Generator().manual_seed(0)
    core = shaken(core, generator)
    double = copy.deepcopy(core).double()
    check_shapes(core, generator)
    check_pieces(double, generator, tolerance=1e-9)
    check_pieces(core, generator, tolerance=2e-5)
    check_resets(double, generator)
    check_state_is_kept(double, generator)
    check_rows(double, generator)
    check_gradients(double, generator, without_gradient)
    check_state_dict(double, generator)
    check_long(core, generator, large)


def shaken(core: MemoryCore, generator: torch.Generator) -> MemoryCore:
    """Return a copy whose parameters are off their initial values, some of which (zeros) would hide mistakes."""
    core = copy.deepcopy(core)
    with torch.no_grad():
        for weight in core.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return core


def random_inputs(core: MemoryCore, generator: torch.Generator, batch: int = BATCH, time: int = TIME) -> Tensor:
    """Return normal inputs of the core's dtype."""
    dtype = next(core.parameters()).dtype
    return torch.randn(batch, time, core.input_size, generator=generator).to(dtype)


def random_done(generator: torch.Generator, chance: float, batch: int = BATCH, time: int = TIME) -> Tensor:
    """Return flags that are set with a chance of ``chance``."""
    return torch.rand(batch, time, generator=generator) < chance


def in_pieces(core: MemoryCore, inputs: Tensor, state: State, done: Tensor | None, cuts: list[int]) -> Tensor:
    """Return the outputs for a sequence that is handed over in pieces which begin at ``cuts``."""
    outputs = []
    for start, end in zip(cuts, [*cuts[1:], inputs.shape[1]], strict=True):
        output, state = core(inputs[:, start:end], state, None if done is None else done[:, start:end])
        outputs.append(output)
    return torch.cat(outputs, 1)


def assert_states_close(a: State, b: State, tolerance: float = 1e-9) -> None:
    """Fail unless two states hold the same."""
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def check_shapes(core: MemoryCore, generator: torch.Generator) -> None:
    """Outputs, states and readings have the shapes that the protocol gives; a state keeps its size and dtypes."""
    initial = core.initial_state(BATCH)
    before = {name: (value.shape, value.dtype) for name, value in initial.items()}
    assert all(shape[0] == BATCH for shape, _ in before.values())
    for time in (1, TIME, 150):
        outputs, state = core(random_inputs(core, generator, time=time), initial)
        assert outputs.shape == (BATCH, time, core.output_size)
        assert {name: (value.shape, value.dtype) for name, value in state.items()} == before
        assert state_bytes(state) == state_bytes(initial)
        assert core.read(state).shape == (BATCH, *core.read_shape)
    assert core.read(initial).shape == (BATCH, *core.read_shape)
    assert core.read(initial).isfinite().all()


@torch.no_grad()
def check_pieces(core: MemoryCore, generator: torch.Generator, tolerance: float) -> None:
    """A sequence gives the same outputs and the same last state at once, step by step and in random pieces."""
    for time, chance in ((TIME, None), (TIME, 0.1), (TIME, 0.6), (70, 0.03), (70, None)):
        inputs = random_inputs(core, generator, time=time)
        done = None if chance is None else random_done(generator, chance, time=time)
        # Start from a state that is not the initial one.
        _, state = core(random_inputs(core, generator, time=5), core.initial_state(BATCH))
        whole, after = core(inputs, state, done)
        some = sorted({0, *torch.randint(1, time, (3,), generator=generator).tolist()})
        for cuts in (list(range(time)), some, [0, time - 1]):
            pieces = in_pieces(core, inputs, state, done, cuts)
            torch.testing.assert_close(pieces, whole, rtol=tolerance, atol=tolerance)
        stepped = state
        for t in range(time):
            _, stepped = core(inputs[:, t : t + 1], stepped, None if done is None else done[:, t : t + 1])
        assert_states_close(stepped, after, tolerance)
        none = torch.zeros(BATCH, time, dtype=torch.bool)
        torch.testing.assert_close(core(inputs, state, none)[0], core(inputs, state)[0], rtol=tolerance, atol=tolerance)


@torch.no_grad()
def check_resets(core: MemoryCore, generator: torch.Generator) -> None:
    """From a step marked done on, nothing is left of what came before, and the row is as at the start."""
    inputs, others = random_inputs(core, generator), random_inputs(core, generator)
    _, state = core(others, core.initial_state(BATCH))
    for at in (0, 6, TIME - 1):
        done = torch.zeros(BATCH, TIME, dtype=torch.bool)
        done[1, at] = True
        outputs, after = core(inputs, state, done)
        mixed = torch.cat([others[:, :at], inputs[:, at:]], 1)
        again, after_again = core(mixed, core.initial_state(BATCH), done)
        assert torch.equal(outputs[1, at:], again[1, at:])
        assert all(torch.equal(after[name][1], after_again[name][1]) for name in after)
        fresh, after_fresh = core(inputs[:, at:], core.initial_state(BATCH))
        torch.testing.assert_close(outputs[1, at:], fresh[1], rtol=1e-9, atol=1e-9)
        assert_states_close({n: v[1] for n, v in after.items()}, {n: v[1] for n, v in after_fresh.items()})
        unmarked, _ = core(inputs, state)
        torch.testing.assert_close(outputs[[0, 2]], unmarked[[0, 2]], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def check_state_is_kept(core: MemoryCore, generator: torch.Generator) -> None:
    """Neither the state nor the inputs that were handed over are changed in place."""
    _, state = core(random_inputs(core, generator), core.initial_state(BATCH))
    for time in (1, TIME):
        inputs, done = random_inputs(core, generator, time=time), random_done(generator, 0.3, time=time)
        kept, kept_inputs = {name: value.clone() for name, value in state.items()}, inputs.clone()
        for flags in (done, None):
            core(inputs, state, flags)
            core.read(state)
            assert all(torch.equal(state[name], kept[name]) for name in state)
            assert torch.equal(inputs, kept_inputs)


@torch.no_grad()
def check_rows(core: MemoryCore, generator: torch.Generator) -> None:
    """What a row gives depends on no other row; and outputs depend on no later input."""
    inputs, done = random_inputs(core, generator), random_done(generator, 0.2)
    _, state = core(random_inputs(core, generator), core.initial_state(BATCH))
    outputs, _ = core(inputs, state, done)
    for row in range(BATCH):
        alone, _ = core(inputs[[row]], {name: value[[row]] for name, value in state.items()}, done[[row]])
        torch.testing.assert_close(alone[0], outputs[row], rtol=1e-9, atol=1e-9)
    changed = torch.cat([inputs[:, :7], random_inputs(core, generator)[:, 7:]], 1)
    torch.testing.assert_close(core(changed, state, done)[0][:, :7], outputs[:, :7], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(core(changed, state, done)[0][:, 7:], outputs[:, 7:])


def check_gradients(core: MemoryCore, generator: torch.Generator, without: Collection[str]) -> None:
    """Every parameter gets a finite gradient, also through a reset; earlier inputs reach later outputs."""
    inputs = random_inputs(core, generator, time=40).requires_grad_()
    done = random_done(generator, 0.05, time=40)
    outputs, state = core(inputs, core.initial_state(BATCH), done)
    (outputs * torch.randn(outputs.shape, generator=generator)).sum().backward()
    gradients = {name: weight.grad for name, weight in core.named_parameters()}
    assert all(value is None or value.isfinite().all() for value in gradients.values())
    missing = {name for name, value in gradients.items() if value is None or not value.any()}
    assert missing <= set(without), f"without a gradient: {sorted(missing - set(without))}"
    core.zero_grad()
    inputs = random_inputs(core, generator).requires_grad_()
    outputs, _ = core(inputs, detached(state))
    (gradient,) = torch.autograd.grad(
        (outputs[:, -1] * torch.randn(core.output_size, generator=generator)).sum(), [inputs]
    )
    assert gradient.isfinite().all()
    assert gradient[:, -3].any()


@torch.no_grad()
def check_state_dict(core: MemoryCore, generator: torch.Generator) -> None:
    """A core that takes over the weights of another gives the same outputs."""
    other, inputs = shaken(core, generator), random_inputs(core, generator)
    expected, _ = core(inputs, core.initial_state(BATCH))
    assert not torch.allclose(other(inputs, other.initial_state(BATCH))[0], expected)
    other.load_state_dict(core.state_dict())
    assert torch.equal(other(inputs, other.initial_state(BATCH))[0], expected)


@torch.no_grad()
def check_long(core: MemoryCore, generator: torch.Generator, large: float) -> None:
    """Outputs and state stay finite over 2,000 steps of large inputs."""
    inputs = large * random_inputs(core, generator, batch=2, time=2000)
    outputs, state = core(inputs, core.initial_state(2))
    assert outputs.isfinite().all()
    assert all(value.isfinite().all() for value in state.values())
    assert core.read(state).isfinite().all()
