from __future__ import annotations

import itertools
import json
import math
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_main

from stm_rl.comparison import Continuation, write_continuations
from stm_rl.errors import StmError
from stm_rl.review import Rating, Store, Tasks
from stm_rl.review.export import text_preferences
from stm_rl.review.statistics import krippendorff_alpha, majority, results, wilson, win_rate


def pair(number: int, kind: str = "dialogue", same: bool = False, **more: Any) -> Continuation:
    """Return a continuation of turn 3 of a transcript of its own."""
    values: dict[str, Any] = {
        "kind": kind,
        "env": f"stm_rl/{kind.capitalize()}-v0",
        "transcript": f"t{number}",
        "turn": 3,
        "speaker": "b",
        "before": ["a: The key is in the box.", "b: Yes.", "a: Where is the key?"],
        "window": ["b: Yes.", "a: Where is the key?"],
        "reads": ["a: The key is in the box."],
        "truth": "In the box.",
        "with_memory": f"In the box, {number}.",
        "without_memory": f"In the box, {number}." if same else f"In the shed, {number}.",
        "agent": "fifo",
        "lm": "words",
        "seed": 0,
        "decision": {"write": 2, "reads": [1], "forget": [], "text": ""},
        "state": json.dumps(
            {
                "memory": {"turn": [0, -1], "written": [0, 0], "last_read": [1, 0], "reads": [1, 0]},
                "step_index": 2,
                "transcript_index": 0,
                "overlap_since": [0.0, 0.0],
                "written": [],
                "notes": [],
            }
        ),
    }
    return Continuation(**values | more)


def rated(rater: str, item: str, won: bool | None, marks: tuple[int, int] | None = None, first: str = "with") -> Rating:
    """Return a rating: whether memory won, and marks for the texts with and without memory."""
    choice = "tie" if won is None else ("first" if won == (first == "with") else "second")
    shown = marks if marks is None or first == "with" else (marks[1], marks[0])
    return Rating(rater, item, first, choice, {"coherence": shown} if shown else {})


# What is shown.


def test_order_is_drawn_for_each_rater_and_pair_and_stays() -> None:
    tasks, again = (Tasks([pair(number) for number in range(200)], seed=3) for _ in range(2))
    queue = tasks.queue("anna")
    assert queue == again.queue("anna")
    assert sorted(queue) == sorted(tasks.queue("ben")) == sorted(tasks.items)
    assert queue != tasks.queue("ben")
    sides = [tasks.sides("anna", item)[0] for item in queue]
    assert sides == [again.sides("anna", item)[0] for item in queue]
    assert sides != [tasks.sides("ben", item)[0] for item in queue]
    assert 70 < sides.count("with") < 130
    other = Tasks([pair(number) for number in range(200)], seed=4)
    assert [other.sides("anna", item)[0] for item in queue] != sides


def test_pairs_with_one_text_twice_are_not_shown() -> None:
    tasks = Tasks([pair(0), pair(1, same=True), pair(2)])
    assert (len(tasks.items), tasks.identical) == (2, 1)
    with pytest.raises(StmError, match="nothing to compare"):
        Tasks([pair(0, same=True)])


def test_a_sample_is_drawn_from_the_seed_and_is_the_same_for_all() -> None:
    found = [pair(number) for number in range(50)]
    tasks = Tasks(found, 10, seed=1)
    assert len(tasks.items) == 10
    assert list(tasks.items) == list(Tasks(list(reversed(found)), 10, seed=1).items)
    assert list(tasks.items) != list(Tasks(found, 10, seed=2).items)
    assert len(Tasks(found, 99).items) == 50


# The store.


