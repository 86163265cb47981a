"""Figures of a study: values on axes, means per context, diverged runs and escaped names."""

import json
import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from core.studies.effects import EffectMetric
from core.views import explore_charts

AXES = [("lora_rank", "lora_alpha"), ("lora_scaling",)]
LOG, SHARE = EffectMetric("lower", 0.01, True), EffectMetric("higher", 0.02)
RANK = "lora_rank=lora_alpha"
LOSSES = {(4, "alpha"): [1.0, 1.2], (16, "alpha"): [0.5, 0.6], (4, "alpha/rank"): [2.0, 2.2], (16, "alpha/rank"): [math.nan, 1.5]}  # fmt: skip


def study(losses=LOSSES):
    """Return the runs of a study and the table of its combinations. A missing loss means that the run diverged."""
    runs, table = [], []
    for (rank, scaling), values in losses.items():
        names = [f"<b>run-{len(runs) + i}" for i in range(len(values))]
        settings = {"lora_rank": rank, "lora_alpha": rank, "lora_scaling": scaling}
        runs += [
            {**settings, "name": name, "color": "#3b7dd8", "value": value, "diverged": math.isnan(value)}
            for name, value in zip(names, values, strict=True)
        ]  # fmt: skip
        finite = [value for value in values if value == value]
        mean = float(np.mean(finite)) if finite else math.nan
        table.append({
            "settings": {RANK: rank, "lora_scaling": scaling}, "runs": names, "color": "#d9702b",
            "n": len(finite), "mean": mean, "low": mean - 0.1, "high": mean + 0.2,
        })  # fmt: skip
    return pd.DataFrame(runs), pd.DataFrame(table)


def means(figure):
    return [trace for trace in figure["data"] if trace["mode"] == "lines+markers"]


def dots(figure):
    return [trace for trace in figure["data"] if trace["mode"] == "markers"]


def valid(figure):
    """Return the figure after checking that it can be sent to the browser and that Plotly knows all its properties."""
    json.dumps(figure)
    go.Figure(figure)
    return figure


def test_means_are_joined_within_a_context_and_never_across():
    figure = valid(explore_charts.setting_effect(*study(), RANK, "val_loss", LOG, "lora_scaling"))
    assert [trace["y"] for trace in means(figure)] == [[1.1, 0.55], [2.1, 1.5]]
    assert [trace["name"] for trace in means(figure)] == ["alpha", "alpha/rank"]
    assert len({trace["line"]["color"] for trace in means(figure)}) == 2
    assert means(figure)[0]["error_y"]["array"] == pytest.approx([0.2, 0.2])
    assert figure["layout"]["xaxis"]["ticktext"] == ["4", "16"]


def test_dots_have_the_colors_of_their_runs_without_a_color_setting():
    figure = valid(explore_charts.setting_effect(*study(), RANK, "val_loss", LOG))
    assert {color for trace in dots(figure) for color in trace["marker"]["color"]} == {"#3b7dd8"}
    assert figure["layout"]["showlegend"] is False


def test_diverged_runs_are_crosses_beyond_the_worst_value():
    figure = valid(explore_charts.setting_effect(*study(), RANK, "val_loss", LOG))
    [dot] = [trace for trace in dots(figure) if "x-thin-open" in trace["marker"]["symbol"]]
    position = dot["marker"]["symbol"].index("x-thin-open")
    assert dot["y"][position] > 2.2
    assert "diverged" in dot["hovertext"][position]
    assert figure["layout"]["annotations"][0]["text"] == "diverged"


def test_measured_values_of_diverged_runs_are_drawn_in_place():
    runs, table = study()
    runs.loc[runs["diverged"], "value"] = 0.02
    figure = valid(explore_charts.setting_effect(runs, table, RANK, "relative_update", LOG))
    assert "annotations" not in figure["layout"]
    assert 0.02 in [value for trace in dots(figure) for value in trace["y"]]


