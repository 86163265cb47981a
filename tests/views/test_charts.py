"""Charts: lines, colors, axes, missing values, and escaping of run names."""

import inspect
import itertools
import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly import tools

from core.colors import PALETTE
from core.metrics import CURVES
from core.views import charts

ROOT = Path(__file__).parents[2]
RUNS = ["b", "<b>x</b>"]
COLORS = dict(zip(RUNS, PALETTE, strict=False))
ONE_COLOR = {"b": "#123456"}


def curve(scale: float = 1.0) -> pd.DataFrame:
    rows = [(run, x, scale * x) for run in RUNS for x in (1, 2, 3)]
    return pd.DataFrame(rows, columns=["run", "x", "y"])


@pytest.fixture
def evaluations() -> pd.DataFrame:
    frame = pd.DataFrame({"run": ["b", "b", RUNS[1]], "x": [0, 5, 0]})
    frame["train_loss"], frame["val_loss"] = [3.0, 2.0, 4.0], [3.5, 2.5, 4.5]
    return frame.assign(subset_loss=frame["val_loss"])


def validated(figure: charts.Figure) -> go.Figure:
    """Parse a figure with Plotly, which raises an error for unknown properties."""
    return go.Figure(figure)


def test_each_run_has_a_line_in_order() -> None:
    figure = validated(charts.step_curves(curve(), None, COLORS, "loss", "step", log=False))
    assert [list(line.x) for line in figure.data] == [[1, 2, 3]] * 2
    assert [list(line.y) for line in figure.data] == [[1, 2, 3]] * 2
    assert figure.layout.title.text == CURVES["loss"].title
    assert figure.layout.xaxis.title.text == "Step"
    assert figure.layout.showlegend


def test_x_axis_starts_at_zero(evaluations: pd.DataFrame) -> None:
    steps = charts.step_curves(curve(), None, COLORS, "loss", "step", log=False)
    for figure in (steps, charts.loss_curves(evaluations, COLORS, "step", log=True)):
        assert validated(figure).layout.xaxis.rangemode == "tozero"


def test_single_run_has_no_legend() -> None:
    figure = validated(charts.step_curves(curve(), None, ONE_COLOR, "loss", "step", log=False))
    assert len(figure.data) == 1
    assert not figure.layout.showlegend


def test_raw_curve_is_faint_behind_the_smoothed_one() -> None:
    figure = validated(charts.step_curves(curve(), curve(0.5), COLORS, "loss", "step", log=False))
    raw, smooth, *_ = figure.data
    assert (list(raw.y), list(smooth.y)) == ([1, 2, 3], [0.5, 1, 1.5])
    assert raw.opacity < 0.5
    assert smooth.opacity is None
    assert raw.line.color == smooth.line.color
    assert [line.showlegend for line in figure.data] == [False, None, False, None]


def test_validation_is_solid_and_training_dotted(evaluations: pd.DataFrame) -> None:
    figure = validated(charts.loss_curves(evaluations, COLORS, "tokens", log=False))
    assert [line.line.dash for line in figure.data] == ["solid", "dot"] * 2
    assert [list(line.y) for line in figure.data] == [[3.5, 2.5], [3, 2], [4.5], [4]]
    assert [line.showlegend for line in figure.data] == [True, False] * 2
    perplexity = validated(
        charts.loss_curves(evaluations, ONE_COLOR, "step", False, perplexity=True)
    )
    assert list(perplexity.data[0].y) == pytest.approx([np.exp(3.5), np.exp(2.5)])
    assert perplexity.layout.title.text.startswith("Perplexity")


