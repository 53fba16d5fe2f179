"""A masked language model made of a causal one, and the memory that is added to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import load_script
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import AutoModelForCausalLM, ModernBertConfig, ModernBertForMaskedLM

from stm_rl.augmented import MemoryLM, MemorySettings, start_from_attention
from stm_rl.augmented.start import attention_of, mean_rotation
from stm_rl.lm.loading import load_pretrained, source_of

TINY = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "cls_token_id": 0,
    "sep_token_id": 1,
    "attention_bias": True,
    "global_attn_every_n_layers": 1,
}


@pytest.fixture(scope="module")
def script() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(source_of("tiny").parents[2] / "scripts"))  # type: ignore[union-attr]
        return load_script("train_masked_lm")


@pytest.fixture(scope="module")
def moved(script: Any) -> tuple[Any, Any, Any]:
    """The embedded causal model, the masked model made of it, and its tokenizer."""
    causal, tokenizer = load_pretrained(AutoModelForCausalLM, "tiny", "cpu", "float32")
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    torch.manual_seed(0)
    return causal, script.transplanted(causal, tokenizer), tokenizer


def modern() -> Any:
    torch.manual_seed(0)
    base = ModernBertForMaskedLM(ModernBertConfig(**TINY)).eval()
    for value in base.parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=0.2)
    torch.nn.init.normal_(base.model.layers[1].attn.Wqkv.bias, std=0.2)
    return base


@torch.no_grad()
def test_a_mask_stands_for_the_token_before_it(moved: tuple[Any, Any, Any]) -> None:
    causal, masked, tokenizer = moved
    ids = tokenizer("Ana: My flight leaves on Friday.\nBot: Noted.\n", return_tensors="pt").input_ids
    given = ids.clone()
    places = torch.tensor([5, 9])
    given[:, places] = tokenizer.mask_token_id
    words = causal.get_input_embeddings()(ids)[0]
    found = masked(given, output_hidden_states=True).hidden_states[1][0]
    assert (cosine_similarity(found[places], words[places - 1]) > 0.9).all()
    others = [number for number in range(len(words)) if number not in places]
    assert (cosine_similarity(found[others], words[others]) > 0.95).all()


@torch.no_grad()
def test_the_masked_model_predicts_at_the_end_of_a_text_as_the_causal_model_does(
    script: Any, moved: tuple[Any, Any, Any]
) -> None:
    causal, masked, tokenizer = moved
    mask, corpus = torch.tensor([[tokenizer.mask_token_id]]), script.Corpus(5)
    spent: dict[str, list[float]] = {"causal": [], "masked": [], "without facts": []}
    for _ in range(5):
        text: list[int] = [0]
        facts = 0
        for piece, scored in corpus.drill(0.9):
            ids = tokenizer(piece, add_special_tokens=False).input_ids
            facts = facts or len(ids)
            if scored:
                shown = torch.tensor([text + ids[: len(ids) // 2]])
                answer = torch.tensor(ids[len(ids) // 2])
                some = torch.cat([shown[:, :1], shown[:, 1 + facts :], mask], 1)
                for name, logits in (
                    ("causal", causal(shown).logits),
                    ("masked", masked(torch.cat([shown, mask], 1)).logits),
                    ("without facts", masked(some).logits),
                ):
                    spent[name].append(float(cross_entropy(logits[0, -1], answer)))
            text += ids
    nats = {name: sum(values) / len(values) for name, values in spent.items()}
    assert nats["causal"] < nats["masked"] < nats["without facts"] - 1


def test_adapters_start_from_fused_projections() -> None:
    _, tokenizer = load_pretrained(AutoModelForCausalLM, "tiny", "cpu", "float32")
    ids = torch.randint(5, 40, (32, 8), generator=torch.Generator().manual_seed(0))
    settings = MemorySettings(core_sizes={"history": 9, "heads": 4}, size=32, lora=2)
    model = MemoryLM(modern(), tokenizer, settings)
    before = model.adapters[0].join.weight.clone()
    assert start_from_attention(model, ids) > 0.7
    assert not torch.equal(model.adapters[0].join.weight, before)


@torch.no_grad()
def test_the_attention_of_fused_projections_is_the_layers_own() -> None:
    base = modern()
    layer = base.model.layers[1]
    attention = attention_of(layer, 2)
    assert attention is not None
    assert attention.norm is layer.attn_norm
    assert (first := attention_of(base.model.layers[0], 2)) is not None
    assert first.norm is None
    hidden = torch.randn(1, 1, 32)
    keys = torch.einsum("hsd,btd->bths", attention.key, hidden)
    queries = torch.einsum("hsd,btd->bths", attention.query, hidden) + attention.query_bias
    joined = torch.einsum("dhs,hse,bte->btd", attention.join, attention.value, hidden)
    fused = layer.attn.Wqkv(hidden).view(1, 1, 3, 2, 16)
    bias = layer.attn.Wqkv.bias.view(3, 2, 16)
    torch.testing.assert_close(queries, fused[:, :, 0])
    torch.testing.assert_close(keys + bias[1], fused[:, :, 1])
    torch.testing.assert_close(joined, layer.attn.Wo((fused[:, :, 2] - bias[2]).flatten(2)) - layer.attn.Wo.bias)
    rotation = mean_rotation(base, layer, 16)
    assert not torch.equal(rotation, torch.eye(16))
    torch.testing.assert_close(rotation[7, 7], torch.tensor(1.0), atol=0.01, rtol=0.0)  # the slowest hardly turns
