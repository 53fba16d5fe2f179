from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from helpers import WordLM, numbered, transcript
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stm_rl import StmError, Transcript, Turn
from stm_rl.features import HashedWords
from stm_rl.labels import GainTable, Labeller, LabelStore, ModelLabels, PairSettings, TextLabels, Values, measure_noise
from stm_rl.labels import labeller as labeller_module
from stm_rl.labels.pairs import pairs_of
from stm_rl.labels.statistics import label_statistics, prefilter_recall
from stm_rl.lm import PromptFormat, ScoringEngine
from stm_rl.prepare import Preparer
from stm_rl.rewards.hindsight import Hindsight

WINDOW = 2


class TiringLM(WordLM):
    """Is interrupted, as by Ctrl-C, when it is asked for the ``calls``-th time and later."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return super().score(contexts, targets)


def talk(seed: int, turns: int = 10) -> Transcript:
    """Return random talk in which words come again."""
    rng = np.random.default_rng(seed)
    lines = [" ".join(f"thing{word}" for word in rng.integers(0, 15, 3)) for _ in range(turns)]
    return transcript(*(f"{'ab'[i % 2]}: {line}" for i, line in enumerate(lines)), name=str(seed))


def preparer(lm: WordLM, transcripts: Sequence[Transcript]) -> Preparer:
    return Preparer(list(transcripts), ScoringEngine(lm), HashedWords(8), WINDOW, PromptFormat())


def every(prepare: Preparer) -> list[Any]:
    return prepare(range(len(prepare.transcripts)))


def triples(table: GainTable) -> list[tuple[int, int, float]]:
    return list(zip(table.turns.tolist(), table.steps.tolist(), table.gains.tolist(), strict=True))


def as_lists(tables: Sequence[GainTable]) -> list[list[tuple[int, int, float]]]:
    return [triples(table) for table in tables]


# Pairs.


def test_all_pairs_outside_the_window_are_tried(lm: WordLM) -> None:
    (item,) = every(preparer(lm, [numbered(6)]))
    found = [tuple(pair) for pair in pairs_of(item, WINDOW, PairSettings()).tolist()]
    assert found == [(turn, step) for step in range(WINDOW, 5) for turn in range(step - WINDOW + 1)]


@pytest.mark.parametrize("prefilter", ["none", "words", "embedding"])
def test_lookback_is_respected(lm: WordLM, prefilter: str) -> None:
    (item,) = every(preparer(lm, [talk(0, 40)]))
    pairs = pairs_of(item, WINDOW, PairSettings(5, prefilter))
    distance = pairs[:, 1] - pairs[:, 0]
    assert set(distance) <= set(range(WINDOW, 6))
    if prefilter == "none":
        assert set(distance) == set(range(WINDOW, 6))


@pytest.mark.parametrize("prefilter", ["words", "embedding"])
def test_prefilters_choose_among_all_pairs(lm: WordLM, prefilter: str) -> None:
    (item,) = every(preparer(lm, [talk(0, 30)]))
    everything = {tuple(pair) for pair in pairs_of(item, WINDOW, PairSettings()).tolist()}
    chosen = [tuple(pair) for pair in pairs_of(item, WINDOW, PairSettings(64, prefilter, 3)).tolist()]
    assert 0 < len(chosen) < len(everything)
    assert set(chosen) < everything
    assert chosen == sorted(chosen, key=lambda pair: (pair[1], pair[0]))


def test_words_keeps_the_turns_that_share_one(lm: WordLM) -> None:
    (item,) = every(preparer(lm, [transcript("a: kite", "b: lamp", "a: soup", "b: so", "a: the kite", "b: lamp kite")]))
    assert pairs_of(item, WINDOW, PairSettings(prefilter="words")).tolist() == [[0, 3], [0, 4], [1, 4]]


def test_embedding_keeps_the_most_similar(lm: WordLM) -> None:
    (item,) = every(preparer(lm, [talk(1, 20)]))
    unit = item.vectors / np.linalg.norm(item.vectors, axis=1, keepdims=True)
    pairs = pairs_of(item, WINDOW, PairSettings(prefilter="embedding", candidates=3))
    for step in range(WINDOW, 19):
        chosen = set(pairs[pairs[:, 1] == step, 0].tolist())
        similar = unit[: step - WINDOW + 1] @ unit[step + 1]
        assert len(chosen) == min(3, len(similar))
        assert min(similar[sorted(chosen)]) >= max(np.delete(similar, sorted(chosen)), default=-1) - 1e-6


def test_turns_that_may_not_be_written_are_no_candidates(lm: WordLM) -> None:
    turns = [*talk(2, 12).turns]
    turns[3] = Turn(turns[3].text, turns[3].speaker, {"writable": False})
    (item,) = every(preparer(lm, [Transcript(tuple(turns))]))
    for prefilter in ("none", "words", "embedding"):
        pairs = pairs_of(item, WINDOW, PairSettings(prefilter=prefilter, candidates=12))
        assert 3 not in pairs[:, 0]
    assert 3 in pairs_of(every(preparer(lm, [talk(2, 12)]))[0], WINDOW, PairSettings())[:, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lookback": 0}, "lookback is 0"),
        ({"candidates": 0}, "candidates is 0"),
        ({"prefilter": "magic"}, "'magic'; expected one of none, words, embedding"),
    ],
)
def test_pair_settings_out_of_range_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StmError, match=message):
        PairSettings(**options)


# Labels.


def test_labels_are_the_gains_one_by_one(lm: WordLM) -> None:
    prepare = preparer(lm, [talk(0), talk(1)])
    alone = preparer(WordLM(), prepare.transcripts)
    for table, item in zip(Labeller(prepare).label(every(prepare)), every(alone), strict=True):
        expected = [alone.gains([(item, step + 1, (turn,))])[0] for turn, step, _ in triples(table)]
        assert table.gains == pytest.approx(np.array(expected), abs=1e-6)
        assert len(table) == sum(step - WINDOW + 1 for step in range(WINDOW, 9))
        assert table.gains.max() > 2  # a word that the window does not hold


@pytest.mark.parametrize("turns", [2, WINDOW, WINDOW + 1])
def test_short_transcripts_have_empty_tables(lm: WordLM, turns: int) -> None:
    prepare = preparer(lm, [numbered(turns), talk(0)])
    short, long = Labeller(prepare).label(every(prepare))
    assert len(short) == 0
    assert len(long) > 0
    values = Values.of(short, turns, level=0.5, reads=2, gamma=0.9)
    assert not values.futures(np.arange(turns), turns - 1).any()


def test_nothing_to_label_is_no_label(lm: WordLM) -> None:
    assert Labeller(preparer(lm, [talk(0)])).label([]) == []
    assert lm.asked == []


def test_equal_transcripts_are_scored_once(lm: WordLM) -> None:
    prepare = preparer(lm, [talk(0), talk(1), talk(0)])
    labeller = Labeller(prepare)
    first, second, third = labeller.label(every(prepare))
    assert labeller.scored == len(first) + len(second)
    assert triples(first) == triples(third)
    assert len(set(lm.asked)) == len(lm.asked)


def test_what_may_be_written_makes_a_transcript_another(lm: WordLM) -> None:
    turns = tuple(Turn(turn.text, turn.speaker, {"writable": i != 0}) for i, turn in enumerate(talk(0).turns))
    prepare = preparer(lm, [talk(0), Transcript(turns)])
    first, second = Labeller(prepare).label(every(prepare))
    assert 0 in first.turns
    assert 0 not in second.turns


def test_progress_counts_every_transcript(lm: WordLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeller_module, "BATCH", 60)
    prepare = preparer(lm, [talk(0), talk(0), talk(1), numbered(2), talk(2), talk(3)])
    seen: list[int] = []
    Labeller(prepare).label(every(prepare), seen.append)
    assert sum(seen) == 6
    assert len(seen) > 1


def test_the_store_spares_the_model(lm: WordLM, tmp_path: Any) -> None:
    prepare = preparer(lm, [talk(0), talk(1)])
    first = Labeller(prepare, store=LabelStore(tmp_path / "labels")).label(every(prepare))
    fresh = WordLM()
    again = preparer(fresh, [talk(1), talk(2), talk(0)])
    labeller = Labeller(again, store=LabelStore(tmp_path / "labels"))
    second = labeller.label(every(again))
    assert as_lists([second[2], second[0]]) == as_lists(first)
    assert labeller.scored == len(second[1])
    (item,) = [item for item in every(again) if item.transcript.id == "2"]
    assert {target for _, target in fresh.asked} <= set(item.targets)


def test_an_interruption_loses_no_finished_batch(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeller_module, "BATCH", 50)  # two transcripts
    talks = [talk(seed) for seed in range(8)]
    whole = preparer(WordLM(), talks)
    expected = Labeller(whole).label(every(whole))
    tired = preparer(TiringLM(2), talks)
    labeller = Labeller(tired, store=LabelStore(tmp_path / "labels"))
    with pytest.raises(KeyboardInterrupt):
        labeller.label(every(tired))
    store = LabelStore(tmp_path / "labels")
    assert len(store) == 4
    assert labeller.scored == sum(map(len, expected[:4]))
    fresh = WordLM()
    rest = preparer(fresh, talks)
    going_on = Labeller(rest, store=store)
    assert as_lists(going_on.label(every(rest))) == as_lists(expected)
    assert going_on.scored == sum(map(len, expected[4:]))
    assert len(store) == 8
    assert len(set(fresh.asked)) == len(fresh.asked)


# Noise.


def strangers(count: int) -> list[Transcript]:
    """Return transcripts of which none shares a word with another."""
    return [
        transcript(*(f"{'ab'[turn % 2]}: t{number}x{turn}" for turn in range(8)), name=str(number))
        for number in range(count)
    ]


def test_noise_is_that_of_the_model() -> None:
    prepare = preparer(WordLM(noise=0.5), strangers(12))
    noise = measure_noise(prepare, every(prepare), reads=3000)
    # The gain is the difference of two jitters, each even over [0, 0.5].
    assert noise.reads == 3000
    assert noise.mean == pytest.approx(0, abs=0.03)
    assert noise.std == pytest.approx(0.5 / np.sqrt(6), rel=0.05)
    assert noise.level == pytest.approx(0.5 * (1 - np.sqrt(2 * 0.002)), abs=0.02)


def test_noise_leaves_out_reads_that_share_words(lm: WordLM) -> None:
    prepare = preparer(lm, [talk(seed) for seed in range(6)])
    noise = measure_noise(prepare, every(prepare), reads=500)
    assert noise.level < 0.02  # a word that comes again gains 2.75
    assert measure_noise(prepare, every(prepare), reads=500) == noise


def test_noise_needs_something_to_measure(lm: WordLM) -> None:
    for talks in ([talk(0)], [numbered(2), numbered(2, "u")]):
        prepare = preparer(lm, talks)
        with pytest.raises(StmError, match="noise cannot be measured"):
            measure_noise(prepare, every(prepare))
    same = [transcript(*["a: kite"] * 6), transcript(*["a: kite"] * 6)]
    prepare = preparer(lm, same)
    with pytest.raises(StmError, match="shares words with all others"):
        measure_noise(prepare, every(prepare))


# Tables and values.


@st.composite
def tables(draw: st.DrawFn) -> tuple[GainTable, int]:
    turns = draw(st.integers(2, 9))
    pairs = [(step, turn) for step in range(1, turns - 1) for turn in range(step)]
    chosen = sorted(draw(st.sets(st.sampled_from(pairs)))) if pairs else []
    gains = [draw(st.integers(-4, 12)) / 4 for _ in chosen]
    steps, held = np.array(chosen, np.int32).reshape(-1, 2).T
    return GainTable(held, steps, np.array(gains, np.float32)), turns


@settings(max_examples=60)
@given(tables(), st.integers(1, 3), st.sampled_from([0.25, 1.0]), st.sampled_from([0.0, 0.5, 0.98, 1.0]))
def test_future_is_the_discounted_sum_of_what_counts(
    found: tuple[GainTable, int], reads: int, level: float, gamma: float
) -> None:
    table, turns = found
    values = Values.of(table, turns, level=level, reads=reads, gamma=gamma)
    counts = []
    for step in range(turns):
        here = [(turn, gain) for turn, at, gain in triples(table) if at == step and gain >= level]
        here.sort(key=lambda pair: (-pair[1], pair[0]))
        counts += [(turn, step, gain) for turn, gain in here[:reads]]
    known = {(turn, step): gain for turn, step, gain in triples(table)}
    for now in range(turns):
        held = np.arange(-1, now + 1)
        expected = [
            sum(gamma ** (step - now) * gain for own, step, gain in counts if own == turn and step >= now)
            for turn in held
        ]
        assert values.futures(held, now) == pytest.approx(np.array(expected), abs=1e-5)
        assert values.gains(held, now).tolist() == [known.get((turn, now), 0.0) for turn in held.tolist()]


@settings(max_examples=40)
@given(tables(), st.integers(1, 3), st.sampled_from([-0.5, 0.0, 0.75]))
def test_best_and_at_least(found: tuple[GainTable, int], reads: int, level: float) -> None:
    table, turns = found
    rows = triples(table)
    assert triples(table.at_least(level)) == [row for row in rows if row[2] >= level]
    best = triples(table.best(reads))
    assert best == [row for row in rows if row in best]  # the order stays
    for step in range(turns):
        here = sorted((gain for _, at, gain in rows if at == step), reverse=True)
        assert sorted((gain for _, at, gain in best if at == step), reverse=True) == here[:reads]


def test_model_labels_forget_noise(lm: WordLM) -> None:
    prepare = preparer(lm, [talk(0)])
    (values,) = ModelLabels(Labeller(prepare), level=0.5, reads=1, gamma=1.0)(every(prepare))
    (table,) = Labeller(prepare).label(every(prepare))
    assert 0 < (np.abs(table.gains) < 0.5).mean() < 1
    counted = table.at_least(0.5).best(1)
    assert values.future.sum() > 0
    assert values.futures(np.arange(10), 9).sum() == 0
    first = [counted.gains[counted.turns == turn].sum() for turn in range(2)]
    assert values.futures(np.arange(2), WINDOW) == pytest.approx(np.array(first))


def test_text_labels_are_the_credit_of_the_hindsight_reward(lm: WordLM) -> None:
    prepare = preparer(lm, [talk(0, 14), numbered(5)])
    items = every(prepare)
    source = TextLabels(gamma=0.9)
    values, nothing = source(items)
    credit = Hindsight().credit(items[0].transcript)
    for turn in range(14):
        due = sum(value * 0.9 ** (at - turn) for at, value in credit.get(turn, ()))
        assert values.futures(np.array([turn]), turn)[0] == pytest.approx(due, rel=1e-4)
    assert not nothing.future.any()
    assert lm.asked == []


# What labels say.


def test_statistics_count_the_best_read_of_each_step(lm: WordLM) -> None:
    (item,) = every(preparer(lm, [numbered(7)]))
    table = GainTable(
        np.array([0, 0, 1, 0, 1, 3], np.int32),
        np.array([2, 3, 3, 5, 5, 5], np.int32),
        np.array([0.1, 2.0, 3.0, 5.0, 1.0, 4.0], np.float32),
    )
    assert label_statistics([item], [table], WINDOW, 0.5) == {
        "transcripts": 1,
        "turns": 7,
        "pairs": 6,
        "steps_that_gain": 0.5,  # 3 and 5 of 2 to 5
        "gain_per_transcript": 8.0,
        "turns_worth_keeping": round(2 / 7, 4),
        "distance": [2, 3, 4],
    }
    assert label_statistics([item], [table], WINDOW, 9)["distance"] is None


def test_statistics_leave_out_what_the_window_shows(lm: WordLM) -> None:
    (item,) = every(preparer(lm, [numbered(7)]))
    table = GainTable(np.array([4], np.int32), np.array([5], np.int32), np.array([2.0], np.float32))
    assert label_statistics([item], [table], WINDOW, 0.5)["steps_that_gain"] == 0


def test_the_recall_of_a_prefilter_is_its_share_of_the_gain(lm: WordLM) -> None:
    prepare = preparer(lm, [talk(seed, 20) for seed in range(3)])
    items = every(prepare)
    words = prefilter_recall(Labeller(prepare, PairSettings(prefilter="words")), items, 0.5, 2)
    assert words["gain"] == 1  # only words gain
    assert 0.1 < words["pairs"] < 0.9
    few = prefilter_recall(Labeller(prepare, PairSettings(prefilter="embedding", candidates=1)), items, 0.5, 2)
    assert 0 < few["gain"] < 1
    nothing = prefilter_recall(Labeller(prepare, PairSettings(prefilter="words")), items, 99, 2)
    assert nothing["gain"] is None
