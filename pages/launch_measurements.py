"""Measurements before a launch: time, memory and learning rate, each in a separate process."""

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from core.config import RunConfig
from core.lab import Lab
from core.views import charts, report
from core.views.formats import setting_text
from pages import launch_form
from pages.ui import runtime
from pages.ui.errors import show_errors
from pages.ui.figures import show_figure
from pages.ui.text import escape_markdown

if TYPE_CHECKING:  # imports PyTorch, which takes seconds
    from core.planning.measurement import Cost


def show_measurement(config: RunConfig, lab: Lab) -> "Cost | None":
    """Draw the button that measures time and memory, and return the result if there is one."""
    future = lab.measurement(config)
    is_running = future is not None and not future.done()
    pressed = st.button(
        "Measure time and memory",
        help="Runs a few training steps in a separate process. Downloads the model and data if needed.",
        icon=":material/speed:",
        disabled=is_running,
        width="stretch",
    )
    if pressed and not is_running:  # a second click may arrive before the button is disabled
        lab.measure(config)
        st.rerun()
    if future is None:
        return None
    if is_running:
        _wait_for(future, "Running a few training steps, starting with the longest batch…")
        return None
    if error := future.exception():
        st.error(escape_markdown(str(error)))
        return None
    return future.result()


def show_lr_finder(config: RunConfig | None, lab: Lab) -> None:
    """Draw the learning rate finder: its button, and the curve and suggestion of the newest test.

    Args:
        config: the settings of the form, or None if they cannot be launched.
    """
    future = lab.lr_test(config) if config else None
    is_running = future is not None and not future.done()
    pressed = st.button(
        "Find a learning rate",
        help="Trains for up to 100 steps at increasing learning rates in a separate process, until the loss diverges. "
        "Saves nothing.",
        icon=":material/trending_down:",
        disabled=config is None or is_running,
    )
    if config is None:
        return
    if pressed and not is_running:
        with show_errors():
            lab.find_lr(config)
            st.rerun()
    if future is None:
        return
    if is_running:
        _wait_for(future, "Training at increasing learning rates…")
        return
    if error := future.exception():
        st.error(escape_markdown(str(error)))
        return
    curve = future.result()
    points = pd.DataFrame(report.lr_curve(curve))
    show_figure(charts.lr_test(points, curve.suggestion), key="lr_test")
    if curve.suggestion is None:
        st.caption("No suggestion: the loss never decreased.")
        return
    text, button = st.columns([2, 1], vertical_alignment="center")
    text.caption(
        f"Suggestion: **{setting_text(curve.suggestion)}**, a tenth of the rate with the lowest smoothed loss."
    )
    button.button(
        "Use this rate",
        icon=":material/check:",
        on_click=launch_form.fill,
        args=("lr", curve.suggestion),
        disabled=config.lr == curve.suggestion,
        width="stretch",
    )


@st.fragment(run_every=1.0)
def _wait_for(future: Future[Any], message: str) -> None:
    """Rerun the page when a background task is done."""
    st.caption(message)
    if future.done():
        runtime.rerun()
