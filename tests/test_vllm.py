from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from stm_rl import StmError
from stm_rl.lm import CausalLM, LanguageModel
from stm_rl.lm.vllm import VLLM

MISSING = [
    *(() if importlib.util.find_spec("vllm") else ["vllm is not installed"]),
    *(() if torch.cuda.is_available() else ["there is no CUDA GPU"]),
]

CONTEXTS = ["", "the kite", "user: where?\nassistant:", "kite " * 200]
TARGETS = ["Anna", " is at the harbor", " 日本語", " 🙂 42"]

WORDS = ["user:", "Anna", "kite", "harbor", "assistant:", "\n", ">", "Ünïcödé", "日本語", "🙂", "42"]
texts = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)
targets = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join).filter(str.strip)


class SamplingParams:
    """Stands in for vLLM's; other arguments than these are an error there too."""

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        max_tokens: int | None = 16,
        stop: list[str] | None = None,
        prompt_logprobs: int | None = None,
        detokenize: bool = True,
    ) -> None:
        assert max_tokens is not None
        assert max_tokens >= 1
        self.temperature, self.max_tokens, self.stop = temperature, max_tokens, stop
        self.prompt_logprobs, self.detokenize = prompt_logprobs, detokenize


class LLM:
    """Stands in for ``vllm.LLM``: the same answers, from a model of transformers on the CPU."""

    made: dict[str, Any]

    def __init__(self, model: str, *, dtype: str = "auto", trust_remote_code: bool = False, **options: Any) -> None:
        if unknown := set(options) - {"enable_prefix_caching", "load_format", "max_model_len"}:
            raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument {unknown.pop()!r}")
        LLM.made = {"model": model, "dtype": dtype, "trust_remote_code": trust_remote_code, **options}
        self.model = AutoModelForCausalLM.from_pretrained(model).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        length = options.get("max_model_len") or self.model.config.max_position_embeddings
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=length))
        self.asked: list[tuple[list[list[int]], SamplingParams]] = []

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    def generate(self, prompts: Sequence[dict[str, Any]], params: SamplingParams, *, use_tqdm: bool = True) -> Any:
        assert not use_tqdm
        all_ids = [prompt["prompt_token_ids"] for prompt in prompts]
        self.asked.append((all_ids, params))
        return [self.answer(ids, params) for ids in all_ids]

    def answer(self, ids: list[int], params: SamplingParams) -> Any:
        if len(ids) + 1 > self.llm_engine.model_config.max_model_len:
            raise ValueError("the prompt and one new token are longer than the maximum model length")
        with torch.no_grad():
            logprobs = self.model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        found: list[dict[int, Any] | None] | None = None
        if params.prompt_logprobs is not None:
            found = [None]
            found += [{i: SimpleNamespace(logprob=float(logprobs[n, i]))} for n, i in enumerate(ids[1:])]
        written = self.write(ids, params) if params.detokenize else ""
        return SimpleNamespace(prompt_logprobs=found, outputs=[SimpleNamespace(text=written)])

    def write(self, ids: list[int], params: SamplingParams) -> str:
        assert params.temperature == 0
        new: list[int] = []
        for _ in range(params.max_tokens):
            with torch.no_grad():
                token = int(self.model(torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax())
            new.append(token)
            text = str(self.tokenizer.decode(new, skip_special_tokens=True))
            for stop in params.stop or ():
                if stop in text:
                    return text.split(stop)[0]
            if token == self.tokenizer.eos_token_id:
                break
        return str(self.tokenizer.decode(new, skip_special_tokens=True))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams))


@pytest.fixture
def plain(rotary_folder: Path) -> CausalLM:
    return CausalLM.load(rotary_folder)


@pytest.fixture
def lm(rotary_folder: Path) -> VLLM:
    return VLLM.load(rotary_folder, max_model_len=97)


