from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    FNetConfig,
    FNetForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from stm_rl import StmError
from stm_rl.lm import LanguageModel, ScoringEngine
from stm_rl.lm.loading import is_masked
from stm_rl.lm.masked import MaskedLM
from stm_rl.lm.masked_tokens import Variant

CORPUS = [
    "user: I'm meeting Anna at the harbor on Friday.",
    "assistant: Noted. Where did I put the kite? You said the harbor.",
    "> the kite is in the cupboard, Anna will wait for me at the station",
]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MODELS = ("bert", "roberta", "modern", "fnet")
TYPES: dict[str, Any] = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}


def word_pieces(words: Sequence[str]) -> Tokenizer:
    """Return BERT's tokenizer for some words and pieces; its texts are of token type 1, so that types matter."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS]:0 $A:1 [SEP]:0", special_tokens=ends)
    return tokenizer


def corpus_pieces() -> Tokenizer:
    """Return BERT's tokenizer for the words of the corpus, and all letters and their like."""
    words = sorted({word for line in CORPUS for word in line.lower().replace(".", " ").split() if word.isalpha()})
    letters = sorted({letter for line in CORPUS for letter in line.lower() if letter not in " \n"})
    return word_pieces(list(dict.fromkeys([*words, *letters, *(f"##{letter}" for letter in letters), "##bor"])))


def byte_pairs() -> Tokenizer:
    """Return RoBERTa's tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def save(folder: Path, model: Any, tokenizer: Tokenizer, **roles: Any) -> Path:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of random models, all for texts of up to 96 tokens.

    They are BERT (absolute positions, token types), RoBERTa (positions from 2 on), ModernBERT (rotary positions, local
    attention) and FNet, which has no attention mask.
    """
    torch.manual_seed(0)
    pieces, pairs = corpus_pieces(), byte_pairs()
    bert_roles = TYPES | {"pad_token": "[PAD]", "mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    roberta_roles = {"pad_token": "<pad>", "mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"}
    sizes = SIZES | {"max_position_embeddings": 96}
    bert = BertConfig(vocab_size=pieces.get_vocab_size(), **sizes)
    roberta = RobertaConfig(
        vocab_size=pairs.get_vocab_size(), pad_token_id=1, type_vocab_size=1, **sizes | {"max_position_embeddings": 98}
    )
    modern = ModernBertConfig(
        vocab_size=pairs.get_vocab_size(),
        pad_token_id=1,
        cls_token_id=0,
        sep_token_id=2,
        bos_token_id=0,
        eos_token_id=2,
        local_attention=8,
        global_attn_every_n_layers=2,
        **sizes,
    )
    fnet = FNetConfig(vocab_size=pieces.get_vocab_size(), pad_token_id=0, type_vocab_size=2, **sizes)
    folder = tmp_path_factory.mktemp("masked")
    return {
        "bert": save(folder / "bert", BertForMaskedLM(bert), pieces, **bert_roles),
        "roberta": save(folder / "roberta", RobertaForMaskedLM(roberta), pairs, **roberta_roles),
        "modern": save(folder / "modern", ModernBertForMaskedLM(modern), pairs, **roberta_roles),
        "fnet": save(folder / "fnet", FNetForMaskedLM(fnet), pieces, **bert_roles),
    }


@pytest.fixture(scope="session")
def lms(folders: dict[str, Path]) -> dict[str, MaskedLM]:
    return {name: MaskedLM.load(folder) for name, folder in folders.items()}


@pytest.fixture(params=MODELS)
def model(lms: dict[str, MaskedLM], request: pytest.FixtureRequest) -> MaskedLM:
    return lms[request.param]


def again(lm: MaskedLM, batch_tokens: int | None = None, variant: Variant | None = None) -> MaskedLM:
    """Return the same model with counters at 0."""
    return MaskedLM(lm.model, lm.tokenizer, "again", batch_tokens, variant)


def naive_score(lm: MaskedLM, context: str, target: str, variant: str = "word-l2r") -> float:
    """Score one pair, one pass for each masked token, unbatched and with all logits in double precision."""
    encoding = lm.tokenizer(context + target, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids, words = encoding["input_ids"], encoding.word_ids()
    types = encoding["token_type_ids"] if lm.model.config.model_type in ("bert", "fnet") else [0] * len(ids)
    begin = len(context) + len(target) - len(target.lstrip())
    scored = [
        i
        for i, (_, end) in enumerate(encoding["offset_mapping"])
        if end > begin and not encoding["special_tokens_mask"][i]
    ]
    excess = max(0, len(ids) - 96)
    total = 0.0
    for i in scored:
        masked = torch.tensor([ids])
        together = [j for j in scored if j >= i and words[j] == words[i]] if variant == "word-l2r" else [i]
        masked[0, together] = lm.tokenizer.mask_token_id
        kept = [0, *range(1 + excess, len(ids))]
        extra = {} if lm.model.config.model_type == "modernbert" else {"token_type_ids": torch.tensor([types])[:, kept]}
        with torch.no_grad():
            logits = lm.model(masked[:, kept], **extra).logits[0].double()
        total += float(torch.log_softmax(logits[i - excess], -1)[ids[i]])
    return total


def split(batch: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [context for context, _ in batch], [target for _, target in batch]


WORDS = ["user:", "Anna", "kites", "harbor", "assistant:", "\n", ">", "Ünïcödé", "日本語", "🙂", "42", "cupbored"]
phrases = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
texts = phrases | st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=12)
pairs = st.tuples(texts, texts.filter(str.strip))


# Scores.


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=20)
@given(
    batch=st.lists(pairs, min_size=1, max_size=4),
    batch_tokens=st.integers(1, 2000),
    variant=st.sampled_from(["word-l2r", "original"]),
)
def test_score_is_that_of_one_pass_for_each_masked_token(
    lms: dict[str, MaskedLM], name: str, batch: list[tuple[str, str]], batch_tokens: int, variant: Variant
) -> None:
    lm = again(lms[name], batch_tokens, variant)
    batch = [pair for pair in batch if 0 < lm.count_tokens([pair[1]])[0] < 90]
    scores = lm.score(*split(batch))
    assert scores.dtype == np.float64
    assert scores.shape == (len(batch),)
    assert (scores <= 0).all()
    expected = [naive_score(lm, *pair, variant) for pair in batch]
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=1e-5)


