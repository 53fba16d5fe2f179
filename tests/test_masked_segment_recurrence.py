"""Segment recurrence in masked models: attention over what is kept, in both directions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from augmented_helpers import learn, planted, with_apart_tokens
from transformers import AutoTokenizer, ModernBertConfig, ModernBertForMaskedLM
from transformers.masking_utils import sliding_window_bidirectional_overlay

from stm_rl.augmented import SegmentLM, transcript_loss
from stm_rl.augmented.bidirectional import Earlier
from stm_rl.errors import StmError
from stm_rl.lm.loading import source_of

MASK, WORDS = 4, 40
FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(source_of("tiny"))


def encoder(*layers: str, vocabulary: int = WORDS) -> Any:
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=len(layers),
        num_attention_heads=2,
        layer_types=list(layers),
        local_attention=6,
        pad_token_id=2,
    )
    return with_apart_tokens(ModernBertForMaskedLM(config))


def ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(5, WORDS, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("layers", [(FULL, FULL), (FULL, SLIDING), (SLIDING,)])
def test_without_a_past_it_is_the_base_model(layers: tuple[str, ...], tokenizer: Any) -> None:
    text = ids(2, 14)
    expected = encoder(*layers)(text).logits
    found = SegmentLM(encoder(*layers), tokenizer, 8)(text).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layer", [FULL, SLIDING])
def test_in_segments_one_layer_sees_the_whole_text_before(layer: str, tokenizer: Any) -> None:
    """The keys of the first layer depend on nothing around them, so segments must add up to the text."""
    text = ids(2, 21)
    expected = encoder(layer)(text).logits[:, -6:]
    model = SegmentLM(encoder(layer), tokenizer, 32)
    memory = model.initial_memory(2)
    for piece in text[:, :-6].split([5, 1, 9], 1):
        memory = model(piece, memory=memory).memory
    torch.testing.assert_close(model(text[:, -6:], memory=memory).logits, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_mask_of_a_sliding_layer_is_that_of_transformers() -> None:
    kept, time, reach = 4, 3, 2
    places = torch.arange(kept + time)[None]
    exists = torch.ones_like(places, dtype=torch.bool)
    exists[0, 3] = False
    nothing = torch.zeros(1, 1, 1, kept, 2)
    seen = Earlier(nothing, nothing, exists, places).visible(time, reach)[0, 0]
    near = sliding_window_bidirectional_overlay(reach)
    wanted = [[near(0, 0, q, k) and k != 3 for k in range(kept + time)] for q in range(kept, kept + time)]
    assert seen.tolist() == wanted


@torch.no_grad()
def test_masked_tokens_are_kept_as_what_they_are(tokenizer: Any) -> None:
    model = SegmentLM(encoder(FULL, FULL), tokenizer, 8)
    text = ids(1, 6)
    labels = torch.full_like(text, -100)
    labels[0, 4] = text[0, 4]
    hidden = model(text.masked_fill(labels != -100, MASK), labels=labels)
    shown = model(text)
    assert not torch.allclose(hidden.logits, shown.logits, atol=1e-3)
    torch.testing.assert_close(hidden.memory, shown.memory)


@torch.no_grad()
def test_padding_and_other_rows_change_nothing(tokenizer: Any) -> None:
    model = SegmentLM(encoder(FULL, SLIDING), tokenizer, 8)
    first, second = ids(2, 7, seed=1), ids(2, 5, seed=2)
    memory = model(first, memory=model.initial_memory(2)).memory
    alone = model(second[:1], memory=model(first[:1], memory=model.initial_memory(1)).memory)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]]).expand(2, -1).clone()
    mask[1] = 0  # this transcript has ended
    padded = torch.nn.functional.pad(second, (2, 0), value=2)
    out = model(padded, attention_mask=mask, memory=memory, written=mask.bool())
    torch.testing.assert_close(out.logits[:1, 2:], alone.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.memory["keys"][:1], alone.memory["keys"], atol=1e-5, rtol=1e-4)
    before, after = (some["keys"][1][:, :, some["held"][1]] for some in (memory, out.memory))
    torch.testing.assert_close(after, before)
    assert bool(torch.isfinite(out.logits).all())


def test_it_learns_to_recall_what_left_the_text(tokenizer: Any) -> None:
    model, recall = SegmentLM(encoder(FULL, FULL), tokenizer, 8, lora=8), partial(planted, mask=MASK)
    learn(model, recall, steps=150, lr=1e-2)
    with torch.no_grad():
        batch = recall(64, 10**6)
        learned = float(transcript_loss(model, batch, 3)[0])
        forgotten = {name: value[:, 2:] for name, value in batch.items()}
        assert learned < 0.7, learned
        assert float(transcript_loss(model, forgotten, 3)[0]) > 2.7  # the same model, nothing kept: log 16 is 2.77


@pytest.mark.parametrize("lora", [0, 2])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, lora: int, tokenizer: Any) -> None:
    base = encoder(FULL, SLIDING, vocabulary=len(tokenizer))
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = SegmentLM(base, tokenizer, 12, lora, str(tmp_path / "base"))
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * value.requires_grad)
    model.save_pretrained(tmp_path / "memory")
    again = SegmentLM.from_pretrained(tmp_path / "memory")
    assert (again.history, again.masked, again.trained() > 0) == (12, True, bool(lora))
    torch.testing.assert_close(again(ids(1, 9)).logits, model.eval()(ids(1, 9)).logits)


def test_what_cannot_be_done_is_said(tokenizer: Any) -> None:
    model = SegmentLM(encoder(FULL), tokenizer, 8)
    with pytest.raises(StmError, match="a masked model cannot write text"):
        model.generate(ids(1, 3), model.initial_memory(1))
    with pytest.raises(StmError, match="ModernBertAttention was called without the earlier segments"):
        model.base(ids(1, 3))
