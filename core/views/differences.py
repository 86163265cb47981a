"""Differences in results between runs, and which of them noise alone can explain.

The noise floors come from `core.studies.noise`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from core.config import LEARNING_FIELDS, NOISE_FIELDS, is_relevant
from core.studies.sweep import MIN_SEEDS
from core.views.formats import difference_text, plural, setting_text
from core.views.report import LOSS_FIELDS, TEST_SET_FIELDS
from core.views.tables import is_missing

if TYPE_CHECKING:  # imports SciPy
    from core.statistics.comparisons import NoiseFloor
    from core.studies.noise import Noise

LOSSES = ("val_loss", "best_val_loss")
EXACT = "exact"
FINISHED = "finished"
RESULTS = (*LOSSES, EXACT)
"""Results whose differences are shown, in addition to judges' scores."""
NOT_COMPARABLE = "These losses are not comparable: the data or the validation examples differ."
ONE_PAIR = "One pair of runs proves nothing: runs that differ only in their seed differ too."


def differences(
    runs: pd.DataFrame, reference: Mapping[str, Any], noise: "Noise", values: pd.Series
) -> pd.DataFrame:
    """Return the difference of each run from the reference: difference, is_noise.

    The difference is nan for the reference itself and for runs whose results are not comparable with it: those that have
    not finished, and those with other data or another validation set.

    Args:
        runs: rows of `Lab.runs`.
        reference: one of them.
        values: the metric of each run.
    """
    position = runs["name"] == reference["name"]
    base = float(values[position].iloc[0])
    gaps = (values.astype(float) - base).where(_comparable(runs, reference, noise.metric))
    fields = ["name", *NOISE_FIELDS]
    rows = runs[fields].astype(object).itertuples(index=False, name=None)
    is_noise = [
        math.isfinite(gap)
        and noise.size(base, base + gap)
        <= noise.limit(reference, dict(zip(fields, row, strict=True)))
        for gap, row in zip(gaps, rows, strict=True)
    ]
    return pd.DataFrame({"difference": gaps, "is_noise": is_noise}, index=runs.index)


def _comparable(runs: pd.DataFrame, reference: Mapping[str, Any], metric: str) -> pd.Series:
    """Return a mask of the other runs whose metric was measured in the same way as the reference's."""
    names = [*_example_fields(metric)]
    names += {"val_loss": ["val_set"], "best_val_loss": ["eval_examples"]}.get(metric, [])
    mask = (runs["name"] != reference["name"]) & (runs["status"] == FINISHED)
    if reference["status"] != FINISHED:
        return mask & False
    for name in names:
        value = reference[name]
        mask &= runs[name].isna() if is_missing(value) else runs[name].eq(value).fillna(False)
    return mask


def _example_fields(metric: str) -> tuple[str, ...]:
    """Return the settings that determine the examples on which a metric is measured."""
    return LOSS_FIELDS if metric in LOSSES else TEST_SET_FIELDS


def size_text(metric: str, value: float) -> str:
    """Format a deviation or a limit on the scale of the noise floor, such as `0.31%`, `1.5 pp` or `2.0 points`."""
    if metric in LOSSES:
        return f"{value:.{2 if value < 0.01 else 1 if value < 0.1 else 0}%}"
    return f"{100 * value:.1f} pp" if metric == EXACT else f"{value:.1f} points"


def unit(metric: str) -> str:
    """Return the unit of differences on the scale of the noise floor."""
    return "%" if metric in LOSSES else "pp" if metric == EXACT else "points"


