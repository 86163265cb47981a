"""The Effects tab of a study: the effect of each change, with one row per context, an interval and a verdict."""

import html
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.errors import UserError
from core.lab import Lab
from core.studies.effects import EFFECT_METRICS, JUDGE_METRIC
from core.studies.sweep import MIN_SEEDS
from core.views.formats import DASH, axis_title, difference_text
from core.views.study_text import PRUNING_BIAS, effect_order
from core.views.tables import records
from pages.study_actions import MAX_ADDED_SEEDS, show_seeds_button
from pages.study_view import (
    MARGIN,
    StudyView,
    interval_text,
    merged,
    metric_noun,
    settings_label,
    value_text,
)
from pages.ui.page_state import PageState
from pages.ui.selection import show_cut
from pages.ui.text import escape_markdown

CHANGE = "change"
PARAMETERS = (CHANGE, MARGIN)
ALL_CHANGES = "All changes"
MAX_HEADINGS = 40
MAX_DOUBLE_ROWS = 100
ARROW = "\u2192"
CORRECTED = "\u2020"
"""Marks an undecided verdict whose interval excludes 0."""
VERDICT_ICONS = {"better": "\u2713", "worse": "\u2717", "equivalent": "\u2248", "undecided": "?"}
MANY_SEEDS = 100
"""Larger estimates of the number of seeds are shown as "more than"."""
FEW_SEEDS = 2
Effect = dict[str, Any]


def margin_of(state: PageState, metric: str) -> float | None:
    """Return the margin in the URL, in the unit of `Lab.effects`; None for the metric's default."""
    text = state.value(MARGIN)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and value > 0:
        return value / _scale(metric)
    state.check(MARGIN, (), "Unknown margin")
    return None


def show(view: StudyView) -> None:
    """Draw the effects."""
    if view.study is None:
        st.caption("Effects need the study's file, which is damaged.")
        return
    effects = _effects(view.lab, view.key, view.name, view.metric, view.margin)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _show_margin(view)
        changes = dict.fromkeys(effect["field"] for effect in effects)
        titles = {"": ALL_CHANGES} | {field: axis_title(field) for field in changes}
        chosen = view.state.select("Change", list(titles), CHANGE, format_func=titles.__getitem__, width=220)  # fmt: skip
    if not effects:
        st.caption("No two combinations with finished runs differ by exactly one change yet.")
        return
    if all(effect["seeds"] == 0 and not any(effect["diverged"]) for effect in effects):
        st.caption(
            f"No two combinations have a comparable value of {metric_noun(view.metric)} yet. Validation losses "
            "are compared only if they were measured on the whole validation set."
        )
        return
    if view.study.is_exploratory:
        st.info(
            "Exploratory: seeds were added after this study was planned. Adding seeds after looking at the results makes "
            "false verdicts more likely."
        )
    _show_seeds(view, effects)
    shown = [effect for effect in effects if chosen in ("", effect["field"])]
    headings: dict[tuple[str, str, str], list[Effect]] = {}
    for effect in shown:
        field = effect["field"]
        ends = value_text(field, effect["from"]), value_text(field, effect["to"])
        headings.setdefault((field, *ends), []).append(effect)
    show_cut(
        min(len(headings), MAX_HEADINGS), len(headings), "changes. Choose one to see the others"
    )
    parts = [_section(key, own, view) for key, own in list(headings.items())[:MAX_HEADINGS]]
    st.html(_table(parts, view.metric))
    _show_notes(shown)
    _show_double_changes(view)


def _show_margin(view: StudyView) -> None:
    """Draw the input for the margin. Relative margins are in percent."""
    metric, state = view.metric, view.state
    compared, scale = EFFECT_METRICS.get(metric, JUDGE_METRIC), _scale(metric)
    unit = "points" if metric not in EFFECT_METRICS else "%" if compared.is_log else "pp"
    default = compared.margin * scale
    key = f"study_margin:{metric}"
    st.session_state[key] = default if view.margin is None else view.margin * scale

    def take() -> None:
        value = st.session_state[key]
        state.set(MARGIN, *([] if value in (None, default) else [f"{value:g}"]))
        if not state.values(MARGIN):
            state.clear(MARGIN)

    st.number_input(
        f"Margin ({unit})", 0.001, None, key=key, on_change=take, format="%g", width=140,
        step=default / 2,
        help=f"Smallest difference that matters: smaller ones count as equivalent. Default: {default:g} {unit}.",
    )  # fmt: skip
    if view.margin is not None:
        state.show(MARGIN, f"{view.margin * scale:g}")


def _scale(metric: str) -> float:
    """Return the number of displayed units per unit of the margin. Fractions are shown in percent."""
    return 100.0 if metric in EFFECT_METRICS else 1.0


