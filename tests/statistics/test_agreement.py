"""Agreement between judges, compared with SciPy's rank correlation and tables worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from core.statistics.agreement import Agreement, agreement, disagreements, inconsistent, spearman


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=40))
def test_rank_correlation_matches_scipy(pairs):
    a, b = np.array(pairs, dtype=float).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert math.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-9)


def test_agreement_uses_common_items():
    a = pd.Series({"p": 1.0, "q": 2.0, "r": 3.0, "s": 9.0, "t": math.nan})
    b = pd.Series({"t": 5.0, "r": 30.0, "q": 20.0, "p": 90.0})
    assert agreement(a, b) == Agreement(pytest.approx(-0.5), 3)
    assert agreement(a, b[["t"]]).n == 0
    assert math.isnan(agreement(a, b[["t"]]).correlation)


def test_disagreements_compare_ranks_not_scores():
    lenient = pd.Series({"p": 80.0, "q": 85.0, "r": 90.0, "s": 95.0})
    strict = pd.Series({"s": 1.0, "p": 4.0, "q": 2.0, "r": 3.0, "none": 50.0})
    result = disagreements(lenient, strict)
    assert result.index.tolist() == ["p", "s"]
    assert result["gap"].tolist() == [-75, 75]
    assert result.loc["p", ["a", "b", "rank_a", "rank_b"]].tolist() == [80, 4, 25, 100]
    assert disagreements(lenient, strict, 1).index.tolist() == ["p"]
    assert disagreements(lenient, lenient / 10).empty


def test_inconsistent_lists_identical_answers_with_different_scores():
    rows = [
        ("q1", "yes", 0, "a", 40.0), ("q1", "yes", 0, "b", 60.0), ("q1", "yes", 1, "b", 50.0),
        ("q1", "no", 0, "c", 0.0), ("q2", "yes", 0, "a", 10.0), ("q2", "yes", 0, "b", 90.0),
        ("q3", "hm", 0, "a", 70.0), ("q3", "hm", 1, "a", 70.0),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["item", "answer", "repeat", "run", "score"])
    result = inconsistent(frame)
    assert result.columns.tolist() == ["item", "answer", "min", "max", "spread", "count"]
    assert result.to_numpy().tolist() == [
        ["q2", "yes", 10, 90, 80, 2],
        ["q1", "yes", 40, 60, 20, 3],
    ]
    assert inconsistent(frame.rename(columns={"answer": "subject"}), ("subject",)).shape == (1, 5)
    assert inconsistent(frame[:0]).empty
