"""Plotly figures of a study report: effects with intervals, and curves in panels. Plain dicts without a theme."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from core.views.charts import Figure, plain, stack
from core.views.explore_charts import blank_figure, log_ticks
from core.views.formats import setting_text


def effect_intervals(rows: Sequence[Mapping[str, Any]], unit: str) -> Figure:
    """Draw differences with intervals, one row each from top to bottom, and a line at 0.

    Args:
        rows: mappings with label, difference, low, high (None if there is no interval), color and verdict.
        unit: title of the x-axis.
    """
    rows = rows[::-1]
    shown = [plain(row["label"]) for row in rows]
    bounds = {
        "array": [0 if row["high"] is None else row["high"] - row["difference"] for row in rows],
        "arrayminus": [0 if row["low"] is None else row["difference"] - row["low"] for row in rows],
    }
    data = []
    # All error bars of a trace have the same color.
    for verdict, color in {row["verdict"]: row["color"] for row in rows}.items():
        own = [i for i, row in enumerate(rows) if row["verdict"] == verdict]
        data.append({
            "type": "scatter", "mode": "markers", "name": verdict, "x": [rows[i]["difference"] for i in own], "y": own,
            "text": [shown[i] for i in own], "hovertemplate": "%{text}: %{x:.3~g}<extra></extra>",
            "marker": {"size": 9, "color": color},
            "error_x": {
                "type": "data", "symmetric": False, "color": color,
                **{name: [values[i] for i in own] for name, values in bounds.items()},
            },
        })  # fmt: skip
    figure = blank_figure(data, "")
    figure["layout"] |= {"height": 70 + 26 * len(rows), "showlegend": False}
    figure["layout"]["margin"] |= {"t": 8}
    del figure["layout"]["title"]
    figure["layout"]["xaxis"] = {
        "title": {"text": plain(unit)},
        "zeroline": True,
        "zerolinewidth": 2,
    }
    ticks = {"tickvals": [*range(len(rows))], "ticktext": shown, "range": [-0.6, len(rows) - 0.4]}
    figure["layout"]["yaxis"] = {**ticks, "automargin": True, "showgrid": False, "zeroline": False}
    return figure


def curve_panels(panels: Mapping[str, Sequence[tuple[str, str, pd.DataFrame]]]) -> Figure:
    """Draw mean losses by step with bands, in panels that share their axes.

    Args:
        panels: the lines of each panel by title: label, color, and points with x, mean, low and high.
    """
    frames = [points for lines in panels.values() for _, _, points in lines]
    values = np.concatenate([frame[["low", "high"]].to_numpy(float).ravel() for frame in frames])
    values = values[np.isfinite(values)]
    is_log = bool((values > 0).all())
    low, high = float(values.min()), float(values.max())
    bounds = [math.log10(low / 1.1), math.log10(high * 1.1)] if is_log else [low, high]
    figures = []
    for title, lines in panels.items():
        data: list[Figure] = []
        for label, color, points in lines:
            name = plain(label)
            base = {
                "type": "scatter",
                "mode": "lines",
                "legendgroup": name,
                "name": name,
                "x": points["x"].to_numpy(),
            }
            edge = {**base, "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
            data += [
                {**edge, "y": points["low"].to_numpy()},
                {
                    **edge,
                    "y": points["high"].to_numpy(),
                    "fill": "tonexty",
                    "fillcolor": f"{color}2e",
                },
                {
                    **base,
                    "y": points["mean"].to_numpy(),
                    "line": {"color": color, "width": 2},
                    "hovertemplate": "%{y:.4f}",
                },
            ]
        figure = blank_figure(data, title)
        figure["layout"] |= {"hovermode": "x unified", "showlegend": True}
        figure["layout"]["xaxis"] = {"title": {"text": "Step"}, "rangemode": "tozero"}
        figure["layout"]["yaxis"] = {"type": "log" if is_log else "linear", "range": bounds}
        if is_log:
            ticks = log_ticks(low, high)
            labels = {"tickvals": ticks, "ticktext": [setting_text(tick) for tick in ticks]}
            figure["layout"]["yaxis"] |= labels
        figures.append(figure)
    return stack(figures)
