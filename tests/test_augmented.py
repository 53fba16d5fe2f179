"""Memory-augmented language models: what they read, write, keep and learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from augmented_helpers import learn, planted, with_apart_tokens
from helpers import load_script, numbered
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, TrainingArguments

from stm_rl.augmented import (
    MemoryLM,
    MemorySettings,
    SegmentTrainer,
    TranscriptSet,
    collate,
    segments,
    start_from_attention,
    transcript_loss,
)
from stm_rl.augmented.segments import mask_tokens
from stm_rl.augmented.training import FIELDS
from stm_rl.errors import StmError
from stm_rl.lm.loading import source_of
from stm_rl.worlds import DialogueWorld

VOCABULARY = 40
SMALL = MemorySettings(core_sizes={"history": 9, "heads": 4}, size=32, heads=2)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 2,
}
GRU = replace(SMALL, core="gru", core_sizes={})


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(source_of("tiny"))


def causal(vocabulary: int = VOCABULARY) -> Any:
    torch.manual_seed(0)
    return with_apart_tokens(LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **SIZES)))


def masked(vocabulary: int = VOCABULARY) -> Any:
    torch.manual_seed(0)
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return with_apart_tokens(BertForMaskedLM(BertConfig(vocab_size=vocabulary, **none, **SIZES)))


def some_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(5, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("build", [causal, masked])
@pytest.mark.parametrize("read", ["adapters", "prompt"])
def test_what_was_written_changes_what_is_predicted(build: Any, read: str, tokenizer: Any) -> None:
    model = MemoryLM(build(), tokenizer, replace(SMALL, read=read)).eval()
    ids = some_ids(2, 6)
    empty = model.initial_memory(2)
    written = model.write(some_ids(2, 5, seed=1), None, empty)
    before, after = model(ids, memory=empty).logits, model(ids, memory=written).logits
    assert before.shape == (2, 6, VOCABULARY)
    assert not torch.allclose(before, after, atol=1e-4)
    torch.testing.assert_close(model(ids).logits, before)


def test_a_closed_gate_gives_the_base_model(tokenizer: Any) -> None:
    base, ids = causal(), some_ids(2, 6)
    expected = base(ids).logits
    model = MemoryLM(base, tokenizer, replace(SMALL, gate=0.0)).eval()
    memory = model.write(some_ids(2, 5, seed=1), None, model.initial_memory(2))
    torch.testing.assert_close(model(ids, memory=memory).logits, expected)
    none = MemoryLM(causal(), tokenizer, MemorySettings(core="none")).eval()
    torch.testing.assert_close(none(ids).logits, expected)
    assert none.trained() == 0


@pytest.mark.parametrize("settings", [SMALL, GRU, replace(SMALL, read="prompt"), replace(SMALL, write="pooled")])
def test_rows_do_not_touch_each_other(settings: MemorySettings, tokenizer: Any) -> None:
    model = MemoryLM(causal(), tokenizer, settings).eval()
    data = [segments(numbered(count), tokenizer) for count in (3, 6)]
    small = [type(one)(tuple(([t % 35 + 5 for t in ids], given) for ids, given in one.turns)) for one in data]
    together = transcript_loss(model, collate(small, tokenizer, 2), 3)[1].sum(2)
    for row, one in enumerate(small):
        alone = transcript_loss(model, collate([one], tokenizer, 2), 3)[1].sum(2)
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)
        assert not together[row, alone.shape[1] :].any()


def test_loss_is_the_likelihood_of_the_labelled_tokens(tokenizer: Any) -> None:
    model = MemoryLM(causal(), tokenizer, SMALL).eval()
    ids = some_ids(2, 7)
    labels = ids.clone()
    labels[:, :4] = -100
    out = model(ids, labels=labels)
    plain = torch.log_softmax(model(ids, written=labels != -100).logits, -1)
    expected = -plain[:, 3:6].gather(2, ids[:, 4:, None])[..., 0]
    torch.testing.assert_close(out.nats[:, 4:], expected)
    assert not out.nats[:, :4].any()
    torch.testing.assert_close(out.loss, expected.sum())


def test_window_rows_show_two_turns_and_label_the_last(tokenizer: Any) -> None:
    transcript = DialogueWorld(turns=8).generate(1)
    batch = collate([segments(transcript, tokenizer)], tokenizer, 2)
    shown = tokenizer.decode(batch["input_ids"][0, 5][batch["attention_mask"][0, 5].bool()], skip_special_tokens=True)
    assert shown == "".join(f"{turn}\n" for turn in transcript.turns[3:6])
    scored = tokenizer.decode(batch["input_ids"][0, 5][batch["labels"][0, 5] != -100])
    assert scored == f" {transcript.turns[5].text}\n"
    written = tokenizer.decode(batch["input_ids"][0, 5][batch["written"][0, 5]])
    assert written == f"{transcript.turns[5]}\n"
    whole = collate([segments(transcript, tokenizer)], tokenizer, None)
    assert whole["input_ids"].shape[1] == 1
    for turn in range(1, 8):
        windowed = batch["labels"][0, turn][batch["labels"][0, turn] != -100]
        chosen = (whole["turn"][0, 0] == turn) & (whole["labels"][0, 0] != -100)
        torch.testing.assert_close(whole["labels"][0, 0][chosen], windowed)


def test_gradient_goes_back_as_far_as_it_may(tokenizer: Any) -> None:
    model = MemoryLM(causal(), tokenizer, GRU)
    batch = collate([segments(numbered(6), tokenizer)], tokenizer, 2)
    batch["input_ids"] = batch["input_ids"] % 35 + 5
    batch["labels"] = torch.where(batch["labels"] == -100, -100, batch["input_ids"])
    seen: list[torch.Tensor] = []
    model.writer.register_forward_hook(lambda module, args, out: (out[0].retain_grad(), seen.append(out[0]))[1])
    only_last = batch | {"labels": batch["labels"].clone()}
    only_last["labels"][:, :-1] = -100
    for truncate, reached in ((2, [3, 4]), (6, [0, 1, 2, 3, 4])):
        seen.clear()
        only = {name: only_last[name] for name in FIELDS}
        transcript_loss(model, only, truncate)[0].backward()
        found = [number for number, steps in enumerate(seen) if steps.grad is not None and steps.grad.abs().sum() > 0]
        assert found == [number for number in reached if number >= 6 - 1 - (5 % truncate)] or truncate == 6
        assert (truncate == 6) == (found == reached)


@pytest.mark.parametrize("build", [causal, masked])
@pytest.mark.parametrize(
    "settings", [replace(SMALL, lora=2), replace(GRU, read="prompt"), replace(SMALL, write="pooled")]
)
def test_saved_and_loaded_it_is_the_same(build: Any, settings: MemorySettings, tmp_path: Path, tokenizer: Any) -> None:
    model = MemoryLM(build(), tokenizer, settings)
    for value in model.parameters():
        if value.requires_grad:
            torch.nn.init.normal_(value, std=0.1)
    model.eval().save_pretrained(tmp_path / "model")
    loaded = MemoryLM.from_pretrained(tmp_path / "model")
    assert loaded.settings == settings
    assert loaded.masked == model.masked
    ids = some_ids(2, 6)
    memory = model.write(some_ids(2, 5, seed=1), None, model.initial_memory(2))
    torch.testing.assert_close(
        loaded.write(some_ids(2, 5, seed=1), None, loaded.initial_memory(2)), memory, atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        loaded(ids, memory=memory).logits, model(ids, memory=memory).logits, atol=1e-5, rtol=1e-5
    )


def test_a_folder_without_a_model_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(StmError, match=r"has no memory\.json"):
        MemoryLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"core": "nope"}, "core is 'nope'"), ({"read": "x"}, "read is"), ({"gate": 1.0}, "gate is")],
)
def test_settings_that_make_no_model(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StmError, match=message):
        MemorySettings(**change)


@pytest.mark.parametrize("read", ["adapters", "prompt"])
def test_generation_is_what_the_logits_say(read: str, tokenizer: Any) -> None:
    model = MemoryLM(causal(), tokenizer, replace(SMALL, read=read, gate=0.9)).eval()
    memory = model.write(some_ids(2, 5, seed=1), None, model.initial_memory(2))
    ids = some_ids(2, 6)
    written = torch.zeros(2, 6, dtype=torch.bool)
    written[:, 4:] = True
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}
    out = model.generate(ids, memory=memory, written=written, **options)
    assert out.shape == (2, 10)
    expected = ids
    for _ in range(4):
        here = torch.cat([written, torch.ones(2, expected.shape[1] - 6, dtype=torch.bool)], 1)
        expected = torch.cat([expected, model(expected, memory=memory, written=here).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, expected)
    several = model.generate(ids, memory=memory, num_beams=2, num_return_sequences=2, **options)
    assert several.shape == (4, 10)


def test_a_masked_model_writes_no_text(tokenizer: Any) -> None:
    with pytest.raises(StmError, match="masked model cannot write"):
        MemoryLM(masked(), tokenizer, SMALL).generate(some_ids(1, 3))


def test_a_masked_model_writes_what_was_behind_the_masks(tokenizer: Any) -> None:
    model = MemoryLM(masked(), tokenizer, SMALL).eval()
    ids = some_ids(1, 6)
    labels = torch.full_like(ids, -100)
    labels[0, 4] = ids[0, 4]
    own = torch.ones_like(ids, dtype=torch.bool)
    hidden = model(ids.masked_fill(labels != -100, 4), labels=labels, written=own).memory
    torch.testing.assert_close(hidden, model.write(ids, None, model.initial_memory(1), own))


def test_masks_are_drawn_among_labels() -> None:
    batch = collate([segments(numbered(6), AutoTokenizer.from_pretrained(source_of("tiny")))], _Pad(), 2)
    one, same = (mask_tokens(batch, 4, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one["labels"], same["labels"])
    chosen = one["labels"] != -100
    assert 0 < chosen.sum() < (batch["labels"] != -100).sum()
    assert (one["input_ids"][chosen] == 4).all()
    assert torch.equal(one["input_ids"][~chosen], batch["input_ids"][~chosen])
    wide = {name: torch.nn.functional.pad(value, (3, 0), value=-100) for name, value in batch.items()}
    assert torch.equal(mask_tokens(wide, 4, 0.5, torch.Generator().manual_seed(3))["labels"][..., 3:], one["labels"])


class _Pad:
    bos_token_id, pad_token_id = 0, 2


def test_it_learns_to_recall_what_left_the_window(tokenizer: Any) -> None:
    model = MemoryLM(causal(), tokenizer, replace(SMALL, heads=4))
    start_from_attention(model, some_ids(16, 8))
    learn(model, planted, steps=200, lr=5e-3)
    with torch.no_grad():
        assert float(transcript_loss(model, planted(64, 10**6), 3)[0]) < 0.7  # nats; 2.77 without memory


@pytest.mark.parametrize("build", [causal, masked])
def test_adapters_start_where_vectors_are_tokens(build: Any, tokenizer: Any) -> None:
    assert start_from_attention(MemoryLM(build(), tokenizer, SMALL), some_ids(32, 8)) > 0.5
    recurrent = MemoryLM(build(), tokenizer, GRU)
    before = recurrent.adapters[0].join.weight.clone()
    assert start_from_attention(recurrent, some_ids(64, 8)) < 0.5
    assert torch.equal(recurrent.adapters[0].join.weight, before)


def test_the_trainer_trains_on_transcripts(tmp_path: Path, tokenizer: Any) -> None:
    model = MemoryLM(causal(len(tokenizer)), tokenizer, replace(SMALL, lora=2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    data = TranscriptSet([DialogueWorld(turns=8)], tokenizer, 4, 0)
    trainer = SegmentTrainer(
        truncate=4,
        model=model,
        args=options,
        train_dataset=data,
        data_collator=lambda items: collate(items, tokenizer, 2),
    )
    trainer.train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("adapters" in name for name in changed)
    assert any("lora" in name for name in changed)
    assert not any("embed_tokens" in name or "base_layer" in name for name in changed)
    with pytest.raises(StmError, match="truncate is 0"):
        SegmentTrainer(truncate=0, model=model, args=options)


def test_the_table_says_how_much_was_recovered(tmp_path: Path) -> None:
    script = load_script("train_memory_lm")
    known = {"type": "causal", "core": "attention", "read": "adapters", "write": "tokens", "trained": 9}
    paths = []
    for baseline, nats in (("window", 8.0), ("full", 7.0), ("none", 7.25)):
        run = known | {
            "baseline": baseline,
            "seed": 0,
            "turns": [nats] * 5,
            "probes": [nats] * 5,
            "ms_per_segment": 1.0,
        }
        paths.append(tmp_path / f"{baseline}.json")
        paths[-1].write_text(script.json.dumps(run))
    lines = script.table(paths).splitlines()
    assert "| causal | attention, adapters, tokens | 1 | 7.250 [7.250, 7.250]" in "\n".join(lines)
    assert "75.0% [75.0%, 75.0%] | 0.750 [0.750, 0.750] | 0.750 [0.750, 0.750]" in "\n".join(lines)