def have_same_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two runs differ at most in their seed and in settings that do not affect learning."""
    return all(
        a[name] == b[name] or (is_missing(a[name]) and is_missing(b[name]))
        for name in LEARNING_FIELDS
    )


def pair_sentence(
    noise: "Noise",
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    values: tuple[float, float],
    title: str,
    with_names: bool = True,
    effect: str = "",
) -> str:
    """Return a sentence that says whether the difference between two single runs is within the noise.

    If the noise is unknown, it says that one pair proves nothing. If both settings have several seeds, it states the
    effect instead.

    Args:
        values: the metric of A and B.
        title: name of the metric in a sentence, such as "validation loss".
        with_names: start with the names of the runs.
        effect: from `effect_text`; empty if it is unknown.
    """
    before, after = values
    subject = f"{b['name']} vs. {a['name']}: {title}" if with_names else title.capitalize()
    difference = f"{subject} {difference_text(noise.metric, after - before)}"
    if have_same_settings(a, b):
        return f"{difference}. The settings are the same, so the difference is noise."
    if effect:
        return f"{difference}. With several seeds of both settings: {effect}."
    if not noise.is_known(a, b):
        return f"{difference}. {ONE_PAIR}"
    repeats = sum(int(floor.df) for floor in {noise.pooled(a), noise.pooled(b)})
    limit = size_text(noise.metric, noise.limit(a, b))
    known = f"(up to {limit}, estimated from {plural(repeats, 'repeat')})"
    if noise.size(before, after) <= noise.limit(a, b):
        return f"{difference}, within the noise of two single runs {known}."
    return f"{difference}, more than the noise of two single runs {known}. A verdict needs exactly one changed setting, and several seeds for each of its two values."


def effect_text(
    effects: pd.DataFrame, old: Mapping[str, Any], new: Mapping[str, Any], metric: str
) -> str:
    """Return the effect of the change from one run to another, if several seeds of both settings have been trained.

    Empty if the change determines the examples on which the metric is measured, so that its values are not comparable.

    For example `-0.0123 (-0.0150 to -0.0096), better, 3 seeds`.
    """
    changed = [
        name
        for name in LEARNING_FIELDS
        if is_relevant(name, old) and is_relevant(name, new) and _plain(old[name]) != _plain(new[name])
    ]  # fmt: skip
    if not changed or {*changed} & {*_example_fields(metric)}:
        return ""
    for effect in effects[effects["field"].str.count("=") == len(changed) - 1].to_dict("records"):
        names = str(effect["field"]).split("=")
        is_settled = effect["seeds"] >= MIN_SEEDS and not is_missing(effect["low"])
        if {*names} != {*changed} or not is_settled:
            continue
        ends = _plain(effect["from"]), _plain(effect["to"])
        before, after = _plain(old[names[0]]), _plain(new[names[0]])
        if {*ends} != {before, after} or not _is_in(old, effect["context"]):
            continue
        values = [effect[key] for key in ("difference", "low", "high")]
        verdict = effect["verdict"]
        if ends[0] != before:  # the effect is in the other direction
            values = [-values[0], -values[2], -values[1]]
            verdict = {"better": "worse", "worse": "better"}.get(verdict, verdict)
        difference, low, high = (difference_text(metric, value) for value in values)
        return f"{difference} ({low} to {high}), {verdict}, {effect['seeds']} seeds"
    return ""


def _is_in(run: Mapping[str, Any], context: Mapping[str, Any]) -> bool:
    return all(_plain(run[name]) == _plain(value) for name, value in context.items())


def _plain(value: Any) -> Any:
    """Return a setting's value for comparisons, or None if it has no effect."""
    from core.studies.effects import IRRELEVANT  # imports SciPy

    return None if value is IRRELEVANT or is_missing(value) else value


def floor_text(metric: str, floor: "NoiseFloor", kind: Iterable[Any] = ()) -> str:
    """Describe a noise floor, such as `Seed-to-seed sd 0.31% (95% interval 0.24% to 0.43%), from 24 repeats`."""
    sd, low, high = (size_text(metric, value) for value in (floor.sd, floor.low, floor.high))
    of = ", ".join(setting_text(value) for value in kind)
    repeats = plural(round(floor.df), "repeat")
    return f"Seed-to-seed sd {sd} (95% interval {low} to {high}), from {repeats}" + (
        f" ({of})." if of else "."
    )


def planned_seeds(
    noise: "Noise", a: Mapping[str, Any], b: Mapping[str, Any], difference: float
) -> tuple[int, str]:
    """Return how many seeds are needed to detect a difference between two runs, and a sentence with the range.

    Args:
        difference: the smallest difference to detect: a fraction for metrics on a log scale, otherwise in the unit of
            the metric.
    """
    from core.statistics.comparisons import MAX_SEEDS, seeds_range
    from core.studies.pairs import DEFAULT_SEEDS

    floor = max(noise.floor(a), noise.floor(b), key=lambda floor: floor.sd)
    if not noise.is_known(a, b):
        sentence = f"The noise is unknown. Start with {DEFAULT_SEEDS} seeds of both settings, which will also measure the noise."
        return DEFAULT_SEEDS, sentence
    size = math.log1p(difference) if noise.compared.is_log else difference
    expected, low, high = seeds_range(floor, size)
    texts = [f"{n:,}" if n < MAX_SEEDS else f"{n:,} or more" for n in (expected, low, high)]
    between = (
        "" if low == high else f" ({texts[1]} to {texts[2]}, because the noise is only estimated)"
    )
    sentence = f"To detect {size_text(noise.metric, difference)} in 80% of studies: {texts[0]} seeds of both settings{between}."
    return expected, sentence
