"""Segment recurrence: a model's own attention over segments that have left the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from stm_rl.augmented import SegmentLM, TranscriptSet, collate, transcript_loss
from stm_rl.errors import StmError
from stm_rl.lm.loading import load_pretrained
from stm_rl.memory import state_bytes
from stm_rl.worlds import DialogueWorld


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load_pretrained(AutoModelForCausalLM, "tiny", "cpu", "float32")


def ids(count: int, seed: int = 0, rows: int = 1) -> torch.Tensor:
    return torch.randint(300, 3000, (rows, count), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_in_segments_it_is_the_whole_text(loaded: tuple[Any, Any]) -> None:
    model = SegmentLM(*loaded, history=64)
    text = ids(40)
    whole = loaded[0](input_ids=text).logits[0]
    memory, logits = model.initial_memory(1), []
    for piece in text.split([7, 1, 20, 12], 1):
        out = model(piece, memory=memory)
        logits.append(out.logits[0])
        memory = out.memory
    torch.testing.assert_close(torch.cat(logits), whole, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_memory_never_grows_and_forgets_what_is_beyond_it(loaded: tuple[Any, Any]) -> None:
    model = SegmentLM(*loaded, history=8)
    memories = []
    for first in (ids(30, 1), ids(30, 2)):
        memory = model(first, memory=model.initial_memory(1)).memory
        for seed in range(3, 6):  # two layers reach back two times eight tokens
            memory = model(ids(10, seed), memory=memory).memory
        memories.append(memory)
    assert state_bytes(memories[0]) == state_bytes(model.initial_memory(1))
    one, other = (model(ids(3, 9), memory=memory).logits for memory in memories)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_was_read_long_ago_still_helps(loaded: tuple[Any, Any]) -> None:
    """On new dialogues, with no training at all: better than the window alone, nearly as good as the whole text."""
    base, tokenizer = loaded
    data = TranscriptSet([DialogueWorld()], tokenizer, 6, 2**33)
    means = {}
    for name, window, history in (("window", 0, 24), ("memory", 0, 256)):
        batch = collate([data[number] for number in range(6)], tokenizer, window)
        means[name] = float(transcript_loss(SegmentLM(base, tokenizer, history), batch, 1)[0])
    whole = collate([data[number] for number in range(6)], tokenizer, None)
    means["full"] = float(transcript_loss(SegmentLM(base, tokenizer, 1), whole, 1)[0])
    recovered = (means["window"] - means["memory"]) / (means["window"] - means["full"])
    assert recovered > 0.7, means


@torch.no_grad()
def test_rows_of_different_lengths_do_not_touch_each_other(loaded: tuple[Any, Any]) -> None:
    base, tokenizer = loaded
    data = TranscriptSet([DialogueWorld()], tokenizer, 2, 2**33)
    model = SegmentLM(base, tokenizer, 100)
    _, together = transcript_loss(model, collate([data[0], data[1]], tokenizer, 0), 1)
    for row in range(2):
        _, alone = transcript_loss(model, collate([data[row]], tokenizer, 0), 1)
        torch.testing.assert_close(alone[0].sum(-1), together[row].sum(-1)[: alone.shape[1]], atol=1e-3, rtol=1e-4)


def test_gradient_goes_through_the_memory(loaded: tuple[Any, Any]) -> None:
    model = SegmentLM(*loaded, history=16)
    memory = {**model.initial_memory(1), "held": torch.ones(1, 16, dtype=torch.bool)}
    memory["values"] = memory["values"].clone().requires_grad_()
    model(ids(4), labels=ids(4), memory=memory).loss.backward()  # type: ignore[union-attr]
    assert memory["values"].grad is not None
    assert bool(memory["values"].grad.any())


@pytest.mark.parametrize("history", [32, 12])
@torch.no_grad()
def test_generation_is_what_the_logits_say(loaded: tuple[Any, Any], history: int) -> None:
    model = SegmentLM(*loaded, history=history)
    memory = model(ids(20), memory=model.initial_memory(1)).memory
    start = torch.cat([ids(20)[:, -1:], ids(3, 5)], 1)
    written = torch.tensor([[False, True, True, True]])
    found = model.generate(start, memory, max_new_tokens=4, do_sample=False, eos_token_id=None)
    text = start
    for _ in range(4):
        marks = torch.cat([written, torch.ones(1, text.shape[1] - 4, dtype=torch.bool)], 1)
        text = torch.cat([text, model(text, memory=memory, written=marks).logits[:, -1:].argmax(-1)], 1)
    assert found.tolist() == text.tolist()


@pytest.mark.parametrize("lora", [0, 2])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, lora: int) -> None:
    base, tokenizer = load_pretrained(AutoModelForCausalLM, "tiny", "cpu", "float32")
    model = SegmentLM(base, tokenizer, 12, lora, "tiny")
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * value.requires_grad)
    model.save_pretrained(tmp_path)
    again = SegmentLM.from_pretrained(tmp_path)
    assert (again.history, again.trained() > 0) == (12, bool(lora))
    torch.testing.assert_close(again(ids(9)).logits, model.eval()(ids(9)).logits)


def test_what_cannot_be_done_is_said(tmp_path: Path, loaded: tuple[Any, Any]) -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=20))
    with pytest.raises(StmError, match="GPT2LMHeadModel has no rotary positions"):
        SegmentLM(gpt2, loaded[1])
    with pytest.raises(StmError, match="history is 0; expected at least 1"):
        SegmentLM(*loaded, history=0)
    with pytest.raises(StmError, match="the base model has no name"):
        SegmentLM(*loaded).save_pretrained(tmp_path)
    with pytest.raises(StmError, match=r"has no segments\.json"):
        SegmentLM.from_pretrained(tmp_path)
