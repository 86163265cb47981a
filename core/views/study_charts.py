"""Plotly figures of studies: mean curves over seeds, heat maps, and relative updates next to a metric.

Figures are plain dicts; see `core.views.charts`. Labels are escaped, because they can contain text from settings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.views.charts import (
    CHART_HEIGHT_PX,
    FONT,
    GRAY,
    TITLE_FONT,
    Figure,
    plain,
)

CURVE_HEIGHT_PX = 420
CELL_HEIGHT_PX, HEATMAP_MARGIN_PX = 52, 96
SCATTER_HEIGHT_PX = 380
GRID_POINTS = 200
"""Number of points of a mean curve if its runs were not measured at the same steps."""
MAX_SEEDS_FOR_RANGE = 5
"""With more seeds, the band is one standard deviation, because the range widens with each seed."""
BAND_OPACITY = 0.18
DASHES = ("solid", "dash", "dot", "dashdot")
"""Line styles of groups that share a color."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "hexagon", "cross", "pentagon")
LOG_TICKS: Figure = {"type": "log", "dtick": "D2", "tickformat": "~g"}
"""Ticks at 1, 2 and 5 in each decade, with all digits."""
HEAT_SCALE = [[0.0, "#eaf1fb"], [0.5, "#4f79b3"], [1.0, "#123a6d"]]
"""Light to dark. Black text is legible on the lighter half, white text on the darker half."""
TEXT_ON_LIGHT, TEXT_ON_DARK = "#0b0f14", "#ffffff"
DIVERGED = "\u00d7"


@dataclass(frozen=True)
class Curve:
    """A group of runs to draw as one curve.

    Args:
        label: shown in the legend.
        color: color of the line and the band.
        number: position of the group, which determines its line style.
        runs: the runs to average.
        diverged: runs to draw separately as thin lines.
    """

    label: str
    color: str
    number: int
    runs: Sequence[str]
    diverged: Sequence[str] = ()


def mean_curves(points: pd.DataFrame, curves: Sequence[Curve]) -> dict[str, pd.DataFrame]:
    """Return the mean and the band of each curve by label: x, mean, low, high.

    The band is the range over seeds or, with more than MAX_SEEDS_FOR_RANGE, one standard deviation on each side. It
    covers only the steps that all runs have reached. Runs without a value are left out.

    Args:
        points: columns run, x and y.
    """
    by_run = dict(tuple(points.dropna(subset=["y"]).groupby("run", observed=True, sort=False)))
    result = {}
    for curve in curves:
        found = [by_run[name] for name in curve.runs if name in by_run]
        lines = [
            (line["x"].to_numpy(float), line["y"].to_numpy(float))
            for line in found
            if np.isfinite(line["y"]).any()
        ]
        x, values = _aligned(lines)
        if not len(x):
            result[curve.label] = pd.DataFrame(columns=["x", "mean", "low", "high"], dtype=float)
            continue
        mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
        if len(values) > MAX_SEEDS_FOR_RANGE:
            sd = values.std(axis=0, ddof=1)
            low, high = mean - sd, mean + sd
        result[curve.label] = pd.DataFrame({"x": x, "mean": mean, "low": low, "high": high})
    return result


def _aligned(lines: Sequence[tuple[NDArray, NDArray]]) -> tuple[NDArray, NDArray]:
    """Return common x values, and the y values of all lines (lines, points). Interpolates if the x values differ."""
    if not lines:
        return np.empty(0), np.empty((0, 0))
    start, end = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    cut = [(x[(x >= start) & (x <= end)], y[(x >= start) & (x <= end)]) for x, y in lines]
    first = cut[0][0]
    if all(np.array_equal(x, first) for x, _ in cut):
        return first, np.stack([y for _, y in cut])
    if end < start:
        return np.empty(0), np.empty((0, 0))
    grid = np.linspace(start, end, GRID_POINTS)
    return grid, np.stack([np.interp(grid, x, y) for x, y in lines])


