"""Plotly figures from DataFrames.

This module does not depend on where the data comes from or where the figures are shown.

Figures are plain dicts in Plotly's JSON schema. `plotly.graph_objects` validates every object when it is created and
again when it is shown, which takes longer than all of a page's queries.

Each run keeps its color in every figure. Run names are escaped so that they cannot be interpreted as HTML.
Figures have no theme: add one of TEMPLATES where they are shown.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from core.colors import PALETTE
from core.metrics import AXES, CURVES
from core.views.formats import setting_text

Figure = dict[str, Any]

CHART_HEIGHT_PX, HISTOGRAM_HEIGHT_PX = 260, 360
STACKED_PANEL_HEIGHT_PX, STACKED_PANEL_GAP_PX = 170, 46
"""Height of a panel in a stacked figure, and of the gap above it, which holds the panel's title."""
STACKED_MARGINS_PX = {"l": 56, "r": 8, "t": 4, "b": 48}
"""Margins of a stacked figure, with space for tick labels and the title of the x-axis.

They are fixed so that the panels of adjacent figures are aligned.
"""
LEGEND_HEIGHT_PX = 28
GRAY = "#8a909c"
"""Shading, thresholds and their labels; legible on light and dark backgrounds."""
CLICK_SIZE = 10
"""Diameter of invisible markers, in pixels."""
DOT_SIZE = 5
"""Diameter of the dots for evaluations and isolated points, in pixels."""
FONT = "Source Sans, Source Sans Pro, sans-serif"
TITLE_FONT = {"size": 14, "weight": 600}
NOTE_CSS = "font-size: 12px; font-weight: 400; fill-opacity: 0.75"
"""Style of the notes after a title."""
NUMBER_TICKS: Figure = {
    "tickformatstops": [{"name": "small", "dtickrange": [0, 5e-4], "value": "~e"}],
    "separatethousands": True,
    "exponentformat": "e",
    "minexponent": 6,
    "labelalias": {"0e+0": "0", **{f"1e+{n}": f"{10**n:,}" for n in range(3, 9)}},
}
"""Tick labels formatted like numbers in forms and tables: `5e-5`, not `50µ`, and `10,000`, not `1e+4`."""
HOVER_FORMATS = {
    "lr": ".3~e", "grad_norm": ".4~g", "relative_update": ".2e", "tokens_per_s": ",.0f",
    "memory_mb": ",.0f", "padding": ".1%",
}  # fmt: skip
"""Formats of hover values, in d3's notation."""
DEFAULT_HOVER_FORMAT = ".4f"
PLACE = " @ %{x:,.6~g}"
"""Hover text of the x-value at which a value was measured.

Unified hover shows the nearest point of each line. Lines with few points, such as evaluations, have none at most cursor
positions.
"""


def _template(text: str, muted: str, grid: str, cursor: str, page: str, popup: str) -> Figure:
    axis = {"gridcolor": grid, "linecolor": grid, "zerolinecolor": grid, "tickfont": {"color": muted},
            "title": {"font": {"size": 12, "color": muted}}, "spikecolor": cursor, "spikethickness": 1,
            "spikedash": "solid", "ticklabelstandoff": 4, "automargin": True}  # fmt: skip
    layout = {
        "font": {"family": FONT, "size": 12, "color": text},
        "paper_bgcolor": page,  # Plotly draws an outline in this color around the cursor
        "plot_bgcolor": page,
        "colorway": [*PALETTE],
        "xaxis": axis,
        "yaxis": {**axis, **NUMBER_TICKS},
        "hoverlabel": {"bgcolor": popup, "bordercolor": cursor, "font": {"color": text}, "namelength": -1},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": muted, "activecolor": text},
        "legend": {"font": {"color": text}},
    }  # fmt: skip
    return {"layout": layout}


TEMPLATES = {
    "light": _template("#1f2430", "#5c6370", "#e3e6eb", "#b4bac5", "#ffffff", "#ffffff"),
    "dark": _template("#eceef3", "#a7aebb", "#2a303a", "#5b6474", "#14161b", "#1f232b"),
}
"""Plotly templates for the light and dark theme. Their page colors are those of .streamlit/config.toml."""


def themed(figure: Figure, theme: str) -> Figure:
    """Return the figure with the template for a `light` or `dark` background."""
    template = TEMPLATES.get(theme, TEMPLATES["light"])
    return {**figure, "layout": {**figure["layout"], "template": template}}


