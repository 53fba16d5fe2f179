from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from stm_rl import StmError
from stm_rl.lm import CausalLM, LanguageModel, load_engine

MODELS = ("rotary", "absolute")
Edit = Callable[[Path], Any]

WORDS = ["user:", "Anna", "kite", "harbor", "assistant:", "\n", ">", "Ünïcödé", "日本語", "🙂", "42"]
phrases = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)
texts = phrases | st.text(st.characters(codec="utf-8"), max_size=30)
pairs = st.tuples(texts, texts.filter(str.strip))


@pytest.fixture(scope="session")
def models(rotary_folder: Path, absolute_folder: Path) -> dict[str, CausalLM]:
    return {"rotary": CausalLM.load(rotary_folder), "absolute": CausalLM.load(absolute_folder)}


@pytest.fixture(params=MODELS)
def model(models: dict[str, CausalLM], request: pytest.FixtureRequest) -> CausalLM:
    return models[request.param]


def naive_score(lm: CausalLM, context: str, target: str) -> float:
    """Score one pair with the whole text through the model, unbatched and in double precision."""
    encoding = lm.tokenizer(context + target, return_offsets_mapping=True)
    ids, spans = encoding["input_ids"], encoding["offset_mapping"]
    begin = len(context) + len(target) - len(target.lstrip())
    first = next(i for i, (start, end) in enumerate(spans) if start <= begin < end)
    if first == 0:
        ids, first = [lm.tokenizer.eos_token_id, *ids], 1
    begin_tokens = ids[:1] if ids[0] == lm.tokenizer.bos_token_id and len(ids) - first < lm.max_tokens else []
    kept = [*begin_tokens, *ids[len(begin_tokens) :][-(lm.max_tokens - len(begin_tokens)) :]]
    first -= len(ids) - len(kept)
    ids = torch.tensor(kept)
    with torch.no_grad():
        logits = lm.model(ids[None], use_cache=False).logits[0].double()
    steps = torch.log_softmax(logits, -1)[:-1].gather(1, ids[1:, None])[:, 0]
    return float(steps[first - 1 :].sum())


def tokens(lm: CausalLM, text: str) -> int:
    (count,) = lm.count_tokens([text])
    return count


# Scores.


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=40)
@given(batch=st.lists(pairs, min_size=1, max_size=5))
def test_score_is_that_of_a_plain_forward_pass(
    models: dict[str, CausalLM], name: str, batch: list[tuple[str, str]]
) -> None:
    lm = models[name]
    batch = [pair for pair in batch if tokens(lm, pair[1]) < lm.max_tokens - 1]
    scores = lm.score([context for context, _ in batch], [target for _, target in batch])
    assert scores.dtype == np.float64
    assert scores.shape == (len(batch),)
    assert (scores <= 0).all()
    expected = [naive_score(lm, *pair) for pair in batch]
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=1e-5)


