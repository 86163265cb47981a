"""Whether the difference between two runs is within the noise, and the study that would settle it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from core.lab import Lab
from core.views import differences
from core.views.formats import axis_title, value_text
from pages.ui import baseline
from pages.ui.errors import show_errors
from pages.ui.text import escape_markdown
from pages.ui.varied_values import link_text, typed_values_of

if TYPE_CHECKING:  # imports SciPy
    from core.studies.noise import Noise

LOSS_TITLES = {"val_loss": "validation loss", "best_val_loss": "best validation loss"}
"""Losses on the whole validation set and on the subset."""
MAX_SEEDS = 100


def show_pair(
    lab: Lab,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    noise: "Noise",
    values: tuple[float, float],
    title: str,
    with_names: bool = True,
) -> None:
    """Show whether the difference between two runs is within the noise, and a plan for a study that would settle it.

    Args:
        a, b: rows of `Lab.runs`.
        values: the metric of A and B.
        title: name of the metric in a sentence.
        with_names: include the names of the runs.
    """
    effect = ""
    if {a["name"], b["name"]} <= noise.own.keys():
        effects = baseline.effects(lab, noise.metric, lab.runs())
        effect = differences.effect_text(effects, a, b, noise.metric)
    sentence = differences.pair_sentence(noise, a, b, values, title, with_names, effect)
    with st.container(
        horizontal=True, vertical_alignment="center", gap="small", width="content", key="run-pair"
    ):
        st.caption(escape_markdown(sentence), width="content")
        if differences.have_same_settings(a, b):
            return
        with st.popover("Repeat with several seeds", icon=":material/repeat:", type="tertiary"):
            _show_plan(lab, a, b, noise)


def show_losses(
    lab: Lab,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    floors: "Mapping[str, Noise]",
    with_names: bool = True,
) -> None:
    """Show the difference in the validation loss on the whole set or, if one run has none, on the subset.

    Args:
        floors: the noise floors of the losses.
    """
    pair = pd.DataFrame([a, b])
    for metric, title in LOSS_TITLES.items():
        values = a[metric], b[metric]
        table = differences.differences(pair, a, floors[metric], pd.Series(values, dtype=float))
        if table["difference"].notna().any():
            show_pair(lab, a, b, floors[metric], values, title, with_names)
            return
    if {a["status"], b["status"]} == {differences.FINISHED}:
        st.caption(differences.NOT_COMPARABLE, width="content")


def _show_plan(lab: Lab, a: Mapping[str, Any], b: Mapping[str, Any], noise: "Noise") -> None:
    """Let the user choose the smallest difference that matters and the number of seeds, and open the study in Launch."""
    from core.studies.pairs import pair_sweep

    st.markdown("**Repeat both settings with several seeds**")
    unit = differences.unit(noise.metric)
    scale = 1.0 if unit == "points" else 0.01
    smallest = st.number_input(
        f"Smallest difference that matters ({unit})",
        min_value=0.01,
        value=noise.compared.margin / scale,
        format="%.2f",
        key=f"smallest_difference:{noise.metric}",
        help="Relative to the loss." if unit == "%" else None,
    )
    needed, text = differences.planned_seeds(noise, a, b, smallest * scale)
    st.caption(text)
    seeds = int(
        st.number_input(
            "Seeds", 2, MAX_SEEDS, max(2, min(needed, MAX_SEEDS)), key=f"repeat_seeds:{needed}"
        )
    )  # fmt: skip
    with show_errors():
        sweep = pair_sweep(lab.config(a["name"]), lab.config(b["name"]), seeds)
        runs = len(sweep.combinations()) * seeds
        changes = " \u00b7 ".join(
            f"{axis_title(axis.fields)} {' or '.join(value_text(axis.fields[0], value) for value in axis.values)}"
            for axis in sweep.axes
        )
        st.caption(escape_markdown(f"{runs:,} runs: {changes}, with {seeds} seeds each."))
        if st.button("Open in Launch", icon=":material/rocket_launch:", key="plan_repeats"):
            query = [("from", str(sweep.base.parent)), ("seeds", str(seeds))]
            for axis in sweep.axes:
                typed = typed_values_of(axis.fields[0], axis.values)
                query.append(("vary", link_text(axis.fields, typed)))
            st.switch_page("pages/launch.py", query_params=query)
