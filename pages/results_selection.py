"""Details of the selected runs: status, notes and settings."""

import streamlit as st

from core.lab import Lab
from core.views import report
from core.views.formats import DASH
from pages.ui.notes import show_notes
from pages.ui.status import show_run


def show_one(run: dict, lab: Lab) -> None:
    """Draw the status and notes of a run."""
    show_run(run, lab)
    show_notes(run["name"], run["notes"] or "", lab)


def show_settings(runs: list[dict]) -> None:
    """Show one run's settings next to the defaults, or several runs' settings side by side."""
    show_all = st.toggle(
        "Show all settings",
        key="every_setting",
        help="Turn off to show only settings that differ between the runs or, for a single run, from the defaults.",
    )
    table = report.settings_of(runs, show_all)
    if len(table):
        st.dataframe(table.replace("", DASH))
    else:
        st.caption(
            "All settings have their default values."
            if len(runs) == 1
            else "These runs have the same settings."
        )