def test_numbers_are_placed_to_scale():
    losses = {(rank, "alpha"): [1.0] for rank in (4, 16, 64)}
    axis = explore_charts.setting_effect(*study(losses), RANK, "val_loss", LOG)["layout"]["xaxis"]
    assert np.diff(axis["tickvals"]).tolist() == pytest.approx([math.log10(4)] * 2)
    losses = {(rank, "alpha"): [1.0] for rank in (1, 2, 3, 4)}
    axis = explore_charts.setting_effect(*study(losses), RANK, "val_loss", LOG)["layout"]["xaxis"]
    assert axis["tickvals"] == [1, 2, 3, 4]


def test_parallel_coordinates_have_an_axis_per_setting_and_the_metric():
    runs, _ = study()
    figure = valid(explore_charts.parallel_coordinates(runs, AXES, "val_loss", LOG))
    rank, scaling, metric = figure["data"][0]["dimensions"]
    assert (rank["label"], rank["ticktext"]) == ("Rank = Alpha", ["4", "16"])
    assert scaling["ticktext"] == ["alpha", "alpha/rank"]
    assert metric["ticktext"][-1] == "diverged"
    assert metric["values"][6] == max(metric["values"]) == metric["range"][1]
    assert rank["values"] == [0, 0, 1, 1, 0, 0, 1, 1]


def test_parallel_coordinates_accept_missing_settings_and_equal_values():
    runs, _ = study({(4, "alpha"): [1.0, 1.0]})
    runs["lora_rank"] = [np.nan, 4]
    figure = valid(explore_charts.parallel_coordinates(runs, AXES, "exact", SHARE))
    assert figure["data"][0]["dimensions"][0]["ticktext"] == ["none", "4"]
    runs["value"], runs["diverged"] = math.nan, True
    valid(explore_charts.parallel_coordinates(runs, AXES, "val_loss", LOG))


def test_pareto_front_is_joined_and_the_rest_is_gray():
    _, table = study()
    front = pd.Series([True, True, False, False])
    figure = valid(
        explore_charts.pareto(table, front, "val_loss", "seconds", [1.0, 2.0, 3.0, 4.0], True)
    )
    line, rest, best = figure["data"]
    assert (line["x"], line["y"]) == ([1, 2], [1.1, 0.55])
    assert rest["marker"]["color"] == explore_charts.GRAY
    assert best["marker"]["color"] == ["#d9702b"] * 2
    assert "1 seed" in rest["hovertext"][1]


def test_settings_whose_importance_could_be_chance_are_gray():
    table = pd.DataFrame({
        "field": [RANK, "lr"], "importance": [0.8, 0.2], "low": [0.5, 0.1], "high": [0.9, 0.5],
        "n": 36, "above_chance": [True, False],
    })  # fmt: skip
    [bars] = valid(explore_charts.importance_bars(table))["data"]
    assert bars["y"] == ["Learning rate", "Rank = Alpha"], "the most important is on top"
    assert bars["marker"]["color"] == [explore_charts.GRAY, explore_charts.PALETTE[0]]


def test_names_are_escaped():
    figure = explore_charts.setting_effect(*study(), RANK, "<b>judge</b>", LOG)
    text = json.dumps(figure)
    assert "<b>" not in text
    assert "&lt;b&gt;run-0" in text


def test_figures_without_results_are_empty():
    runs, table = study({(4, "alpha"): [1.0]})
    runs["value"] = math.nan
    valid(explore_charts.setting_effect(runs, table, RANK, "val_loss", LOG))
    valid(explore_charts.pareto(table, pd.Series([False]), "val_loss", "seconds", [math.nan], True))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.05, 2, [0.05, 0.1, 0.2, 0.5, 1, 2]),
        (0.9, 3, [0.5, 0.7, 1, 1.5, 2, 3]),
        (1e-6, 1, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]),
    ],
)
def test_log_ticks_are_round(low, high, expected):
    assert explore_charts.log_ticks(low, high) == expected