def stack(figures: Sequence[Figure]) -> Figure:
    """Stack several figures with one x-axis, one cursor and one legend.

    All must have the same kind of x-axis. The legend lists each run once.
    Shapes stay in the panel of their figure.
    """
    panels = len(figures)
    margins = dict(STACKED_MARGINS_PX)
    if figures[0]["layout"]["showlegend"]:
        margins["b"] += LEGEND_HEIGHT_PX
    height = panels * (STACKED_PANEL_HEIGHT_PX + STACKED_PANEL_GAP_PX)
    panel, gap = STACKED_PANEL_HEIGHT_PX / height, STACKED_PANEL_GAP_PX / height
    data: list[Figure] = []
    titles: list[Figure] = []
    shapes: list[Figure] = []
    total = height + margins["t"] + margins["b"]
    layout = {**figures[0]["layout"], "height": total, "hoversubplots": "axis"}
    del layout["title"]
    listed: set[object] = set()
    for i, figure in enumerate(figures):
        suffix = "" if i == 0 else str(i + 1)
        top = 1 - i * (panel + gap) - gap
        domain = [max(0.0, top - panel), top]
        axis = {**figure["layout"]["yaxis"], "domain": domain, "automargin": False}
        layout[f"yaxis{suffix}"] = axis
        title = {"text": figure["layout"]["title"]["text"], "font": TITLE_FONT, "align": "left"}
        place = {
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "xshift": -margins["l"],
            "y": top,
            "yref": "paper",
            "yanchor": "bottom",
        }
        titles.append({**title, **place, "showarrow": False})
        for shape in figure["layout"].get("shapes", []):
            height_of_panel = shape["yref"] in ("paper", "y domain")
            yref = f"y{suffix} domain" if height_of_panel else f"y{suffix}"
            shapes.append({"xref": "x", **shape, "yref": yref})
        for trace in figure["data"]:
            group = trace.get("legendgroup", trace.get("name"))
            is_listed = trace.get("showlegend", True) and group not in listed
            listed |= {group} if is_listed else set()
            data.append({**trace, "xaxis": "x", "yaxis": f"y{suffix}", "showlegend": is_listed})
    layout["xaxis"] = {
        **layout["xaxis"],
        "anchor": f"y{panels if panels > 1 else ''}",
        "showspikes": True,
        "spikemode": "across",
        "automargin": False,
    }
    layout["annotations"] = titles
    layout["shapes"] = shapes
    layout["margin"] = margins
    layout["legend"] = {"orientation": "h", "x": 0, "xref": "container", "xanchor": "left"}
    layout["legend"] |= {"y": 0, "yref": "container", "yanchor": "bottom"}
    return {"data": data, "layout": layout}


def step_curves(
    raw: pd.DataFrame,
    smooth: pd.DataFrame | None,
    colors: Mapping[str, str],
    metric: str,
    x: str,
    log: bool,
) -> Figure:
    """Draw a metric by step for each run. If smoothed curves are given, the raw ones are drawn faintly behind them.

    Args:
        raw: Columns run, x and y.
        smooth: The smoothed curves in the same format, or None.
        colors: The color of each run to draw.
        metric: A key of CURVES.
        x: A key of AXES.
        log: Use a logarithmic y-axis.
    """
    lines = []
    grids = {raw["x"][raw["run"] == run].to_numpy().tobytes() for run in colors}
    place = PLACE if len(grids) > 1 or CURVES[metric].event == "update" else ""
    for run, color in colors.items():
        if smooth is not None:
            faint = _run_line(raw, run, {"color": color, "width": 1})
            lines.append({**faint, "opacity": 0.3, "showlegend": False, "hoverinfo": "skip"})
        main = raw if smooth is None else smooth
        line = _run_line(main, run, {"color": color, "width": 2})
        format = HOVER_FORMATS.get(metric, DEFAULT_HOVER_FORMAT)
        lines.append({**line, **_hover(CURVES[metric].label, format, place)})
    title, x_title = CURVES[metric].label, AXES[x].label
    figure = _with_x_from_zero(_figure(lines, title, x_title, log, legend=len(colors) > 1))
    return _with_y_from_zero(figure) if metric == "lr" else figure


