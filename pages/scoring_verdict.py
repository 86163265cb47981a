"""The verdict on two runs: which one scores higher, by how much, and whether the difference is clear."""

import html
import math
from collections.abc import Mapping

import pandas as pd
import streamlit as st

from core.judging.answers import EXAMPLE_COLUMNS, JudgedAnswers, is_base
from core.lab import Lab
from pages.scoring_selection import Selection
from pages.ui.run_links import run_link
from pages.ui.text import escape_markdown

BASE_COLOR = "#8a919e"
"""Color of pretrained base models."""
NOT_FULLY_SCORED = "No verdict yet: both runs need scores from this judge."


def show_verdict(shown: Selection) -> None:
    """Show the verdict on the two selected runs. Without any scores, the tabs say so."""
    if shown.judge is None:
        return
    a, b = shown.judged.runs
    with st.container(key="verdict", border=True):
        if {a, b} <= {*shown.scored_runs}:
            show_difference(shown, a, b, "verdict")
        else:
            st.caption(NOT_FULLY_SCORED)
            shown.show_score_button("score_verdict")


def show_difference(shown: Selection, a: str, b: str, key: str) -> pd.DataFrame:
    """Show whether A scores higher than B, as a sentence and a bar. Return the scores on their common examples.

    Args:
        key: distinguishes several verdicts on a page.
    """
    lab, judged, verdicts, colors = shown.lab, shown.judged, shown.judge_verdicts, shown.colors
    both = common_scores(lab, verdicts, a, b)
    difference = lab.scoring.difference(both[a], both[b])
    name_a, name_b = judged.title(a), judged.title(b)
    st.markdown(f"**{escape_markdown(difference.sentence(name_a, name_b))}**")
    with st.container(horizontal=True, horizontal_alignment="distribute"):
        _show_name(judged, colors, b, key)
        _show_name(judged, colors, a, key)
    if difference.n > 1:
        better = a if difference.mean > 0 else b
        color = colors[better] if difference.is_clear else BASE_COLOR
        st.html(_interval_html(difference.mean, difference.low, difference.high, color))
        text = f"{name_a} \u2212 {name_b} in points, with 95% interval: {difference.gap()}."
        judge = str(verdicts["model"].iloc[0])
        st.caption(escape_markdown(f"{text} Judge: {judge}."))
    return both


def common_scores(lab: Lab, verdicts: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Return the scores of two runs, one column each, on the examples for which both have a score."""
    scores = lab.scoring.example_scores(verdicts)
    table = scores[scores["run"].isin([a, b])].pivot(
        index=EXAMPLE_COLUMNS, columns="run", values="score"
    )
    return table.dropna()


def _interval_html(mean: float, low: float, high: float, color: str) -> str:
    """Return the HTML of a difference with its interval, on an axis with 0 in the middle."""
    span = 1.15 * max(abs(value) for value in (mean, low, high, 1.0) if not math.isnan(value))

    def percent(value: float) -> str:
        return f"{50 + 50 * value / span:.2f}%"

    bar = f"left: {percent(low)}; right: calc(100% - {percent(high)}); background: {color};"
    dot = f"left: {percent(mean)}; background: {color};"
    label = html.escape(f"Difference {mean:+.1f}, 95% interval {low:+.1f} to {high:+.1f}")
    return (
        f'<div class="verdict-axis" role="img" aria-label="{label}"><span class="verdict-zero"></span>'
        f'<span class="verdict-bar" style="{bar}"></span><span class="verdict-dot" style="{dot}"></span></div>'
    )


def _show_name(judged: JudgedAnswers, colors: Mapping[str, str], name: str, key: str) -> None:
    """Show the name of a base model, or of a run as a link."""
    if is_base(name):
        st.markdown(escape_markdown(judged.title(name)), width="content")
    else:
        run_link(name, colors[name], key)
