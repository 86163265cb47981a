"""Plotly figures of a study: parallel coordinates, a setting against a metric, the Pareto front and importance.

Figures are plain dicts without a theme, as in `core.views.charts`. Contexts are never averaged: a mean is taken over
the seeds of one combination of settings only.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from core.colors import PALETTE
from core.metrics import RESULTS
from core.studies.spacing import is_log_spaced
from core.studies.sweep import Axes
from core.views.charts import CHART_HEIGHT_PX, GRAY, TITLE_FONT, Figure, plain
from core.views.formats import axis_title, lowered, plural, setting_text, value_text

if TYPE_CHECKING:  # imports SciPy
    from core.studies.effects import EffectMetric

STUDY_CHART_HEIGHT_PX = 420
MAX_TICKS = 12
"""A setting with more values gets the ticks of a numeric axis."""
BEST_COLOR, MIDDLE_COLOR, WORST_COLOR = "#3b7dd8", "#b08d12", "#d1584f"
"""Colors of runs in parallel coordinates, taken from the palette of runs."""
SPREAD = 0.25
"""Fraction of the gap between two values over which the lines of different contexts are spread."""
SEED_GAP = 0.012
"""Distance between the dots of two runs with the same settings, as a fraction of the gap between two values."""
EXTRA_RANGE = 0.12
"""Space above the worst value for diverged runs, as a fraction of the range."""


def metric_title(metric: str) -> str:
    """Return the title and the unit of a metric. A judge is its own title."""
    return RESULTS[metric].label if metric in RESULTS else metric


def settings_label(settings: Mapping[str, Any], but: str = "") -> str:
    """Describe a combination of settings, such as "Rank = Alpha 16 · Scaling alpha".

    Args:
        settings: values by axis, such as `lora_rank=lora_alpha`; see `core.studies.summary`.
        but: an axis to leave out.
    """
    parts = [
        f"{axis_title(axis)} {setting_text(value)}"
        for axis, value in settings.items()
        if axis != but
    ]
    return " · ".join(parts)


def parallel_coordinates(
    runs: pd.DataFrame, axes: Axes, metric: str, scale: "EffectMetric"
) -> Figure:
    """Draw each run as a line through its settings to its metric. Diverged runs end at a tick above the worst value.

    Args:
        runs: settings, `value` (the metric) and `diverged`. Runs with neither are left out.
        axes: varied settings.
        metric: shown on the last axis. It determines the colors of the lines, from best to worst.
        scale: the direction and scale of the metric.
    """
    runs = runs[runs["value"].notna() | runs["diverged"]]
    lower_is_better = scale.direction == "lower"
    dimensions = [_dimension(fields, runs[fields[0]]) for fields in axes]
    position = _positions(runs["value"].tolist(), scale.is_log)
    finite = position[np.isfinite(position)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    height = high - low or 1.0
    worst = high + EXTRA_RANGE * height if lower_is_better else low - EXTRA_RANGE * height
    has_diverged = bool(runs["diverged"].any())
    ends = np.where(runs["diverged"], worst, position)
    ticks = np.linspace(low, high, 6) if len(finite) else np.array([])
    texts = [_short(metric, v) for v in _values(ticks, runs["value"], scale.is_log)]
    bounds = [min(low, worst), max(high, worst)] if has_diverged else [low, high]
    dimensions.append({
        "label": plain(metric_title(metric)), "values": ends.tolist(), "range": bounds,
        "tickvals": [*ticks.tolist(), *([worst] if has_diverged else [])],
        "ticktext": [*texts, *(["diverged"] if has_diverged else [])],
    })  # fmt: skip
    shades = [BEST_COLOR, MIDDLE_COLOR, WORST_COLOR]
    colorscale = [
        [i / 2, color] for i, color in enumerate(shades if lower_is_better else shades[::-1])
    ]
    trace = {
        "type": "parcoords", "dimensions": dimensions,
        "line": {"color": ends.tolist(), "colorscale": colorscale, "cmin": bounds[0], "cmax": bounds[1]},
        "labelside": "top", "unselected": {"line": {"color": GRAY, "opacity": 0.08}},
    }  # fmt: skip
    figure = blank_figure([trace], "")
    figure["layout"] |= {
        "height": STUDY_CHART_HEIGHT_PX,
        "margin": {"l": 90, "r": 70, "t": 48, "b": 24},
    }
    del figure["layout"]["title"]
    return figure


def setting_effect(
    runs: pd.DataFrame,
    table: pd.DataFrame,
    axis: str,
    metric: str,
    scale: "EffectMetric",
    color_axis: str | None = None,
) -> Figure:
    """Draw a metric against a setting: a dot per run, and each combination's mean over seeds with its 95% interval.

    Lines join means that differ only in this setting. Diverged runs are crosses at the edge.

    Args:
        runs: `name`, `color`, `value` and `diverged`.
        table: see `core.studies.summary`.
        axis: the setting on the x-axis, such as `lora_rank=lora_alpha`.
        scale: the direction and scale of the metric.
        color_axis: the setting that determines the colors of lines and dots. By default, dots have their run's color.
    """
    by_name = {run["name"]: run for run in _rows(runs)}
    rows = [row for row in _rows(table) if _has_results(row, by_name)]
    values = _sorted_values(row["settings"][axis] for row in rows)
    places = dict(zip(map(repr, values), _positions_of(values).tolist(), strict=True))
    contexts = _by_context(rows, axis)
    shifts = _shifts(len(contexts), [*places.values()])
    colors = (
        _value_colors(_sorted_values(row["settings"][color_axis] for row in rows))
        if color_axis
        else {}
    )
    measured = [
        run["value"]
        for row in rows
        for name in row["runs"]
        if not math.isnan((run := by_name[name])["value"])
    ]
    is_log = scale.is_log and all(value > 0 for value in measured)
    edge = _edge(measured, scale.direction, is_log)
    jitter = SEED_GAP * _smallest_gap([*places.values()])
    data: list[Figure] = []
    listed: set[str] = set()
    for (label, members), shift in zip(contexts.items(), shifts, strict=True):
        value = members[0]["settings"][color_axis] if color_axis else None
        color = colors.get(repr(value), GRAY)
        x = [places[repr(row["settings"][axis])] + shift for row in members]
        hover = plain(label.replace(" · ", "\n")).replace("\n", "<br>")
        data += [
            _run_dots(
                members, x, by_name, color if color_axis else None, hover, metric, edge, jitter
            ),
            {**_means(members, x, axis, color, hover, metric), "showlegend": False},
        ]
        if color_axis and repr(value) not in listed:
            listed.add(repr(value))
            data[-1] |= {"showlegend": True, "name": plain(setting_text(value))}
    figure = blank_figure(data, f"{metric_title(metric)} by {lowered(axis_title(axis))}")
    layout = figure["layout"] | {"height": STUDY_CHART_HEIGHT_PX, "showlegend": bool(color_axis)}
    layout["legend"] |= {
        "title": {
            "text": plain(axis_title(color_axis) if color_axis else ""),
            "font": {"size": 12},
        }
    }
    layout["xaxis"] = _setting_axis(axis, values, [*places.values()])
    layout["yaxis"] = _metric_axis(metric, is_log, measured)
    if edge is not None and (runs["diverged"] & runs["value"].isna()).any():
        layout["annotations"] = [_edge_label(edge, is_log)]
    return {"data": data or figure["data"], "layout": layout}


def pareto(
    table: pd.DataFrame,
    front: pd.Series,
    metric: str,
    cost: str,
    costs: Sequence[float],
    is_log: bool,
) -> Figure:
    """Draw the mean quality of each combination of settings against its mean cost. A line joins the front.

    Args:
        table: see `core.studies.summary`.
        front: whether a row is on the front.
        metric: the quality.
        cost: `seconds` or `peak_memory_mb`.
        costs: the mean cost of each row.
        is_log: use a logarithmic axis for the quality.
    """
    data = []
    frame = table.assign(cost=costs, front=front)
    frame = frame[frame["mean"].notna() & frame["cost"].notna()].sort_values("cost")
    best = frame[frame["front"]]
    if len(best) > 1:
        line = {"color": GRAY, "width": 1.5, "shape": "hv"}
        x, y = best["cost"].tolist(), best["mean"].tolist()
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": x,
                "y": y,
                "line": line,
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    for part, name in ((frame[~frame["front"]], "dominated"), (best, "Pareto front")):
        rows = _rows(part)
        marker = (
            {"size": 11, "line": {"width": 1, "color": "#ffffff"}}
            if name != "dominated"
            else {"size": 8, "opacity": 0.6}
        )
        hovers = [
            f"{_hover_settings(row['settings'])}<br>{plain(metric_title(metric))}: {value_text(metric, row['mean'])}"
            f"<br>{metric_title(cost)}: {value_text(cost, row['cost'])}<br>{plural(row['n'], 'seed')}"
            for row in rows
        ]
        data.append({
            "type": "scatter", "mode": "markers", "name": name, "x": part["cost"].tolist(),
            "y": part["mean"].tolist(), "hovertext": hovers, "hoverinfo": "text",
            "marker": {**marker, "color": GRAY if name == "dominated" else [row["color"] for row in rows]},
        })  # fmt: skip
    figure = blank_figure(data, f"{metric_title(metric)} and {lowered(RESULTS[cost].title)}")
    is_log = is_log and bool((frame["mean"] > 0).all())
    figure["layout"] |= {"height": STUDY_CHART_HEIGHT_PX, "showlegend": True}
    figure["layout"]["xaxis"] = {"title": {"text": metric_title(cost)}}
    figure["layout"]["yaxis"] = _metric_axis(metric, is_log, frame["mean"].tolist())
    return figure


def importance_bars(table: pd.DataFrame) -> Figure:
    """Draw the importance of each setting with its interval. Settings whose importance could be chance are gray.

    Args:
        table: see `core.studies.importance.importance`.
    """
    table = table.iloc[::-1]
    shares, low, high = (table[name].to_numpy(float) for name in ("importance", "low", "high"))
    bars = {
        "type": "bar", "orientation": "h", "x": shares.tolist(),
        "y": [axis_title(field) for field in table["field"]],
        "marker": {"color": [PALETTE[0] if clear else GRAY for clear in table["above_chance"]]},
        "error_x": {
            "type": "data", "symmetric": False, "array": (high - shares).tolist(),
            "arrayminus": (shares - low).tolist(), "color": GRAY, "thickness": 1.5,
        },
        "customdata": np.stack([low, high], axis=1).tolist(),
        "hovertemplate": "%{y}: %{x:.0%} (%{customdata[0]:.0%} to %{customdata[1]:.0%})<extra></extra>",
    }  # fmt: skip
    figure = blank_figure([bars], "")
    figure["layout"] |= {"height": 50 + 36 * len(table), "showlegend": False}
    figure["layout"]["margin"] |= {"t": 8}
    del figure["layout"]["title"]
    figure["layout"]["xaxis"] = {"range": [0, 1], "tickformat": ".0%"}
    figure["layout"]["yaxis"] = {"type": "category", "automargin": True}
    return figure


def _dimension(fields: tuple[str, ...], column: pd.Series) -> Figure:
    """Return an axis of parallel coordinates. Values without an effect are placed at "none"."""
    values = _python(column)
    distinct = _sorted_values(values)
    label = {"label": plain(axis_title(fields))}
    places = _positions_of(distinct)
    by_value = dict(zip(map(repr, distinct), places.tolist(), strict=True))
    positions = [by_value[repr(value)] for value in values]
    margin = 0.5 if len(places) < 2 else 0.0
    bounds = [float(places.min()) - margin, float(places.max()) + margin] if len(places) else [0, 1]
    if len(distinct) > MAX_TICKS:
        shown = [distinct[round(i)] for i in np.linspace(0, len(distinct) - 1, 6)]
    else:
        shown = distinct
    ticks = {
        "tickvals": [by_value[repr(v)] for v in shown],
        "ticktext": [plain(_rounded(v)) for v in shown],
    }
    return {**label, "values": positions, "range": bounds, **ticks}


def _python(column: pd.Series) -> list[Any]:
    """Return the values of a column as Python objects. Missing values become None."""
    return column.astype(object).where(column.notna(), None).tolist()


def _rounded(value: Any) -> str:
    return setting_text(float(f"{value:.3g}") if isinstance(value, float) else value)


def _sorted_values(values: Any) -> list[Any]:
    """Return the distinct values: None, then numbers by size, then other values by name."""

    def order(value: Any) -> tuple[bool, bool, float, str]:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value is not None, not is_number, float(value) if is_number else 0.0, str(value)

    distinct = {repr(value): value for value in values}
    return sorted(distinct.values(), key=order)


def _positions_of(values: Sequence[Any]) -> np.ndarray:
    """Return the positions of sorted, distinct values: to scale for numbers, otherwise evenly spaced."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numbers or len(values) < 3:
        return np.arange(len(values), dtype=float)
    return _positions(values, is_log_spaced(values))