@pytest.fixture(params=["rotary_folder", "absolute_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def test_scores_are_those_of_the_model(folder: Path) -> None:
    lm, plain = VLLM.load(folder, max_model_len=97), CausalLM.load(folder)

    @settings(max_examples=25)
    @given(batch=st.lists(st.tuples(texts, targets), min_size=1, max_size=4))
    def check(batch: list[tuple[str, str]]) -> None:
        contexts, wanted = [context for context, _ in batch], [target for _, target in batch]
        scores = lm.score(contexts, wanted)
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, plain.score(contexts, wanted), atol=1e-4, rtol=1e-5)

    check()


def test_all_texts_go_to_vllm_together(lm: VLLM, plain: CausalLM) -> None:
    np.testing.assert_allclose(lm.score(CONTEXTS, TARGETS), plain.score(CONTEXTS, TARGETS), atol=1e-4)
    ((prompts, params),) = lm.llm.asked
    assert len(prompts) == len(CONTEXTS)
    assert (params.max_tokens, params.prompt_logprobs, params.temperature) == (1, 0, 0)
    assert lm.truncated == 1


def test_text_is_that_of_the_model_to_the_end_of_the_line(lm: VLLM, plain: CausalLM) -> None:
    assert lm.generate(CONTEXTS, 7) == plain.generate(CONTEXTS, 7)
    ((_, params),) = lm.llm.asked
    assert (params.max_tokens, params.stop, params.temperature) == (7, ["\n"], 0)


def test_room_is_kept_for_the_token_that_vllm_writes_with_scores(rotary_folder: Path) -> None:
    lm = VLLM.load(rotary_folder)
    assert lm.max_tokens == 95
    lm.score(["kite " * 200], [" Anna"])
    assert [len(ids) for ids in lm.llm.asked[0][0]] == [95]


def test_how_models_are_loaded(rotary_folder: Path) -> None:
    lm = VLLM.load(rotary_folder, "bfloat16", max_model_len=50)
    assert LLM.made == {
        "model": str(rotary_folder),
        "dtype": "bfloat16",
        "trust_remote_code": False,
        "enable_prefix_caching": True,
        "load_format": "safetensors",
        "max_model_len": 50,
    }
    assert isinstance(lm, LanguageModel)
    assert (lm.id, lm.max_tokens) == (f"vllm:{rotary_folder}", 49)
    assert lm.cache_key != VLLM.load(rotary_folder, "float32").cache_key
    assert lm.count_tokens(["the kite", ""]) == CausalLM.load(rotary_folder).count_tokens(["the kite", ""])


def test_embedded_model_has_its_name() -> None:
    lm = VLLM.load("tiny")
    assert lm.id == "vllm:tiny"
    assert Path(LLM.made["model"]).name == "tiny"


@pytest.mark.parametrize(
    ("options", "match"),
    [({"no_such": 1}, "unexpected keyword argument 'no_such'"), ({"trust_remote_code": True}, "trust_remote_code")],
)
def test_options_that_vllm_does_not_take(rotary_folder: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(StmError, match=f"vLLM cannot load the language model .*{match}"):
        VLLM.load(rotary_folder, **options)


def test_models_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(StmError, match=r"vLLM cannot load the language model .*needs a GPU"):
        VLLM.load(tmp_path)


def test_bad_input(lm: VLLM) -> None:
    with pytest.raises(StmError, match="2 contexts and 1 targets"):
        lm.score(["a", "b"], ["c"])
    with pytest.raises(StmError, match="has no tokens"):
        lm.score(["a"], [" "])
    with pytest.raises(StmError, match="expected 1 to 95"):
        lm.generate(["a"], 96)
    with pytest.raises(StmError, match="no embeddings; take another encoder"):
        lm.embed(["a"])
    assert not lm.llm.asked


def test_no_texts_ask_nothing(lm: VLLM) -> None:
    assert lm.score([], []).shape == (0,)
    assert lm.generate([]) == []
    assert not lm.llm.asked


def test_scores_that_are_not_finite_are_an_error(lm: VLLM) -> None:
    with torch.no_grad():
        lm.llm.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(StmError, match="gave the score nan for ' Anna'"):
        lm.score(["kite"], [" Anna"])


def test_vllm_is_not_installed(rotary_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(StmError, match=r"vllm is not installed; run: pip install 'stm-rl\[vllm\]'"):
        VLLM.load(rotary_folder)


@pytest.mark.skipif(bool(MISSING), reason=f"vLLM itself is not tested: {' and '.join(MISSING)}")
@pytest.mark.filterwarnings("ignore")
def test_vllm_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    lm, plain = VLLM.load("tiny", "float16", gpu_memory_utilization=0.3, enforce_eager=True), CausalLM.load()
    expected = plain.score(CONTEXTS, TARGETS)
    for _ in range(2):  # the second time with what vLLM keeps of common beginnings
        np.testing.assert_allclose(lm.score(CONTEXTS, TARGETS), expected, rtol=0.02, atol=0.2)
    texts = lm.generate(CONTEXTS, 7)
    assert len(texts) == len(CONTEXTS)
    assert any(texts)
    assert "\n" not in "".join(texts)