def seed_curves(
    points: pd.DataFrame, curves: Sequence[Curve], title: str, x_title: str, log: bool
) -> Figure:
    """Draw the mean of each group of runs with a band over its seeds. Diverged runs are thin dotted lines.

    Args:
        points: columns run, x and y.
        log: use a logarithmic y-axis.
    """
    means = mean_curves(points, curves)
    data: list[Figure] = []
    for curve in curves:
        mean = means[curve.label]
        name = plain(curve.label)
        base = {"type": "scatter", "mode": "lines", "legendgroup": curve.label, "x": mean["x"].to_numpy()}  # fmt: skip
        edge = {**base, "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
        data.append({**edge, "y": mean["low"].to_numpy()})
        data.append(
            {**edge, "y": mean["high"].to_numpy(), "fill": "tonexty", "fillcolor": _rgba(curve.color, BAND_OPACITY)}
        )  # fmt: skip
        dash = DASHES[curve.number // 8 % len(DASHES)]
        data.append({
            **base, "y": mean["mean"].to_numpy(), "name": name,
            "line": {"color": curve.color, "width": 2, "dash": dash},
            "customdata": np.stack([mean["low"], mean["high"]], axis=1),
            "hovertemplate": "%{y:.4~g} (%{customdata[0]:.4~g} to %{customdata[1]:.4~g})",
        })  # fmt: skip
        for run in curve.diverged:
            own = points[(points["run"] == run) & np.isfinite(points["y"])]
            line = {"color": curve.color, "width": 1, "dash": "dot"}
            data.append({
                **base, "x": own["x"].to_numpy(), "y": own["y"].to_numpy(), "line": line,
                "name": f"{plain(run)} (diverged)", "showlegend": False,
                "hovertemplate": "%{y:.4~g}",
            })  # fmt: skip
    layout = {
        **_layout(title, CURVE_HEIGHT_PX),
        "hovermode": "x unified",
        "showlegend": True,
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top"},
        "uirevision": "constant",
        "xaxis": {"title": {"text": x_title}, "rangemode": "tozero"},
        "yaxis": LOG_TICKS if log else {},
    }
    return {"data": data or [{"type": "scatter", "x": [], "y": []}], "layout": layout}


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map.

    Args:
        value: determines the color; nan for an empty or diverged cell.
        text: shown in the cell.
        hover: shown when the pointer is over the cell.
    """

    value: float
    text: str
    hover: str


def heat_map(
    cells: Mapping[tuple[str, str], Cell],
    x: tuple[str, Sequence[str]],
    y: tuple[str, Sequence[str]],
    title: str,
    span: tuple[float, float],
    is_lower_better: bool,
    is_log: bool,
) -> Figure:
    """Draw one value per pair of settings. Darker is better.

    Args:
        cells: cells by x and y value.
        x, y: title and values of each axis.
        span: smallest and largest value in all heat maps that share a color scale.
        is_log: whether the logarithm of a value determines the color.
    """
    scale = math.log if is_log else float
    rows = [[cells.get((column, row)) for column in x[1]] for row in y[1]]
    z = [[scale(c.value) if c and math.isfinite(c.value) else None for c in row] for row in rows]
    low, high = (scale(bound) for bound in span)
    escaped = [[plain(value) for value in values] for values in (x[1], y[1])]
    high = high if high > low else low + 1
    trace = {
        "type": "heatmap", "x": escaped[0], "y": escaped[1], "z": z,
        "customdata": [[_lines(c.hover) if c else "No run" for c in row] for row in rows],
        "hovertemplate": "%{customdata}<extra></extra>",
        "zmin": low, "zmax": high,
        "colorscale": HEAT_SCALE, "reversescale": is_lower_better, "showscale": False,
        "xgap": 2, "ygap": 2,
    }  # fmt: skip
    texts = []
    for j, row in enumerate(rows):
        for i, cell in enumerate(row):
            if cell:
                font: Figure = {"size": 13}
                if (value := z[j][i]) is not None:
                    share = (value - low) / (high - low)
                    is_dark = (1 - share if is_lower_better else share) > 0.5
                    font["color"] = TEXT_ON_DARK if is_dark else TEXT_ON_LIGHT
                # On an axis of categories, Plotly places annotations by position.
                texts.append({"x": i, "y": j, "text": _lines(cell.text), "showarrow": False, "font": font})  # fmt: skip
    axis = {"type": "category", "showgrid": False, "automargin": True}
    layout = {
        **_layout(title, HEATMAP_MARGIN_PX + CELL_HEIGHT_PX * len(y[1])),
        "annotations": texts,
        "xaxis": {**axis, "title": {"text": plain(x[0])}},
        "yaxis": {**axis, "title": {"text": plain(y[0])}},
    }
    return {"data": [trace], "layout": layout}


def updates_by_metric(
    rows: Sequence[Mapping[str, Any]],
    title: str,
    metric: str,
    is_lower_better: bool,
    log: bool,
) -> Figure:
    """Draw a metric against the mean relative update, with one point per group of runs.

    Groups without a value, because all of their runs diverged, are crosses beyond the worst value.

    Args:
        rows: mappings with update, value (nan if all runs diverged), legend, and hover.
        metric: title of the y-axis.
        log: use a logarithmic y-axis.
    """
    legend = list(dict.fromkeys(row["legend"] for row in rows))
    values = [row["value"] for row in rows if math.isfinite(row["value"])]
    worst = _beyond_worst(values, is_lower_better, log)
    data = []
    for i, label in enumerate(legend):
        own = [row for row in rows if row["legend"] == label]
        is_diverged = [not math.isfinite(row["value"]) for row in own]
        data.append({
            "type": "scatter", "mode": "markers", "name": plain(label),
            "x": [row["update"] for row in own],
            "y": [worst if d else row["value"] for d, row in zip(is_diverged, own, strict=True)],
            "marker": {
                "color": own[0]["color"], "size": 11,
                "symbol": ["x" if d else SYMBOLS[i % len(SYMBOLS)] for d in is_diverged],
            },
            "customdata": [_lines(row["hover"]) for row in own],
            "hovertemplate": "%{customdata}<extra></extra>",
        })  # fmt: skip
    shapes = []
    if any(not math.isfinite(row["value"]) for row in rows):
        line = {"color": GRAY, "width": 1, "dash": "dot"}
        label = {"text": "all runs diverged", "textposition": "start", "font": {"color": GRAY}, "yanchor": "bottom"}  # fmt: skip
        shapes.append({"type": "line", "x0": 0, "x1": 1, "xref": "x domain", "y0": worst, "y1": worst, "line": line, "label": label})  # fmt: skip
    layout = {
        **_layout(title, SCATTER_HEIGHT_PX),
        "hovermode": "closest",
        "showlegend": True,
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top"},
        "shapes": shapes,
        "xaxis": {"type": "log", "title": {"text": "Mean relative update"}, **LOG_TICKS, "tickformat": "~e"},
        "yaxis": {"title": {"text": plain(metric)}, **(LOG_TICKS if log else {})},
    }  # fmt: skip
    return {"data": data or [{"type": "scatter", "x": [], "y": []}], "layout": layout}


def _beyond_worst(values: Sequence[float], is_lower_better: bool, log: bool) -> float:
    """Return a position beyond the worst value."""
    if not values:
        return 1.0
    low, high = min(values), max(values)
    if log:
        return high * 1.5 if is_lower_better else low / 1.5
    margin = 0.1 * (high - low or abs(high) or 1.0)
    return high + margin if is_lower_better else low - margin


def _layout(title: str, height: int) -> Figure:
    text = plain(title)
    return {
        "title": {"text": text, "font": TITLE_FONT, "x": 0, "xanchor": "left"},
        "height": height or CHART_HEIGHT_PX,
        "font": {"family": FONT},
        "margin": {"l": 8, "r": 8, "t": 40, "b": 8},
        "template": "none",
    }


def _lines(text: str) -> str:
    return plain(text).replace("\n", "<br>")


def _rgba(color: str, opacity: float) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"
