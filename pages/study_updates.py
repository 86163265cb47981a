"""The Why tab of a study: the mean relative update of each combination next to the metric, by context."""

import html
import math
from typing import Any

import streamlit as st

from core.colors import PALETTE
from core.studies.effects import EFFECT_METRICS, JUDGE_METRIC
from core.views import study_charts
from core.views.formats import DASH, axis_title, plural
from core.views.formats import value_text as result_text
from pages.study_view import (
    StudyView,
    metric_text,
    metric_title,
    settings_label,
    value_text,
)
from pages.ui.figures import show_figure

AXIS = "setting"
PARAMETERS = (AXIS,)
UPDATE = "relative_update"


def show(view: StudyView) -> None:
    """Draw the chart and the table."""
    groups = [group for group in view.groups() if math.isfinite(group[UPDATE])]
    if not groups:
        st.caption("No run of this study has measured relative updates yet.")
        return
    st.markdown(
        "How much one optimizer step changes the weights, relative to their norm. Combinations that fail often change "
        "the weights much more or much less than the best one."
    )
    axis = view.state.select(
        "Setting", view.axes, AXIS, format_func=axis_title, width=220, problem="Unknown setting"
    )
    metric = metric_title(view.metric)
    compared = EFFECT_METRICS.get(view.metric, JUDGE_METRIC)
    legend = list(dict.fromkeys(value_text(axis, group["settings"][axis]) for group in groups))
    points = [
        {
            "update": group[UPDATE],
            "value": group["mean"],
            "legend": f"{axis_title(axis)} {value_text(axis, group['settings'][axis])}",
            "color": PALETTE[
                legend.index(value_text(axis, group["settings"][axis])) % len(PALETTE)
            ],
            "hover": f"{settings_label(group['settings'])}\n{metric}: {_outcome(group, view)}\n"
            f"Relative update: {result_text(UPDATE, group[UPDATE])}",
        }
        for group in groups
        if group["n"] or group["diverged"]
    ]
    show_figure(
        study_charts.updates_by_metric(
            points,
            f"{metric} by mean relative update",
            metric,
            compared.direction == "lower",
            compared.is_log,
        ),
        key="study_updates",
    )
    st.html(_table(groups, axis, view))
    st.caption(
        "Relative update: norm of the weight change in one optimizer step divided by the norm of the weights, averaged "
        "over steps and runs, including diverged ones. It can suggest a cause, but does not prove one."
    )


def _outcome(group: dict[str, Any], view: StudyView) -> str:
    """Return the mean of the metric and the number of diverged runs."""
    parts = [metric_text(view.metric, group["mean"])] if group["n"] else []
    if group["diverged"]:
        total = group["n"] + group["diverged"]
        parts.append(f"{group['diverged']} of {plural(total, 'run')} diverged")
    return ", ".join(parts) or DASH


def _table(groups: list[dict[str, Any]], axis: str, view: StudyView) -> str:
    """Return a table with one section per context and one row per value of the setting."""
    updates = [math.log(g[UPDATE]) for g in groups if g[UPDATE] > 0]
    low, high = (min(updates), max(updates)) if updates else (0.0, 1.0)
    best = next((group[UPDATE] for group in view.groups() if group["is_best"]), math.nan)
    sections: dict[str, list[str]] = {}
    for group in groups:
        context = {a: v for a, v in group["settings"].items() if a != axis}
        share = (math.log(group[UPDATE]) - low) / (high - low or 1.0) if group[UPDATE] > 0 else 0.0
        ratio = f"{group[UPDATE] / best:.2g}\u00d7" if math.isfinite(best) and best > 0 else DASH
        outcome = "best" if group["is_best"] else ratio
        bar = f'<span class="update-bar"><span style="width: {5 + 95 * share:.0f}%"></span></span>'
        sections.setdefault(settings_label(context), []).append(
            f"<tr><td>{html.escape(value_text(axis, group['settings'][axis]))}</td>"
            f"<td>{bar}{result_text(UPDATE, group[UPDATE])}</td><td>{outcome}</td>"
            f"<td>{html.escape(_outcome(group, view))}</td></tr>"
        )
    headings = (
        axis_title(axis), "Relative update (bars on a log scale)", "Relative to the best combination",
        metric_title(view.metric),
    )  # fmt: skip
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in headings)
    bodies = "".join(
        f'<tbody><tr class="effect-change"><th colspan="4" scope="rowgroup">{html.escape(context)}</th></tr>{"".join(rows)}</tbody>'
        if context
        else f"<tbody>{''.join(rows)}</tbody>"
        for context, rows in sections.items()
    )
    return f'<div class="effects" tabindex="0"><table><thead><tr>{head}</tr></thead>{bodies}</table></div>'