def test_ratings_are_kept_once_and_undone_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path / "review.sqlite")
    one, two, other = rated("anna", "x", True, (4, 2)), rated("anna", "y", None), rated("ben", "x", False)
    assert [store.add(rating) for rating in (one, other, two)] == [True] * 3
    assert not store.add(rated("anna", "x", False))
    assert store.get("anna", "x") == one
    assert store.ratings() == [one, other, two]
    assert store.undo("anna") == two
    assert store.undo("anna") == one
    assert store.undo("anna") is None
    assert store.ratings() == [other]
    store.close()
    assert Store(tmp_path / "review.sqlite", write=False).ratings("ben") == [other]


def test_a_rating_is_on_the_disk_when_it_is_acknowledged(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from stm_rl.review import Rating, Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "print(store.add(Rating('anna', 'x', 'with', 'first', {'coherence': (5, 1)})), flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "review.sqlite"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "True\n"), done.stderr
    assert Store(path).ratings() == [Rating("anna", "x", "with", "first", {"coherence": (5, 1)})]


def test_the_seed_of_a_review_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "review.sqlite")
    assert store.seed(5) == 5
    assert store.seed() == 5
    with pytest.raises(StmError, match="--seed 5, not 6"):
        store.seed(6)


def test_files_that_are_no_store_are_told(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no database, whatever its name says" * 50)
    with pytest.raises(StmError, match="cannot be used"):
        Store(tmp_path / "text.sqlite")
    with sqlite3.connect(tmp_path / "new.sqlite") as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(StmError, match="version 9"):
        Store(tmp_path / "new.sqlite")
    with pytest.raises(StmError, match="nothing was rated yet"):
        Store(tmp_path / "missing.sqlite", write=False)


# What ratings say.


def test_who_won_does_not_depend_on_the_order() -> None:
    for first, won in itertools.product(("with", "without"), (True, False, None)):
        one = rated("anna", "x", won, (5, 2), first)
        assert one.memory_won is won
        assert one.marks("coherence") == (5, 2)
        assert one.marks("relevance") is None
    skipped = Rating("anna", "x", "with", "skip", {})
    assert skipped.memory_won is None
    assert skipped.marks("coherence") is None


def test_wilson_intervals_are_those_of_the_textbook() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_one_rater_gets_wilsons_interval_and_ties_stay_apart() -> None:
    ratings = [rated("anna", f"i{n}", n < 8) for n in range(10)] + [rated("anna", "t", None)]
    assert win_rate(ratings) == {"mean": 0.8, "ci95": [0.4902, 0.9433], "interval": "wilson"}
    assert win_rate([rated("anna", "t", None)]) is None


def test_several_raters_are_resampled_by_pair() -> None:
    # Three raters who always agree know no more than one: the interval has to be as wide.
    votes = [n < 8 for n in range(10)]
    three = [rated(rater, f"i{n}", won) for rater in "abc" for n, won in enumerate(votes)]
    found = win_rate(three)
    assert found is not None
    assert (found["mean"], found["interval"]) == (0.8, "bootstrap over pairs")
    low, high = found["ci95"]
    assert (low, high) == pytest.approx((0.5, 1.0), abs=0.11)  # of 10 pairs, not of 30 ratings
    assert high - low > wilson(24, 30)[1] - wilson(24, 30)[0]


PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
"""Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C."""


def values_of(table: Sequence[Sequence[int | None]]) -> dict[tuple[str, Any], float]:
    return {
        (f"r{row}", column): value
        for row, values in enumerate(table)
        for column, value in enumerate(values)
        if value is not None
    }


def test_alpha_is_that_of_the_published_example() -> None:
    values = values_of(PUBLISHED)
    assert krippendorff_alpha(values, "nominal")[0] == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(values, "ordinal")[0] == pytest.approx(0.815, abs=5e-4)


def test_alpha_by_hand() -> None:
    # Two raters, 4 pairs, one disagreement: D_o = 2/8; of 8 values 5 are wins, 3 losses: D_e = 2*5*3/(8*7).
    values = values_of([[1, 1, 0, 0], [1, 1, 0, 1]])
    assert krippendorff_alpha(values, "nominal")[0] == pytest.approx(1 - (2 / 8) / (2 * 5 * 3 / 56))


@pytest.mark.parametrize(
    ("table", "note"),
    [
        ([[1, 0, 1]], "one rater"),
        ([[1, None], [None, 1]], "two raters"),
        ([[1, 1], [1, 1]], "always said the same"),
        ([[1, 1, 0], [1, 1, None]], "always said the same"),
    ],
)
def test_alpha_says_why_it_is_not_defined(table: list[list[int | None]], note: str) -> None:
    alpha, why = krippendorff_alpha(values_of(table), "nominal")
    assert alpha is None
    assert note in why


def test_results_of_two_raters() -> None:
    items = {f"i{n}": pair(n, "story" if n == 3 else "dialogue") for n in range(4)}
    anna = [rated("anna", "i0", True, (5, 1)), rated("anna", "i1", True, (4, 2), "without"), rated("anna", "i2", None)]
    ben = [rated("ben", "i0", True, (3, 3)), rated("ben", "i1", False), rated("ben", "i3", True)]
    more = [Rating("ben", "i2", "with", "skip", {}), rated("ben", "gone", True)]
    found = results(items, [*anna, *ben, *more])
    counts = {
        name: found[name] for name in ("pairs", "raters", "ratings", "wins", "losses", "ties", "skipped", "unknown")
    }
    assert counts == {
        "pairs": 4, "raters": 2, "ratings": 6, "wins": 4, "losses": 1, "ties": 1, "skipped": 1, "unknown": 1,
    }  # fmt: skip
    assert found["win_rate"]["mean"] == 0.8
    assert found["kinds"]["story"]["mean"] == 1.0
    coherence = found["aspects"]["coherence"]
    assert (coherence["ratings"], coherence["with"], coherence["without"]) == (3, 4.0, 2.0)
    assert coherence["difference"]["mean"] == 2.0
    assert list(found["aspects"]) == ["coherence"]
    # Both rated i0 (agree) and i1 (not): D_o = 2/4, of the 4 values 3 are wins: D_e = 2*3*1/(4*3).
    assert found["agreement"]["choice"]["alpha"] == pytest.approx(1 - (2 / 4) / (6 / 12))
    assert found["agreement"]["choice"]["same"] == 0.5
    assert found["agreement"]["relevance"]["alpha"] is None
    assert not any(isinstance(value, float) and math.isnan(value) for value in found["win_rate"].values())


def test_nothing_rated_is_told() -> None:
    with pytest.raises(StmError, match="nothing was rated yet"):
        results({"x": pair(0)}, [Rating("anna", "x", "with", "skip", {})])


def test_intervals_of_simulated_raters_hold_the_truth() -> None:
    # Pairs differ in how clear they are, so that raters agree more than by chance; on average memory wins 70%.
    rng = np.random.default_rng(0)
    held, alphas = 0, []
    for _ in range(40):
        clear = rng.choice([0.5, 0.9], 40)
        votes = rng.random((3, 40)) < clear
        ratings = [rated("abc"[row], f"i{n}", bool(votes[row, n])) for row in range(3) for n in range(40)]
        found = win_rate(ratings)
        assert found is not None
        held += found["ci95"][0] <= 0.7 <= found["ci95"][1]
        values = {(one.rater, one.item): float(bool(one.memory_won)) for one in ratings}
        alphas.append(krippendorff_alpha(values, "nominal")[0])
    assert held >= 35  # 38 expected
    assert 0.05 < np.mean(np.array(alphas, float)) < 0.35  # variance of the clearness over that of a vote: 0.19


# Export.


def test_the_majority_decides_and_even_votes_decide_nothing() -> None:
    votes = {"i0": [True, True, False], "i1": [False, None, None], "i2": [True, False], "i3": [None]}
    ratings = [rated(f"r{n}", item, won) for item, given in votes.items() for n, won in enumerate(given)]
    assert majority({item: pair(0) for item in votes}, ratings) == {"i0": True, "i1": False}


def test_texts_are_exported_in_trls_format() -> None:
    items = {"i0": pair(0), "i1": pair(1, speaker=""), "i2": pair(2)}
    rows = text_preferences(items, [rated("a", "i0", True), rated("a", "i1", False), rated("a", "i2", None)])
    prompt = "> a: The key is in the box.\nb: Yes.\na: Where is the key?\n"
    assert rows == [
        {"prompt": f"{prompt}b:", "chosen": " In the box, 0.", "rejected": " In the shed, 0."},
        {"prompt": prompt, "chosen": "In the shed, 1.", "rejected": "In the box, 1."},
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run folder in which two raters have rated four pairs."""
    found = [pair(number) for number in range(5)]
    write_continuations(tmp_path / "continuations.jsonl", found)
    store = Store(tmp_path / "review.sqlite")
    for rater in ("anna", "ben"):
        for number, one in enumerate(found[:4]):
            store.add(rated(rater, one.id, number != 3, (5, 2)))
    store.close()
    return tmp_path


def test_results_command(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_main(monkeypatch, capsys, "review", "results", run)
    assert done.code == 0, done.err
    assert "4 of 5 pairs rated by 2 rater(s)" in done.out
    assert "win rate of memory over none: 75.0%" in done.out
    assert "alpha, choice (nominal): 1.00" in done.out
    assert "alpha, relevance (ordinal): not defined: nothing was rated" in done.out
    told = run_main(monkeypatch, capsys, "review", "results", run, "--json")
    assert json.loads(told.out) == json.loads((run / "review.json").read_text())


def test_exported_texts_are_a_data_set_for_trl(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets")
    done = run_main(monkeypatch, capsys, "review", "export", run, "--out", run / "new" / "pairs.jsonl")
    assert done.code == 0, done.err
    rows = datasets.Dataset.from_list(list(map(json.loads, (run / "new" / "pairs.jsonl").read_text().splitlines())))
    assert rows.column_names == ["prompt", "chosen", "rejected"]
    assert len(rows) == 4
    trl = pytest.importorskip("trl.data_utils")
    assert not trl.is_conversational(rows[0])
    assert trl.maybe_apply_chat_template(rows[0], None) == rows[0]  # the standard format needs no template


def test_exported_decisions_are_read_back_by_dpo(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl")
    from stm_rl_agents.language.dpo import read_pairs
    from stm_rl_agents.language.tools import Decision

    out = run / "decisions.jsonl"
    assert run_main(monkeypatch, capsys, "review", "export", run, "--decisions", "--out", out).code == 0
    pairs = read_pairs(out)
    read, unread = Decision(2, reads=(1,)).message(), Decision(2).message()
    assert sorted(one.chosen == read for one in pairs) == [False, True, True, True]
    assert all({str(one.chosen), str(one.rejected)} == {str(read), str(unread)} for one in pairs)
    assert pairs[0].margin is None
    assert [message["role"] for message in pairs[0].prompt] == ["user"]
    assert pairs[0].prompt[0]["content"].startswith("1 2 1 1 0 0 a: The key is in the box.\n2\n")
    long = run_main(monkeypatch, capsys, "review", "export", run, "--decisions", "--instruction", "--out", out)
    assert long.code == 0
    assert [message["role"] for message in read_pairs(out)[0].prompt] == ["system", "user"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no continuations.jsonl"),
        (["results", "nowhere"], "no continuations.jsonl"),
        (["export", "RUN", "--out", "RUN"], "is a folder"),
        (["export", "RUN", "--instruction"], "--instruction is of use"),
        (["RUN", "--rater", "<b>"], "--rater is '<b>'"),
        (["RUN", "--seed", "7"], "begun with --seed 0"),
    ],
)
def test_bad_input_is_one_line(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(run)
    Store(run / "review.sqlite").seed(0)
    done = run_main(monkeypatch, capsys, "review", *(str(run) if part == "RUN" else part for part in arguments))
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