def _positions(values: Sequence[Any], is_log: bool) -> np.ndarray:
    numbers = np.array(values, float)
    if is_log and (numbers[np.isfinite(numbers)] > 0).all():
        return np.log10(numbers)
    return numbers


def _short(metric: str, value: float) -> str:
    """Format a value of a metric with three significant digits."""
    is_share = metric in RESULTS and RESULTS[metric].format == "percent"
    return f"{value:.1%}" if is_share else setting_text(float(f"{value:.3g}"))


def _values(positions: np.ndarray, values: pd.Series, is_log: bool) -> np.ndarray:
    """Return the values at some positions, the inverse of `_positions`."""
    return 10**positions if is_log and bool((values.dropna() > 0).all()) else positions


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], frame.to_dict("records"))


def _has_results(row: Mapping[str, Any], by_name: Mapping[str, Any]) -> bool:
    runs = [by_name[name] for name in row["runs"] if name in by_name]
    return any(run["diverged"] or not math.isnan(run["value"]) for run in runs)


def _by_context(rows: Sequence[dict[str, Any]], axis: str) -> dict[str, list[dict[str, Any]]]:
    """Group combinations by their settings other than `axis`."""
    contexts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        contexts.setdefault(settings_label(row["settings"], axis), []).append(row)
    return contexts


