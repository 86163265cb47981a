"""Mean loss per token and its standard error, compared with closed forms, the jackknife and simulated coverage."""

import math

import numpy as np
import pytest

from core.statistics.losses import token_mean

Z_95 = 1.959964


def test_mean_is_weighted_by_tokens() -> None:
    mean, _ = token_mean([1.0, 4.0], [3, 1])
    assert mean == pytest.approx(7 / 4)


def test_standard_error_is_the_classical_one_for_equal_lengths() -> None:
    losses = np.random.default_rng(1).gamma(4, 0.4, 25)
    mean, error = token_mean(losses, np.full(25, 7))
    assert mean == pytest.approx(losses.mean())
    assert error == pytest.approx(losses.std(ddof=1) / math.sqrt(25))


def test_standard_error_is_close_to_the_jackknife() -> None:
    random = np.random.default_rng(2)
    losses, tokens = random.gamma(4, 0.4, 200), random.integers(20, 200, 200)
    without = [
        token_mean(np.delete(losses, i), np.delete(tokens, i))[0] for i in range(len(losses))
    ]
    jackknife = math.sqrt((199 / 200) * np.sum((without - np.mean(without)) ** 2))
    assert token_mean(losses, tokens)[1] == pytest.approx(jackknife, rel=0.02)


def test_one_example_has_no_standard_error() -> None:
    assert token_mean([2.5], [9]) == (2.5, None)


def coverage(examples: int, trials: int) -> float:
    """Return the fraction of 95% intervals that contain the population mean, which is known for this distribution.

    Long examples have lower losses, as in Alpaca: losses and lengths are correlated.
    """
    random = np.random.default_rng(examples)
    lengths, shape = np.array([15, 40, 80, 160, 320]), 4
    means = 3.0 - 0.35 * np.log(lengths / 15)
    true_mean = (means * lengths).sum() / lengths.sum()
    hits = 0
    for _ in range(trials):
        drawn = random.integers(0, len(lengths), examples)
        losses = random.gamma(shape, means[drawn] / shape)
        mean, error = token_mean(losses, lengths[drawn])
        assert error is not None
        hits += abs(mean - true_mean) <= Z_95 * error
    return hits / trials


def test_intervals_cover_the_population_mean() -> None:
    assert 0.91 <= coverage(128, 1000) <= 0.97


@pytest.mark.long
@pytest.mark.parametrize(("examples", "low"), [(10, 0.80), (20, 0.87), (128, 0.93), (1000, 0.94)])
def test_intervals_cover_the_population_mean_at_all_sizes(examples: int, low: float) -> None:
    """Normal intervals are known to be too short for few examples of different lengths."""
    share = coverage(examples, 20_000)
    print(f"n = {examples}: {share:.1%}")
    assert low <= share <= 0.96
