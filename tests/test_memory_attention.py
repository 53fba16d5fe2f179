import pytest
import torch
from core_checks import check_core

from stm_rl.errors import StmError
from stm_rl.memory import AttentionCore


@pytest.mark.parametrize("options", [{}, {"history": 5}, {"history": 4}, {"history": 7, "heads": 1, "layers": 2}])
def test_attention_keeps_the_protocol(options: dict[str, int]) -> None:
    check_core(AttentionCore(6, 8, **options))


def test_attention_does_not_reach_beyond_its_history() -> None:
    torch.manual_seed(0)
    core = AttentionCore(3, 8, history=4)
    inputs = torch.randn(1, 10, 3)
    changed = inputs.clone()
    changed[0, 2] += 1
    outputs, _ = core(inputs, core.initial_state(1))
    others, _ = core(changed, core.initial_state(1))
    differs = (outputs - others).abs().amax(-1)[0] > 1e-6
    assert differs.tolist() == [False, False, True, True, True, True, False, False, False, False]


def test_heads_share_the_history_out_at_the_start() -> None:
    """Between them, the heads give every distance at least a few times what an even look would."""
    core = AttentionCore(3, 8, history=64, heads=4)
    bias = core.layers[0].bias  # type: ignore[union-attr]
    weights = torch.softmax(8 * bias, -1)  # type: ignore[operator]
    assert weights[1:].amax(0).min() > 1.5 / 64
    assert torch.allclose(weights[0], torch.full((64,), 1 / 64))


def test_heads_must_divide_the_output() -> None:
    with pytest.raises(StmError, match="heads is 4, which does not divide output_size 6"):
        AttentionCore(3, 6)
