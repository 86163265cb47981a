"""A study in words: sentences for its effects, and the command that repeats it.

Sentences are generated only for verdicts that the statistics support. Contexts are never averaged.
"""

import math
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

import pandas as pd

from core.config import IDENTITY_FIELDS, RunConfig
from core.metrics import RESULTS
from core.studies.spacing import value_order
from core.studies.sweep import MIN_SEEDS, Axes, Sweep
from core.views.formats import input_text, lowered, plural, setting_text
from core.views.tables import records

if TYPE_CHECKING:  # imports SciPy
    from core.studies.effects import EffectMetric

MAX_SENTENCES = 50
"""Maximum number of sentences about effects, and about diverged runs."""
PRUNING_BIAS = "Pruning removed the worse runs of some settings, so their differences are biased."
NOUNS = {
    "val_loss": "the validation loss", "best_val_loss": "the best validation loss", "subset_loss": "the subset loss",
    "perplexity": "the perplexity", "exact": "the share of exact answers", "seconds": "the training time",
    "peak_memory_mb": "the peak memory",
}  # fmt: skip
"""Metrics in sentences. A judge is `the score from JUDGE`."""


def conclusions(
    effects: pd.DataFrame, table: pd.DataFrame, metric: str, scale: "EffectMetric", axes: Axes
) -> list[str]:
    """Return one sentence per effect with a verdict, then sentences about diverged runs and undecided comparisons.

    Args:
        effects: see `core.studies.effects.effects`.
        table: see `core.studies.summary`.
        scale: the direction and scale of the metric.
        axes: the varied settings of the study.
    """
    rows = records(effects)
    decided = [row for row in rows if row["verdict"] != "undecided" and row["seeds"] >= MIN_SEEDS]
    decided.sort(key=lambda row: effect_order(row, axes))
    sentences = [effect_sentence(row, metric, scale, axes) for row in decided[:MAX_SENTENCES]]
    if (more := len(decided) - MAX_SENTENCES) > 0:
        sentences.append(
            f"{plural(more, 'more comparison')} of {noun(metric)} {_has(more)} a verdict."
        )
    diverged = [row for row in records(table) if row["diverged"]]
    sentences += [_diverged(row) for row in diverged[:MAX_SENTENCES]]
    if (more := len(diverged) - MAX_SENTENCES) > 0:
        sentences.append(f"{plural(more, 'more combination')} {_has(more)} diverged runs.")
    single = sum(row["seeds"] == 1 for row in rows)
    lost = sum(row["seeds"] == 0 for row in rows)
    counts = Counter(row["verdict"] for row in rows if row["seeds"] >= MIN_SEEDS)
    if undecided := counts["undecided"]:
        sentences.append(
            f"{plural(undecided, 'comparison')} of {noun(metric)} {_is(undecided)} undecided."
        )
    if single:
        sentences.append(
            f"{plural(single, 'comparison')} of {noun(metric)} {_has(single)} only one seed, which supports no conclusion."
        )
    if lost:
        sentences.append(
            f"{plural(lost, 'comparison')} of {noun(metric)} {_has(lost)} only diverged or unfinished runs on one side."
        )
    if any(sum(row["pruned"]) for row in rows):
        sentences.append(PRUNING_BIAS)
    if rows and rows[0].get("exploratory"):
        sentences.append(
            "Seeds were added after this study was planned, so these conclusions are exploratory."
        )
    return sentences or [f"No comparison of {noun(metric)} is possible yet."]


def effect_order(row: Mapping[str, Any], axes: Axes) -> tuple[Any, ...]:
    """Return the key that sorts effects by setting, then by value and context."""
    names = ["=".join(axis) for axis in axes]
    position = names.index(row["field"]) if row["field"] in names else len(names)
    field = row["field"].split("=")[0]
    values = [(field, row["from"]), (field, row["to"]), *row["context"].items()]
    return position, row["field"], *(value_order(name, value) for name, value in values)


def effect_sentence(row: Mapping[str, Any], metric: str, scale: "EffectMetric", axes: Axes) -> str:
    """Return an effect as a sentence, such as "Rank 16 instead of 4 lowers the validation loss by 0.12 (...)."."""
    title = setting_title(row["field"])
    before, after = setting_text(row["from"]), setting_text(row["to"])
    context = context_text(row["context"], axes)
    where = f" with {context}" if context else ""
    if row["verdict"] == "equivalent":
        return (
            f"{title} {after} and {before} are equivalent: {noun(metric)} differs by less than "
            f"{margin_text(row['margin'], metric, scale)} ({row['seeds']} seeds){where}."
        )
    sign = -1 if row["difference"] < 0 else 1
    verb = "lowers" if sign < 0 else "raises"
    low, high = sorted((sign * row["low"], sign * row["high"]))
    values = {"difference": abs(row["difference"]), "low": low, "high": high}
    size, (low_text, high_text) = _amounts(values, metric, "")
    return (
        f"{title} {after} instead of {before} {verb} {noun(metric)} by {size} "
        f"(95% interval {low_text} to {high_text}, {row['seeds']} seeds){where}."
    )


