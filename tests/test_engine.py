from __future__ import annotations

import copy
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import WordLM
from hypothesis import given
from hypothesis import strategies as st

from stm_rl.errors import StmError
from stm_rl.lm import ScoringEngine, as_engine, load_engine, shared

texts = st.sampled_from(["Anna", "kite", "harbor", "the kite of Anna"])
batches = st.lists(st.lists(st.tuples(texts, texts), max_size=6), min_size=1, max_size=5)


def ask(engine: ScoringEngine, batch: list[tuple[str, str]]) -> list[float]:
    return engine.score([context for context, _ in batch], [target for _, target in batch]).tolist()


@given(batches)
def test_results_are_in_order_and_nothing_is_computed_twice(steps: list[list[tuple[str, str]]]) -> None:
    engine, lm = ScoringEngine(WordLM()), WordLM()
    for batch in steps:
        assert ask(engine, batch) == [lm.score([context], [target])[0] for context, target in batch]
    asked = [pair for batch in steps for pair in batch]
    assert sorted(engine.lm.asked) == sorted(set(asked))
    assert engine.requests == len(asked)
    assert engine.computed == len(set(asked))


@given(batches, st.integers(0, 5))
def test_cache_is_bounded_and_a_full_one_changes_no_result(steps: list[list[tuple[str, str]]], size: int) -> None:
    engine, lm = ScoringEngine(WordLM(), cache_size=size), WordLM()
    for batch in steps:
        assert ask(engine, batch) == [lm.score([context], [target])[0] for context, target in batch]
        assert len(engine._scores) <= size


def test_full_cache_keeps_the_newest() -> None:
    engine = ScoringEngine(WordLM(), cache_size=2)
    for name in "abc":
        ask(engine, [("context", name)])
    ask(engine, [("context", "b"), ("context", "c")])
    assert engine.computed == 3
    ask(engine, [("context", "a")])
    assert engine.computed == 4


@given(st.sets(st.tuples(*[st.text("a1 \0", max_size=4)] * 2)))
def test_context_and_target_are_told_apart(pairs: set[tuple[str, str]]) -> None:
    engine = ScoringEngine(WordLM())
    ask(engine, list(pairs))
    assert engine.computed == len(pairs)


