from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import torch

from stm_rl import StmError
from stm_rl.lm.forward import CPU_TOKENS, OTHER_TOKENS, Budget, Workers

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def out_of_memory_above(limit: int) -> tuple[list[int], object]:
    """Return the sizes of batches tried, and a function that runs out of memory on larger batches."""
    tried: list[int] = []

    def work(rows: Sequence[int]) -> list[int]:
        tried.append(len(rows))
        if len(rows) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [row * 10 for row in rows]

    return tried, work


def test_batches_that_do_not_fit_are_done_in_halves_in_order(caplog: pytest.LogCaptureFixture) -> None:
    budget = Budget(CPU, 800)
    tried, work = out_of_memory_above(3)
    parts = budget.run(range(8), work)  # type: ignore[arg-type]
    assert [value for part in parts for value in part] == [row * 10 for row in range(8)]  # type: ignore[attr-defined]
    assert tried == [8, 4, 2, 2, 4, 2, 2]
    assert budget.tokens == 800 // 2**3
    assert "ran out of memory: 400 tokens at once" in caplog.text


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    _, work = out_of_memory_above(0)
    with pytest.raises(StmError, match="not enough memory for a single context; take a smaller model"):
        Budget(CPU, 800).run([1, 2], work)  # type: ignore[arg-type]


def test_other_errors_are_not_hidden() -> None:
    def work(rows: Sequence[int]) -> None:
        raise RuntimeError("device-side assert")

    with pytest.raises(RuntimeError, match="device-side assert"):
        Budget(CPU).run([1, 2], work)


def test_defaults() -> None:
    assert Budget(CPU).tokens == CPU_TOKENS
    assert Budget(GPU).tokens == OTHER_TOKENS
    assert Budget(GPU, 7).tokens == 7


@pytest.mark.parametrize(
    ("needed", "free", "expected"), [(2**20, 2**34, 8192), (2**20, 2**20, CPU_TOKENS), (1, 2**40, 65_536)]
)
def test_a_gpu_gets_a_budget_by_its_memory_once(
    monkeypatch: pytest.MonkeyPatch, needed: int, free: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1000 + 2048 * needed)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    runs: list[int] = []
    budget = Budget(GPU)
    budget.measure(2048, lambda: runs.append(1))
    budget.measure(2048, lambda: runs.append(1))
    assert budget.tokens == expected
    assert runs == [1]


def test_no_memory_is_measured_on_a_cpu_or_with_a_budget_given() -> None:
    for budget in (Budget(CPU), Budget(GPU, 100)):
        budget.measure(2048, lambda: pytest.fail("measured"))


@pytest.fixture
def threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("threads")
def test_tasks_run_side_by_side_on_one_torch_thread_each_and_come_back_in_order() -> None:
    torch.set_num_threads(3)
    workers = Workers(CPU)
    together = threading.Barrier(3, timeout=20)

    def work(task: int) -> tuple[int, int]:
        if task < 3:
            together.wait()
        time.sleep(0.02 * (5 - task))
        return task, torch.get_num_threads()

    assert workers.map(work, range(5)) == [(task, 1) for task in range(5)]
    assert torch.get_num_threads() == 3
    torch.set_num_threads(2)
    assert workers.map(work, [3, 4]) == [(3, 1), (4, 1)]
    assert torch.get_num_threads() == 2


def test_one_thread_needs_no_others() -> None:
    me = threading.get_ident()
    assert Workers(CPU).map(lambda _: threading.get_ident(), range(3)) == [me] * 3


@pytest.mark.usefixtures("threads")
def test_an_error_comes_out() -> None:
    torch.set_num_threads(2)

    def work(task: int) -> int:
        raise StmError(f"task {task}")

    with pytest.raises(StmError, match="task 0"):
        Workers(CPU).map(work, [0, 1])


def test_running_out_of_memory_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    _, work = out_of_memory_above(1)
    with caplog.at_level(logging.WARNING):
        Budget(CPU, 64).run([1, 2], work)  # type: ignore[arg-type]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