def test_very_different_lengths_do_not_disturb_each_other(model: MaskedLM) -> None:
    contexts = ["", "a", "user: the kite " * 5, "> harbor\n", "Anna"]
    targets = [" Anna", " it is at the harbor, " * 2, " no", "x", " kite" * 9]
    scores = model.score(contexts, targets)
    np.testing.assert_allclose(scores, [naive_score(model, c, t) for c, t in zip(contexts, targets, strict=True)], 1e-5)
    np.testing.assert_allclose(scores[::-1], model.score(contexts[::-1], targets[::-1]), atol=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_size_of_a_forward_pass_is_bounded_and_logits_are_of_masked_tokens_only(
    model: MaskedLM, batch_tokens: int
) -> None:
    lm = again(model, batch_tokens)
    sizes: list[int] = []
    rows: list[int] = []
    contexts, targets = ["Anna " * count for count in range(8)], [" kite."] * 8
    scored = sum(len(request.spans) for request in lm.text.encode(contexts, targets))
    longest = max(len(ids) for ids in lm.text.texts([c + t for c, t in zip(contexts, targets, strict=True)]))
    hooks = [
        lm.model.base_model.register_forward_pre_hook(
            lambda _, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
        ),
        lm.model.get_output_embeddings().register_forward_hook(lambda *a: rows.append(a[2][..., 0].numel())),
    ]
    try:
        lm.score(contexts, targets)
    finally:
        for hook in hooks:
            hook.remove()
    assert max(sizes) <= max(batch_tokens, longest)
    assert sum(rows) == scored
    assert sum(sizes) == lm.tokens + lm.padding
    if lm.model.config.model_type == "fnet":
        assert lm.padding == 0
    else:
        assert (len(sizes) == 1) == (batch_tokens == 10_000)
        assert (lm.padding > 0) == (batch_tokens > 1)


def test_pass_that_measures_memory_is_not_counted(model: MaskedLM) -> None:
    lm = again(model)
    lm._probe()
    assert lm.tokens == lm.padding == 0


def test_several_threads_change_no_score(lms: dict[str, MaskedLM]) -> None:
    contexts, targets = ["Anna " * count for count in range(12)], [" kite at the harbor"] * 12
    expected = lms["bert"].score(contexts, targets)
    torch.set_num_threads(2)
    try:
        np.testing.assert_allclose(again(lms["bert"], 64).score(contexts, targets), expected, atol=1e-4)
    finally:
        torch.set_num_threads(1)


def test_context_and_its_order_change_the_score(model: MaskedLM) -> None:
    scores = model.score(["the kite", "the harbor", "", "kite the"], [" Anna"] * 4)
    assert len(set(scores.round(3))) == 4


@pytest.mark.parametrize("target", [" harbor", "harbor", "  harbor", "\nharbor", "\u200bharbor", "\x00 harbor"])
def test_target_counts_from_the_token_of_its_first_letter(lms: dict[str, MaskedLM], target: str) -> None:
    lm = lms["bert"]
    assert lm.score(["the kite is at the "], [target])[0] == pytest.approx(
        naive_score(lm, "the kite is at the ", target.lstrip("\x00\u200b ")), abs=1e-3
    )


def test_line_breaks_mean_nothing_to_bert(lms: dict[str, MaskedLM]) -> None:
    scores = lms["bert"].score(["> Anna.\nuser:", "> Anna. user:"], [" kite"] * 2)
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_variants_differ_only_for_words_of_several_tokens(lms: dict[str, MaskedLM]) -> None:
    lm = lms["bert"]
    assert lm.variant == "word-l2r"
    original = again(lm, variant="original")
    assert lm.tokenizer.tokenize("the harbor") == ["the", "harbor"]
    assert len(lm.tokenizer.tokenize("kitesbor")) > 1
    targets = [" the harbor", " the kitesbor"]
    words, tokens = lm.score(["user:"] * 2, targets), original.score(["user:"] * 2, targets)
    assert words[0] == pytest.approx(tokens[0], abs=1e-5)
    assert abs(words[1] - tokens[1]) > 0.01


def test_later_tokens_of_a_word_are_masked_with_each_but_not_other_words(lms: dict[str, MaskedLM]) -> None:
    lm = lms["bert"]
    seen: list[list[str]] = []
    hook = lm.model.bert.register_forward_pre_hook(
        lambda _, args, kwargs: seen.extend(map(lm.tokenizer.convert_ids_to_tokens, kwargs["input_ids"].tolist())),
        with_kwargs=True,
    )
    try:
        lm.score(["the"], [" kitesbor ."])
    finally:
        hook.remove()
    pieces = lm.tokenizer.tokenize("kitesbor")
    assert len(pieces) > 2
    expected = [
        ["[CLS]", "the", *pieces[:i], *["[MASK]"] * (len(pieces) - i), ".", "[SEP]"] for i in range(len(pieces))
    ]
    assert sorted(seen) == sorted([*expected, ["[CLS]", "the", *pieces, "[MASK]", "[SEP]"]])


def test_no_texts_give_nothing(model: MaskedLM) -> None:
    assert model.score([], []).shape == (0,)
    assert model.embed([]).shape == (0, 32)
    assert model.count_tokens([]) == []


def test_unequal_numbers_of_texts_are_an_error(lms: dict[str, MaskedLM]) -> None:
    with pytest.raises(StmError, match="2 contexts and 1 targets"):
        lms["bert"].score(["a", "b"], ["c"])


def test_context_too_long_loses_its_oldest_tokens_and_is_counted(
    model: MaskedLM, caplog: pytest.LogCaptureFixture
) -> None:
    lm = again(model)
    long = "the kite is in the cupboard\n" * 30
    scores = lm.score([long, "short", "Anna. " + long], [" Anna"] * 3)
    assert lm.truncated == 2
    assert scores[0] == pytest.approx(scores[2], abs=1e-5)  # what is left out has no effect
    assert scores[0] == pytest.approx(naive_score(lm, long, " Anna"), abs=1e-4)
    lm.score([long], [" kite"])
    assert lm.truncated == 3
    said = [record for record in caplog.records if "oldest tokens are left out" in record.message]
    assert len(said) == 1


@pytest.mark.parametrize("name", MODELS)
def test_target_that_fills_the_model_is_scored_and_one_token_more_is_an_error(
    lms: dict[str, MaskedLM], name: str
) -> None:
    lm = lms[name]
    assert lm.max_tokens == 96  # for RoBERTa 98 positions less two
    target = " ." * (lm.max_tokens - 2)
    target = target if lm.count_tokens([target]) == [94] else "." + "\n" * 93
    assert lm.count_tokens([target]) == [94]
    score = lm.score(["Anna "], [target])[0]
    assert score == pytest.approx(naive_score(lm, "Anna ", target), rel=1e-5)
    with pytest.raises(StmError, match=r"has 95 tokens .* at most 94 besides special ones; split"):
        lm.score(["Anna "], [target + "?"])


@pytest.mark.parametrize("target", ["", " ", "\n \t", "\u200b"])
@pytest.mark.parametrize("context", ["", "Anna"])
def test_target_without_text_is_an_error(lms: dict[str, MaskedLM], context: str, target: str) -> None:
    with pytest.raises(StmError, match="has no tokens"):
        lms["bert"].score(["fine", context], [" fine", target])


def test_score_that_is_not_a_number_is_an_error(folders: dict[str, Path]) -> None:
    lm = MaskedLM.load(folders["bert"])
    with torch.no_grad():
        lm.model.bert.encoder.layer[1].output.dense.weight[0, 0] = torch.nan
    with pytest.raises(StmError, match=r"gave the score nan for ' kite'; .* check the model's weights"):
        lm.score(["Anna"], [" kite"])


class Halved(BertForMaskedLM):
    """Scales its logits."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 0.5
        return out


class Placed(BertForMaskedLM):
    """Changes its logits by where they are, so the head cannot be run on some of the tokens."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * (2 + torch.arange(out.logits.shape[1]))[:, None]
        return out


class Attached(BertForMaskedLM):
    """Looks into its base model after it has run."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits + self.bert.embeddings.word_embeddings.weight.sum(-1)
        return out


@pytest.mark.parametrize(("kind", "alone"), [(Halved, True), (Placed, False), (Attached, False)])
def test_model_that_changes_its_logits_is_scored_with_them(
    folders: dict[str, Path], lms: dict[str, MaskedLM], kind: Any, alone: bool
) -> None:
    lm = MaskedLM(kind.from_pretrained(folders["bert"]), lms["bert"].tokenizer, "changed")
    assert (lm._head is not None) == alone
    contexts, targets = ["", "the kite " * 9, "Anna", "a"], [" harbor", " Anna", " kite " * 12, "b"]
    scores = lm.score(contexts, targets)
    expected = [naive_score(lm, c, t) for c, t in zip(contexts, targets, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert (abs(scores - lms["bert"].score(contexts, targets)) > 0.001).all()


# Loading.


def test_loaded_model_is_a_language_model(model: MaskedLM) -> None:
    assert isinstance(model, LanguageModel)
    assert len(model.fingerprint) == 16


def test_configuration_tells_masked_models_from_causal_ones(folders: dict[str, Path], rotary_folder: Path) -> None:
    assert [is_masked(folder) for folder in folders.values()] == [True] * 4
    assert not is_masked(rotary_folder)
    assert not is_masked("tiny")


def test_causal_model_is_an_error(rotary_folder: Path) -> None:
    with pytest.raises(StmError, match="cannot load the language model"):
        MaskedLM.load(rotary_folder)


def test_tokenizer_without_mask_token_or_a_slow_one_is_an_error(lms: dict[str, MaskedLM]) -> None:
    model = lms["bert"].model
    with pytest.raises(StmError, match="no mask token; expected that of a masked"):
        MaskedLM(model, PreTrainedTokenizerFast(tokenizer_object=corpus_pieces()), "no mask")
    with pytest.raises(StmError, match="needs a fast one"):
        MaskedLM(model, object(), "slow")


def test_tokenizer_without_padding_token_changes_no_score(lms: dict[str, MaskedLM]) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=corpus_pieces(), mask_token="[MASK]", **TYPES)
    assert tokenizer.pad_token_id is None
    lm = MaskedLM(lms["bert"].model, tokenizer, "no padding token")
    contexts, targets = ["", "the kite " * 9, "Anna"], [" harbor", " Anna", " kite " * 12]
    np.testing.assert_allclose(lm.score(contexts, targets), lms["bert"].score(contexts, targets), atol=1e-4)
    assert lm.padding > 0
    np.testing.assert_allclose(lm.embed(targets), lms["bert"].embed(targets), atol=1e-4)


def test_padding_and_truncation_settings_of_a_tokenizer_have_no_effect(
    folders: dict[str, Path], lms: dict[str, MaskedLM], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["bert"], folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.enable_truncation(16)
    tokenizer.save(str(folder / "tokenizer.json"))
    contexts, targets = ["a", "the kite is in the cupboard, Anna will wait"], [" kite", " Anna"]
    lm = MaskedLM.load(folder)
    np.testing.assert_allclose(lm.score(contexts, targets), lms["bert"].score(contexts, targets), atol=1e-4)
    assert lm.cache_key == lms["bert"].cache_key


def test_tokenizer_without_words_scores_the_original_variant_and_says_so(
    lms: dict[str, MaskedLM], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = byte_pairs()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<mask>")
    lm = MaskedLM(lms["roberta"].model, fast, "no words")
    assert lm.variant == "original"
    assert "does not split texts into words" in caplog.text
    assert lm.score(["Anna"], [" kite"])[0] == pytest.approx(naive_score(lm, "Anna", " kite", "original"), abs=1e-4)
    caplog.clear()
    assert MaskedLM(lms["roberta"].model, fast, "asked for", variant="original").variant == "original"
    assert not caplog.records
    with pytest.raises(StmError, match=r"which the scoring variant word-l2r needs; take original"):
        MaskedLM(lms["roberta"].model, fast, "no words", variant="word-l2r")


def test_unknown_variant_is_an_error(lms: dict[str, MaskedLM]) -> None:
    unknown: Any = "whole-word"
    with pytest.raises(StmError, match=r"'whole-word'; expected one of word-l2r, original"):
        again(lms["bert"], variant=unknown)


@pytest.mark.parametrize("name", ["bert", "roberta", "modern"])
def test_half_precision_scores_about_the_same(folders: dict[str, Path], lms: dict[str, MaskedLM], name: str) -> None:
    half = MaskedLM.load(folders[name], dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert half._pads
    assert half._head is not None
    contexts, targets = ["the kite is in the", "a"], [" harbor", " Anna will wait"]
    scores, exact = half.score(contexts, targets), lms[name].score(contexts, targets)
    assert (scores != exact).all()
    np.testing.assert_allclose(scores, exact, rtol=0.05, atol=0.2)


def test_cache_key_tells_apart_all_that_changes_scores(folders: dict[str, Path], lms: dict[str, MaskedLM]) -> None:
    lm = lms["bert"]
    assert MaskedLM.load(folders["bert"]).cache_key == lm.cache_key
    other = MaskedLM.load(folders["bert"])
    with torch.no_grad():
        other.model.cls.predictions.bias[3] += 1
    shorter = MaskedLM.load(folders["bert"])
    shorter.tokenizer.model_max_length = 50
    cased = MaskedLM.load(folders["bert"])
    cased.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    variants = [
        lm,
        again(lm, variant="original"),
        MaskedLM.load(folders["bert"], dtype="bfloat16"),
        other,
        again(shorter),
        cased,
        lms["roberta"],
    ]
    assert len({variant.cache_key for variant in variants}) == len(variants)


# Embeddings, tokens and text.


def test_embedding_is_the_mean_of_the_last_hidden_states(model: MaskedLM) -> None:
    given = ["Anna", "the kite is in the cupboard " * 2, "日本語 🙂", "x"]
    together = model.embed(given)
    assert together.dtype == np.float32
    for text, vector in zip(given, together, strict=True):
        encoding = model.tokenizer(text, return_tensors="pt")
        names = [name for name in ("input_ids", "token_type_ids") if name in encoding]
        with torch.no_grad():
            hidden = model.model.base_model(**{name: encoding[name] for name in names}).last_hidden_state
        np.testing.assert_allclose(vector, hidden[0].mean(0).numpy(), atol=1e-4)


def test_embedding_of_a_text_too_long_or_empty_is_finite(model: MaskedLM) -> None:
    assert np.isfinite(model.embed(["the kite is in the cupboard " * 40, ""])).all()


def test_tokens_are_counted_without_special_ones(lms: dict[str, MaskedLM]) -> None:
    assert lms["bert"].count_tokens(["", "the harbor", "the."]) == [0, 2, 2]


def test_masked_model_does_not_write(model: MaskedLM) -> None:
    with pytest.raises(StmError, match=r"cannot write text; give a causal .* for mode=generate"):
        model.generate(["Anna:"])


# With environments, and as a model of language.


def test_environments_run(folders: dict[str, Path], lms: dict[str, MaskedLM]) -> None:
    config = BertConfig.from_pretrained(folders["bert"], max_position_embeddings=512)
    engine = ScoringEngine(MaskedLM(BertForMaskedLM(config), lms["bert"].tokenizer, "long"))
    envs = gym.make_vec("stm_rl/Dialogue-v0", 4, vectorization_mode="vector_entry_point", lm=engine)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    total = np.zeros(4)
    for _ in range(8):
        total += envs.step(envs.action_space.sample())[1]
    envs.close()
    assert engine.computed > 0
    assert np.isfinite(total).all()


SHORT = ["anna", "berta", "carl", "dora", "emil"]
LONG = ["fritz ##lin", "gustav ##mir", "hanna ##son", "ida ##ta", "jon ##ric"]


@pytest.fixture(scope="module")
def trained() -> MaskedLM:
    """Return a BERT trained for some seconds on lines that often say a name of one or two tokens twice."""
    words = [">", "has", "the", "ball", "kite", "who", "?"]
    first_name = len(SPECIAL) + len(words)
    words += [token for name in SHORT + LONG for token in name.split()]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_pieces(words),
        pad_token="[PAD]",
        mask_token="[MASK]",
        **TYPES,
    )
    torch.manual_seed(0)
    sizes = SIZES | {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.05}
    dropout = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes, **dropout))
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    rng = np.random.default_rng(0)
    for _ in range(250):
        batch = tokenizer([line(rng) for _ in range(32)], padding=True, return_tensors="pt")
        ids = batch["input_ids"]
        masked = (torch.rand(ids.shape) < 0.3) & (ids >= first_name)
        batch["input_ids"] = ids.where(~masked, torch.tensor(tokenizer.mask_token_id))
        loss = model(**batch, labels=ids.where(masked, torch.tensor(-100))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return MaskedLM(model, tokenizer, "trained")


def line(rng: np.random.Generator) -> str:
    """Return a line that tells who has something, or none, and a question and its answer."""
    who, what = rng.choice(SHORT + LONG).replace(" ##", ""), rng.choice(["ball", "kite"])
    return (f"> {who} has the {what} " if rng.random() < 0.7 else "") + f"who has the {what} ? {who}"


def answers(lm: MaskedLM, names: list[str], read: list[str]) -> NDArray[np.float64]:
    """Score names as the answer to a question; for each a line with another name may be read before."""
    lines = [f"> {name} has the kite\n" if name else "" for name in read]
    return lm.score([f"{text}who has the kite ?" for text in lines], [f" {name}" for name in names])


def test_reading_the_right_line_gains_and_a_wrong_one_loses(trained: MaskedLM) -> None:
    names = [name.replace(" ##", "") for name in SHORT + LONG]
    without = answers(trained, names, [""] * len(names))
    right = answers(trained, names, names)
    wrong = answers(trained, names, names[1:] + names[:1])
    assert without.mean() == pytest.approx(-np.log(len(names)), abs=0.7)
    assert (right - without > 0.5).all()
    assert (right - without).mean() > 1.0
    assert (wrong - without < -0.5).all()


def test_original_variant_leaves_nothing_to_gain_for_words_of_several_tokens(trained: MaskedLM) -> None:
    """Long names are as likely as short ones, but each of their tokens is given away by the other."""
    names = [name.replace(" ##", "") for name in LONG]
    original = again(trained, variant="original")
    for lm, gains in ((trained, True), (original, False)):
        gain = answers(lm, names, names) - answers(lm, names, [""] * len(names))
        assert (gain > 0.5).all() if gains else (abs(gain) < 0.2).all()
    assert (answers(original, names, [""] * len(names)) > -0.3).all()