def test_runs_keep_their_colors_across_figures(evaluations: pd.DataFrame) -> None:
    figures = [
        charts.step_curves(curve(), curve(), COLORS, "grad_norm", "epoch", log=True),
        charts.step_curves(curve(), None, COLORS, "lr", "seconds", log=False),
        charts.loss_curves(evaluations, COLORS, "step", log=True),
    ]
    colors = [{line.legendgroup: line.line.color for line in validated(f).data} for f in figures]
    assert colors == [COLORS] * 3
    [point] = charts.intervals([{**row("b", 1.0, 0.0, 2.0), "color": "#123456"}], "", "", None)[
        "data"
    ]
    assert point["marker"]["color"] == point["error_x"]["color"] == "#123456"
    bars = charts.score_histogram({run: [1.0] for run in RUNS}, COLORS)["data"]
    assert [bar["marker"]["color"] for bar in bars] == [*COLORS.values()]


def test_stacked_figures_share_the_x_axis_and_list_each_run_once(evaluations: pd.DataFrame) -> None:
    parts = [
        charts.loss_curves(evaluations, COLORS, "step", log=False),
        charts.step_curves(curve(), curve(0.5), COLORS, "loss", "step", log=False),
        charts.step_curves(curve(), None, COLORS, "lr", "step", log=False),
    ]
    figure = validated(charts.stack(parts))
    assert len(figure.data) == sum(len(part["data"]) for part in parts)
    assert {trace.xaxis for trace in figure.data} == {"x"}
    assert [trace.yaxis for trace in figure.data] == ["y"] * 4 + ["y2"] * 4 + ["y3"] * 2
    listed = [trace.legendgroup for trace in figure.data if trace.showlegend]
    assert sorted(listed) == sorted(RUNS)
    domains = [figure.layout[axis].domain for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert all(upper[0] > lower[1] for upper, lower in itertools.pairwise(domains))
    assert figure.layout.xaxis.anchor == "y3"
    assert figure.layout.hoversubplots == "axis"
    titles = [title.text for title in figure.layout.annotations]
    assert titles == [part["layout"]["title"]["text"] for part in parts]
    assert figure.layout.yaxis3.rangemode == "tozero", "panels keep their axis options"


def test_panels_of_stacked_figures_are_aligned_with_fixed_height() -> None:
    figure = charts.step_curves(curve(), None, COLORS, "loss", "step", log=False)
    for panels in (1, 2, 5):
        layout = charts.stack([figure] * panels)["layout"]
        plot_height = layout["height"] - layout["margin"]["t"] - layout["margin"]["b"]
        for number in range(1, panels + 1):
            axis = layout[f"yaxis{number if number > 1 else ''}"]
            bottom, top = (y * plot_height for y in axis["domain"])
            assert top - bottom == pytest.approx(charts.STACKED_PANEL_HEIGHT_PX)
            assert not axis["automargin"], "it would move this figure's panels only"


def test_shapes_stay_in_their_panel_of_a_stack() -> None:
    points = curve()[curve()["run"] == "b"]
    parts = [
        charts.run_curve(points, "lr", "#123456", warmup_steps=2),
        charts.run_curve(points, "grad_norm", "#123456", threshold=1.5),
    ]
    shapes = validated(charts.stack(parts)).layout.shapes
    assert [(s.x0, s.x1, s.xref, s.yref) for s in shapes] == [
        (0, 2, "x", "y domain"),
        (0, 1, "x domain", "y2"),
    ]
    assert [s.label.text for s in shapes] == ["warm-up", "clipping threshold 1.5"]
    assert shapes[0].label.textposition == "bottom left", "no grid line crosses it"
    assert shapes[1].y0 == shapes[1].y1 == 1.5


def test_run_loss_marks_the_best_evaluation() -> None:
    frame = pd.DataFrame({"x": [0, 5, 9], "val_loss": [3.0, 1.0, 2.0]})
    frame = frame.assign(subset_loss=[3.0, 1.5, np.nan], train_loss=[2.0, np.nan, 1.0])
    figure = validated(charts.run_loss(frame, curve(), "#123456", 5))
    lines = {line.name: (list(line.x), list(line.y)) for line in figure.data}
    assert lines["validation"] == ([0, 5, 9], [3.0, 1.5, 2.0])
    assert lines["training"] == ([0, 9], [2.0, 1.0])
    assert lines["best validation, step 5"] == ([5], [1.5])
    assert len(validated(charts.run_loss(frame, curve(), "#123456", None)).data) == 3


def test_lines_become_clickable_without_visible_markers() -> None:
    gaps = pd.DataFrame({"run": "b", "x": range(3), "y": [1.0, np.nan, 2.0]})
    parts = [
        charts.step_curves(curve(), None, ONE_COLOR, "loss", "step", log=False),
        charts.step_curves(gaps, None, ONE_COLOR, "lr", "step", log=False),
    ]
    figure = validated(charts.clickable(charts.stack(parts), selected=2))
    line, isolated = figure.data
    assert line.mode == isolated.mode == "lines+markers"
    assert (line.marker.opacity, line.unselected.marker.opacity) == (0, 0)
    assert line.selected.marker.opacity == 1
    assert list(isolated.marker.opacity) == [1, 0, 1]
    assert figure.layout.clickmode == "event+select"
    assert [(s.x0, s.x1) for s in figure.layout.shapes] == [(2, 2)]


def test_many_runs_are_thin_lines_with_a_legend_of_groups() -> None:
    stacked = charts.stack([
        charts.step_curves(curve(), None, COLORS, "loss", "step", log=False)
    ])  # fmt: skip
    groups, colors = dict(zip(RUNS, ("lr 1", "lr 2"), strict=True)), {"lr 1": "red", "lr 2": "blue"}
    figure = validated(charts.many_runs(stacked, groups, colors))
    *lines, first, second = figure.data
    assert [(line.line.color, line.line.width) for line in lines] == [("red", 1), ("blue", 1)]
    assert [line.name for line in lines] == ["b", "&lt;b&gt;x&lt;/b&gt;"], "hover names the run"
    assert [line.showlegend for line in lines] == [False, False]
    assert [entry.name for entry in (first, second)] == ["lr 1", "lr 2"]
    assert figure.layout.hovermode == "closest"
    own = validated(charts.many_runs(stacked, {}, {}))
    assert [line.line.color for line in own.data] == [*COLORS.values()]
    assert not own.layout.showlegend


def test_hover_names_run_and_series(evaluations: pd.DataFrame) -> None:
    steps = charts.step_curves(curve(), None, COLORS, "grad_norm", "step", log=False)
    losses = charts.loss_curves(evaluations, COLORS, "step", log=False)
    templates = {line.hovertemplate for f in (steps, losses) for line in validated(f).data}
    assert templates == {
        "%{y:.4~g}<extra>%{fullData.name} · Gradient norm</extra>",
        "%{y:.4f} @ %{x:,.6~g}<extra>%{fullData.name} · Validation loss</extra>",
        "%{y:.4f} @ %{x:,.6~g}<extra>%{fullData.name} · Training loss</extra>",
    }
    shorter = charts.step_curves(curve()[:-1], None, COLORS, "grad_norm", "step", log=False)
    assert all("@ %{x" in line.hovertemplate for line in validated(shorter).data)


def test_log_axis_has_a_note_on_omitted_values() -> None:
    note = "not shown on a log scale"
    for y, expected in ((0.0, True), (1.0, False), (np.nan, False)):
        points = curve().assign(y=y)
        figure = charts.step_curves(points, None, COLORS, "grad_norm", "step", log=True)
        assert (note in figure["layout"]["title"]["text"]) == expected
    linear = charts.step_curves(curve(-1), None, COLORS, "grad_norm", "step", log=False)
    assert note not in linear["layout"]["title"]["text"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_charts_have_the_background_of_the_page(theme: str) -> None:
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    layout = charts.TEMPLATES[theme]["layout"]
    assert layout["paper_bgcolor"] == config["theme"][theme]["backgroundColor"]
    assert layout["font"]["color"] == config["theme"][theme]["textColor"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_templates_are_valid_and_keep_the_colors_of_runs(theme: str) -> None:
    figure = charts.step_curves(curve(), None, COLORS, "loss", "step", log=False)
    themed = validated(charts.themed(figure, theme))
    assert themed.layout.template.layout.font.color
    assert [line.line.color for line in themed.data] == [*COLORS.values()]
    assert figure["layout"]["template"] == "none", "the figure itself is not changed"


def test_run_names_are_escaped(evaluations: pd.DataFrame) -> None:
    for figure in (
        charts.step_curves(curve(), None, COLORS, "loss", "step", log=False),
        charts.loss_curves(evaluations, COLORS, "step", log=False),
    ):
        names = {line.name for line in validated(figure).data}
        assert names == {"b", "&lt;b&gt;x&lt;/b&gt;"}


def test_learning_rate_axis_starts_at_zero() -> None:
    constant = charts.rate_schedule([(step, 5e-5) for step in (1, 2, 3)])
    figure = validated(constant)
    assert figure.layout.yaxis.rangemode == "tozero"
    assert (list(figure.data[0].x), list(figure.data[0].y)) == ([1, 2, 3], [5e-5] * 3)
    assert not figure.layout.showlegend
    rate = validated(charts.step_curves(curve(), None, COLORS, "lr", "step", log=False))
    assert rate.layout.yaxis.rangemode == "tozero"
    loss = validated(charts.step_curves(curve(), None, COLORS, "loss", "step", log=False))
    assert loss.layout.yaxis.rangemode is None


@pytest.mark.parametrize(("log", "kind"), [(True, "log"), (False, "linear")])
def test_y_axis_is_linear_or_logarithmic(evaluations: pd.DataFrame, log: bool, kind: str) -> None:
    steps = charts.step_curves(curve(), None, COLORS, "loss", "step", log)
    losses = charts.loss_curves(evaluations, COLORS, "step", log)
    assert [validated(figure).layout.yaxis.type for figure in (steps, losses)] == [kind, kind]


def test_runs_without_points_have_empty_lines(evaluations: pd.DataFrame) -> None:
    empty = curve().head(0)
    figure = validated(charts.step_curves(empty, empty, COLORS, "loss", "step", log=False))
    assert [len(line.x) for line in figure.data] == [0] * 4
    figure = validated(charts.loss_curves(evaluations.head(0), ONE_COLOR, "step", log=False))
    assert json.loads(figure.to_json())["data"][0]["type"] == "scatter"


def row(run: str, mean: float | None, low: float | None, high: float | None) -> dict[str, object]:
    return {"run": run, "mean": mean, "low": low, "high": high}


def test_error_bars_extend_from_the_mean_to_the_bounds() -> None:
    rows = [row("b", 60.0, 50.0, 65.0), row(RUNS[1], 20.0, 19.0, 30.0)]
    figure = validated(charts.intervals(rows, "Score", "points", (-2, 102)))
    assert [point.y[0] for point in figure.data] == ["&lt;b&gt;x&lt;/b&gt;", "b"], (
        "the y-axis starts at the bottom, so the first row is on top"
    )
    assert [point.x[0] for point in figure.data] == [20, 60]
    assert [point.error_x.array[0] for point in figure.data] == [10, 5]
    assert [point.error_x.arrayminus[0] for point in figure.data] == [1, 10]
    assert not any(point.error_x.symmetric for point in figure.data)
    assert tuple(figure.layout.xaxis.range) == (-2, 102)
    assert (figure.layout.title.text, figure.layout.xaxis.title.text) == ("Score", "points")


def test_run_without_a_mean_is_excluded_from_the_intervals() -> None:
    rows = [
        row("a", None, None, None),
        row("b", 0.0, 0.0, 0.0),
        row("c", 1.0, float("nan"), float("nan")),
    ]
    figure = validated(charts.intervals(rows, "Rating", "Elo points", None))
    assert [point.y[0] for point in figure.data] == ["c", "b"], (
        "means of 0 and means without an interval are drawn"
    )
    assert figure.layout.xaxis.range is None
    assert "NaN" not in figure.to_json()
    assert len(validated(charts.intervals(rows[:1], "", "", None)).data[0].x) == 0


def test_numeric_and_date_like_names_are_categories() -> None:
    rows = [row(name, 1.0, 0.0, 2.0) for name in ("10", "2", "2026-01-01")]
    figure = validated(charts.intervals(rows, "", "", None))
    assert figure.layout.yaxis.type == "category"
    one_row_height = charts.intervals(rows[:1], "", "", None)["layout"]["height"]
    assert figure.layout.height > one_row_height


def test_histogram_counts_every_score_once() -> None:
    scores = {"b": [0, 9.9, 10, 55, 99, 100], RUNS[1]: [50.0]}
    figure = validated(charts.score_histogram(scores))
    first, second = figure.data
    assert list(first.y) == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    assert sum(second.y) == 1
    assert list(first.x) == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    assert figure.layout.xaxis.unifiedhovertitle.text == "Score %{x} ± 5"
    assert second.name == "&lt;b&gt;x&lt;/b&gt;"
    assert first.marker.color != second.marker.color
    assert figure.layout.showlegend
    assert not validated(charts.score_histogram({"b": []})).layout.showlegend


def test_histogram_without_runs_is_an_empty_figure() -> None:
    figure = tools.return_figure_from_figure_or_data(
        charts.score_histogram({}), validate_figure=True
    )
    assert [len(trace["x"]) for trace in figure["data"]] == [0]


EXCLUDED_FUNCTIONS = {"plain", "themed", "score_histogram"}
"""Functions that do not draw a chart, and charts whose page tests cover unusual values."""
UNUSUAL_VALUES = {
    "no rows": [],
    "one row": [1.0],
    "all NaN": [float("nan")] * 3,
    "all None": [None] * 3,
}


def figures_of(values: list[float | None]) -> dict[str, charts.Figure]:
    """Return a figure with these values from each public chart function."""
    length = len(values)
    steps = pd.DataFrame({"run": ["b"] * length, "x": range(length), "y": values})
    losses = {f"{part}_loss": values for part in ("train", "val", "subset")}
    evaluations = pd.DataFrame({"run": ["b"] * length, "x": range(length), **losses})
    rows = [row("b", value, value, value) for value in values]
    step_curves = charts.step_curves(steps, steps, ONE_COLOR, "loss", "step", log=True)
    return {
        "stack": charts.stack([step_curves, step_curves]),
        "step_curves": step_curves,
        "loss_curves": charts.loss_curves(evaluations, ONE_COLOR, "step", log=False),
        "many_runs": charts.many_runs(charts.stack([step_curves]), {"b": "g"}, {"g": "#123456"}),
        "run_loss": charts.run_loss(evaluations, steps, "#123456", 0),
        "run_curve": charts.run_curve(steps, "grad_norm", "#123456", 2, 1.0),
        "clickable": charts.clickable(charts.stack([step_curves]), selected=1),
        "rate_schedule": charts.rate_schedule(list(enumerate(values))),
        "token_lengths": charts.token_lengths({"train": values, "test": []}, limit=1),
        "intervals": charts.intervals(rows, "", "", None),
        "lr_test": charts.lr_test(
            pd.DataFrame({"lr": range(1, length + 1), "loss": values, "smoothed": values}), 1e-3
        ),
    }


@pytest.mark.parametrize("values", UNUSUAL_VALUES.values(), ids=UNUSUAL_VALUES)
def test_every_chart_renders_with_unusual_values(values: list[float | None]) -> None:
    figures = figures_of(values)
    functions = [value for value in vars(charts).values() if inspect.isfunction(value)]
    own = {function.__name__ for function in functions if function.__module__ == charts.__name__}
    public = {name for name in own if not name.startswith("_")} - EXCLUDED_FUNCTIONS
    assert figures.keys() == public
    for name, figure in figures.items():
        parsed = tools.return_figure_from_figure_or_data(figure, validate_figure=True)
        assert parsed["data"], name


def test_empty_charts_have_a_trace(evaluations: pd.DataFrame) -> None:
    """Streamlit raises PlotlyEmptyDataError for figures without traces."""
    empty = curve().head(0)
    for figure in (
        charts.step_curves(empty, None, {}, "loss", "step", log=False),
        charts.loss_curves(evaluations.head(0), {}, "step", log=False),
        charts.token_lengths({}, limit=1),
        charts.score_histogram({}),
    ):
        assert len(validated(figure).data) == 1


def test_interval_without_bounds_draws_only_the_mean() -> None:
    figure = validated(charts.intervals([row("b", 60.0, None, None)], "", "", None))
    assert list(figure.data[0].x) == [60]
    assert np.isnan(figure.data[0].error_x.array).all()


def test_missing_value_leaves_a_gap_in_the_line(evaluations: pd.DataFrame) -> None:
    points = curve().assign(y=[1.0, np.nan, 3.0, 4.0, 5.0, 6.0])
    figures = [charts.step_curves(points, points, COLORS, "loss", "step", log=False)]
    evaluations.loc[1, ["val_loss", "subset_loss", "train_loss"]] = np.nan
    figures.append(charts.loss_curves(evaluations, COLORS, "step", log=False))
    figures.append(charts.rate_schedule([(1, 0.1), (2, None), (3, 0.2)]))
    for figure in figures:
        for line in validated(figure).data:
            assert not line.connectgaps
        assert np.isnan(validated(figure).data[0].y[1])


def test_loss_curves_show_the_subset_and_the_measured_training_losses(
    evaluations: pd.DataFrame,
) -> None:
    evaluations = pd.concat([evaluations.head(2), evaluations.head(1).assign(x=9)])
    evaluations = evaluations.reset_index(drop=True)
    evaluations["subset_loss"] = [3.0, 2.0, np.nan]  # an older version ended without a subset loss
    evaluations["train_loss"] = [1.0, np.nan, 0.5]
    for perplexity in (False, True):
        figure = charts.loss_curves(evaluations, ONE_COLOR, "step", False, perplexity)
        validation, training = validated(figure).data
        transform = np.exp if perplexity else np.array
        assert list(validation.x) == [0, 5, 9]
        assert list(validation.y) == pytest.approx(transform([3.0, 2.0, 3.5]))
        assert list(training.x) == [0, 9]
        assert list(training.y) == pytest.approx(transform([1.0, 0.5]))


def test_isolated_point_is_drawn_as_a_dot() -> None:
    points = pd.DataFrame({"run": "b", "x": range(6), "y": [1.0, np.nan, 2.0, 3.0, np.nan, 4.0]})
    [line] = validated(charts.step_curves(points, None, ONE_COLOR, "loss", "step", log=False)).data
    assert line.mode == "lines+markers"
    assert [size > 0 for size in line.marker.size] == [True, False, False, False, False, True]
    whole = charts.step_curves(points.dropna(), None, ONE_COLOR, "loss", "step", log=False)
    assert validated(whole).data[0].mode == "lines"
    first = charts.step_curves(points.head(1), None, ONE_COLOR, "loss", "step", log=False)
    assert list(validated(first).data[0].marker.size) == [charts.DOT_SIZE]


def test_learning_rate_test_marks_the_suggestion_on_a_log_axis() -> None:
    curve = pd.DataFrame({"lr": [1e-4, 1e-3, 1e-2], "loss": [3, 2, 4], "smoothed": [3, 2.5, 3]})
    figure = charts.lr_test(curve, 1e-3)
    raw, smooth = figure["data"]
    assert raw["y"].tolist() == [3, 2, 4]
    assert smooth["y"].tolist() == [3, 2.5, 3]
    assert figure["layout"]["xaxis"]["type"] == "log"
    [line], [label] = figure["layout"]["shapes"], figure["layout"]["annotations"]
    assert (line["x0"], line["x1"]) == (1e-3, 1e-3)
    assert (label["x"], label["text"]) == (-3.0, "0.001")
    assert "shapes" not in charts.lr_test(curve, None)["layout"]
