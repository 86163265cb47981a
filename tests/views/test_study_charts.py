"""Figures of studies: mean curves, bands and heat maps."""

import math

import numpy as np
import pandas as pd
import pytest

from core.views.study_charts import (
    TEXT_ON_LIGHT,
    Cell,
    Curve,
    heat_map,
    mean_curves,
    seed_curves,
    updates_by_metric,
)


def points(**runs):
    """Return the points of runs, from (x, y) pairs."""
    rows = [(run, x, y) for run, pairs in runs.items() for x, y in pairs]
    return pd.DataFrame(rows, columns=["run", "x", "y"])


def test_band_is_the_range_of_the_seeds():
    frame = points(a=[(0, 1.0), (5, 3.0)], b=[(0, 2.0), (5, 5.0)])
    means = mean_curves(frame, [Curve("ab", "#3b7dd8", 0, ["a", "b"])])["ab"]
    assert means.to_dict("list") == {
        "x": [0, 5],
        "mean": [1.5, 4.0],
        "low": [1.0, 3.0],
        "high": [2.0, 5.0],
    }


def test_band_is_one_standard_deviation_with_many_seeds():
    values = {f"r{i}": [(0, float(i))] for i in range(6)}
    means = mean_curves(points(**values), [Curve("all", "#3b7dd8", 0, list(values))])["all"]
    assert means["high"][0] - means["mean"][0] == pytest.approx(np.std(range(6), ddof=1))


def test_curves_measured_at_different_steps_are_interpolated_where_they_overlap():
    frame = points(a=[(0, 0.0), (10, 10.0)], b=[(2, 4.0), (6, 8.0)])
    means = mean_curves(frame, [Curve("ab", "#3b7dd8", 0, ["a", "b"])])["ab"]
    assert (means["x"].iloc[0], means["x"].iloc[-1]) == (2, 6)
    assert means["mean"].to_numpy() == pytest.approx(means["x"].to_numpy() + 1)


def test_curve_stops_where_a_run_stops_and_ignores_missing_values():
    frame = points(
        a=[(0, 1.0), (1, 1.0), (2, 1.0)], b=[(0, 3.0), (1, 3.0), (2, math.nan)], c=[(0, math.nan)]
    )
    means = mean_curves(frame, [Curve("abc", "#3b7dd8", 0, ["a", "b", "c"])])["abc"]
    assert means["x"].tolist() == [0, 1]
    assert means["mean"].tolist() == [2.0, 2.0]
    assert mean_curves(frame, [Curve("c", "#3b7dd8", 0, ["c"])])["c"].empty


def test_groups_that_share_a_color_have_different_lines():
    frame = points(a=[(0, 1.0), (1, 2.0)], b=[(0, 3.0), (1, 4.0)])
    curves = [Curve("<a>", "#3b7dd8", 0, ["a"]), Curve("b", "#3b7dd8", 8, ["b"])]
    figure = seed_curves(frame, curves, "Loss", "Step", log=True)
    lines = [trace for trace in figure["data"] if "name" in trace]
    assert [line["line"]["dash"] for line in lines] == ["solid", "dash"]
    assert lines[0]["name"] == "&lt;a&gt;"
    assert figure["layout"]["yaxis"]["type"] == "log"


def test_heat_map_marks_cells_without_a_value():
    cells = {
        ("4", "a"): Cell(2.0, "2.0", "two"),
        ("64", "a"): Cell(math.nan, "x 3 of 3", "diverged"),
    }
    figure = heat_map(
        cells, ("Rank", ["4", "16", "64"]), ("Scaling", ["a"]), "", (1.0, 2.0), True, True
    )
    [trace] = figure["data"]
    assert trace["z"] == [[pytest.approx(math.log(2)), None, None]]
    text, note = figure["layout"]["annotations"]
    assert (text["text"], text["font"]["color"]) == ("2.0", TEXT_ON_LIGHT), (
        "the worst value is light"
    )
    assert (note["text"], note["x"], note["y"]) == ("x 3 of 3", 2, 0)
    assert trace["customdata"][0][1] == "No run"


def test_group_whose_runs_all_diverged_is_beyond_the_worst():
    row = {"legend": "Rank 4", "color": "#3b7dd8", "hover": ""}
    rows = [{**row, "update": 1e-3, "value": 2.0}, {**row, "update": 1e-2, "value": math.nan}]
    [trace] = updates_by_metric(rows, "", "Loss", is_lower_better=True, log=True)["data"]
    assert trace["y"][1] > 2.0
    assert trace["marker"]["symbol"] == ["circle", "x"]
    [trace] = updates_by_metric(rows, "", "Score", is_lower_better=False, log=False)["data"]
    assert trace["y"][1] < 2.0