def test_very_different_lengths_do_not_disturb_each_other(model: CausalLM) -> None:
    contexts = ["", "a", "user: the kite " * 8, "> harbor\n", "Anna"]
    targets = [" Anna", " it is at the harbor, " * 4, " no", "x", " kite" * 20]
    together = model.score(contexts, targets)
    alone = [model.score([c], [t])[0] for c, t in zip(contexts, targets, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(together[::-1], model.score(contexts[::-1], targets[::-1]), atol=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_size_of_a_forward_pass_is_bounded_and_changes_no_score(models: dict[str, CausalLM], batch_tokens: int) -> None:
    lm = models["rotary"]
    small = CausalLM(lm.model, lm.tokenizer, "small", batch_tokens)
    sizes: list[int] = []
    hook = lm.model.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    contexts, targets = ["Anna " * count for count in range(8)], [" kite"] * 8
    try:
        scores = small.score(contexts, targets)
    finally:
        hook.remove()
    longest = max(tokens(lm, c + t) + 1 for c, t in zip(contexts, targets, strict=True))
    assert max(sizes) <= max(batch_tokens, longest)
    assert (len(sizes) == 1) == (batch_tokens == 10_000)
    np.testing.assert_allclose(scores, lm.score(contexts, targets), atol=1e-4)


def test_context_changes_the_score(model: CausalLM) -> None:
    scores = model.score(["the kite", "the harbor", ""], [" Anna"] * 3)
    assert len(set(scores.round(3))) == 3


@pytest.mark.parametrize("target", [" harbor", "harbor", "  harbor", "\nharbor"])
def test_target_counts_from_the_token_of_its_first_letter(model: CausalLM, target: str) -> None:
    score = model.score(["the kite is at the"], [target])[0]
    assert score == pytest.approx(naive_score(model, "the kite is at the", target), abs=1e-4)


def test_scores_of_successive_targets_add_up(model: CausalLM) -> None:
    first, then, both = model.score(
        ["user:", "user: the kite", "user:"], [" the kite", " is here", " the kite is here"]
    )
    assert both == pytest.approx(first + then, abs=1e-4)


def test_no_texts_give_no_scores(model: CausalLM) -> None:
    assert model.score([], []).shape == (0,)


def test_unequal_numbers_of_texts_are_an_error(model: CausalLM) -> None:
    with pytest.raises(StmError, match="2 contexts and 1 targets"):
        model.score(["a", "b"], ["c"])


def test_context_too_long_loses_its_oldest_tokens_and_is_counted(
    models: dict[str, CausalLM], model: CausalLM, caplog: pytest.LogCaptureFixture
) -> None:
    lm = CausalLM(model.model, model.tokenizer, "fresh")
    long = "the kite is in the cupboard\n" * 40
    scores = lm.score([long, "short", "Anna. " + long], [" Anna"] * 3)
    assert lm.truncated == 2
    assert scores[0] == pytest.approx(scores[2])  # what is left out has no effect
    assert scores[0] == pytest.approx(naive_score(lm, long, " Anna"), abs=1e-4)
    assert len([record for record in caplog.records if "oldest tokens are left out" in record.message]) == 1
    lm.score([long], [" kite"])
    assert lm.truncated == 3
    assert len(caplog.records) == 1  # said once only


def test_text_that_fills_the_model_is_scored_and_one_token_more_is_an_error(model: CausalLM) -> None:
    word = " harbor"
    target = word * (model.max_tokens // tokens(model, word) - 1)
    target += "x" * (model.max_tokens - 1 - tokens(model, target))
    assert tokens(model, target) == model.max_tokens - 1
    assert model.score(["a"], [target])[0] == pytest.approx(naive_score(model, "a", target), abs=1e-3)
    with pytest.raises(StmError, match=f"has {model.max_tokens} tokens .* at most {model.max_tokens}; split"):
        model.score(["a"], [target + "?"])


@pytest.mark.parametrize("target", ["", " ", "\n \t"])
@pytest.mark.parametrize("context", ["", "Anna"])
def test_target_without_text_is_an_error(model: CausalLM, context: str, target: str) -> None:
    with pytest.raises(StmError, match="has no tokens"):
        model.score(["fine", context], [" fine", target])


def test_score_that_is_not_a_number_is_an_error(rotary_folder: Path) -> None:
    lm = CausalLM.load(rotary_folder)
    with torch.no_grad():
        lm.model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(StmError, match=r"gave the score nan for ' kite'; .* check the model's weights"):
        lm.score(["Anna"], [" kite"])


class Halved(LlamaForCausalLM):
    """Scales its logits, as several published models do."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 0.5
        return out


def test_model_that_scales_its_logits_is_scored_with_them(rotary_folder: Path) -> None:
    plain = CausalLM.load(rotary_folder)
    lm = CausalLM(Halved.from_pretrained(rotary_folder), plain.tokenizer, "halved")
    contexts, targets = ["", "the kite " * 9, "Anna", "a"], [" harbor", " Anna", " kite " * 12, "b"]
    scores = lm.score(contexts, targets)
    expected = [naive_score(lm, c, t) for c, t in zip(contexts, targets, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert (abs(scores - plain.score(contexts, targets)) > 0.01).all()


# What is not computed twice.


def widths(lm: CausalLM) -> tuple[list[tuple[int, ...]], Any]:
    """Return the shapes of the batches put through a model from now on, and what ends that."""
    shapes: list[tuple[int, ...]] = []
    hook = lm.model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes, hook


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=25)
@given(data=st.data())
def test_common_beginnings_change_no_score(models: dict[str, CausalLM], name: str, data: st.DataObject) -> None:
    plain = models[name]
    lm = CausalLM(plain.model, plain.tokenizer, "reuses", batch_tokens=data.draw(st.sampled_from([2, 20, 60])))
    lines = ["user: the kite is at the harbor\n", "> Anna\n", "assistant: 42\n", "the kite, the harbor, Anna\n"]
    context = st.lists(st.sampled_from(lines), max_size=4).map("".join)
    batch = data.draw(st.lists(st.tuples(context, st.sampled_from(lines[:3])), min_size=1, max_size=8))
    scores = lm.score([context for context, _ in batch], [target for _, target in batch])
    np.testing.assert_allclose(scores, [naive_score(lm, *pair) for pair in batch], atol=1e-4, rtol=1e-5)


def test_targets_in_one_text_take_one_pass(model: CausalLM) -> None:
    lm = CausalLM(model.model, model.tokenizer, "whole", batch_tokens=1000)
    turns = [" the kite\n", " the harbor\n", " Anna\n", " 42\n"]
    contexts = ["user:" + "".join(turns[:i]) for i in range(4)]
    shapes, hook = widths(lm)
    scores = lm.score(contexts, turns)
    hook.remove()
    assert [height for height, _ in shapes] == [1]
    assert lm.reused > lm.tokens / 2
    np.testing.assert_allclose(scores, [naive_score(lm, c, t) for c, t in zip(contexts, turns, strict=True)], atol=1e-4)


def test_a_long_beginning_is_put_through_the_model_once(model: CausalLM) -> None:
    lm = CausalLM(model.model, model.tokenizer, "long", batch_tokens=100)
    header = "user: the kite is at the harbor, Anna. " * 2
    contexts = [f"{header}{name}:" for name in ("Anna", "kite", "harbor", "42", "user")]
    targets = [" the harbor"] * 5
    shapes, hook = widths(lm)
    scores = lm.score(contexts, targets)
    hook.remove()
    (first, rest) = shapes
    assert first[0] == 1
    assert rest[0] == 5
    assert rest[1] < first[1] / 2
    assert lm.reused == 4 * first[1]
    np.testing.assert_allclose(
        scores, [naive_score(lm, c, t) for c, t in zip(contexts, targets, strict=True)], atol=1e-4
    )
    other = CausalLM(model.model, model.tokenizer, "short", batch_tokens=10_000)
    np.testing.assert_allclose(other.score(contexts, targets), scores, atol=1e-4)
    assert other.reused == 0  # would save less than half a batch


def test_tokens_and_padding_are_counted(model: CausalLM) -> None:
    lm = CausalLM(model.model, model.tokenizer, "counts", batch_tokens=1000)
    contexts, targets = ["Anna", "the kite is at the"], [" harbor", " 42"]
    lm.score(contexts, targets)
    lengths = [len(ids) for ids, _ in lm.text.encode(contexts, targets)]
    assert lm.tokens == sum(lengths)
    assert lm.padding == max(lengths) - min(lengths)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_score(model: CausalLM, threads: int) -> None:
    lm = CausalLM(model.model, model.tokenizer, "threads", batch_tokens=60)
    contexts, targets = ["the kite " * (i % 9) for i in range(30)], [f" harbor {i}" for i in range(30)]
    scores = lm.score(contexts, targets)
    vectors = lm.embed(contexts)
    torch.set_num_threads(threads)
    try:
        np.testing.assert_allclose(lm.score(contexts, targets), scores, atol=1e-4)
        np.testing.assert_allclose(lm.embed(contexts), vectors, atol=1e-4)
    finally:
        torch.set_num_threads(1)


def test_a_model_that_runs_out_of_memory_goes_on_with_smaller_batches(
    rotary_folder: Path, models: dict[str, CausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = CausalLM.load(rotary_folder, batch_tokens=1000)
    forward = lm.model.model.forward

    def short(**kwargs: Any) -> Any:
        if kwargs["input_ids"].numel() > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**kwargs)

    monkeypatch.setattr(lm.model.model, "forward", short)
    contexts, targets = ["the kite " * (i % 3) for i in range(12)], [f" harbor {i}" for i in range(12)]
    np.testing.assert_allclose(lm.score(contexts, targets), models["rotary"].score(contexts, targets), atol=1e-4)
    assert lm.batch_tokens < 1000
    np.testing.assert_allclose(lm.embed(contexts[:3]), models["rotary"].embed(contexts[:3]), atol=1e-4)
    with pytest.raises(StmError, match="not enough memory for a single context"):
        lm.score(["Anna " * 40], [" harbor"])


def test_compiled_models_get_few_shapes_and_the_same_scores(
    rotary_folder: Path, models: dict[str, CausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    lm = CausalLM.load(rotary_folder, batch_tokens=256, compile=True)
    shapes, hook = widths(lm)
    for count in range(1, 20):
        contexts, targets = ["the kite " * (i % 8) for i in range(count)], [f" harbor {i}" for i in range(count)]
        np.testing.assert_allclose(lm.score(contexts, targets), models["rotary"].score(contexts, targets), atol=1e-4)
        np.testing.assert_allclose(lm.embed(contexts), models["rotary"].embed(contexts), atol=1e-4)
    hook.remove()
    assert len(set(shapes)) <= 10
    assert {width for _, width in shapes} <= {32, 48, 64, 96}
    assert all(height * width <= 256 or height == 2 for height, width in shapes)


@pytest.mark.slow
def test_a_compiled_model_scores_the_same(models: dict[str, CausalLM], rotary_folder: Path) -> None:
    lm = CausalLM.load(rotary_folder, compile=True)
    contexts, targets = ["the kite " * (i % 8) for i in range(20)], [f" harbor {i}" for i in range(20)]
    np.testing.assert_allclose(lm.score(contexts, targets), models["rotary"].score(contexts, targets), atol=1e-4)


def test_cache_key_tells_models_tokenizers_and_dtypes_apart(
    models: dict[str, CausalLM], rotary_folder: Path, tmp_path: Path
) -> None:
    lm = models["rotary"]
    assert CausalLM.load(rotary_folder).cache_key == lm.cache_key
    shutil.copytree(rotary_folder, tmp_path / "other")
    tokenizer = (tmp_path / "other" / "tokenizer.json").read_text()
    (tmp_path / "other" / "tokenizer.json").write_text(
        tokenizer.replace('"normalizer": null', '"normalizer": {"type": "NFC"}')
    )
    tuned = CausalLM.load(rotary_folder)
    with torch.no_grad():
        tuned.model.model.layers[1].mlp.down_proj.weight[-1, -1] += 1e-3  # one number
    others = [
        models["absolute"],
        CausalLM.load(rotary_folder, dtype="bfloat16"),
        CausalLM.load(tmp_path / "other"),
        tuned,
    ]
    assert len({lm.cache_key, *(other.cache_key for other in others)}) == 5


# Loading.


def test_loaded_model_is_a_language_model(model: CausalLM, rotary_folder: Path) -> None:
    assert isinstance(model, LanguageModel)
    assert model.max_tokens == 96
    assert CausalLM.load(rotary_folder).id == str(rotary_folder)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no such model", "/no/such/folder"])
def test_unknown_model_is_an_error(name: str) -> None:
    with pytest.raises(StmError, match=f"cannot load the language model '{name}' .*give 'tiny'"):
        CausalLM.load(name)


@pytest.mark.parametrize("dtype", ["float33", "int8", "nn"])
def test_unknown_dtype_is_an_error(rotary_folder: Path, dtype: str) -> None:
    with pytest.raises(StmError, match=dtype):
        CausalLM.load(rotary_folder, dtype=dtype)


@pytest.mark.parametrize(
    "device",
    [
        "toaster",
        pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")),
    ],
)
def test_missing_device_is_an_error(rotary_folder: Path, device: str) -> None:
    with pytest.raises(StmError, match="cannot load the language model"):
        CausalLM.load(rotary_folder, device=device)


def test_device_auto_is_one_that_is_there(rotary_folder: Path) -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert CausalLM.load(rotary_folder, device="auto").model.device.type == expected


def test_half_precision_scores_about_the_same(rotary_folder: Path, models: dict[str, CausalLM]) -> None:
    half = CausalLM.load(rotary_folder, dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    scores, exact = (lm.score(["the kite"], [" Anna"])[0] for lm in (half, models["rotary"]))
    assert scores != exact
    assert scores == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    "edit",
    [
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"no weights" * 9),
    ],
    ids=["config", "tokenizer", "no-weights", "weights"],
)
def test_damaged_folder_is_an_error(rotary_folder: Path, tmp_path: Path, edit: Edit) -> None:
    folder = tmp_path / "model"
    shutil.copytree(rotary_folder, folder)
    CausalLM.load(folder)
    edit(folder)
    with pytest.raises(StmError, match="cannot load the language model"):
        CausalLM.load(folder)


def test_slow_tokenizer_is_an_error(models: dict[str, CausalLM]) -> None:
    with pytest.raises(StmError, match="needs a fast one"):
        CausalLM(models["rotary"].model, object(), "slow")


def test_model_without_a_stated_length_loads(rotary_folder: Path, tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    folder = tmp_path / "bloom"
    shutil.copytree(rotary_folder, folder)
    config = BloomConfig(vocab_size=400, hidden_size=16, n_layer=1, n_head=2)
    BloomForCausalLM(config).save_pretrained(folder)
    assert CausalLM.load(folder).score(["a"], [" b"])[0] < 0


def test_padding_and_truncation_settings_of_a_tokenizer_have_no_effect(
    rotary_folder: Path, models: dict[str, CausalLM], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer

    folder = tmp_path / "model"
    shutil.copytree(rotary_folder, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=2, pad_token="<pad>")
    tokenizer.enable_truncation(16)
    tokenizer.save(str(folder / "tokenizer.json"))
    contexts, targets = ["a", "the kite is in the cupboard, Anna will wait"], [" kite", " Anna"]
    np.testing.assert_allclose(
        CausalLM.load(folder).score(contexts, targets), models["rotary"].score(contexts, targets), atol=1e-4
    )


# Embeddings, tokens and text.


def test_embedding_has_one_row_per_text_and_ignores_its_neighbours(model: CausalLM) -> None:
    given = ["Anna", "the kite is in the cupboard " * 3, "日本語 🙂", "x"]
    together = model.embed(given)
    assert together.shape == (4, 32)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, [model.embed([text])[0] for text in given], atol=1e-4)
    assert abs(together[0] - together[3]).max() > 0.01


def test_embedding_is_the_mean_of_the_last_hidden_states(model: CausalLM) -> None:
    ids = torch.tensor([model.tokenizer("the kite")["input_ids"]])
    with torch.no_grad():
        expected = model.model(ids, output_hidden_states=True).hidden_states[-1][0].mean(0)
    np.testing.assert_allclose(model.embed(["the kite"])[0], expected.numpy(), atol=1e-4)


def test_embedding_of_a_text_too_long_is_finite(model: CausalLM) -> None:
    assert np.isfinite(model.embed(["the kite is in the cupboard " * 40])).all()


def test_tokens_are_counted_without_special_ones(model: CausalLM) -> None:
    assert model.count_tokens(["", "q", "qz"]) == [0, 1, 2]


@pytest.fixture(params=MODELS)
def spelling(request: pytest.FixtureRequest, rotary_folder: Path, absolute_folder: Path) -> CausalLM:
    """A model that always continues ``q`` with ``z``, ``j``, a line break, ``q`` and so on."""
    lm = CausalLM.load(rotary_folder if request.param == "rotary" else absolute_folder)
    model = lm.model
    with torch.no_grad():
        vectors = torch.randn(model.config.vocab_size, 32, generator=torch.Generator().manual_seed(0))
        vectors = vectors - vectors.mean(1, keepdim=True)
        for name, weight in model.named_parameters():  # every layer adds nothing: the next token depends on the last
            if "o_proj" in name or "down_proj" in name or "c_proj" in name or "wpe" in name:
                weight.zero_()
        model.set_output_embeddings(torch.nn.Linear(32, len(vectors), bias=False))
        model.get_input_embeddings().weight.copy_(vectors)
        head = model.get_output_embeddings().weight
        head.zero_()
        ids = lm.tokenizer.convert_tokens_to_ids(["q", "z", "j", "Ċ"])
        for now, then in zip(ids, [*ids[1:], ids[0]], strict=True):
            head[then] = vectors[now]
    return lm


def test_generation_stops_at_the_end_of_the_line(spelling: CausalLM) -> None:
    passes: list[int] = []
    hook = spelling.model.register_forward_hook(lambda *_: passes.append(1))
    try:
        assert spelling.generate(["Anna: q"], max_new_tokens=40) == ["zj"]
    finally:
        hook.remove()
    assert len(passes) < 10


def test_generation_gives_one_text_each_whatever_the_lengths(spelling: CausalLM) -> None:
    contexts = ["the kite is in the cupboard, Anna: z", "q", "j", "x\n"]
    assert spelling.generate(contexts) == ["j", "zj", "", "qzj"]
    assert [spelling.generate([context])[0] for context in contexts] == ["j", "zj", "", "qzj"]


def test_generation_stops_after_so_many_tokens(spelling: CausalLM) -> None:
    assert spelling.generate(["q", "z"], max_new_tokens=1) == ["z", "j"]


def test_generation_takes_the_end_of_a_context_too_long(spelling: CausalLM) -> None:
    assert spelling.generate(["the kite is in the cupboard\n" * 40 + "q"]) == ["zj"]


def test_generation_with_padding_is_that_of_each_context_alone(model: CausalLM) -> None:
    contexts = ["a", "the kite is in the cupboard, Anna will wait", "user: where?\nassistant:"]
    assert model.generate(contexts, 12) == [model.generate([context], 12)[0] for context in contexts]


@pytest.mark.parametrize("method", ["embed", "generate"])
def test_no_texts_give_nothing(models: dict[str, CausalLM], method: str) -> None:
    assert len(getattr(models["rotary"], method)([])) == 0


# The embedded model.


def test_embedded_model_gains_from_the_turn_that_holds_the_answer() -> None:
    engine = load_engine()
    assert load_engine() is engine
    window = "user: Where did I put the ladder?\nassistant:"
    helpful = "> user: I put the ladder in the garage.\n"
    misleading = "> user: I put the ladder in the attic.\n"
    without, right, wrong = engine.score([window, helpful + window, misleading + window], [" In the garage."] * 3)
    assert right > without > wrong
    (text,) = engine.lm.generate([helpful + window])
    assert "\n" not in text
    assert text


def test_tokenizing_line_by_line_changes_nothing() -> None:
    lm = CausalLM.load()
    assert lm.text._lines_stand_alone
    contexts = [
        "",
        "user:",
        "a\nb\n",
        "> user: I'm  here\u2028now.\nuser: x\r\ny\nassistant:",
        "\n\n",
        "tab\there\n\x0c\nA:",
    ]
    targets = [" At the mill.", "x", " two\nlines", " \u00e9\u00e8", " 42", " ok"]
    expected = [(list(ids), count) for ids, count in lm.text._encode_whole(contexts, targets)]
    assert [(list(ids), count) for ids, count in lm.text._encode_lines(contexts, targets)] == expected
