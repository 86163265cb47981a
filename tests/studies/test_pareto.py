"""The Pareto front: dominance, ties, directions and missing values."""

import math

import numpy as np
import pandas as pd
import pytest

from core.studies.pareto import pareto_front

DIRECTIONS = {"loss": "lower", "seconds": "lower", "exact": "higher"}


def front(rows, quality="loss"):
    frame = pd.DataFrame(rows, columns=["seconds", quality], index=range(10, 10 + len(rows)))
    mask = pareto_front(frame, quality, "seconds", DIRECTIONS)
    assert mask.index.tolist() == frame.index.tolist()
    return [tuple(row) for row in frame[mask].itertuples(index=False)]


def test_dominated_rows_are_not_on_the_front():
    assert front([(3, 1.0), (1, 3.0), (2, 2.0), (2, 2.5), (4, 1.5)]) == [(3, 1), (1, 3), (2, 2)]


def test_direction_of_the_quality_is_respected():
    assert front([(1, 0.5), (2, 0.4), (3, 0.9)], "exact") == [(1, 0.5), (3, 0.9)]


def test_equal_rows_are_both_on_the_front():
    assert front([(1, 2.0), (1, 2.0), (2, 2.0)]) == [(1, 2), (1, 2)]


def test_equal_quality_at_a_higher_cost_is_dominated():
    assert front([(1, 2.0), (2, 2.0), (1, 2.1)]) == [(1, 2)]


@pytest.mark.parametrize("missing", [math.nan, math.inf, None])
def test_missing_values_are_never_on_the_front(missing):
    assert front([(1, missing), (missing, 1.0), (2, 2.0)]) == [(2, 2)]


def test_empty_frame_has_an_empty_front():
    assert front([]) == []


def test_front_equals_a_pairwise_comparison():
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = rng.integers(0, 6, (20, 2)).astype(float)
        expected = [
            not any((p <= q).all() and (p < q).any() for p in points) for q in points
        ]  # fmt: skip
        frame = pd.DataFrame(points, columns=["seconds", "loss"])
        assert pareto_front(frame, "loss", "seconds", DIRECTIONS).tolist() == expected
