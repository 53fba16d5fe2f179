"""What only a GPU can show. On other machines every test here is skipped; they have CPU twins in test_lm.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stm_rl import StmError
from stm_rl.lm import CausalLM, ScoringEngine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU on this machine")

CONTEXTS = ["the kite " * (i % 9) for i in range(40)]
TARGETS = [f" harbor {i}" for i in range(40)]


@pytest.fixture(scope="module")
def expected(rotary_folder: Path) -> np.ndarray:
    return CausalLM.load(rotary_folder).score(CONTEXTS, TARGETS)


def test_a_gpu_scores_as_the_cpu_does(rotary_folder: Path, expected: np.ndarray) -> None:
    lm = CausalLM.load(rotary_folder, device="cuda")
    np.testing.assert_allclose(lm.score(CONTEXTS, TARGETS), expected, atol=1e-2)
    cpu = CausalLM.load(rotary_folder)
    np.testing.assert_allclose(lm.embed(CONTEXTS), cpu.embed(CONTEXTS), atol=1e-2)
    assert lm.generate(["the kite is"], 5) == cpu.generate(["the kite is"], 5)


def test_the_budget_is_measured(rotary_folder: Path) -> None:
    lm = CausalLM.load(rotary_folder, device="cuda")
    before = lm.batch_tokens
    lm.score(CONTEXTS, TARGETS)
    assert lm.batch_tokens > before


def test_half_precision(rotary_folder: Path, expected: np.ndarray) -> None:
    lm = CausalLM.load(rotary_folder, device="cuda", dtype="bfloat16")
    np.testing.assert_allclose(lm.score(CONTEXTS, TARGETS), expected, rtol=0.05, atol=0.5)


def test_compiled_with_cuda_graphs(rotary_folder: Path, expected: np.ndarray) -> None:
    lm = CausalLM.load(rotary_folder, device="cuda", compile=True)
    for count in (40, 7, 23, 40):
        np.testing.assert_allclose(lm.score(CONTEXTS[:count], TARGETS[:count]), expected[:count], atol=1e-2)
    np.testing.assert_allclose(lm.embed(CONTEXTS), CausalLM.load(rotary_folder).embed(CONTEXTS), atol=1e-2)


def test_two_models_share_a_gpu(rotary_folder: Path, absolute_folder: Path, expected: np.ndarray) -> None:
    one, other = (ScoringEngine(CausalLM.load(folder, device="cuda")) for folder in (rotary_folder, absolute_folder))
    pending = one.submit(CONTEXTS, TARGETS), other.submit(CONTEXTS, TARGETS)
    np.testing.assert_allclose(pending[0].result(), expected, atol=1e-2)
    np.testing.assert_allclose(pending[1].result(), CausalLM.load(absolute_folder).score(CONTEXTS, TARGETS), atol=1e-2)


def test_running_out_of_memory_for_real(rotary_folder: Path, expected: np.ndarray) -> None:
    lm = CausalLM.load(rotary_folder, device="cuda", batch_tokens=65_536)
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(max((total - free + 2**26) / total, 0.001))
    try:
        scores = lm.score(CONTEXTS * 60, TARGETS * 60)
    except StmError:
        pytest.skip("the GPU has no memory to spare")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(scores, np.tile(expected, 60), atol=1e-2)
