from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import WordLM, numbered

from stm_rl import StmError
from stm_rl.features import HashedWords
from stm_rl.lm import PromptFormat, ScoringEngine
from stm_rl.prepare import Preparer


def preparer(lm: WordLM, transcripts: list[Any], **options: Any) -> Preparer:
    settings = {"window": 2, "prompt": PromptFormat()} | options
    return Preparer(transcripts, ScoringEngine(lm), HashedWords(8), **settings)


def test_gain_is_the_score_with_reads_minus_the_score_of_the_window(lm: WordLM) -> None:
    prepare = preparer(lm, [numbered(5)])
    (item,) = prepare([0])
    window = "b: word1\na: word2\nb:"
    with_read, without, whole = lm.score([f"> a: word0\n{window}", window, f"a: word0\n{window}"], [" word3"] * 3)
    assert prepare.gains([(item, 3, (0,)), (item, 3, ())]).tolist() == [with_read - without, 0.0]
    assert prepare.gains([(item, 3, ())], whole=True).tolist() == [whole - without]


def test_gains_need_one_call_of_the_model_and_none_when_known(lm: WordLM, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    score = lm.score
    monkeypatch.setattr(lm, "score", lambda c, t: (calls.append(len(c)), score(c, t))[1])
    prepare = preparer(lm, [numbered(5)])
    (item,) = prepare([0])
    asked = [(item, 3, (0,)), (item, 4, (0, 1)), (item, 4, (1,))]
    assert calls == []  # nothing is scored before it is asked for
    prepare.gains(asked)
    prepare.gains(asked)
    assert calls == [5]  # three contexts with reads, two windows


def test_transcripts_are_prepared_once(lm: WordLM) -> None:
    prepare = preparer(lm, [numbered(4, "x"), numbered(6, "y")])
    first = prepare([1, 0, 1])
    assert [item.transcript.id for item in first] == ["y", "x", "y"]
    assert first[0] is first[2] is prepare([1])[0]


def test_only_so_many_are_kept(lm: WordLM) -> None:
    prepare = preparer(lm, [numbered(3, str(i)) for i in range(5)], keep=6)  # turns
    for index in (0, 1, 2, 3, 4, 0):
        assert prepare([index])[0].transcript.id == str(index)
        assert len(prepare._known) <= 2
    assert [item.transcript.id for item in prepare([0, 1, 2, 3])] == ["0", "1", "2", "3"]  # more than are kept


@pytest.mark.parametrize(
    ("turn", "reads", "start", "expected"),
    [
        (3, (), None, "b: word1\na: word2\nb:"),
        (3, (0,), None, "> a: word0\nb: word1\na: word2\nb:"),
        (1, (), None, "a: word0\nb:"),
        (3, (), 0, "a: word0\nb: word1\na: word2\nb:"),
    ],
)
def test_context_holds_reads_and_window(
    lm: WordLM, turn: int, reads: tuple[int, ...], start: int | None, expected: str
) -> None:
    prepare = preparer(lm, [numbered(5)])
    assert prepare.context(prepare([0])[0], turn, reads, start) == expected


def test_vectors_that_leave_the_observation_space_are_clipped(lm: WordLM) -> None:
    class Loud(HashedWords):
        def __call__(self, texts: Any) -> Any:
            return super().__call__(texts) * 1000

    prepare = Preparer([numbered(3)], ScoringEngine(lm), Loud(8), 2, PromptFormat())
    assert np.abs(prepare([0])[0].vectors).max() == 8


def test_window_and_transcripts_must_be_there(lm: WordLM) -> None:
    with pytest.raises(StmError, match="window is 0"):
        preparer(lm, [numbered(3)], window=0)
    with pytest.raises(StmError, match="no transcripts"):
        preparer(lm, [])
