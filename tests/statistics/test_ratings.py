"""Ratings recover the true strengths from simulated games and match the closed form for two runs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.statistics.ratings import ELO_PER_LOG_UNIT, REGULARIZATION, rating_intervals, ratings


def play(strengths, items, rng):
    """Simulate one game per item between each pair of runs."""
    k = len(strengths)
    return [
        (item, i, j, 100.0 * (rng.random() < 1 / (1 + math.exp(strengths[j] - strengths[i]))))
        for item in range(items)
        for i in range(k)
        for j in range(i)
    ]


@given(st.integers(1, 200), st.integers(1, 200))
def test_two_runs_match_the_closed_form(first, second):
    result = ratings([[0, first], [second, 0]], alpha=0)
    assert result[0] - result[1] == pytest.approx(
        ELO_PER_LOG_UNIT * math.log(first / second), abs=1e-3
    )
    result = ratings([[0, first], [second, 0]])
    expected = ELO_PER_LOG_UNIT * math.log(
        (first + 2 * REGULARIZATION) / (second + 2 * REGULARIZATION)
    )
    assert result[0] - result[1] == pytest.approx(expected, abs=1e-3)


def test_ten_wins_per_defeat_are_400_points():
    result = ratings([[0, 100], [10, 0]], alpha=0)
    assert result == pytest.approx([200, -200])


@given(
    st.lists(st.lists(st.integers(1, 30), min_size=4, max_size=4), min_size=4, max_size=4),
)
def test_ratings_maximize_the_likelihood(rows):
    """At the maximum, each run's wins equal their expected number (Zermelo 1929)."""
    wins = np.array(rows, dtype=float)
    np.fill_diagonal(wins, 0)
    strengths = ratings(wins, alpha=0) / ELO_PER_LOG_UNIT
    win_probabilities = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    expected = ((wins + wins.T) * win_probabilities).sum(axis=1)
    assert wins.sum(axis=1) == pytest.approx(expected, abs=1e-3)
    assert ratings(wins.T, alpha=0) == pytest.approx(-strengths * ELO_PER_LOG_UNIT, abs=0.1)


@given(st.lists(st.integers(0, 9), min_size=16, max_size=16))
def test_ratings_are_finite_centered_and_follow_the_run_order(cells):
    wins = np.array(cells, dtype=float).reshape(4, 4)
    np.fill_diagonal(wins, 0)
    result = ratings(wins)
    assert np.isfinite(result).all()
    assert result.sum() == pytest.approx(0, abs=1e-3)
    order = np.array([2, 0, 3, 1])
    assert ratings(wins[np.ix_(order, order)]) == pytest.approx(result[order], abs=0.1)


def test_undefeated_run_has_the_highest_finite_rating():
    wins = np.array([[0, 110, 110], [0, 0, 60], [0, 50, 0]])
    result = ratings(wins)
    assert result.argmax() == 0
    assert 400 < result[0] - result[1] < 2000
    for order in ([0, 1, 2], [2, 1, 0]):
        with pytest.raises(ValueError, match="cannot be rated"):
            ratings(wins[np.ix_(order, order)], alpha=0)


def test_ratings_recover_the_true_strengths_within_their_intervals():
    rng = np.random.default_rng(0)
    truth = np.array([1.2, 0.5, 0.0, -0.4, -1.3])
    estimates = [value.rating for value in rating_intervals(play(truth, 3000, rng), 5)]
    assert estimates == pytest.approx(truth * ELO_PER_LOG_UNIT, abs=15)

    covered = []
    for _ in range(30):
        intervals = rating_intervals(play(truth, 110, rng), 5, resamples=100)
        covered += [
            interval.low <= value * ELO_PER_LOG_UNIT <= interval.high
            for interval, value in zip(intervals, truth, strict=True)
        ]
        assert all(interval.low < interval.rating < interval.high for interval in intervals)
    assert 0.91 <= np.mean(covered) <= 0.99


def test_tie_counts_as_half_a_win_for_each_run():
    ties = rating_intervals([(item, 0, 1, 50.0) for item in range(10)], 2)
    assert [rating.rating for rating in ties] == pytest.approx([0, 0])
    assert [rating.high - rating.low for rating in ties] == pytest.approx([0, 0])
    mixed_games = [(0, 0, 1, 50.0), (1, 1, 0, 0.0), (2, 0, 1, 0.0), (0, 1, 0, 50.0)]
    assert [rating.rating for rating in rating_intervals(mixed_games, 2)] == pytest.approx(
        ratings([[0, 2], [2, 0]])
    )


def test_few_items_or_runs_give_no_interval():
    assert rating_intervals([], 0) == []
    result = rating_intervals([("a", 0, 1, 100.0)], 2)
    assert result[0].rating == -result[1].rating > 0
    assert math.isnan(result[0].low)
    assert math.isnan(result[1].high)
    assert [value.rating for value in rating_intervals([], 3)] == pytest.approx([0, 0, 0])


def test_run_without_a_win_or_a_loss_has_no_interval():
    best_games = [(item, 0, opponent, 100.0) for item in range(9) for opponent in (1, 2, 3)]
    middle_games = [(item, 1, 2, 100.0 * (item % 3 > 0)) for item in range(9)]
    worst_games = [(item, 3, opponent, 0.0) for item in range(9) for opponent in (1, 2)]
    result = rating_intervals(best_games + middle_games + worst_games, 4)
    assert [math.isnan(rating.low) for rating in result] == [True, False, False, True]
    assert [rating.rating for rating in result] == sorted((r.rating for r in result), reverse=True)
