"""The Heat map tab of a study: any two varied settings. Other settings are fixed, or each of their values has a panel.

Means over other settings are never shown, because an effect can depend on them.
"""

import math
from typing import Any

import streamlit as st

from core.studies.effects import EFFECT_METRICS, JUDGE_METRIC
from core.studies.spacing import value_order
from core.views import study_charts
from core.views.formats import axis_title, plural
from core.views.study_charts import DIVERGED, Cell
from pages.study_view import (
    StudyView,
    interval_text,
    metric_text,
    metric_title,
    number_text,
    settings_label,
    value_text,
)
from pages.ui.figures import show_figure
from pages.ui.selection import show_cut

X, Y, FIX = "x", "y", "fix"
PARAMETERS = (X, Y, FIX)
"""`fix` holds one `setting=value` for each fixed setting."""
PREFERRED = (("lora_rank=lora_alpha", "lr"), ("lora_rank", "lr"))
"""Axes shown at first, if the study varies both."""
MAX_PANELS = 8
ALL = "All values"


def show(view: StudyView) -> None:
    """Draw the heat maps."""
    axes = view.axes
    if len(axes) < 2:
        st.caption("A heat map needs two varied settings. This study varies only one.")
        return
    x, y = _select_axes(view)
    others = [axis for axis in axes if axis not in (x, y)]
    fixed = _select_fixed(view, others)
    free = [axis for axis in others if axis not in fixed]
    groups = [
        group
        for group in view.groups()
        if all(value_text(a, group["settings"][a]) == v for a, v in fixed.items())
    ]
    values = {axis: _values(view, axis) for axis in axes}
    by_context: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for group in groups:
        by_context.setdefault(_texts(group, free), []).append(group)
    order = [{text: i for i, text in enumerate(values[axis])} for axis in free]
    contexts = sorted(by_context, key=lambda c: [o[t] for o, t in zip(order, c, strict=True)])
    panels = [(dict(zip(free, context, strict=True)), by_context[context]) for context in contexts]
    show_cut(min(len(panels), MAX_PANELS), len(panels), "panels. Fix a setting to see the others")
    means = [group["mean"] for group in groups if math.isfinite(group["mean"])]
    span = (min(means), max(means)) if means else (1.0, 1.0)
    columns = st.columns(min(2, max(1, len(panels))))
    for i, (context, own) in enumerate(panels[:MAX_PANELS]):
        title = ", ".join(f"{axis_title(a)} {t}" for a, t in (context | fixed).items())
        cells = {
            (value_text(x, g["settings"][x]), value_text(y, g["settings"][y])): _cell(g, view)
            for g in own
        }
        metric = EFFECT_METRICS.get(view.metric, JUDGE_METRIC)
        figure = study_charts.heat_map(
            cells, (axis_title(x), values[x]), (axis_title(y), values[y]),
            title or metric_title(view.metric), span, metric.direction == "lower", metric.is_log,
        )  # fmt: skip
        with columns[i % len(columns)]:
            show_figure(figure, key=f"study_heatmap_{i}")
    st.caption(
        f"{metric_title(view.metric)}: mean over seeds. Darker is better, with the same colors in all panels. "
        f"{DIVERGED} marks diverged runs, which are not part of a mean."
    )


def _select_axes(view: StudyView) -> tuple[str, str]:
    """Let the user select the two axes."""
    axes, state = view.axes, view.state
    preferred = next((pair for pair in PREFERRED if {*pair} <= {*axes}), (axes[0], axes[1]))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        x = state.select(
            "Horizontal", axes, X, preferred[0], format_func=axis_title, width=220,
            problem="Unknown setting",
        )  # fmt: skip
        rest = [axis for axis in axes if axis != x]
        default = next((a for a in (preferred[1], preferred[0]) if a in rest), rest[0])
        if state.value(Y) == x:  # the axes were swapped
            state.set(Y, default)
        y = state.select(
            "Vertical", rest, Y, default, format_func=axis_title, width=220,
            problem="Unknown setting",
        )  # fmt: skip
    return x, y


def _select_fixed(view: StudyView, others: list[str]) -> dict[str, str]:
    """Let the user fix other settings. Returns their values as text, by axis."""
    state = view.state
    linked = dict(text.rpartition("=")[::2] for text in state.values(FIX) or [])
    known = [f"{a}={value}" for a in others for value in _values(view, a)]
    state.check(FIX, {*known, *(f"{a}={v}" for a in view.axes for v in _values(view, a))}, "Unknown value")  # fmt: skip
    fixed: dict[str, str] = {}
    if not others:
        return fixed
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for axis in others:
            options = [ALL, *_values(view, axis)]
            wanted = linked.get(axis, ALL)
            key = f"study_fix:{view.name}:{axis}"
            st.session_state[key] = wanted if wanted in options else ALL
            value = st.selectbox(
                axis_title(axis), options, key=key, width=180,
                on_change=lambda axis=axis, key=key: _fix(view, axis, st.session_state[key]),
            )  # fmt: skip
            if value != ALL:
                fixed[axis] = value
    state.show(FIX, *(f"{axis}={value}" for axis, value in fixed.items()))
    return fixed


def _fix(view: StudyView, axis: str, value: str) -> None:
    """Remember the value of a fixed setting."""
    kept = [t for t in view.state.values(FIX) or [] if t.rpartition("=")[0] != axis]
    view.state.set(FIX, *kept, *([] if value == ALL else [f"{axis}={value}"]))


def _values(view: StudyView, axis: str) -> list[str]:
    """Return the values of an axis as text, in order."""
    field = axis.split("=")[0]
    values = [group["settings"][axis] for group in view.groups()]
    ordered = sorted(values, key=lambda value: value_order(field, value))
    return list(dict.fromkeys(value_text(axis, value) for value in ordered))


def _texts(group: dict[str, Any], axes: list[str]) -> tuple[str, ...]:
    return tuple(value_text(axis, group["settings"][axis]) for axis in axes)


def _cell(group: dict[str, Any], view: StudyView) -> Cell:
    """Return the cell of a combination."""
    total = group["n"] + group["diverged"]
    diverged = f"{DIVERGED} {group['diverged']} of {total}" if group["diverged"] else ""
    hover = [settings_label(group["settings"])]
    if group["n"]:
        interval = interval_text(view.metric, group["low"], group["high"])
        hover += [f"Mean: {metric_text(view.metric, group['mean'])}", f"95% interval: {interval}"]
        hover += [plural(group["n"], "seed")]
    if group["diverged"]:
        hover += [f"{group['diverged']} of {plural(total, 'run')} diverged"]
    if group["pruned"]:
        hover += [f"{plural(group['pruned'], 'run')} pruned"]
    if waiting := group["failed"] + group["unfinished"]:
        hover += [f"{plural(waiting, 'run')} not finished"]
    text = number_text(view.metric, group["mean"]) if group["n"] else ""
    return Cell(group["mean"], "\n".join(filter(None, (text, diverged))), "\n".join(hover))
