"""Prompts that answers share: run once, with the same results."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from stm_rl_agents.language.shared import first_of, generate_shared, packed, prompts_shared

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
PAD, END = 0, 1


def model_of(kind: str, attention: str = "sdpa"):
    torch.manual_seed(0)
    cls, config = {"llama": (LlamaForCausalLM, LlamaConfig), "qwen3": (Qwen3ForCausalLM, Qwen3Config)}[kind]
    model = cls(config(**SIZES, attn_implementation=attention, initializer_range=0.3)).eval()
    model.generation_config.update(pad_token_id=PAD, eos_token_id=END)
    return model


def padded(rows: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    fill = [[PAD] * (longest - len(row)) for row in rows]
    both = list(zip(fill, rows, strict=True))
    ids = [gap + row if left else row + gap for gap, row in both]
    seen = [[0] * len(gap) + [1] * len(row) if left else [1] * len(row) + [0] * len(gap) for gap, row in both]
    return torch.tensor(ids), torch.tensor(seen)


PROMPTS = [[5, 6, 7, 8], [9, 3], [5, 6, 7, 8], [9, 3], [4, 9, 9, 9, 2, 8], [5, 6, 7, 8]]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_answers_are_those_of_generate_and_equal_prompts_are_run_once(kind: str) -> None:
    model, (ids, mask) = model_of(kind), padded(PROMPTS, left=True)
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": 12}
    torch.manual_seed(1)
    plain = model.generate(input_ids=ids, attention_mask=mask, **options)
    seen: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    torch.manual_seed(1)
    with prompts_shared(model):
        shared = model.generate(input_ids=ids, attention_mask=mask, **options)
    assert shared.tolist() == plain.tolist()
    assert len({tuple(row) for row in shared[[0, 2, 5], 6:].tolist()}) > 1  # drawn apart
    assert seen[0] == (3, 5)  # all but the last tokens of three prompts
    assert set(seen[1:]) == {(6, 1)}
    assert model.generate.__func__ is type(model).generate  # as it was


def test_nothing_changes_where_no_two_prompts_are_equal() -> None:
    model, (ids, mask) = model_of("llama"), padded([[5, 6], [7, 8, 9]], left=True)
    plain = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=5)
    assert generate_shared(model, ids, mask, do_sample=False, max_new_tokens=5).tolist() == plain.tolist()


def log_probs_of(model, **inputs: Tensor) -> Tensor:
    """Return the log-probability of every token but the first that has a label."""
    labels = inputs.pop("labels")[:, 1:]
    logits = model(**inputs).logits[:, :-1].log_softmax(-1)
    return logits.gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0] * (labels >= 0)


words = st.lists(st.integers(2, 49), min_size=2, max_size=5)


@settings(max_examples=25)
@given(
    prompts=st.lists(words, min_size=1, max_size=3),
    which=st.lists(st.integers(0, 2), min_size=1, max_size=7),
    answers=st.lists(st.lists(st.integers(1, 49), min_size=1, max_size=4), min_size=7, max_size=7),
    attention=st.sampled_from(["sdpa", "eager"]),
)
def test_answers_packed_behind_their_prompt_score_and_teach_the_same(
    prompts: list[list[int]], which: list[int], answers: list[list[int]], attention: str
) -> None:
    model = model_of("llama", attention)
    before, seen = padded([prompts[index % len(prompts)] for index in which], left=True)
    after, said = padded(answers[: len(which)], left=False)
    keep = after.size(1)
    ids, mask = torch.cat([before, after], 1), torch.cat([seen, said], 1)
    labels = torch.cat([torch.full_like(before, -100), after.masked_fill(said == 0, -100)], 1)
    weights = torch.linspace(-1, 1, after.numel()).view_as(after)

    def gradients(scored: Tensor) -> list[Tensor]:
        model.zero_grad()
        (scored * weights).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = log_probs_of(model, input_ids=ids, attention_mask=mask, labels=labels)[:, -keep:]
    rows = packed(ids, mask, keep, torch.float32 if attention == "eager" else None)
    assert len(rows.inputs["input_ids"]) == len({tuple(row) for row in before.tolist()})
    shared = rows.unpack(log_probs_of(model, **rows.inputs))
    torch.testing.assert_close(shared, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients(shared), gradients(plain), atol=1e-4, rtol=1e-4)


def test_first_of_each_group() -> None:
    assert first_of(torch.tensor([2, 0, 2, 1, 0])).tolist() == [1, 3, 0]