def loss_curves(
    evaluations: pd.DataFrame,
    colors: Mapping[str, str],
    x: str,
    log: bool,
    perplexity: bool = False,
) -> Figure:
    """Draw the loss or perplexity at each evaluation for each run: validation solid, training dotted.

    The validation curve uses the subset, so all its points are comparable. The training curve connects the evaluations
    that measured the probe.
    """
    noun = "perplexity" if perplexity else "loss"
    validation = evaluations["subset_loss"].fillna(evaluations["val_loss"])
    train = evaluations["train_loss"]
    losses = {
        "val": validation,
        "train": train[train.notna() | validation.isna()],  # a gap only where the run diverged
    }
    lines = []
    for run, color in colors.items():
        for part, dash in (("val", "solid"), ("train", "dot")):
            style = {"color": color, "width": 2, "dash": dash}
            y = losses[part][evaluations["run"] == run]
            x_values = evaluations["x"][y.index]
            if perplexity:
                with np.errstate(over="ignore"):  # infinite values are not drawn
                    y = np.exp(y)
            line = _line(x_values, y, run, style)
            markers = {"mode": "lines+markers", "marker": {"size": DOT_SIZE}, "cliponaxis": False}
            series = f"{'Validation' if part == 'val' else 'Training'} {noun}"
            hover = _hover(series, ".4f", PLACE)
            lines.append({**line, **markers, **hover, "showlegend": part == "val"})
    title = f"{noun.capitalize()} {_note('validation solid, training dotted')}"
    return _with_x_from_zero(_figure(lines, title, AXES[x].label, log, legend=len(colors) > 1))


def many_runs(figure: Figure, groups: Mapping[str, str], colors: Mapping[str, str]) -> Figure:
    """Return a figure of many runs with thin lines and a legend of groups. Hovering over a line names its run.

    Args:
        groups: The group of each run.
        colors: The color of each group. If empty, runs keep their colors and there is no legend.
    """
    data: list[Figure] = []
    for trace in figure["data"]:
        group = groups.get(trace.get("legendgroup", ""), "")
        own = {"color": colors[group]} if group in colors else {}
        line = {**trace.get("line", {}), **own, "width": 1}
        thin = {"line": line, "marker": {**trace.get("marker", {}), "size": 3, **own}}
        data.append({**trace, **thin, "legendgroup": group, "showlegend": False})
    for group, color in colors.items():
        entry = {"name": plain(group), "legendgroup": group, "showlegend": True}
        place = {"type": "scatter", "x": [None], "y": [None], "mode": "lines", "xaxis": "x", "yaxis": "y"}  # fmt: skip
        data.append({**entry, **place, "line": {"color": color, "width": 3}})
    layout = {**figure["layout"], "hovermode": "closest", "showlegend": bool(colors)}
    layout["xaxis"] = {**layout["xaxis"], "showspikes": False}
    return {"data": data, "layout": layout}


def run_loss(
    evaluations: pd.DataFrame,
    points: pd.DataFrame,
    color: str,
    best_step: int | None,
    log: bool = False,
) -> Figure:
    """Draw one run's losses by step: validation and training at each evaluation, and training at each step.

    Args:
        evaluations: Columns x, val_loss, subset_loss and train_loss.
        points: The training loss per step: columns x and y.
        best_step: The evaluation to mark as the best.
        log: Use a logarithmic y-axis.
    """
    validation = evaluations["subset_loss"].fillna(evaluations["val_loss"])
    train = evaluations["train_loss"].dropna()
    dots = {"mode": "lines+markers", "marker": {"size": DOT_SIZE + 1}, "cliponaxis": False}
    per_step = _line(points["x"], points["y"], "training, per step", {"color": color, "width": 1})
    lines = [
        {**per_step, "opacity": 0.4},
        {**_line(evaluations["x"], validation, "validation", {"color": color, "width": 2}), **dots},
        {
            **_line(evaluations["x"][train.index], train, "training", {"color": color, "width": 2, "dash": "dot"}),
            **dots,
        },
    ]  # fmt: skip
    best = evaluations["x"] == best_step
    if best.any():
        name = f"best validation, step {best_step:,}"
        star = {"mode": "markers", "marker": {"symbol": "star", "size": 14, "color": color, "line": {"width": 1, "color": "#ffffff"}}}  # fmt: skip
        marked = _line(evaluations["x"][best], validation[best], name, {})
        lines.append({**marked, **star, "cliponaxis": False})
    for line, place in zip(lines, ("", PLACE, PLACE, ""), strict=False):
        line |= {"hovertemplate": "%{y:.4f}" + place}
    return _with_x_from_zero(_figure(lines, "Loss", AXES["step"].label, log, legend=True))


