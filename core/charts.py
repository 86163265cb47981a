"""DataFrames to Plotly figures. Knows nothing of where the numbers come from or where they are shown.

A run keeps its colour across figures. Text from runs goes into figures escaped, so no name or prompt can
turn into markup.
"""

import html
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

PALETTE = ("#3b7dd8", "#e0803c", "#3fa66b", "#b8559b", "#8a6fd1", "#c9a227", "#4aa9b5", "#d1584f")
# Okabe-Ito-like hues of one lightness: told apart by most eyes, legible on white and on black.
TITLES = {
    "loss": "Training loss of each step",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
    "tokens_per_s": "Tokens per second",
    "padding": "Padding share",
    "memory_mb": "Peak memory (MB)",
    "step": "step",
    "epoch": "epoch",
    "tokens": "tokens seen",
    "seconds": "training time (s)",
}
HEIGHT = 260


def colours(runs: Sequence[str]) -> dict[str, str]:
    """A colour for each run, by its place."""
    return {run: PALETTE[i % len(PALETTE)] for i, run in enumerate(runs)}


def step_curves(
    raw: pd.DataFrame,
    smooth: pd.DataFrame | None,
    runs: Sequence[str],
    metric: str,
    x: str,
    log: bool,
) -> go.Figure:
    """A metric of each step by run; with a smoothed curve, the raw one recedes behind it.

    Args:
        raw: run, x, y.
        smooth: the same, averaged; or None.
    """
    figure = _figure(TITLES[metric], x, log, len(runs) > 1)
    if metric == "lr":
        _from_zero(figure)
    main = raw if smooth is None else smooth
    for run, colour in colours(runs).items():
        if smooth is not None:
            figure.add_trace(_line(raw[raw["run"] == run], run, colour, opacity=0.25, legend=False))
        figure.add_trace(_line(main[main["run"] == run], run, colour))
    return figure


def loss_curves(
    evaluations: pd.DataFrame, runs: Sequence[str], x: str, log: bool, perplexity: bool = False
) -> go.Figure:
    """Validation (solid) and training (dotted) loss or perplexity at each evaluation, by run."""
    noun = "perplexity" if perplexity else "loss"
    figure = _figure(
        f"{noun.capitalize()}: validation solid, training dotted", x, log, len(runs) > 1
    )
    for run, colour in colours(runs).items():
        rows = evaluations[evaluations["run"] == run]
        for part, dash in (("val", "solid"), ("train", "dot")):
            points = rows.rename(columns={f"{part}_{noun}": "y"})[["run", "x", "y"]]
            line = _line(points, run, colour, dash=dash, legend=part == "val")
            line.update(mode="lines+markers", marker={"size": 5})
            figure.add_trace(line)
    return figure


def rate_schedule(rates: Sequence[tuple[int, float]]) -> go.Figure:
    """The learning rate over the steps of a run to come."""
    figure = _figure("Learning rate", "step", False)
    frame = pd.DataFrame(rates, columns=["x", "y"])
    figure.add_trace(_line(frame, "rate", PALETTE[0], legend=False))
    figure.update_layout(height=180)
    _from_zero(figure)
    return figure


def _from_zero(figure: go.Figure) -> None:
    """An axis from zero: a constant rate would else be drawn between -1 and 1."""
    figure.update_yaxes(rangemode="tozero", tickformat=".1e")


def _figure(title: str, x: str, log: bool, legend: bool = False) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        title={"text": title, "font": {"size": 14}},
        height=HEIGHT,
        margin={"l": 8, "r": 8, "t": 40, "b": 8},
        legend={"orientation": "h", "y": -0.25},
        showlegend=legend,
        hovermode="x unified",
        uirevision="constant",  # keeps a person's zoom while data comes in
    )
    figure.update_xaxes(title={"text": TITLES[x], "font": {"size": 12}})
    figure.update_yaxes(type="log" if log else "linear")
    return figure


def _line(
    points: pd.DataFrame,
    run: str,
    colour: str,
    dash: str = "solid",
    opacity: float = 1.0,
    legend: bool = True,
) -> go.Scatter:
    return go.Scatter(
        x=points["x"].tolist(),
        y=points["y"].tolist(),
        name=html.escape(run),
        mode="lines",
        line={"color": colour, "width": 2 if opacity == 1 else 1, "dash": dash},
        opacity=opacity,
        showlegend=legend,
        legendgroup=run,
        hoverinfo="skip" if opacity < 1 else "all",
    )
