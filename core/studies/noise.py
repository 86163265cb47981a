"""Noise floors: how much a metric varies between runs that differ only in their seed.

DataFrames in, numbers out; runs are read elsewhere. The statistics are in `core.statistics.comparisons`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from core.config import LEARNING_FIELDS, NOISE_FIELDS
from core.statistics.comparisons import NoiseFloor, noise_floor, noise_limit
from core.statistics.moderation import UNKNOWN, moderated
from core.studies.effects import (
    EFFECT_METRICS,
    JUDGE_METRIC,
    WHOLE_SET_METRICS,
    EffectMetric,
    has_diverged,
)

EXACT = "exact"
Kind = tuple[Any, ...]
"""The values of NOISE_FIELDS."""


@dataclass(frozen=True)
class Noise:
    """The noise floors of a metric. If the metric is compared on a log scale, deviations and limits are relative.

    Args:
        metric: a key of EFFECT_METRICS, or a judge.
        floors: floors pooled over settings, by kind of run. Kinds without repeats have a floor of nan.
        own: floors of runs whose settings have several seeds, by run name, moderated toward those of others.
        others: floors of all other runs, by kind.
    """

    metric: str
    floors: Mapping[Kind, NoiseFloor] = field(default_factory=dict)
    own: Mapping[str, NoiseFloor] = field(default_factory=dict)
    others: Mapping[Kind, NoiseFloor] = field(default_factory=dict)

    @property
    def compared(self) -> EffectMetric:
        """How the metric is compared."""
        return EFFECT_METRICS.get(self.metric, JUDGE_METRIC)

    def pooled(self, run: Mapping[str, Any]) -> NoiseFloor:
        """Return the noise floor of all runs of this run's kind, or UNKNOWN."""
        return self.floors.get(kind_of(run), UNKNOWN)

    def floor(self, run: Mapping[str, Any]) -> NoiseFloor:
        """Return the noise floor of a run's settings, or UNKNOWN."""
        return self.own.get(run["name"]) or self.others.get(kind_of(run), UNKNOWN)

    def limit(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
        """Return the largest difference between two single runs that is within the noise; nan if it is unknown."""
        return noise_limit(self.floor(a), self.floor(b))

    def is_known(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
        """Return whether the noise of two runs is known."""
        return not math.isnan(self.limit(a, b))

    def size(self, before: float, after: float) -> float:
        """Return the size of a difference on the scale of the floors."""
        if not self.compared.is_log:
            return abs(after - before)
        return abs(math.log(after / before)) if before > 0 and after > 0 else math.nan

    def table(self) -> pd.DataFrame:
        """Return one row per kind: method, base_model, dataset, sd, low, high, df."""
        rows = [[*kind, f.sd, f.low, f.high, f.df] for kind, f in self.floors.items()]
        return pd.DataFrame(rows, columns=[*NOISE_FIELDS, "sd", "low", "high", "df"])


def measure(runs: pd.DataFrame, metric: str, values: pd.Series) -> Noise:
    """Return the noise floors of a metric.

    Runs count if they finished and did not diverge. Of several runs with the same settings and seed, the newest counts.
    Settings are left out if all of their runs answered every test example exactly, or none: they say nothing about the
    noise of others.

    Args:
        runs: rows of `queries.results`, newest first, with the column `base_loss`, the loss before the first step.
        values: the metric of each run.
    """
    counted = (runs["status"] == "finished") & ~has_diverged(runs) & runs["seed"].notna()
    numbers = values.astype(float)
    counted &= np.isfinite(numbers)
    if metric in WHOLE_SET_METRICS:
        counted &= runs["val_set"] == "whole set"
    noise = Noise(metric)
    if noise.compared.is_log:
        counted &= numbers > 0
    chosen = runs[counted]
    if chosen.empty:
        return noise
    measured = numbers[counted].to_numpy(float)
    frame = pd.DataFrame({
        "name": chosen["name"].to_numpy(), "group": groups(chosen), "seed": chosen["seed"].to_numpy(int),
        "value": np.log(measured) if noise.compared.is_log else measured,
        "kind": [*chosen[list(NOISE_FIELDS)].itertuples(index=False, name=None)],
    })  # fmt: skip
    repeats: dict[Kind, dict[int, np.ndarray]] = {}
    for group, part in frame.drop_duplicates(["group", "seed"]).groupby("group", sort=False):
        values_by_seed = part["value"].to_numpy()
        is_bound = metric == EXACT and values_by_seed[0] in (0, 1) and np.ptp(values_by_seed) == 0
        if not is_bound:
            repeats.setdefault(part["kind"].iloc[0], {})[int(str(group))] = values_by_seed
    floors: dict[Kind, NoiseFloor] = {}
    own: dict[str, NoiseFloor] = {}
    others: dict[Kind, NoiseFloor] = {}
    for kind, by_group in repeats.items():
        floors[kind] = noise_floor([*by_group.values()])
        group_floors, others[kind] = moderated([*by_group.values()])
        repeated = {
            group: floor
            for (group, seeds), floor in zip(by_group.items(), group_floors, strict=True)
            if len(seeds) > 1
        }
        members = frame[frame["group"].isin(repeated)]
        own |= {n: repeated[g] for n, g in zip(members["name"], members["group"], strict=True)}
    return Noise(metric, floors, own, others)


def groups(runs: pd.DataFrame) -> np.ndarray:
    """Return a number for each run, the same for runs that differ at most in their seed."""
    codes = [pd.factorize(runs[name], use_na_sentinel=True)[0] for name in LEARNING_FIELDS]
    _, numbers = np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)
    return np.asarray(numbers).reshape(-1)


def kind_of(run: Mapping[str, Any]) -> Kind:
    """Return the kind of a run."""
    return tuple(run[name] for name in NOISE_FIELDS)
