"""The baseline, which is the run that all others are compared with, and cached noise floors and effects."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from core.lab import Lab
from pages.ui.errors import attempt, toast_errors
from pages.ui.status import ACTIVE_STATUSES
from pages.ui.text import escape_markdown

if TYPE_CHECKING:  # imports SciPy
    from core.studies.noise import Noise

PIN_ICON, UNPIN_ICON = ":material/keep:", ":material/keep_off:"
PIN_HELP = "Show differences from this run on Results and on the page of every run."


def current(lab: Lab, runs: Collection[str]) -> str | None:
    """Return the pinned run, or None. If the run has been deleted, say so and unpin it."""
    name = lab.preferences().baseline
    if not name or name in runs:
        return name or None
    st.info(f"The baseline {escape_markdown(name)} was deleted, so it is no longer pinned.")
    if lab.read_only is None:
        with toast_errors():
            _save(lab, "")
    return None


def pin(lab: Lab, name: str) -> None:
    """Pin a run as the baseline, or unpin it if the name is empty. For callbacks."""
    attempt(lab, _save, lab, name)


def pin_button(lab: Lab, name: str, is_pinned: bool, **options: Any) -> None:
    """Draw the button that pins or unpins a run."""
    st.button(
        "Unpin baseline" if is_pinned else "Pin as baseline",
        icon=UNPIN_ICON if is_pinned else PIN_ICON,
        help=None if is_pinned else PIN_HELP,
        on_click=pin,
        args=(lab, "" if is_pinned else name),
        disabled=lab.read_only is not None,
        **options,
    )


def noise(lab: Lab, metrics: Sequence[str], runs: pd.DataFrame) -> "Mapping[str, Noise]":
    """Return the noise floors of some metrics; see `Lab.noise`. All sessions share them until the index changes."""
    return _noise(lab, lab.changed_at, tuple(metrics), runs)


@st.cache_resource(max_entries=16, show_spinner=False)
def _noise(
    _lab: Lab, changed_at: int, metrics: tuple[str, ...], _runs: pd.DataFrame
) -> "Mapping[str, Noise]":
    return _lab.noise(metrics, _runs)


def effects(lab: Lab, metric: str, runs: pd.DataFrame) -> pd.DataFrame:
    """Return `Lab.effects`. It is recomputed only when a run ends, because active runs have no effects."""
    ended = runs[~runs["status"].isin(ACTIVE_STATUSES)]
    return _effects(lab, metric, hash(tuple(zip(ended["name"], ended["changed"], strict=True))))


@st.cache_resource(max_entries=8, show_spinner=False)
def _effects(_lab: Lab, metric: str, ended: int) -> pd.DataFrame:
    return _lab.effects(metric)


def _save(lab: Lab, name: str) -> None:
    lab.save_preferences(replace(lab.preferences(), baseline=name))