def run_curve(
    points: pd.DataFrame,
    metric: str,
    color: str,
    warmup_steps: int = 0,
    threshold: float | None = None,
) -> Figure:
    """Draw a metric of one run by step.

    Args:
        points: Columns x and y.
        metric: A key of CURVES.
        warmup_steps: Number of initial steps to shade as the warm-up.
        threshold: Draw a line at this value as the clipping threshold.
    """
    title = CURVES[metric].label
    line = _line(points["x"], points["y"], title.lower(), {"color": color, "width": 2})
    line |= {
        "showlegend": False,
        "hovertemplate": f"%{{y:{HOVER_FORMATS.get(metric, DEFAULT_HOVER_FORMAT)}}}",
    }
    figure = _with_x_from_zero(_figure([line], title, AXES["step"].label, False, legend=True))
    label = {"font": {"size": 11, "color": GRAY}, "padding": 4}
    shapes: list[Figure] = []
    if warmup_steps:
        inside = {**label, "text": "warm-up", "textposition": "bottom left"}
        area = {"type": "rect", "x0": 0, "x1": warmup_steps, "y0": 0, "y1": 1, "yref": "y domain"}
        fill = {"fillcolor": GRAY, "opacity": 0.18, "line": {"width": 0}, "layer": "below"}
        shapes.append({**area, **fill, "label": inside})
    if threshold is not None:
        above = {**label, "text": f"clipping threshold {threshold:g}", "textposition": "end"}
        level = {"type": "line", "x0": 0, "x1": 1, "xref": "x domain", "y0": threshold, "y1": threshold, "yref": "y"}  # fmt: skip
        style = {"line": {"color": GRAY, "width": 1.5, "dash": "dash"}}
        shapes.append({**level, **style, "label": {**above, "yanchor": "bottom"}})
    figure["layout"]["shapes"] = shapes
    return _with_y_from_zero(figure) if metric == "lr" else figure


def clickable(figure: Figure, selected: int | None = None) -> Figure:
    """Add invisible markers to all lines, so that their points can be clicked.

    Plotly ignores clicks on lines without markers. A marker becomes visible when it is clicked.

    Args:
        selected: Draw a vertical line at this step.
    """
    data: list[Figure] = []
    for trace in figure["data"]:
        if trace.get("mode") == "lines":
            marker = {"size": CLICK_SIZE, "opacity": 0}
        else:
            size = np.asarray(trace["marker"]["size"])
            opacity = np.where(size > 0, 1, 0).tolist()
            marker = {**trace["marker"], "opacity": opacity}
        hidden = {"opacity": 0 if trace.get("mode") == "lines" else 1}
        states = {"selected": {"marker": {"opacity": 1}}, "unselected": {"marker": hidden}}
        mode = "markers" if trace.get("mode") == "markers" else "lines+markers"
        data.append({**trace, "mode": mode, "marker": marker, **states})
    layout = {**figure["layout"], "clickmode": "event+select", "dragmode": "zoom"}
    if selected is not None:
        cursor = {"type": "line", "xref": "x", "x0": selected, "x1": selected, "yref": "paper"}
        style = {"y0": 0, "y1": 1, "line": {"color": GRAY, "width": 1.5}}
        layout["shapes"] = [*layout.get("shapes", []), {**cursor, **style}]
    return {"data": data, "layout": layout}


def rate_schedule(rates: Sequence[tuple[int, float]]) -> Figure:
    """Draw the planned learning rate by step, from (step, rate) pairs."""
    points = pd.DataFrame(rates, columns=["x", "y"])
    line = _line(points["x"], points["y"], "Learning rate", {"color": PALETTE[0], "width": 2})
    line |= {"hovertemplate": "%{y:.2~e}"}
    figure = _with_y_from_zero(
        _figure([line], CURVES["lr"].label, AXES["step"].label, False, legend=False)
    )
    figure["layout"]["height"] = 180
    return figure