@st.cache_resource(max_entries=16, show_spinner=False)
def _effects(_lab: Lab, key: str, name: str, metric: str, margin: float | None) -> list[Effect]:
    axes = _lab.study(name).sweep.fields
    effects: list[Effect] = records(_lab.effects(metric, name, margin))
    return sorted(effects, key=lambda effect: effect_order(effect, axes))


def _show_seeds(view: StudyView, effects: Sequence[Effect]) -> None:
    """Say how many seeds would detect a difference of the margin, if some comparisons are undecided."""
    study = view.study
    assert study is not None
    has_one_seed = max(effect["seeds"] for effect in effects) < MIN_SEEDS
    if not has_one_seed and all(effect["verdict"] != "undecided" for effect in effects):
        return
    needed = _seeds_needed(view.lab, view.key, view.name, view.metric, view.margin)
    text = _needed_text(view, needed)
    if not has_one_seed:
        if needed is not None:
            st.caption(escape_markdown(text))
        return
    more = FEW_SEEDS if needed is None else needed[1] - len(study.sweep.seeds)
    with st.container(border=True, key="study-one-seed"):
        st.markdown(
            f"**One run per group proves nothing**; a second seed could reverse any of these differences. {escape_markdown(text)}"
        )
        if more > 0:
            show_seeds_button(view.lab, study, more, "settle_study")
        if more > MAX_ADDED_SEEDS:
            st.caption(f"Adds at most {MAX_ADDED_SEEDS} seeds at a time.")


def _needed_text(view: StudyView, needed: tuple[int, int, int] | None) -> str:
    compared, scale = EFFECT_METRICS.get(view.metric, JUDGE_METRIC), _scale(view.metric)
    margin = (compared.margin if view.margin is None else view.margin) * scale
    unit = "%" if compared.is_log else " pp" if view.metric == "exact" else " points"
    difference = f"a difference of {margin:g}{unit}"
    if needed is None:
        return (
            f"The number of seeds needed to detect {difference} is unknown until some combination has two seeds."
            if compared.is_log
            else "At least two seeds are needed for a verdict."
        )
    bounds = [f"more than {MANY_SEEDS}" if n > MANY_SEEDS else str(n) for n in needed[::2]]
    seeds = bounds[0] if bounds[0] == bounds[1] else " to ".join(bounds)
    return f"To detect {difference}, {seeds} seeds per combination are needed, judging by the noise between seeds so far."


@st.cache_resource(max_entries=16, show_spinner=False)
def _seeds_needed(
    _lab: Lab, key: str, name: str, metric: str, margin: float | None
) -> tuple[int, int, int] | None:
    return _lab.seeds_needed(name, metric, margin)


def _section(key: tuple[str, str, str], effects: Sequence[Effect], view: StudyView) -> str:
    """Return the rows of one change: a heading and one row per context."""
    field, before, after = key
    title = f"{html.escape(axis_title(field))}: {html.escape(before)} {ARROW} {html.escape(after)}"
    note = _interaction(effects)
    note = f'<span class="effect-note">{note}</span>' if note else ""
    rows = [_row(effect, view, _span(effects)) for effect in effects]
    heading = f'<tr class="effect-change"><th colspan="6" scope="rowgroup">{title}{note}</th></tr>'
    return f"<tbody>{heading}{''.join(rows)}</tbody>"


def _span(effects: Sequence[Effect]) -> float:
    """Return the value at the ends of the bars. Very wide intervals are clipped."""
    sizes = [abs(e["difference"]) for e in effects if e["difference"] is not None]
    bounds = [abs(e[end]) for e in effects for end in ("low", "high") if e[end] is not None]
    return min(max([*sizes, *bounds], default=0.0), 4 * max(sizes, default=0.0)) or 1.0


def _interaction(effects: Sequence[Effect]) -> str:
    """Return a note if the direction of a change depends on its context."""
    notes = []
    verdicts = {effect["verdict"] for effect in effects}
    signs = {math.copysign(1, e["difference"]) for e in effects if e["difference"]}
    if {"better", "worse"} <= verdicts:
        notes.append("Reverses: better in some contexts, worse in others.")
    elif len(signs) > 1:
        notes.append("The sign differs between contexts, but no verdicts confirm a reversal.")
    counts = {effect["diverged"][1] - effect["diverged"][0] for effect in effects}
    if len(counts) > 1:
        notes.append("Runs diverge only in some contexts.")
    return f"\u26a0 {' '.join(notes)}" if notes else ""