def difference_text(row: Mapping[str, Any], metric: str) -> tuple[str, str]:
    """Return a difference with its sign, and its interval. Both are empty if there is no difference."""
    if row["difference"] is None:
        return "", ""
    size, bounds = _amounts(row, metric, "+")
    return size, " to ".join(bounds)


def _amounts(row: Mapping[str, Any], metric: str, sign: str) -> tuple[str, list[str]]:
    """Format a difference and its bounds with equally many decimals: three significant digits of the difference."""
    factor = 100 if metric == "exact" else 1
    is_points = metric == "exact" or metric not in RESULTS
    size = abs(factor * row["difference"])
    digits = min(6, max(0, 2 - math.floor(math.log10(size)))) if size > 0 else 4
    decimals = 1 if is_points else digits
    unit = "points" if is_points else RESULTS[metric].unit
    bounds = [] if row["low"] is None or row["high"] is None else [row["low"], row["high"]]
    difference, *others = [
        f"{factor * value:{sign},.{decimals}f}" for value in (row["difference"], *bounds)
    ]
    return f"{difference} {unit}".rstrip(), others


def margin_text(margin: float, metric: str, scale: "EffectMetric") -> str:
    """Format a margin, such as "1%" or "2 points"."""
    if scale.is_log:
        return (
            f"{margin:.3g}".rstrip("0").rstrip(".") + "" if margin >= 1 else f"{100 * margin:.3g}%"
        )
    points = 100 * margin if metric == "exact" else margin
    return f"{points:.3g} points"


def noun(metric: str) -> str:
    """Return a metric as part of a sentence, such as "the validation loss"."""
    return NOUNS.get(metric, f"the score from {metric}")


def setting_title(field: str) -> str:
    """Return the titles of the settings in a change, such as "Learning rate" or "Rank = alpha ="."""
    titles = [str(RunConfig.model_fields[name].title) for name in field.split("=")]
    first, *others = titles
    return " = ".join([first, *map(lowered, others)]) + (" =" if others else "")


def context_text(context: Mapping[str, Any], axes: Axes) -> str:
    """Return a context, such as "rank = alpha = 16 and learning rate 5e-4"."""
    remaining = dict(context)
    values = []
    for axis in axes:
        if all(name in remaining for name in axis):
            values.append(("=".join(axis), remaining[axis[0]]))
            remaining = {name: value for name, value in remaining.items() if name not in axis}
    values += remaining.items()
    parts = [f"{lowered(setting_title(field))} {setting_text(value)}" for field, value in values]
    return (
        parts[0]
        if len(parts) == 1
        else ", ".join(parts[:-1]) + " and " + parts[-1]
        if parts
        else ""
    )


def command(name: str, sweep: Sweep) -> str:
    """Return the command that trains the study again. A comment lists the seeds if they are not consecutive."""
    defaults = RunConfig(name="").model_dump()
    base = sweep.base.model_dump(mode="json")
    varied = {field for axis in sweep.axes for field in axis.fields}
    parts = ["python -m core sweep", f"--study {shlex.quote(name)}"]
    parts += [
        f"--axis {shlex.quote(axis.name + '=' + ','.join(map(input_text, axis.values)))}"
        for axis in sweep.axes
    ]
    parts += [
        f"--set {shlex.quote(f'{field}={input_text(value)}')}"
        for field, value in base.items()
        if field not in (*IDENTITY_FIELDS, "seed", *varied) and value != defaults[field]
    ]
    parts += [f"--set seed={sweep.seeds[0]}", f"--seeds {len(sweep.seeds)}"]
    # The command's options have the same names as the fields of a sweep.
    for field in fields(sweep):
        value = getattr(sweep, field.name)
        if field.default is not MISSING and value != field.default:
            option = f"--{field.name.replace('_', '-')}"
            parts.append(option if value is True else f"{option} {shlex.quote(str(value))}")
    seeds = [*sweep.seeds]
    note = ""
    if seeds != [*range(seeds[0], seeds[0] + len(seeds))]:
        note = f"# The study used the seeds {', '.join(map(str, seeds))}.\n"
    return note + " \\\n  ".join(parts)


def _diverged(row: Mapping[str, Any]) -> str:
    count, total = row["diverged"], row["diverged"] + row["n"]
    axes = [tuple(axis.split("=")) for axis in row["settings"]]
    values = zip(axes, row["settings"].values(), strict=True)
    context = context_text({name: value for axis, value in values for name in axis}, axes)
    if count == total:
        runs = "The only run" if count == 1 else f"All {count} runs"
    else:
        runs = f"{count} of {total} runs"
    return f"{runs} with {context} diverged."


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"