def lr_test(curve: pd.DataFrame, suggestion: float | None) -> Figure:
    """Draw the losses of a learning rate test by learning rate, with a line at the suggested rate.

    Args:
        curve: Columns lr, loss and smoothed.
    """
    style = {"color": PALETTE[0], "width": 1}
    raw = {**_line(curve["lr"], curve["loss"], "loss", style), "opacity": 0.3, "hoverinfo": "skip"}
    smooth = _line(curve["lr"], curve["smoothed"], "smoothed loss", {**style, "width": 2})
    smooth |= {"hovertemplate": "%{y:.4f}"}
    figure = _figure(
        [raw, smooth], "Loss at increasing learning rates", "Learning rate", False, False
    )
    hover_title = {"text": "Learning rate %{x:.1~e}"}
    figure["layout"]["xaxis"] |= {"type": "log", "tickformat": "~e", "dtick": 1, "unifiedhovertitle": hover_title}  # fmt: skip
    if suggestion is not None:
        # On a log axis, Plotly places shapes by value and annotations by exponent.
        x = float(np.log10(suggestion))
        line = {"type": "line", "x0": suggestion, "x1": suggestion, "y0": 0, "y1": 1}
        line |= {"yref": "paper", "line": {"color": PALETTE[1], "dash": "dash"}}
        label = {"x": x, "y": 1, "yref": "paper", "text": setting_text(float(f"{suggestion:.1e}"))}
        place = {"xanchor": "left", "yanchor": "top", "xshift": 4, "showarrow": False}
        figure["layout"] |= {"shapes": [line], "annotations": [{**label, **place}]}
    return figure


def token_lengths(lengths: Mapping[str, Sequence[int]], limit: int) -> Figure:
    """Draw a stacked histogram of example lengths by split, with a line at the length limit.

    Args:
        lengths: Token count of each example, by split.
        limit: Maximum length before truncation. The line is drawn only if some example is longer.
    """
    finite_lengths = {part: _finite(values) for part, values in lengths.items()}
    longest = int(max((part.max(initial=0) for part in finite_lengths.values()), default=0))
    width = max(1, -(-longest // 50))
    edges = np.arange(0, longest + width + 1, width)
    bars = []
    for (part, values), color in zip(finite_lengths.items(), PALETTE, strict=False):
        counts = np.histogram(values, edges)[0]
        bars.append({
            "type": "bar", "x": edges[:-1] + width / 2, "y": counts, "width": width,
            "name": part, "marker": {"color": color},
            "customdata": [f"{edge} to {edge + width - 1}" for edge in edges[:-1]],
            "hovertemplate": "%{customdata} tokens: %{y}",
        })  # fmt: skip
    figure = _figure(
        bars, "Tokens in prompt and response", "Tokens per example", False, legend=True
    )
    figure["layout"] |= {"barmode": "stack", "hovermode": "closest"}
    if limit < longest:
        line = {"type": "line", "x0": limit, "x1": limit, "y0": 0, "y1": 1, "yref": "paper"}
        figure["layout"]["shapes"] = [{**line, "line": {"color": PALETTE[-1], "dash": "dash"}}]
    return figure


def intervals(
    rows: Sequence[Mapping[str, Any]], title: str, unit: str, span: tuple[float, float] | None
) -> Figure:
    """Draw means with confidence intervals, one per row from top to bottom. Rows without a mean are omitted.

    Args:
        rows: Mappings with run, mean, low, high and optionally color. If low or high is missing, only the mean is
            drawn.
        unit: Title of the x-axis.
        span: Range of the x-axis, or None to fit the data.
    """
    rows_with_mean = [row for row in rows if len(_finite([row["mean"]]))][::-1]
    mean, low, high = (
        np.array([row[k] for row in rows_with_mean], float) for k in ("mean", "low", "high")
    )
    names = [plain(row["run"]) for row in rows_with_mean]
    points = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": mean[i : i + 1],
            "y": names[i : i + 1],
            "marker": {"size": 9, "color": color},
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": (high - mean)[i : i + 1],
                "arrayminus": (mean - low)[i : i + 1],
                "color": color,
            },
            "hovertemplate": f"%{{y}}: %{{x:.1f}}{_bounds(low[i], high[i])}<extra></extra>",
        }
        for i, color in enumerate(row.get("color") or PALETTE[0] for row in rows_with_mean)
    ]
    figure = _figure(points, title, unit, False, legend=False)
    figure["layout"] |= {"height": 110 + 32 * len(rows_with_mean), "hovermode": "closest"}
    if span is not None:
        figure["layout"]["xaxis"]["range"] = [*span]
    figure["layout"]["yaxis"] = {"type": "category", "automargin": True}
    return figure


def _bounds(low: float, high: float) -> str:
    return f" ({low:.1f} to {high:.1f})" if np.isfinite(low) and np.isfinite(high) else ""


