"""The Live page: losses, learning rate, speed, samples and logs, refreshed every second while a run is active."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from core.colors import PALETTE
from core.config import RunConfig, is_relevant
from core.metrics import AXES, CURVES
from core.views import charts, formats, report
from core.views.tables import records
from pages.ui import runtime, style
from pages.ui.compared_runs import select_runs
from pages.ui.copy_link import copy_link
from pages.ui.errors import show_errors
from pages.ui.figures import show_figure
from pages.ui.page_state import PageState
from pages.ui.run_links import RUN_PAGE, dot_image, open_run, run_link
from pages.ui.selection import clicked_row, show_cut
from pages.ui.status import ACTIVE_STATUSES, show_run, states
from pages.ui.text import escape_markdown, show_text

X_LABELS = {name: metric.title for name, metric in AXES.items()}
MAX_COLORS = len(PALETTE)
"""Maximum number of runs with their own colors. With more runs, lines are thin and colored by a setting."""
OWN_COLOR = "Run"
CURVE_BUCKETS, MIN_CURVE_BUCKETS = 250, 40
MAX_CURVE_POINTS = 4000
"""Approximate number of points per chart. With many runs, each has fewer buckets."""
MAX_LIST_HEIGHT_PX = 280
SHOWN_SAMPLES = 20
CHARTS = tuple(name for name, metric in CURVES.items() if metric.chart)

PARAMETERS = ("run", "x", "smoothing", "color", "log", "details")

lab = runtime.lab()
state = PageState("live", PARAMETERS)


def default_runs() -> list[str]:
    """Return the active run or, if there is none, the newest one."""
    active = [run for status in ACTIVE_STATUSES for run in results[::-1] if run["status"] == status]
    return [run["name"] for run in [*active[:1], *results[:1]][:1]]


def show_differences(chosen: pd.DataFrame) -> None:
    """List the settings in which the chosen runs differ, one row per run. Names link to the runs' pages."""
    if len(chosen) < 2:
        return
    table = report.settings_of(records(chosen)).transpose()
    if table.columns.empty:
        st.caption("These runs have the same settings.")
        return
    table = table.replace("", formats.DASH).reset_index(names="run")
    table.insert(0, "color", [dot_image(color) for color in chosen["color"]])
    st.dataframe(
        table, hide_index=True, key="differences", width="content",
        height=MAX_LIST_HEIGHT_PX if len(table) > MAX_COLORS else "content",
        column_config={
            "color": st.column_config.ImageColumn("", width=36),
            "run": st.column_config.ButtonColumn("Run", type="tertiary", key="open_run",
                                                 help="Open the run page."),
        },
    )  # fmt: skip
    if name := clicked_row("open_run", table["run"].tolist()):
        open_run(name)


def choose_groups(chosen: pd.DataFrame) -> tuple[dict[str, str], dict[str, str]]:
    """Let the user choose the setting that determines the colors of many runs.

    Returns:
        The group of each run and the color of each group. Both are empty if each run keeps its own color.
    """
    groups_by_title = {}
    for name in report.differing(chosen):
        values = [
            formats.value_text(name, row[name]) if is_relevant(name, row) else formats.DASH
            for row in records(chosen)
        ]
        if 1 < len(set(values)) <= MAX_COLORS:
            title = str(RunConfig.model_fields[name].title)
            groups_by_title[title] = dict(zip(chosen["name"], values, strict=True))
    title = state.select(
        "Color by", [*groups_by_title, OWN_COLOR], "color", width=190,
        help=f"With more than {MAX_COLORS} runs, colors represent the values of a setting. Hover over a line to see its run.",
    )  # fmt: skip
    chosen_values = groups_by_title.get(title, {})
    groups = {name: f"{title} {value}" for name, value in chosen_values.items()}
    unique = dict.fromkeys(groups.values())
    return groups, dict(zip(unique, PALETTE, strict=False))


