"""Mean losses with standard errors. Arrays in, numbers out; independent of models and runs."""

import math

import numpy as np
from numpy.typing import ArrayLike


def token_mean(losses: ArrayLike, tokens: ArrayLike) -> tuple[float, float | None]:
    """Return the mean loss per token over a sample of examples, and its standard error.

    Examples are sampled, not tokens, so the mean is the ratio of two sample totals: loss and number of tokens. Its
    variance is that of the linearized ratio estimator (Cochran 1977, *Sampling Techniques*, eq. 6.13, without
    finite-population correction). With few examples of very different lengths, it is somewhat too small.

    Args:
        losses: each example's mean loss per target token, (N,), in nats.
        tokens: each example's number of target tokens, (N,), at least 1.

    Returns:
        Mean and standard error in nats per token. The error is None for fewer than two examples.
    """
    loss, count = np.asarray(losses, dtype=float), np.asarray(tokens, dtype=float)
    total, n = count.sum(), len(count)
    mean = float((loss * count).sum() / total)
    if n < 2:
        return mean, None
    residuals = count * (loss - mean)
    return mean, math.sqrt(n / (n - 1) * float((residuals**2).sum())) / float(total)
