"""Scores of many architectures, batched and with common beginnings kept, against one plain forward pass each."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from stm_rl.lm import CausalLM

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
BASIC = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
OPT = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Qwen3": GROUPED | {"head_dim": 8},
    "Mistral": GROUPED | {"sliding_window": 8},
    "Gemma3Text": GROUPED | {"head_dim": 8, "sliding_window": 8},
    "Gemma2": GROUPED | {"head_dim": 8, "sliding_window": 8},  # caps its logits
    "Cohere": GROUPED,  # scales its logits
    "Qwen3Moe": GROUPED | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "GPTNeoX": SIZES,
    "OPT": OPT | {"max_position_embeddings": 128, "init_std": 0.2},
    "Bloom": BASIC,  # no positions, but distances in its attention
    "Falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
}


def model_of(name: str, rotary_folder: Path) -> CausalLM:
    """Return a random model of the architecture ``name``."""
    tokenizer = AutoTokenizer.from_pretrained(rotary_folder)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **special, **ARCHITECTURES[name])
    torch.manual_seed(0)
    return CausalLM(AutoModelForCausalLM.from_config(config), tokenizer, name, batch_tokens=100)


def plain_score(lm: CausalLM, context: str, target: str) -> float:
    ((ids, count),) = lm.text.encode([context], [target])
    tokens = torch.tensor([ids])
    with torch.no_grad():
        values = lm.model(tokens, use_cache=False).logits[0].double().log_softmax(-1)
    return float(values[:-1].gather(1, tokens[0, 1:, None])[-count:].sum())


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_scores_are_those_of_plain_forward_passes(name: str, rotary_folder: Path) -> None:
    lm = model_of(name, rotary_folder)
    shared = "user: the kite is at the harbor, Anna. Where did I put the kite? "
    contexts = [f"{shared}{speaker}:" for speaker in ("Anna", "kite", "harbor", "42")] + ["Anna", "the kite is", shared]
    targets = [" the harbor"] * 6 + [" kite"]
    expected = [plain_score(lm, context, target) for context, target in zip(contexts, targets, strict=True)]
    np.testing.assert_allclose(lm.score(contexts, targets), expected, atol=1e-4)
    assert (lm.reused > 0) == (name not in ("Gemma2", "Cohere"))  # their logits need the whole model


@pytest.mark.parametrize("name", ["Qwen3", "Qwen3Moe", "OPT"])
def test_only_used_positions_go_through_the_end_of_the_last_block(name: str, rotary_folder: Path) -> None:
    lm = model_of(name, rotary_folder)
    if name == "OPT":  # its feed-forward part has no name of its own
        assert lm._last is None
        return
    seen: list[int] = []
    part = lm.model.base_model.layers[-1].mlp
    whole = lm._last._whole
    lm._last._whole = lambda states: (seen.append(states.shape[-2]), whole(states))[1]
    context, target = "user: the kite is at the", " harbor"
    ((ids, count),) = lm.text.encode([context], [target])
    score = lm.score([context], [target])[0]
    assert seen == [count]
    assert score == pytest.approx(plain_score(lm, context, target), abs=1e-4)
    lm.embed([context])
    assert seen[-1] == len(ids) - count
    del part.forward
    assert lm.score([context], [target])[0] == pytest.approx(score, abs=1e-5)


def test_a_copy_of_the_model_is_on_its_own(rotary_folder: Path) -> None:
    lm = model_of("Qwen3", rotary_folder)
    copied = deepcopy(lm.model)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = lm.model(ids).logits
        copied.base_model.layers[-1].mlp.down_proj.weight.mul_(2)
        assert torch.equal(lm.model(ids).logits, expected)
        assert not torch.equal(copied(ids).logits, expected)
    score = lm.score(["the kite"], [" harbor"])[0]
    other = CausalLM(copied, lm.tokenizer, "copied")
    assert other.score(["the kite"], [" harbor"])[0] == pytest.approx(
        plain_score(other, "the kite", " harbor"), abs=1e-4
    )
    assert lm.score(["the kite"], [" harbor"])[0] == score
