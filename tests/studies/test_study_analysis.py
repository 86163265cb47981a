"""Analysis of a study: the number of seeds needed, and how often a summary reports a false difference."""

import math

import numpy as np
import pandas as pd
import pytest

from core.errors import UserError
from core.statistics import comparisons
from core.studies.analysis import seeds_needed, study_summary
from core.studies.noise import measure
from core.studies.summary import summary
from core.tracking import queries
from tests.studies.test_effects import runs_of

STUDIES = 2000
MAX_FALSE_RATE = 0.062
"""5% plus the error of the simulation."""


def read_from(runs):
    """Return a function that answers queries like an index with these runs."""

    def read(query, *arguments):
        if query is queries.results:
            return runs.drop(columns="base_loss")
        assert query is queries.base_losses
        return pd.DataFrame({"run": runs["name"], "base_loss": runs["base_loss"]})

    return read


def test_seeds_needed_is_a_range_from_the_noise_floor():
    runs = runs_of(
        ({"lr": 1e-4, "study": "s"}, [2.0, 2.1, 2.05]),
        ({"lr": 1e-3, "study": "s"}, [1.0, 1.1, 1.02]),
    )
    floor = measure(runs, "val_loss", runs["val_loss"]).table().iloc[0]
    low, likely, high = seeds_needed(read_from(runs), "s", margin=0.1)
    assert low <= likely <= high
    expected = comparisons.seeds_needed(math.sqrt(2) * floor["sd"], math.log1p(0.1))
    assert likely == expected
    assert seeds_needed(read_from(runs), "other") is None


def test_seeds_needed_is_unknown_with_one_seed():
    runs = runs_of(({"lr": 1e-4, "study": "s"}, [2.0]), ({"lr": 1e-3, "study": "s"}, [1.0]))
    assert seeds_needed(read_from(runs), "s") is None


def test_summary_of_a_damaged_study_finds_the_varied_settings():
    runs = runs_of(
        ({"lr": 1e-4, "study": "s"}, [2.0]),
        ({"lr": 1e-3, "study": "s"}, [1.0]),
        ({"lr": 1e-2}, [9.0]),
    )
    table = study_summary(read_from(runs), "s", None)
    assert table["settings"].tolist() == [{"lr": 1e-4}, {"lr": 1e-3}]
    with pytest.raises(UserError, match="margin = 0"):
        study_summary(read_from(runs), "s", None, margin=0.0)


@pytest.mark.long
@pytest.mark.parametrize("n", [2, 3, 5])
def test_equal_combinations_rarely_have_a_verdict_against_the_best(n):
    """The best of equal combinations is best by chance. The correction over all pairs accounts for this choice."""
    rng = np.random.default_rng(n)
    rates = (1e-4, 2e-4, 5e-4, 1e-3)
    runs = pd.concat(
        [runs_of(*(({"lr": lr}, [1.0]) for lr in rates)).assign(seed=seed) for seed in range(n)]
    )
    runs = runs.assign(name=[f"run-{i}" for i in range(len(runs))]).reset_index(drop=True)
    false = 0
    for _ in range(STUDIES):
        losses = np.exp(0.05 * rng.normal(size=len(runs)))
        table = summary(runs.assign(val_loss=losses, subset_loss=losses), "val_loss", [("lr",)])
        false += bool(table["verdict"].isin(["better", "worse"]).any())
    assert false / STUDIES <= MAX_FALSE_RATE
