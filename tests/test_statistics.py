from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stm_rl.evaluation import Bootstrap, Played, difference, summarize
from stm_rl.evaluation.plot import plot_learning_curve

FloatArray = NDArray[np.float64]


def played(returns: Any, **others: Any) -> Played:
    """Return episodes of ten turns with these returns; everything else is zero unless given."""
    returns = np.asarray(returns, float)
    names = {field.name for field in fields(Played)} - {"returns", "traces"}
    values = {name: np.full(len(returns), 10.0 if name == "turns" else 0.0) for name in names}
    values |= {name: np.asarray(value, float) for name, value in others.items()}
    return Played(returns, **values)  # type: ignore[arg-type]


def width(entry: dict[str, Any]) -> float:
    low, high = entry["ci95"]
    return float(high - low)


# Intervals.


def test_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    bootstrap = Bootstrap(100)
    samples = 3.0 + rng.gamma(2.0, 1.0, size=(400, 100))  # skewed, as returns are
    intervals = [bootstrap.interval(sample[None])["ci95"] for sample in samples]
    covered = np.mean([low <= 5.0 <= high for low, high in intervals])
    assert 0.91 <= covered <= 0.98


def test_interval_holds_its_mean_and_shrinks_with_more_episodes() -> None:
    rng = np.random.default_rng(1)
    entries = []
    for episodes in (25, 400):
        values = rng.normal(2.0, 1.0, size=(1, episodes))
        entry = Bootstrap(episodes).interval(values)
        assert entry["mean"] == pytest.approx(values.mean(), abs=1e-4)
        assert entry["ci95"][0] < entry["mean"] < entry["ci95"][1]
        entries.append(entry)
    assert width(entries[0]) / width(entries[1]) == pytest.approx(4.0, rel=0.25)  # root of 16


def test_interval_of_a_constant_is_that_constant() -> None:
    assert Bootstrap(5).interval(np.full((3, 5), 1.5)) == {"mean": 1.5, "ci95": [1.5, 1.5]}


def test_draws_are_fixed_by_the_seed() -> None:
    values = np.random.default_rng(2).normal(size=(2, 30))
    assert Bootstrap(30, 7).interval(values) == Bootstrap(30, 7).interval(values)
    assert Bootstrap(30, 7).interval(values) != Bootstrap(30, 8).interval(values)


def test_weighted_interval_is_a_ratio_of_sums() -> None:
    asked, recalled = np.array([[4.0, 0.0, 1.0, 3.0]]), np.array([[1.0, 0.0, 1.0, 2.0]])
    entry = Bootstrap(4).interval(recalled, asked)
    assert entry["mean"] == 0.5
    assert 0.25 <= entry["ci95"][0] <= 0.5 <= entry["ci95"][1] <= 1.0


def test_resamples_in_which_nothing_was_asked_do_not_count_as_failures() -> None:
    asked = np.zeros((1, 6))
    asked[0, 2] = 1.0  # a third of the resamples miss the only episode with a question
    assert Bootstrap(6).interval(asked, asked) == {"mean": 1.0, "ci95": [1.0, 1.0]}


# Differences.


def test_paired_difference_of_correlated_returns_has_the_smaller_interval() -> None:
    rng = np.random.default_rng(3)
    hard = rng.normal(0.0, 3.0, 80)  # some episodes offer more than others, to every agent
    a, b = hard + 0.5 + rng.normal(0, 0.5, 80), hard + rng.normal(0, 0.5, 80)
    bootstrap = Bootstrap(80)
    paired = difference([played(a)], [played(b)], bootstrap)
    unpaired = difference([played(a)], [played(b[::-1].copy())], bootstrap)
    assert paired["mean"] == pytest.approx(unpaired["mean"], abs=1e-3)
    assert width(paired) < width(unpaired) / 3
    assert paired["ci95"][0] > 0  # the pairing shows what the plain comparison cannot
    assert unpaired["ci95"][0] < 0 < unpaired["ci95"][1]


def test_difference_from_itself_is_nothing() -> None:
    one = played(np.random.default_rng(4).normal(size=20))
    assert difference([one], [one], Bootstrap(20)) == {"mean": 0.0, "ci95": [0.0, 0.0]}


def test_difference_changes_its_sign_with_its_sides() -> None:
    rng = np.random.default_rng(5)
    a, b = played(rng.normal(1, 1, 30)), played(rng.normal(0, 1, 30))
    bootstrap = Bootstrap(30)
    one, other = difference([a], [b], bootstrap), difference([b], [a], bootstrap)
    assert one["mean"] == -other["mean"]
    assert one["ci95"] == pytest.approx([-value for value in reversed(other["ci95"])], abs=2e-4)


# Several training seeds.


def test_seeds_that_differ_widen_the_interval() -> None:
    episodes = np.random.default_rng(6).normal(4.0, 1.0, 100)
    bootstrap = Bootstrap(100)
    alike = summarize([played(episodes)] * 3, bootstrap)["return"]
    apart = summarize([played(episodes + shift) for shift in (-1.0, 0.0, 1.0)], bootstrap)["return"]
    assert alike["mean"] == pytest.approx(apart["mean"], abs=1e-4)
    assert width(apart) > 2 * width(alike)


def test_seeds_that_agree_count_as_one() -> None:
    episodes = played(np.random.default_rng(7).normal(4.0, 1.0, 100))
    bootstrap = Bootstrap(100)
    assert summarize([episodes] * 4, bootstrap) == summarize([episodes], bootstrap)


# Entries of eval.json.


def test_entry_holds_means_by_episode_and_shares_by_turn() -> None:
    one = played([1.0, 3.0], gains=[2.0, 4.0], writes=[1, 4], reads=[10, 20], asked=[2, 2], recalled=[1, 2])
    entry = summarize([one], Bootstrap(2))
    assert entry["return"]["mean"] == 2.0
    assert entry["coherence_gain"]["mean"] == 3.0
    assert entry["evidence_recall"]["mean"] == 0.75
    assert entry["writes_per_turn"] == 0.25
    assert entry["reads_per_turn"] == 1.5


def test_recall_is_null_where_nothing_is_asked() -> None:
    assert summarize([played([1.0, 2.0])], Bootstrap(2))["evidence_recall"] is None


# The learning curve.

ROWS = [{"steps": 512}, {"steps": 1024, "validation/return": 1.0}, {"steps": 2048, "validation/return": 2.0}]


@pytest.mark.parametrize(
    "curves",
    [{"a": ROWS}, {"a": ROWS, "b": ROWS[:2]}, {"a": ROWS[:1]}, {"a": []}, {}],
    ids=["one", "two", "no validation yet", "no row yet", "none"],
)
def test_learning_curve_is_a_picture(curves: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    plot_learning_curve(
        {name: [rows] for name, rows in curves.items()},
        path,
        title="a title",
        references={"oracle": 3.0, "informed": 2.5},
    )
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