def score_histogram(
    scores: Mapping[str, Sequence[float]], colors: Mapping[str, str] | None = None
) -> Figure:
    """Draw a histogram of each run's test scores in bins of 10.

    Args:
        colors: The color of each run. Defaults to the palette.
    """
    bars = [
        {
            "type": "bar",
            "x": np.arange(5, 100, 10),
            "y": np.histogram(values, np.arange(0, 101, 10))[0],
            "name": plain(run),
            "marker": {"color": (colors or {}).get(run, PALETTE[i % len(PALETTE)])},
            "hovertemplate": "%{y}",
        }
        for i, (run, values) in enumerate(scores.items())
    ]
    figure = _figure(bars, "Test answers by score", "Score", False, legend=len(bars) > 1)
    hover_title = {"text": "Score %{x} ± 5"}
    figure["layout"]["xaxis"] |= {"range": [0, 100], "dtick": 10, "unifiedhovertitle": hover_title}
    figure["layout"]["height"] = HISTOGRAM_HEIGHT_PX
    return figure


def _figure(lines: list[Figure], title: str, x_title: str, log: bool, legend: bool) -> Figure:
    if log and _hides_values(lines):
        title += f"<br>{_note('values of 0 and below are not shown on a log scale')}"
    layout = {
        "title": {"text": title, "font": TITLE_FONT, "x": 0, "xanchor": "left"},
        "height": CHART_HEIGHT_PX,
        "margin": {"l": 8, "r": 8, "t": 40, "b": 8},
        "legend": {"orientation": "h", "y": -0.32, "yanchor": "top"},
        "showlegend": legend,
        "hovermode": "x unified",
        "uirevision": "constant",  # keeps the user's zoom when new data arrives
        "template": "none",  # copying Plotly's default template into each figure would be slow
        "xaxis": {
            "title": {"text": x_title, "font": {"size": 12}},
            "unifiedhovertitle": {"text": f"{x_title} %{{x:,.6~g}}"},
        },
        "yaxis": {"type": "log" if log else "linear"},
    }
    # Streamlit raises PlotlyEmptyDataError for a figure without traces.
    return {"data": lines or [{"type": "scatter", "x": [], "y": []}], "layout": layout}


def _note(text: str) -> str:
    """Return a note for a title, in small, muted type."""
    return f'<span style="{NOTE_CSS}">{text}</span>'


def _hides_values(lines: Sequence[Figure]) -> bool:
    """Return whether a logarithmic y-axis cannot show some of the values."""
    return any((np.asarray(line["y"], float) <= 0).any() for line in lines)


def _with_x_from_zero(figure: Figure) -> Figure:
    """Start the x-axis at zero. Plotly would draw a single evaluation at step 0 between -1 and 1."""
    figure["layout"]["xaxis"]["rangemode"] = "tozero"
    return figure


def _with_y_from_zero(figure: Figure) -> Figure:
    """Start the y-axis at zero. Plotly would draw a constant learning rate between -1 and 1."""
    figure["layout"]["yaxis"] |= {"rangemode": "tozero"}
    return figure


def _run_line(points: pd.DataFrame, run: str, line: Figure) -> Figure:
    mask = (points["run"] == run).to_numpy()
    return _line(points["x"][mask], points["y"][mask], run, line)


def _line(x: pd.Series, y: pd.Series, run: str, line: Figure) -> Figure:
    """Return a line trace with gaps where y is missing and dots at isolated points."""
    values = y.to_numpy(dtype=float, na_value=np.nan)
    isolated = _isolated(values)
    dots = {"mode": "lines+markers", "marker": {"size": np.where(isolated, DOT_SIZE, 0)}}
    return {
        "type": "scatter",
        "x": x.to_numpy(),
        "y": values,
        "name": plain(run),
        "legendgroup": run,
        "mode": "lines",
        "line": line,
        **(dots if isolated.any() else {}),
    }


def _hover(series: str, format: str, place: str) -> Figure:
    """Return the hover text of a line, with the names of the run and the series."""
    return {"hovertemplate": f"%{{y:{format}}}{place}<extra>%{{fullData.name}} · {series}</extra>"}


def _finite(values: Sequence[float | None]) -> np.ndarray:
    """Return the values that are not None, NaN or infinite."""
    array = np.array(values, dtype=float)
    return array[np.isfinite(array)]


def _isolated(values: np.ndarray) -> np.ndarray:
    """Return a mask of finite values without finite neighbors, which a line trace would not show."""
    finite = np.isfinite(values)
    padded = np.concatenate([[False], finite, [False]])
    return finite & ~padded[:-2] & ~padded[2:]


def plain(text: str) -> str:
    """Escape text that Plotly would interpret as HTML."""
    return html.escape(text, quote=False)