def _shifts(count: int, places: Sequence[float]) -> np.ndarray:
    """Return the horizontal offset of each context, so that their intervals do not overlap."""
    if count < 2 or len(places) < 2:
        return np.zeros(count)
    return np.linspace(-0.5, 0.5, count) * SPREAD * _smallest_gap(places)


def _smallest_gap(places: Sequence[float]) -> float:
    return float(np.diff(places).min()) if len(places) > 1 else 1.0


def _run_dots(
    members: Sequence[dict[str, Any]],
    x: Sequence[float],
    by_name: Mapping[str, Any],
    color: str | None,
    hover: str,
    metric: str,
    edge: float | None,
    jitter: float,
) -> Figure:
    points = [
        (place + shift, by_name[name])
        for row, place in zip(members, x, strict=True)
        for name, shift in zip(
            row["runs"],
            jitter * (np.arange(len(row["runs"])) - (len(row["runs"]) - 1) / 2),
            strict=True,
        )
    ]
    points = [p for p in points if p[1]["diverged"] or not math.isnan(p[1]["value"])]
    texts = [
        f"{plain(run['name'])}<br>{hover}<br>" + ", ".join(_results(run, metric))
        for _, run in points
    ]
    return {
        "type": "scatter", "mode": "markers", "showlegend": False,
        "x": [place for place, _ in points],
        "y": [edge if math.isnan(run["value"]) else run["value"] for _, run in points],
        "hovertext": texts, "hoverinfo": "text",
        "marker": {
            "size": [9 if run["diverged"] else 5 for _, run in points],
            "symbol": ["x-thin-open" if run["diverged"] else "circle" for _, run in points],
            "color": [color or run["color"] for _, run in points], "opacity": 0.7,
        },
    }  # fmt: skip


