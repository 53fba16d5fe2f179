"""Evidence recall: the metric, the keepers, the optimum and the report."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from helpers import numbered, transcript
from hypothesis import given, settings
from hypothesis import strategies as st

from stm_rl.errors import StmError
from stm_rl.evaluation.recall import Held, Keeper, Measured, Stream, check_counts, recall_of, streams_of
from stm_rl.evaluation.recall_keepers import KeepBest, NewestPerSubject, keep_best, keepers, subject_of
from stm_rl.evaluation.recall_optimum import most_held, optimum
from stm_rl.evaluation.recall_report import bench_recall, resampled_shares
from stm_rl.evaluation.statistics import RESAMPLES, Bootstrap
from stm_rl.transcript import Probe, Question, Transcript, Turn

UNWRITABLE = {"writable": False}


def stream(turns: int, *needs: tuple[int, tuple[int, ...]], unwritable: Sequence[int] = ()) -> Stream:
    """Return a stream of ``turns`` turns; a need is the dependent turn and its evidence."""
    made = tuple(Turn(f"word{i}", "", UNWRITABLE if i in unwritable else {}) for i in range(turns))
    return Stream.of(Transcript(made, tuple(Probe(turn, evidence) for turn, evidence in needs)))


def shares(keeper: Measured, streams: list[Stream], slots: int) -> tuple[float, float]:
    found, count = keeper.recall(streams, slots), check_counts(streams).sum()
    return float(found.joint.sum() / count), float(found.mean.sum() / count)


def baseline(name: str) -> Measured:
    return keepers()[name][0]


# The metric.


def test_a_probe_looks_into_the_memory_after_the_write_of_the_step_before() -> None:
    seen = stream(6, (3, (2,)), (5, (2, 3)))
    assert [check.step for check in seen.checks] == [2, 4]
    assert shares(baseline("fifo"), [seen], 1) == (0.5, 0.5)  # turn 2 is written at step 2; at step 4 turn 4 is held
    assert shares(baseline("fifo"), [seen], 2) == (0.5, 0.75)
    assert shares(baseline("fifo"), [seen], 3) == (1.0, 1.0)


def test_joint_and_mean_are_pooled_over_the_probes_of_all_transcripts() -> None:
    one, other = stream(4, (3, (0, 1))), stream(5, (2, (0,)), (3, (0,)), (4, (0, 1, 2)))
    held: list[Held] = [[frozenset({0})], [frozenset({0}), frozenset(), frozenset({0, 1, 2})]]
    found = recall_of([one, other], held)
    assert found.joint.tolist() == [0, 2]
    assert found.mean.tolist() == [0.5, 2]
    assert check_counts([one, other]).tolist() == [1, 3]


def test_questions_are_asked_at_the_end() -> None:
    base = numbered(4)
    asked = Transcript(
        base.turns, questions=(Question("Q?", "a", (0,)), Question("R?", "b"), Question("S?", "c", (3,)))
    )
    seen = Stream.of(asked)
    assert [check.step for check in seen.checks] == [4, 8]
    assert seen.writable.tolist() == [True] * 4 + [False] * 6
    assert shares(baseline("fifo"), [seen], 1) == (0.5, 0.5)  # questions and answers push nothing out


def test_transcripts_without_probes_have_nothing_to_recall() -> None:
    with pytest.raises(StmError, match=r"none of the 1 transcript\(s\) says"):
        streams_of([numbered(3)])
    mixed = streams_of([numbered(3), transcript("a: x", "b: y", probes=[Probe(1, (0,))])])
    assert shares(baseline("fifo"), mixed, 1) == (1.0, 1.0)


# Keepers.


def needs_of_each_turn(texts: Sequence[str], speaker: str = "") -> Stream:
    """Return a stream with one check for each text, all of them at the end."""
    turns = (*(Turn(text, speaker) for text in texts), Turn("end", "", UNWRITABLE), Turn("end", "", UNWRITABLE))
    probes = tuple(Probe(len(texts) + 1, (i,)) for i in range(len(texts)))
    return Stream.of(Transcript(turns, probes))


def kept(name: str, texts: Sequence[str], slots: int) -> list[str]:
    """Return the texts that a keeper holds in the end."""
    keeper = baseline(name)
    assert isinstance(keeper, Keeper)
    held = keeper.play([needs_of_each_turn(texts)], slots)[0][0]
    return [texts[i] for i in sorted(held)]


TEXTS = ["Is it 9?", "Anna comes at 5 on Friday", "hm", "a rather long turn about nothing at all", "I see", "well"]


@pytest.mark.parametrize(
    ("name", "slots", "expected"),
    [
        ("fifo", 2, ["I see", "well"]),
        ("first", 2, ["Is it 9?", "Anna comes at 5 on Friday"]),
        ("longest", 2, ["Anna comes at 5 on Friday", "a rather long turn about nothing at all"]),
        ("salience", 2, ["Anna comes at 5 on Friday", "I see"]),
        ("salience", 3, ["Is it 9?", "Anna comes at 5 on Friday", "I see"]),
    ],
)
def test_simple_keepers(name: str, slots: int, expected: list[str]) -> None:
    assert kept(name, TEXTS, slots) == expected


def test_the_newest_of_equals_stays() -> None:
    seen = needs_of_each_turn(["a", "b", "c"])
    assert keep_best(seen, np.zeros(len(seen)), 2)[0] == {1, 2}


def test_a_dropped_turn_does_not_come_back() -> None:
    seen = stream(6, (2, (0,)), (5, (0, 1)))
    assert keep_best(seen, np.array([1.0, 0, 2, -1, -1, -1]), 1) == [{0}, {2}]


def test_newest_per_subject() -> None:
    texts = ["Mary went home.", "The cat slept.", "John ate.", "The dog ran.", "mary came back."]
    assert kept("newest-per-subject", texts, 8) == texts[1:]
    assert kept("newest-per-subject", texts, 2) == texts[3:]
    assert [subject_of(text) for text in ("The cat slept.", "An owl", "...", "the")] == [
        ("the", "cat"),
        ("an", "owl"),
        (),
        ("the",),
    ]


def test_tf_idf_counts_words_of_other_transcripts_only() -> None:
    own = needs_of_each_turn(["kite kite kite", "lamp lamp", "vase"])
    others = [needs_of_each_turn(["kite", "kite vase"]), needs_of_each_turn(["kite"])]
    keeper = baseline("tf-idf")
    assert isinstance(keeper, Keeper)
    # Others never say lamp, say vase once and kite thrice; what the transcript itself repeats does not count.
    assert keeper.play([own, *others], 1)[0][0] == {1}
    assert keeper.play([own, *others], 2)[0][0] == {1, 2}


def test_tf_idf_takes_the_tasks_of_babi_for_data_sets_of_their_own() -> None:
    def of_task(task: int, *texts: str) -> Stream:
        seen = needs_of_each_turn(texts)
        return Stream.of(Transcript(seen.transcript.turns, seen.transcript.probes, meta={"task": task}))

    keeper = baseline("tf-idf")
    assert isinstance(keeper, Keeper)
    streams = [of_task(1, "kite", "lamp"), of_task(1, "kite"), of_task(2, "lamp"), of_task(2, "lamp lamp", "lamp")]
    assert keeper.play(streams, 1)[0][0] == {1}


def test_reservoir_holds_every_turn_equally_often() -> None:
    seen = needs_of_each_turn([f"w{i}" for i in range(12)])
    held = keepers(0)["reservoir"][0]
    assert isinstance(held, Keeper)
    counts = np.zeros(12)
    for contents in held.play([seen] * 2000, 3):
        counts[list(contents[0])] += 1
    assert counts.sum() == 3 * 2000
    assert np.abs(counts / 2000 - 0.25).max() < 0.05


def test_keepers_that_draw_lots_have_several_seeds_and_repeat() -> None:
    seen = [needs_of_each_turn([f"w{i}" for i in range(30)])]
    for name in ("random", "reservoir"):
        once, again = ([member.recall(seen, 4).joint[0] for member in keepers(3)[name]] for _ in range(2))
        assert once == again
        assert len(once) == 5
    plays = [member.play(seen, 4)[0][0] for member in keepers()["reservoir"] if isinstance(member, Keeper)]
    assert len(set(plays)) > 1


# What holds for all.


@st.composite
def streams(draw: st.DrawFn, turns: int = 9, probes: int = 6) -> Stream:
    count = draw(st.integers(2, turns))
    unwritable = draw(st.sets(st.integers(0, count - 1), max_size=3))
    needs = draw(
        st.lists(
            st.integers(1, count - 1).flatmap(
                lambda turn: st.tuples(st.just(turn), st.sets(st.integers(0, turn - 1), min_size=1, max_size=3))
            ),
            max_size=probes,
        )
    )
    return stream(count, *((turn, tuple(sorted(evidence))) for turn, evidence in needs), unwritable=sorted(unwritable))


def brute_force(seen: Stream, slots: int) -> tuple[Fraction, Fraction]:
    """Return the optimum by trying every content of the memory at every step."""
    best: list[Fraction] = []
    for joint in (True, False):
        states = {frozenset[int](): Fraction(0)}
        for step in range(len(seen)):
            after: dict[frozenset[int], Fraction] = {}
            for held, value in states.items():
                choices = {held}
                if seen.writable[step]:
                    choices |= {(held - {out}) | {step} for out in held}
                    choices |= {held | {step}} if len(held) < slots else set()
                for choice in choices:
                    won = value
                    for check in seen.checks:
                        if check.step == step:
                            share = Fraction(len(check.evidence & choice), len(check.evidence))
                            won += (share == 1) if joint else share
                    after[choice] = max(won, after.get(choice, Fraction(0)))
            states = after
        best.append(max(states.values()))
    return best[0], best[1]


@settings(max_examples=150)
@given(streams(), st.integers(1, 4))
def test_the_optimum_is_exact(seen: Stream, slots: int) -> None:
    joint, mean = brute_force(seen, slots)
    found = optimum(seen, slots)
    assert found == (float(joint), float(mean))


@settings(max_examples=60)
@given(st.lists(streams(turns=14, probes=8), min_size=1, max_size=4), st.integers(1, 5))
def test_no_keeper_beats_the_oracle_or_holds_what_it_may_not(seen: list[Stream], slots: int) -> None:
    groups = keepers()
    best = groups["oracle"][0].recall(seen, slots)
    for members in groups.values():
        for member in members:
            found = member.recall(seen, slots)
            assert (found.joint <= best.joint + 1e-9).all()
            assert (found.mean <= best.mean + 1e-9).all()
            assert (found.joint <= found.mean + 1e-9).all()
            if isinstance(member, Keeper):
                for one, held in zip(seen, member.play(seen, slots), strict=True):
                    check_contents(one, held, slots)


def check_contents(seen: Stream, held: Held, slots: int) -> None:
    """Fail if more is held than fits, what may not be written, what has not come yet, or what had been dropped."""
    for check, content in zip(seen.checks, held, strict=True):
        assert len(content) <= slots
        assert all(seen.writable[turn] and turn <= check.step for turn in content)
    for (check, before), (_, after) in pairwise(zip(seen.checks, held, strict=True)):
        assert all(turn > check.step or turn in before for turn in after)


# The optimum.


def test_the_optimum_of_known_cases() -> None:
    # Two turns wanted together and one slot: nothing whole, half of it in the mean.
    assert optimum(stream(4, (3, (0, 1))), 1) == (0, 0.5)
    assert optimum(stream(4, (3, (0, 1))), 2) == (1, 1)
    # A slot serves one turn after another.
    assert optimum(stream(7, (2, (0,)), (4, (2,)), (6, (4,))), 1) == (3, 3)
    # It cannot serve 0 at the end if it serves 1 in between.
    assert optimum(stream(5, (3, (1,)), (4, (0,))), 1) == (1, 1)
    # Holding one turn for two later checks beats holding two for one.
    assert optimum(stream(6, (3, (0,)), (4, (1, 2)), (5, (0,))), 2) == (2, 2.5)
    # What may not be written is never held.
    assert optimum(stream(4, (3, (0, 1)), unwritable=[1]), 4) == (0, 0.5)
    assert optimum(stream(3), 2) == (0, 0)


def test_questions_at_the_end_are_a_choice_of_turns() -> None:
    one = Fraction(1)
    groups = ((6, (0, 1), one), (6, (0, 2), one), (6, (3, 4), one), (6, (5,), one))
    assert [most_held(groups, slots) for slots in (1, 2, 3, 4, 6)] == [1, 1, 2, 3, 4]


def test_the_optimum_of_long_transcripts_is_fast() -> None:
    rng = np.random.default_rng(0)
    far = [
        (p, tuple(sorted({int(rng.integers(max(0, p - 90), p)) for _ in range(1 + p % 2)}))) for p in range(900, 1500)
    ]
    ends = [Question("Q?", "a", tuple(sorted({int(t) for t in rng.integers(600, size=1 + i % 3)}))) for i in range(150)]
    asked = Stream.of(Transcript(numbered(600).turns, questions=tuple(ends)))
    for slots in (4, 64):
        for seen in (stream(1500, *far), asked):
            joint, mean = optimum(seen, slots)
            assert 0 < joint <= mean <= len(seen.checks)


# The report.


def test_the_report_gives_both_metrics_with_intervals_at_every_budget() -> None:
    seen = [stream(6, (5, (i % 5,)), (4, (0, 3))) for i in range(20)]
    groups: dict[str, list[Measured]] = {
        **keepers(),
        "twice": [KeepBest("twice", lambda s: [np.zeros(len(x)) for x in s])],
    }
    played: list[tuple[str, int]] = []
    report = bench_recall(seen, groups, (1, 4, 1), on_played=lambda name, budget: played.append((name, budget)))
    assert list(report) == ["1", "4"]
    assert len(played) == 2 * (2 * 5 + len(groups) - 2)
    for budget in ("1", "4"):
        assert set(report[budget]) == set(groups)
        for entry in report[budget].values():
            for metric in ("joint", "mean"):
                low, high = entry[metric]["ci95"]
                assert 0 <= low <= entry[metric]["mean"] <= high <= 1
    assert report["4"]["twice"] == report["4"]["fifo"]
    assert report == bench_recall(seen, groups, (1, 4))
    with pytest.raises(StmError, match="slots is 0"):
        bench_recall(seen, groups, (0,))


def test_intervals_are_those_of_the_bootstrap_of_evaluations() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 6, size=40).astype(float)
    values = np.stack([rng.binomial(counts.astype(int), 0.4), rng.binomial(counts.astype(int), 0.7)]).astype(float)
    drawn = resampled_shares(values, counts)
    assert drawn.shape == (RESAMPLES, 2)
    bootstrap = Bootstrap(40)
    for row, found in zip(values, drawn.T, strict=True):
        expected = bootstrap.interval(row[None], counts[None])["ci95"]
        np.testing.assert_allclose(np.percentile(found, [2.5, 97.5]), expected, atol=0.01)


def test_a_subject_takes_one_slot() -> None:
    seen = stream(4, (3, (0, 1)))
    assert NewestPerSubject().play([seen], 2)[0] == [{1, 2}]


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    needs = [(p, tuple(sorted({int(t) for t in rng.integers(max(0, p - 20), p, size=2)}))) for p in range(20, 60)]
    for slots in range(1, 12):
        optimum(stream(60, *needs), slots)
    assert capfd.readouterr().out == ""
