"""The parts of a study report as text and data, for every format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.colors import PALETTE
from core.config import GROUPS, IDENTITY_FIELDS, RunConfig, is_relevant, metadata
from core.exchange.study_record import StudyRecord
from core.exchange.svg import Line
from core.metrics import RESULTS
from core.statistics.comparisons import FALSE_DISCOVERY_RATE
from core.studies.analysis import scale
from core.studies.effects import WHOLE_SET_METRICS
from core.views import formats, study_text
from core.views.explore_charts import metric_title
from core.views.formats import axis_title, plural
from core.views.report import incomparable_settings
from core.views.study_charts import Curve, mean_curves
from core.views.tables import is_missing, records

MAX_PANELS = 12
MAX_PICTURED_EFFECTS = 40
MAX_LISTED_EFFECTS = 500
VERDICT_COLORS = {
    "better": "#3a9d63", "worse": "#d1584f", "equivalent": "#3b7dd8", "undecided": "#8a909c",
}  # fmt: skip


@dataclass(frozen=True)
class MetricPart:
    """The results for one metric.

    Args:
        title: title of the metric with its unit.
        note: explains the mean and the margin.
        groups: rows of the table of combinations, as a mapping from heading to text.
        effects: rows of the table of effects, with the keys change, context, difference, interval, seeds, verdict, note
            and diverged.
        effects_left_out: number of effects that are not listed.
        pictured: rows of the picture, with the keys label, difference, low, high and color.
        unit: title of the axis that shows differences.
    """

    title: str
    note: str
    groups: list[dict[str, str]]
    effects: list[dict[str, str]]
    effects_left_out: int
    pictured: list[dict[str, Any]]
    unit: str


@dataclass(frozen=True)
class StudyContent:
    """A study report.

    Args:
        summary: one sentence per line, written by the user or generated from the effects.
        facts: the numbers of runs and seeds.
        varied: rows with the keys setting, name and values.
        parts: the results, one part per metric.
        curves: validation loss by step, with one panel per combination of all settings but the first.
        curves_note: explains the curves.
        settings: rows with the keys group, name, title, value, default and is_changed.
        runs: rows of the table of runs.
        seeds: sentences about seeds and noise.
        statistics: sentences about the statistical methods.
    """

    name: str
    question: str
    notes: str
    summary: list[str]
    facts: list[str]
    varied: list[dict[str, str]]
    parts: list[MetricPart]
    curves: dict[str, list[Line]]
    curves_note: str
    settings: list[dict[str, Any]]
    runs: list[dict[str, str]]
    seeds: list[str]
    statistics: list[str]
    command: str


def content(record: StudyRecord) -> StudyContent:
    """Return the content of the report on a study."""
    study = record.study
    curves, curves_note = _curves(record)
    written = [line.strip() for line in study.summary.splitlines() if line.strip()]
    return StudyContent(
        name=study.name,
        question=study.question,
        notes=study.notes,
        summary=written or _generated(record),
        facts=_facts(record),
        varied=[
            {"setting": axis_title(a.fields), "name": " = ".join(a.fields), "values": ", ".join(map(formats.setting_text, a.values))}
            for a in study.sweep.axes
        ],
        parts=[_part(record, metric) for metric in record.metrics],
        curves=curves,
        curves_note=curves_note,
        settings=_settings(record),
        runs=_runs(record),
        seeds=_seeds(record),
        statistics=_statistics(record),
        command=study_text.command(study.name, study.sweep),
    )  # fmt: skip


def _generated(record: StudyRecord) -> list[str]:
    metric = record.metrics[0]
    return study_text.conclusions(
        record.effects[metric],
        record.tables[metric],
        metric,
        scale(metric),
        record.study.sweep.fields,
    )


def _facts(record: StudyRecord) -> list[str]:
    runs, planned = record.runs, len(record.study.members)
    finished = int((runs["status"] == "finished").sum())
    diverged = int(runs["diverged"].sum())
    facts = [f"{planned:,} planned runs", f"{finished:,} finished"]
    facts += [f"{diverged:,} diverged"] if diverged else []
    return [*facts, plural(len(record.study.sweep.seeds), "seed")]


def _part(record: StudyRecord, metric: str) -> MetricPart:
    own = scale(metric)
    rows = records(record.effects[metric])
    rows.sort(key=lambda row: study_text.effect_order(row, record.study.sweep.fields))
    pictured = [row for row in rows if row["difference"] is not None][:MAX_PICTURED_EFFECTS]
    mean = "Means are geometric. " if own.is_log else ""
    unit = "" if metric == "exact" else metric_title(metric)
    return MetricPart(
        title=metric_title(metric),
        note=f"{mean}Differences within {study_text.margin_text(rows[0]['margin'], metric, own)} count as equivalent."
        if rows
        else mean.strip(),
        groups=[_group(row, metric) for row in records(record.tables[metric])],
        effects=[_effect(row, metric, record) for row in rows[:MAX_LISTED_EFFECTS]],
        effects_left_out=max(0, len(rows) - MAX_LISTED_EFFECTS),
        pictured=[_pictured(row, metric) for row in pictured],
        unit=f"Difference in {unit[:1].lower() + unit[1:]}" if unit else "Difference in exact answers (points)",
    )  # fmt: skip


def _group(row: Mapping[str, Any], metric: str) -> dict[str, str]:
    settings = {
        axis_title(axis): formats.setting_text(value) for axis, value in row["settings"].items()
    }
    low, high = (_value(metric, row[bound]) for bound in ("low", "high"))
    difference, bounds = study_text.difference_text(
        {"difference": row["difference"], "low": row["difference_low"], "high": row["difference_high"]}, metric
    )  # fmt: skip
    update = row["relative_update"]
    return {
        **settings,
        "Seeds": str(row["n"]),
        "Diverged": str(row["diverged"] or ""),
        "Mean": _value(metric, row["mean"]),
        "SD": _value(metric, row["sd"]),
        "95% interval": "" if row["low"] is None else f"{low} to {high}",
        "Difference from best": "best" if row["is_best"] else difference,
        "95% interval of the difference": "" if row["is_best"] else bounds,
        "Compared with best": "" if row["is_best"] else str(row["verdict"] or ""),
        "Relative update": "" if update is None else f"{update:.2e}",
    }


def _effect(row: Mapping[str, Any], metric: str, record: StudyRecord) -> dict[str, str]:
    difference, interval = study_text.difference_text(row, metric)
    before, after = row["diverged"]
    return {
        "change": _change(row),
        "context": study_text.context_text(row["context"], record.study.sweep.fields),
        "difference": difference,
        "interval": interval,
        "seeds": str(row["seeds"]),
        "verdict": row["verdict"],
        "note": _note(row),
        "diverged": f"{before} \u2192 {after}" if before or after else "",
    }


def _note(row: Mapping[str, Any]) -> str:
    if row["seeds"] == 1:
        return "One seed supports no verdict."
    if row["low"] is None or row["high"] is None:
        return ""
    if row["verdict"] == "undecided" and row["low"] * row["high"] > 0:
        return "The interval excludes 0, but not after correction for the number of comparisons."
    return ""


def _change(row: Mapping[str, Any]) -> str:
    before, after = (formats.setting_text(row[end]) for end in ("from", "to"))
    return f"{axis_title(row['field'])} {before} \u2192 {after}"


def _pictured(row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    factor = 100 if metric == "exact" else 1
    values: dict[str, Any] = {}
    for name in ("difference", "low", "high"):
        values[name] = None if row[name] is None else factor * row[name]
    # Settings that vary together have the same value.
    context = dict.fromkeys(formats.setting_text(value) for value in row["context"].values())
    at = f" ({', '.join(context)})" if context else ""
    return {
        "label": f"{_change(row)}{at}",
        **values,
        "color": VERDICT_COLORS[row["verdict"]],
        "verdict": row["verdict"],
    }


def _curves(record: StudyRecord) -> tuple[dict[str, list[Line]], str]:
    """Return the mean validation loss by step, with one panel per combination of the settings after the first."""
    evaluations = record.evaluations
    points = evaluations.assign(y=evaluations["subset_loss"].fillna(evaluations["val_loss"]))
    rows = records(record.tables[record.metrics[0]])
    runs = record.runs.set_index("name")
    first = next(iter(rows[0]["settings"]), "") if rows else ""
    panels: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        others = {axis: value for axis, value in row["settings"].items() if axis != first}
        title = ", ".join(f"{axis_title(a)} {formats.setting_text(v)}" for a, v in others.items())
        panels.setdefault(title or "Validation loss", []).append(row)
    labels = list(dict.fromkeys(formats.setting_text(row["settings"][first]) for row in rows))
    result: dict[str, list[Line]] = {}
    for title, members in list(panels.items())[:MAX_PANELS]:
        lines = []
        for row in members:
            label = formats.setting_text(row["settings"][first])
            names = [n for n in row["runs"] if n in runs.index and not is_missing(runs["value"][n])]
            names = names or [name for name in row["runs"] if name in runs.index]
            color = PALETTE[labels.index(label) % len(PALETTE)]
            own = f"{axis_title(first)} {label}"
            mean = mean_curves(points, [Curve(own, color, 0, names)])[own]
            if len(mean):
                lines.append(Line(own, color, mean))
        if lines:
            result[title] = lines
    left_out = len(panels) - MAX_PANELS
    note = "Mean and range over seeds, on the validation subset. Diverged and unfinished runs are shown only if no run of the combination has a result."
    return result, note + (f" {left_out:,} more panels are not shown." if left_out > 0 else "")


def _settings(record: StudyRecord) -> list[dict[str, Any]]:
    sweep = record.study.sweep
    values = sweep.base.model_dump()
    varied = {field: axis for axis in sweep.axes for field in axis.fields}
    rows = []
    for name, field in RunConfig.model_fields.items():
        if name in IDENTITY_FIELDS or name == "seed":
            continue
        has_effect = is_relevant(name, values) or name in varied
        value = formats.setting_text(values[name]) if has_effect else formats.DASH
        if name in varied:
            value = "varied: " + ", ".join(map(formats.setting_text, varied[name].values))
        rows.append({
            "group": GROUPS[metadata(field)["group"]], "name": name, "title": str(field.title),
            "value": value, "default": formats.setting_text(field.default),
            "is_changed": name in varied or (has_effect and values[name] != field.default),
        })  # fmt: skip
    return rows


def _runs(record: StudyRecord) -> list[dict[str, str]]:
    axes = record.study.sweep.fields
    rows = []
    for run in records(record.runs.iloc[::-1]):
        status = "diverged" if run["diverged"] else str(run["status"])
        rows.append({
            "Run": run["name"],
            **{axis_title(axis): formats.setting_text(run[axis[0]]) for axis in axes},
            "Seed": str(run["seed"]),
            "Status": status,
            metric_title(record.metrics[0]): _value(record.metrics[0], run["value"]),
            "Exact answers": formats.percent(run["exact"]),
            "Time": formats.duration(run["seconds"]),
            "Peak memory": formats.memory(run["peak_memory_mb"]),
        })  # fmt: skip
    return rows


def _seeds(record: StudyRecord) -> list[str]:
    seeds = record.study.sweep.seeds
    lines = [
        f"Seeds: {', '.join(map(str, seeds))}. All combinations use the same seeds, so that differences can be paired."
    ]
    if len(seeds) == 1:
        lines = [
            f"Seed: {seeds[0]}. One seed supports no verdict: differences between single runs can be due to chance."
        ]
    if record.study.is_exploratory:
        lines.append(
            f"The study was planned with {record.study.first_seeds} and extended to {len(seeds)} seeds. Adding seeds after "
            "looking at the results makes false verdicts more likely, so its verdicts are exploratory."
        )
    for row in records(record.noise):
        if row["sd"] is not None:
            lines.append(
                f"Standard deviation of the validation loss between seeds ({row['method']}, {row['base_model']}, "
                f"{row['dataset']}): {row['sd']:.1%} (95% interval {row['low']:.1%} to {row['high']:.1%})."
            )
    return lines


def _statistics(record: StudyRecord) -> list[str]:
    lines = [
        "Runs that share all settings but the seed form a combination. An effect compares two combinations that differ by exactly one change; settings that vary together are one change. Effects are listed per context, that is, for each combination of the other varied settings, and are never averaged over contexts.",
        "Losses, time and memory are compared on a log scale. Differences are shown in the unit of the metric, relative to the first combination.",
        "With two or more common seeds, a paired t-test is used, otherwise Welch's test. Exact answers and scores are compared per test example, with separate variance components for seeds and examples (Owen 2007).",
        f"Verdicts control the false discovery rate at {FALSE_DISCOVERY_RATE:.0%} over all comparisons of a metric (Benjamini and Hochberg 1995). Intervals are not adjusted, so an interval can exclude 0 even when the verdict is undecided.",
        "Equivalent means that two one-sided tests at 5% reject a difference of the margin or more. One seed supports no verdict.",
        "Diverged runs, whose loss became infinite or ended above that of the base model, are counted separately. Diverged, pruned and unfinished runs are not part of means and differences.",
    ]
    if set(record.metrics) & set(WHOLE_SET_METRICS):
        lines.append(
            "The validation loss is measured on the whole validation set at the end of a run."
        )
    varied = [name for axis in record.study.sweep.fields for name in axis]
    if warning := incomparable_settings(varied):
        lines.append(warning)
    return lines


def _value(metric: str, value: Any) -> str:
    if value is None:
        return ""
    return formats.value_text(metric, value) if metric in RESULTS else formats.score(value)