def _results(run: Mapping[str, Any], metric: str) -> list[str]:
    value = f"{plain(metric_title(metric))}: {value_text(metric, run['value'])}"
    return [
        *([] if math.isnan(run["value"]) else [value]),
        *(["diverged"] if run["diverged"] else []),
    ]


def _means(
    members: Sequence[dict[str, Any]],
    x: Sequence[float],
    axis: str,
    color: str,
    hover: str,
    metric: str,
) -> Figure:
    """Return the means of one context with their intervals, joined by a line."""
    means = [row["mean"] for row in members]
    high, low = (
        [abs(row[bound] - row["mean"]) if math.isfinite(row[bound]) else 0.0 for row in members]
        for bound in ("high", "low")
    )
    texts = [
        f"{plain(axis_title(axis))} {plain(setting_text(row['settings'][axis]))}<br>{hover}<br>"
        f"mean {value_text(metric, row['mean'])}{_interval(row, metric)}<br>{plural(row['n'], 'seed')}"
        for row in members
    ]
    return {
        "type": "scatter", "mode": "lines+markers", "x": [*x], "y": means, "connectgaps": False,
        "hovertext": texts, "hoverinfo": "text",
        "line": {"color": color, "width": 1.5}, "marker": {"size": 9, "color": color},
        "error_y": {"type": "data", "symmetric": False, "array": high, "arrayminus": low, "color": color, "thickness": 1.2, "width": 3},
    }  # fmt: skip


