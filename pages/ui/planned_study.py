"""A planned study: totals, and the table of all runs."""

from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from core.config import RunConfig
from core.views.formats import DASH, duration, memory, plural, setting_text
from pages.ui.text import capitalize, escape_markdown

if TYPE_CHECKING:  # imports PyTorch, which takes seconds
    from core.studies.planning import SweepPlan

TIME_HELP = "Includes evaluations, but not the test answers. Runs are trained one after the other."

MAX_FULL_ROWS, TABLE_HEIGHT_PX = 15, 560
"""Maximum number of rows in a table without a scrollbar, and the height of longer tables."""


def show_totals(plan: "SweepPlan", measured: float | None = None) -> None:
    """Show the number of runs, the steps, the time and the disk space.

    Args:
        measured: the total time according to a measurement, in seconds.
    """
    first, second = st.columns(2)
    first.metric("Runs", f"{plan.count:,}")
    basis = "Estimated" if measured is None else "Measured"
    seconds = plan.seconds if measured is None else measured
    second.metric(f"{basis} time", duration(seconds), help=TIME_HELP)
    first.metric("Steps", DASH if plan.steps is None else f"{plan.steps:,}")
    free = "" if plan.free_disk_mb is None else f" {memory(plan.free_disk_mb)} is free."
    second.metric(
        "Disk space",
        memory(plan.disk_mb),
        help=f"Peak use for checkpoints and weights, reached while the last runs are trained.{free}",
    )


def show_remarks(plan: "SweepPlan") -> None:
    """Show how the plan differs from the full grid, and what will be downloaded."""
    if plan.merged:
        noun, verb = ("combination", "differs") if plan.merged == 1 else ("combinations", "differ")
        st.caption(
            f"{plan.merged:,} {noun} {verb} from others only in settings that have no effect, and "
            f"{'is' if plan.merged == 1 else 'are'} left out."
        )
    if plan.note:
        st.info(escape_markdown(capitalize(plan.note)))


@st.dialog("Planned runs", width="large")
def show_table(plan: "SweepPlan") -> None:
    """Open a dialog with all runs in training order."""
    rows: list[dict[str, Any]] = [
        {
            "Run": run.name,
            **{str(RunConfig.model_fields[n].title): setting_text(v) for n, v in run.values.items()},
            "Seed": run.seed,
            "Steps": run.steps,
            "Time": "finished" if run.is_reused else duration(run.seconds),
            "Disk space": memory(run.disk_mb),
        }
        for run in plan.runs
    ]  # fmt: skip
    later = ""
    if plan.later:
        later = f" {plural(plan.later, 'run')} more follow; their values depend on the results of these."
    st.caption(
        f"{plural(len(plan.trained), 'run')} in training order. All combinations are trained with one seed before the next."
        + later
    )
    height: Any = "content" if len(rows) <= MAX_FULL_ROWS else TABLE_HEIGHT_PX
    st.dataframe(pd.DataFrame(rows), hide_index=True, key="planned-runs", height=height)
