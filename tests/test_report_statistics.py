from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, trim_mean

from stm_rl.report.statistics import CUT, Resamples, improvement, iqm, iqm_interval, trimmed_means

FloatArray = NDArray[np.float64]
SCORES = st.lists(st.floats(-100, 100), min_size=1, max_size=40)


def matrix(*rows: list[float]) -> FloatArray:
    return np.array(rows, float)


# The interquartile mean.


def test_interquartile_mean_by_hand() -> None:
    assert iqm(matrix([1, 2, 3, 4, 5, 6, 7, 100])) == 4.5  # the mean of 3, 4, 5, 6
    assert iqm(matrix([5, 1], [100, 3])) == 4.0  # over seeds and episodes together: 3 and 5
    assert iqm(matrix([7.0])) == 7.0


@given(SCORES)
def test_interquartile_mean_is_within_the_middle_and_does_not_mind_the_ends(values: list[float]) -> None:
    scores = matrix(values)
    middle = iqm(scores)
    ordered = np.sort(values)
    cut = int(CUT * len(values))
    kept = ordered[cut : len(ordered) - cut]
    assert kept[0] - 1e-9 <= middle <= kept[-1] + 1e-9
    if cut:
        ordered[-1] += 1e6
        assert iqm(ordered[None]) == pytest.approx(middle, abs=1e-9)
    assert iqm(scores + 3.0) == pytest.approx(middle + 3.0, abs=1e-9)


@given(SCORES, st.integers(0, 2**31))
def test_resampled_means_are_those_of_the_drawn_scores(values: list[float], seed: int) -> None:
    scores = np.array(values)
    draws = np.random.default_rng(seed).integers(len(scores), size=(5, len(scores)))
    counts = np.stack([np.bincount(draw, minlength=len(scores)) for draw in draws])
    expected = [trim_mean(scores[draw], CUT) for draw in draws]
    np.testing.assert_allclose(trimmed_means(scores, counts), expected, atol=1e-9)


def test_interval_holds_the_interquartile_mean_and_shrinks_with_more_episodes() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for episodes in (25, 400):
        scores = rng.normal(2.0, 1.0, (1, episodes))
        low, high = iqm_interval([scores], [Resamples(episodes)])
        assert low < iqm(scores) < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4.0, rel=0.3)


def test_interval_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    resamples = Resamples(60)
    covered = 0
    for _ in range(120):
        low, high = iqm_interval([rng.normal(1.0, 2.0, (1, 60))], [resamples])
        covered += low <= 1.0 <= high
    assert 0.88 <= covered / 120 <= 0.99


def test_seeds_that_differ_widen_the_interval() -> None:
    scores = np.random.default_rng(2).normal(0.0, 1.0, 80)
    alike = iqm_interval([np.stack([scores] * 3)], [Resamples(80)])
    apart = iqm_interval([np.stack([scores - 1, scores, scores + 1])], [Resamples(80)])
    assert apart[1] - apart[0] > 1.5 * (alike[1] - alike[0])


def test_environments_keep_their_share_in_each_resample() -> None:
    """Scores of one environment are all 0, of the other all 1, so nothing is left to chance."""
    scores = [np.zeros((2, 10)), np.ones((3, 20))]
    whole = iqm(np.concatenate([one.ravel() for one in scores]))
    assert iqm_interval(scores, [Resamples(10), Resamples(20)]) == (whole, whole)


# The probability of improvement.


def test_probability_of_improvement_by_hand() -> None:
    assert improvement(matrix([1, 2, 3, 4]), matrix([0, 2, 5, 1])) == 0.625  # won, tied, lost, won
    assert improvement(matrix([1, 1], [3, 3]), matrix([2, 0])) == 0.75  # of four pairs three are won


def test_probability_of_improvement_is_that_of_mann_and_whitney_in_each_episode() -> None:
    """As rliable has it: the mean over tasks of U over the number of pairs of runs."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 5, (4, 12)).astype(float), rng.integers(0, 5, (3, 12)).astype(float)
    expected = np.mean([mannwhitneyu(a[:, i], b[:, i]).statistic / 12 for i in range(12)])
    assert improvement(a, b) == pytest.approx(expected)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**31))
def test_two_agents_share_the_probability(seeds: int, others: int, episodes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 4, (seeds, episodes)).astype(float), rng.integers(0, 4, (others, episodes)).astype(float)
    assert improvement(a, b) + improvement(b, a) == pytest.approx(1.0)
    assert improvement(a, a) == 0.5
    assert improvement(a + 10, b) == 1.0


def test_interval_of_the_probability_is_that_of_drawn_runs_and_episodes() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.4, 1, (3, 50)), rng.normal(0, 1, (2, 50))
    low, high = Resamples(50).improvement(a, b)
    drawn = []
    for _ in range(2000):
        episodes = rng.integers(50, size=50)
        drawn.append(improvement(a[rng.integers(3, size=3)][:, episodes], b[rng.integers(2, size=2)][:, episodes]))
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.03)
    assert low < improvement(a, b) < high


def test_resamples_are_fixed_by_the_seed() -> None:
    scores = [np.random.default_rng(5).normal(size=(2, 30))]
    assert iqm_interval(scores, [Resamples(30, 1)]) == iqm_interval(scores, [Resamples(30, 1)])
    assert iqm_interval(scores, [Resamples(30, 1)]) != iqm_interval(scores, [Resamples(30, 2)])