def _interval(row: Mapping[str, Any], metric: str) -> str:
    if not math.isfinite(row["low"]) or not math.isfinite(row["high"]):
        return ""
    return f" (95% interval {value_text(metric, row['low'])} to {value_text(metric, row['high'])})"


def _edge(values: Sequence[float], direction: str, is_log: bool) -> float | None:
    """Return where diverged runs are drawn: beyond the worst value."""
    if not values:
        return None
    scaled = np.log10(values) if is_log else np.array(values)
    extra = EXTRA_RANGE * (float(scaled.max() - scaled.min()) or 1.0)
    edge = float(scaled.max()) + extra if direction == "lower" else float(scaled.min()) - extra
    return 10**edge if is_log else edge


def _edge_label(edge: float, is_log: bool) -> Figure:
    # On a log axis, Plotly places annotations by exponent.
    return {
        "x": 1, "xref": "paper", "xanchor": "right", "y": math.log10(edge) if is_log else edge, "yanchor": "bottom",
        "text": "diverged", "showarrow": False, "yshift": 6, "font": {"size": 11, "color": GRAY},
    }  # fmt: skip


def _setting_axis(axis: str, values: Sequence[Any], places: Sequence[float]) -> Figure:
    title = {"text": plain(axis_title(axis))}
    step = max(1, math.ceil(len(values) / MAX_TICKS))
    texts = [plain(_rounded(value)) for value in values]
    margin = 0.4 * _smallest_gap(places)
    bounds = [min(places) - margin, max(places) + margin] if places else [0, 1]
    return {
        "title": title, "tickvals": [*places][::step], "ticktext": texts[::step], "range": bounds, "zeroline": False,
    }  # fmt: skip


def _metric_axis(metric: str, is_log: bool, values: Sequence[float]) -> Figure:
    axis: Figure = {"type": "log" if is_log else "linear"}
    if metric in RESULTS and RESULTS[metric].format == "percent":
        axis["tickformat"] = ".0%"
    if is_log and values:
        ticks = log_ticks(min(values), max(values))
        axis |= {"tickvals": ticks, "ticktext": [setting_text(tick) for tick in ticks]}
    return axis | {"title": {"text": plain(metric_title(metric))}}


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers for a logarithmic axis: powers of ten, with more numbers between them for narrow ranges."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps: tuple[float, ...] = (1, 2, 5)
    if last - first > 4:
        steps = (1,)
    elif high < 10 * low:
        steps = (1, 1.5, 2, 3, 5, 7)
    ticks = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
    inside = [tick for tick in ticks if 0.5 * low <= tick <= 1.5 * high]
    return inside or ticks


def _value_colors(values: Sequence[Any]) -> dict[str, str]:
    return {repr(value): PALETTE[i % len(PALETTE)] for i, value in enumerate(values)}


def _hover_settings(settings: Mapping[str, Any]) -> str:
    return "<br>".join(plain(part) for part in settings_label(settings).split(" · "))


def blank_figure(data: list[Figure], title: str) -> Figure:
    """Return a figure with the layout of all charts of studies."""
    layout = {
        "title": {"text": plain(title), "font": TITLE_FONT, "x": 0, "xanchor": "left"},
        "height": CHART_HEIGHT_PX,
        "margin": {"l": 8, "r": 8, "t": 40, "b": 8},
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top"},
        "hovermode": "closest",
        "uirevision": "constant",  # keeps the user's zoom when new data arrives
        "template": "none",  # copying Plotly's default template into each figure would be slow
    }
    return {"data": data or [{"type": "scatter", "x": [], "y": []}], "layout": layout}
