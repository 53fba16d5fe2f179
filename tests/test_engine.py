from __future__ import annotations

import numpy as np
import pytest
from helpers import WordLM
from hypothesis import given
from hypothesis import strategies as st

from stm_rl.lm import ScoringEngine, as_engine

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
        assert len(engine._cache) <= size


def test_full_cache_keeps_the_newest() -> None:
    engine = ScoringEngine(WordLM(), cache_size=2)
    for name in "abc":
        ask(engine, [("context", name)])
    ask(engine, [("context", "b"), ("context", "c")])
    assert engine.computed == 3
    ask(engine, [("context", "a")])
    assert engine.computed == 4


def test_context_and_target_are_told_apart() -> None:
    engine = ScoringEngine(WordLM())
    ask(engine, [("a b", "c"), ("a ", "b c")])
    assert engine.computed == 2


def test_one_call_of_the_engine_is_one_call_of_the_model(lm: WordLM, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    score = lm.score
    monkeypatch.setattr(lm, "score", lambda c, t: (calls.append(len(c)), score(c, t))[1])
    engine = ScoringEngine(lm)
    ask(engine, [("a", "b"), ("a", "c"), ("a", "b")])
    ask(engine, [("a", "b")])
    assert calls == [2]
    assert engine.seconds > 0


def test_model_or_engine_or_name_will_do(lm: WordLM) -> None:
    engine = as_engine(lm)
    assert engine.lm is lm
    assert as_engine(engine) is engine
    assert as_engine("tiny") is as_engine("tiny")
    assert np.isfinite(as_engine("tiny").score(["a"], [" b"])).all()