def _row(effect: Effect, view: StudyView, span: float) -> str:
    metric, difference = view.metric, effect["difference"]
    context = settings_label(merged(effect["context"], view.axes)) or "no other setting varies"
    low, high = effect["low"], effect["high"]
    interval = DASH if low is None or high is None else interval_text(metric, low, high, True)
    verdict = effect["verdict"]
    mark = f" {CORRECTED}" if _is_corrected(effect) else ""
    word = f'<span class="verdict-{verdict}">{VERDICT_ICONS[verdict]} {verdict}{mark}</span>'
    if effect["seeds"] < MIN_SEEDS:
        reason = ": one seed" if effect["seeds"] else ""
        word = f'<span class="verdict-undecided">no verdict{reason}</span>'
    if any(effect["diverged"]):
        before, after = effect["diverged"]
        word += f'<span class="effect-diverged">diverged runs: {before} {ARROW} {after}</span>'
    return (
        f"<tr><td>{html.escape(context)}</td><td>{difference_text(metric, difference)}</td>"
        f"<td>{_bar(difference, low, high, span, verdict)}</td><td>{interval}</td>"
        f"<td>{effect['seeds']}</td><td>{word}</td></tr>"
    )


def _is_corrected(effect: Effect) -> bool:
    """Return whether the interval excludes 0, but the verdict is undecided after the correction."""
    if effect["low"] is None or effect["high"] is None:
        return False
    return effect["verdict"] == "undecided" and (effect["low"] > 0 or effect["high"] < 0)


def _bar(
    difference: float | None, low: float | None, high: float | None, span: float, verdict: str
) -> str:
    """Draw a difference with its interval around a line at 0. Intervals are clipped at the ends."""
    if difference is None:
        return ""
    if low is None or high is None:
        low = high = difference

    def percent(value: float) -> float:
        return 50 + 50 * max(-1.0, min(1.0, value / span))

    start, end = percent(low), percent(high)
    return (
        f'<span class="effect-bar verdict-{verdict}"><span class="effect-zero"></span>'
        f'<span class="effect-interval" style="left: {start:.1f}%; width: {end - start:.1f}%"></span>'
        f'<span class="effect-dot" style="left: {percent(difference):.1f}%"></span></span>'
    )


def _table(parts: Sequence[str], metric: str) -> str:
    title = html.escape(metric_noun(metric))
    spans = {"Context": 1, f"Difference in {title}": 1, "95% interval": 2, "Seeds": 1, "Verdict": 1}
    head = "".join(
        f'<th scope="col" colspan="{columns}">{text}</th>' for text, columns in spans.items()
    )
    return f'<div class="effects" tabindex="0"><table><thead><tr>{head}</tr></thead>{"".join(parts)}</table></div>'


def _show_notes(effects: Sequence[Effect]) -> None:
    st.caption(
        f"Difference: right side of {ARROW} minus left side. Diverged and pruned runs are excluded. "
        "Verdicts are corrected for multiple comparisons; intervals are not."
    )
    if any(sum(effect["pruned"]) for effect in effects):
        st.caption(PRUNING_BIAS)
    if any(_is_corrected(effect) for effect in effects):
        st.caption(
            f"{CORRECTED} The interval excludes 0, but of {len(effects):,} comparisons, some do so by chance. "
            "After the correction (false discovery rate of 5%), this one is undecided."
        )


def _show_double_changes(view: StudyView) -> None:
    """List the pairs with two changes between them, if the user asks for them."""
    if not st.toggle(
        "Pairs that differ by two changes",
        key="study_double",
        help="Their differences cannot be attributed to either change, so they have no verdict.",
    ):
        return
    try:
        rows = _double_changes(view.lab, view.key, view.name, view.metric)
    except UserError as error:
        st.error(escape_markdown(str(error)))
        return
    if not rows:
        st.caption("No two combinations differ by exactly two changes.")
        return
    show_cut(min(len(rows), MAX_DOUBLE_ROWS), len(rows), "pairs")
    table = pd.DataFrame([
        {
            "Changes": ", ".join(
                f"{axis_title(f)} {value_text(f, before)} {ARROW} {value_text(f, after)}"
                for f, before, after in row["changes"]
            ),
            "Context": settings_label(merged(row["context"], view.axes)) or DASH,
            "Difference": difference_text(view.metric, row["difference"]),
            "Seeds": row["seeds"],
            "Diverged": f"{row['diverged'][0]} {ARROW} {row['diverged'][1]}",
        }
        for row in rows[:MAX_DOUBLE_ROWS]
    ])  # fmt: skip
    st.dataframe(table, hide_index=True, key="study_double_table")
    st.caption("Without a verdict: either of the two changes could be the cause.")


@st.cache_resource(max_entries=4, show_spinner=False)
def _double_changes(_lab: Lab, key: str, name: str, metric: str) -> list[Effect]:
    return records(_lab.double_changes(name, metric))