@st.cache_resource(max_entries=32, show_spinner=False)
def show_figures(
    cache_key: str,
    _colors: Mapping[str, str],
    _x: str,
    _log: bool,
    _window: int,
    _groups: Mapping[str, str],
    _group_colors: Mapping[str, str],
) -> tuple[list[dict], int]:
    """Draw the charts. Return the newest samples and the total number of samples.

    Streamlit caches both the return value and the drawn elements, so sessions with the same view share them.

    Args:
        cache_key: Everything that the charts depend on, as a string. Streamlit is slow at hashing nested structures.
    """
    names, colors, x, log, window = [*_colors], _colors, _x, _log, _window
    evaluations = lab.evaluations(names, x)
    figures = {
        f"evaluation-{i}": charts.loss_curves(evaluations, colors, x, log, perplexity)
        for i, perplexity in enumerate((False, True))
    }
    buckets = max(MIN_CURVE_BUCKETS, min(CURVE_BUCKETS, MAX_CURVE_POINTS // len(names)))
    raw = lab.curves(names, CHARTS, x=x, buckets=buckets)
    noisy = [metric for metric in CHARTS if metric != "lr"]
    smooth = lab.curves(names, noisy, x=x, window=window, buckets=buckets) if window > 1 else {}
    if len(names) > MAX_COLORS:  # raw curves behind the smoothed ones would hide them
        raw, smooth = raw | smooth, {}
    for metric in CHARTS:
        figures[metric] = charts.step_curves(
            raw[metric], smooth.get(metric), colors, metric, x, log and metric != "lr"
        )
    keys = [*figures]
    for column, part in zip(st.columns(2), (keys[::2], keys[1::2]), strict=True):
        figure = charts.stack([figures[key] for key in part])
        if len(names) > MAX_COLORS:
            figure = charts.many_runs(figure, _groups, _group_colors)
        with column:
            show_figure(figure, key=part[0])
    samples = lab.samples(names)
    return records(samples.head(SHOWN_SAMPLES)), len(samples)


def show_details(names: list[str], view: str, samples: list[dict], total_samples: int) -> None:
    """Show the newest samples, the warnings or the trainer logs for the selected runs."""
    if view == "Samples":
        if not samples:
            st.caption("No samples yet. Set the interval with *Sample every*.")
        show_cut(len(samples), total_samples, "samples, newest first")
        show_samples(repr((colors, samples)), samples)
    elif view == "Warnings":
        warnings = lab.warnings(names)
        if warnings.empty:
            st.caption("No warnings.")
        else:
            st.dataframe(warnings, hide_index=True)
    else:
        for name in names:
            run_link(name, colors[name], key="log")
            with show_errors():  # the run may have been deleted since the last sync
                st.code(lab.log(name) or "(empty)", language=None)


@st.cache_resource(max_entries=32, show_spinner=False)
def show_samples(cache_key: str, _samples: list[dict]) -> None:
    """Draw the samples. Sessions with the same view share the drawn elements."""
    for i, sample in enumerate(_samples):
        name = sample["run"]
        with st.container(
            horizontal=True, vertical_alignment="center", gap="xsmall", key=f"run-link-sample-{i}"
        ):
            # `run_link` draws CSS, which a cached function cannot.
            st.html(
                f'<span class="run-dot" style="background: {colors[name]}"></span>', width="content"
            )
            st.page_link(RUN_PAGE, label=escape_markdown(name), query_params={"name": name})
            st.caption(
                f"step {sample['step']}: {escape_markdown(sample['prompt'])}", width="content"
            )
        show_text(sample["text"].strip())


with st.container(horizontal=True, vertical_alignment="center"):
    st.title("Live", width="stretch")
    copy_link()
frame = lab.runs()
results = records(frame)
if not results:
    st.info("No runs yet. Launch the demo: it takes about a minute.")
    st.page_link("pages/launch.py", label="Launch", icon=":material/rocket_launch:")
    st.stop()

notices = st.container()
existing_names = frame["name"].tolist()
names = select_runs(state, existing_names, existing_names, default_runs(), None, "")
frame = frame.set_index("name", drop=False).loc[names]
colors = dict(zip(names, frame["color"], strict=True))
groups: dict[str, str] = {}
group_colors: dict[str, str] = {}
with st.container(
    horizontal=True, vertical_alignment="bottom", gap="medium"
):  # wraps on narrow screens
    x = state.select("X-axis", list(X_LABELS), "x", format_func=X_LABELS.__getitem__, width=150)
    window = state.number(
        "Smoothing (steps)", "smoothing", 1, 1000, placeholder="none", width=150,
        help="Moving average over this many steps.",
    ) or 1  # fmt: skip
    if len(names) > MAX_COLORS:
        groups, group_colors = choose_groups(frame)
    log = state.toggle("Log scale", "log")
    follow = st.toggle("Follow", True, help="Turn off to freeze the charts and keep your zoom.")
show_differences(frame)
was_active = any(run["status"] in ACTIVE_STATUSES for run in states(lab, lab.changed_at, names))


def show_states(chosen: list[dict[str, Any]]) -> None:
    """Show the progress of the runs, in a list that scrolls if it is long."""
    is_long = len(chosen) > MAX_COLORS
    with st.container(height=MAX_LIST_HEIGHT_PX if is_long else "content", border=False):
        for run in chosen:
            show_run({**run, "color": colors[run["name"]]}, lab)


@st.fragment(run_every=1.0 if was_active and follow else None)
def show() -> None:
    """Draw the part of the page that changes while a run is active."""
    runtime.lower_priority()
    if not runtime.is_open(lab):  # another session took over from a read-only Lab
        runtime.rerun()
    chosen = states(lab, lab.changed_at, names)
    if was_active != any(run["status"] in ACTIVE_STATUSES for run in chosen):
        runtime.rerun()
    show_states(chosen)
    samples: list[dict] = []
    total_samples = 0
    if any(run["steps"] for run in chosen):
        view_key = colors, x, log, window, groups, group_colors, style.theme()
        cache_key = repr((lab, chosen, view_key))
        samples, total_samples = show_figures(
            cache_key, colors, x, log, window, groups, group_colors
        )
    if chosen:
        view = state.select(
            "Details", ["Samples", "Warnings", "Log"], "details",
            draw=st.segmented_control, required=True,
        )  # fmt: skip
        show_details(names, view, samples, total_samples)
    state.write()
    runtime.freeze_garbage_collection("Live")


show()
with notices:
    state.show_notices()