def test_one_call_of_the_engine_is_one_call_of_the_model(lm: WordLM, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    score = lm.score
    monkeypatch.setattr(lm, "score", lambda c, t: (calls.append(len(c)), score(c, t))[1])
    engine = ScoringEngine(lm)
    ask(engine, [("a", "b"), ("a", "c"), ("a", "b")])
    ask(engine, [("a", "b")])
    assert calls == [2]
    assert engine.seconds > 0


def test_copies_of_what_environments_are_made_with_share_the_engine(lm: WordLM) -> None:
    engine = ScoringEngine(lm)
    assert copy.deepcopy({"lm": engine})["lm"] is engine


def test_model_or_engine_or_name_will_do(lm: WordLM) -> None:
    engine = as_engine(lm)
    assert engine.lm is lm
    assert as_engine(engine) is engine
    assert as_engine("tiny") is as_engine("tiny")
    assert np.isfinite(as_engine("tiny").score(["a"], [" b"])).all()


class Waiting(WordLM):
    """Waits until it may score."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.asking = threading.Event()

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        self.asking.set()
        assert self.go.wait(10)
        if "bad" in targets:
            raise StmError("the target 'bad' has no tokens")
        return super().score(contexts, targets)


@pytest.fixture
def waiting() -> ScoringEngine:
    return ScoringEngine(Waiting())


def test_submitted_scores_come_in_the_background_and_in_order(waiting: ScoringEngine) -> None:
    first = waiting.submit(["a", "b"], ["Anna", "kite"])
    contexts = ["c"]
    second = waiting.submit(contexts, ["harbor"])
    contexts[0] = "changed while it waits"
    assert not first.done()
    waiting.lm.go.set()
    lm = WordLM()
    assert second.result().tolist() == lm.score(["c"], ["harbor"]).tolist()
    assert first.done()
    assert first.result().tolist() == lm.score(["a", "b"], ["Anna", "kite"]).tolist()
    assert waiting.requests == waiting.computed == 3


def test_what_is_in_memory_does_not_wait_for_what_is_being_computed(waiting: ScoringEngine) -> None:
    waiting.lm.go.set()
    known = ask(waiting, [("a", "Anna")])
    waiting.lm.go.clear()
    pending = waiting.submit(["b"], ["kite"])
    assert waiting.submit(["a"], ["Anna"]).result(0).tolist() == known
    assert ask(waiting, [("a", "Anna")]) == known
    assert waiting.submit([], []).result(0).shape == (0,)
    assert not pending.done()
    waiting.lm.go.set()
    assert pending.result().shape == (1,)


def test_nothing_under_way_is_computed_again(waiting: ScoringEngine) -> None:
    futures = [waiting.submit(["a", "b"], ["Anna", "kite"]), waiting.submit(["b", "c"], ["kite", "harbor"])]
    assert waiting.lm.asking.wait(10)
    asker = threading.Thread(target=ask, args=(waiting, [("a", "Anna"), ("d", "kite")]))
    asker.start()
    waiting.lm.go.set()
    asker.join(10)
    assert [future.result().shape for future in futures] == [(2,), (2,)]
    assert sorted(waiting.lm.asked) == [("a", "Anna"), ("b", "kite"), ("c", "harbor"), ("d", "kite")]
    assert (waiting.requests, waiting.computed) == (6, 4)


def test_errors_come_out_of_the_result_and_the_engine_goes_on(waiting: ScoringEngine) -> None:
    waiting.lm.go.set()
    failing, after = waiting.submit(["a"], ["bad"]), waiting.submit(["a"], ["Anna"])
    with pytest.raises(StmError, match="'bad' has no tokens"):
        failing.result()
    assert after.result().tolist() == ask(waiting, [("a", "Anna")])
    with pytest.raises(StmError, match="'bad' has no tokens"):
        ask(waiting, [("a", "bad")])
    with pytest.raises(ValueError, match="zip"):
        waiting.submit(["a", "b"], ["Anna"])


def test_threads_share_an_engine() -> None:
    class Slow(WordLM):
        def score(self, contexts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
            time.sleep(0.001)
            return super().score(contexts, targets)

    engine, lm = ScoringEngine(Slow(), cache_size=50), WordLM()
    wrong: list[object] = []

    def work(start: int) -> None:
        for step in range(start, start + 40):
            contexts = [f"kite {(step + i) % 30}" for i in range(20)]
            if engine.score(contexts, ["Anna"] * 20).tolist() != lm.score(contexts, ["Anna"] * 20).tolist():
                wrong.append(step)

    threads = [threading.Thread(target=work, args=(7 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert engine.requests == 4 * 40 * 20
    assert engine.computed == len(set(engine.lm.asked)) == len(engine.lm.asked) == 30


@pytest.mark.parametrize(
    ("name", "module", "kind", "expected"),
    [
        ("openai:some/model@http://127.0.0.1:1/v1", "remote", "RemoteLM", ("some/model@http://127.0.0.1:1/v1", {})),
        ("vllm:some/model", "vllm", "VLLM", ("some/model", {"dtype": "float16"})),
        ("some/bert", "masked", "MaskedLM", ("some/bert", {"device": "cuda", "dtype": "float16"})),
    ],
)
def test_the_name_says_which_kind_of_model(
    name: str,
    module: str,
    kind: str,
    expected: tuple[str, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    loaded: list[object] = []

    def load(name: str, **options: str) -> WordLM:
        loaded.append((name, options))
        return WordLM()

    monkeypatch.setitem(sys.modules, f"stm_rl.lm.{module}", SimpleNamespace(**{kind: SimpleNamespace(load=load)}))
    monkeypatch.setattr(shared, "is_masked", lambda name: "bert" in name)
    shared._engine.cache_clear()
    shared._load.cache_clear()
    engine = load_engine(name, "cuda", "float16")
    assert loaded == [expected]
    assert load_engine(name, "cuda", "float16") is engine
    assert engine.cache is None
    kept = load_engine(name, "cuda", "float16", tmp_path)
    assert kept is not engine
    assert kept.cache.path.parent == tmp_path
    shared._engine.cache_clear()
    shared._load.cache_clear()
