"""Launch a run: start from a preset or an earlier run, change its settings, and see an estimate of its cost."""

import sys
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from core.config import RunConfig
from core.errors import Problem
from core.presets import PRESETS, preset
from core.views import charts, report
from core.views.formats import DASH, count, duration, memory, setting_text
from pages import launch_form
from pages.ui import runtime
from pages.ui.errors import show_errors, toast_errors
from pages.ui.figures import show_figure
from pages.ui.text import escape_markdown, show_skipped

if TYPE_CHECKING:  # these import PyTorch, which takes seconds
    from core.planning.measurement import Cost
    from core.planning.preflight import Plan

CLONE_PREFIX = "clone of "
FILLED_FROM = "filled_from"
"""Session key: the source that currently fills the form."""

lab = runtime.lab()


def source_settings(source: str) -> dict[str, object]:
    """Return the settings of a preset, or of a run to clone. Raises UserError if the run's settings are damaged."""
    if source in PRESETS:
        return preset(source).model_dump()
    parent = source.removeprefix(CLONE_PREFIX)
    return {
        **lab.config(parent).model_dump(),
        "parent": parent,
        "name": parent,
        "notes": "",
        "color": "",
        "archived": False,
    }


def apply_source() -> None:
    """Fill the form from the selected source. If the source is damaged, keep the form and the previous source."""
    source = st.session_state["source"]
    with toast_errors():
        launch_form.start_from(source_settings(source))
        st.session_state[FILLED_FROM] = source
    st.session_state["source"] = st.session_state[FILLED_FROM]


def show_changes(changes: list[str]) -> None:
    """List the settings that differ from the source."""
    source = escape_markdown(st.session_state[FILLED_FROM])
    if changes:
        st.markdown(f"**Changed from {source}**")
        st.caption("\n".join(f"- {escape_markdown(change)}" for change in changes))
    else:
        st.caption(f"Same settings as {source}.")


def launch(config: RunConfig) -> None:
    """Queue the run and open it in Live."""
    with show_errors():
        st.session_state["watch"] = [lab.launch(config)]
        st.switch_page("pages/live.py")


def show_measurement(config: RunConfig) -> "Cost | None":
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
        wait_for(future, "Running a few training steps, starting with the longest batch ...")
        return None
    if error := future.exception():
        st.error(escape_markdown(str(error)))
        return None
    return future.result()


def show_lr_finder(config: RunConfig | None) -> None:
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
        wait_for(future, "Training at increasing learning rates ...")
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
def wait_for(future: Future[Any], message: str) -> None:
    """Rerun the page when a background task is done."""
    st.caption(message)
    if future.done():
        runtime.rerun()


def show_plan(plan: "Plan", cost: "Cost | None") -> None:
    """Show the estimates of a plan and the fields to fix."""
    st.markdown("**Estimate**")
    first, second = st.columns(2)
    first.metric("Steps", DASH if plan.steps is None else f"{plan.steps:,}")
    second.metric("Training tokens", count(plan.tokens))
    parameters_help = None
    if plan.base_parameters:
        parameters_help = (
            f"The base model has {plan.base_parameters:,} parameters ({plan.base_mb:,} MB in fp32), "
            "including a separate output head unless weights are tied."
        )
    first.metric("Parameters", count(plan.parameters), help=parameters_help)
    second.metric("Trainable", count(plan.trainable))
    basis = "Measured" if cost else "Estimated"
    estimated = cost or plan
    seconds, memory_mb = estimated.seconds, estimated.memory_mb
    evaluating = estimated.evaluation_seconds or 0.0
    basis_help = (
        "Measured over a few training steps."
        if cost
        else "Calculated from the current speed of this machine. Measure for a better estimate."
    )
    total = None if seconds is None else seconds + evaluating
    time_help = f"Training steps plus {duration(evaluating)} of evaluations, excluding answers. {basis_help}"
    first.metric(f"{basis} time", duration(total), help=time_help)
    second.metric(
        f"{basis} memory",
        memory(memory_mb),
        help=f"Peak memory of the training process. {basis_help}",
    )
    if plan.disk_mb is not None and plan.disk_peak_mb is not None:
        st.caption(
            f"Disk space: up to {plan.disk_peak_mb:,.0f} MB during the run, {plan.disk_mb:,.0f} MB afterward."
        )
    if plan.evaluations:
        st.caption(f"{plan.evaluations:,} evaluations, one every {plan.eval_every:,} steps.")
    if plan.train_examples:
        st.caption(
            f"{plan.train_examples:,} training, {plan.validation_examples:,} validation and "
            f"{plan.test_examples:,} test examples. The longest training example has {plan.longest} tokens"
            + (f"; max_length truncates {plan.cut_examples:,}." if plan.cut_examples else ".")
        )
    if plan.adapter_scale:
        st.caption(escape_markdown(plan.adapter_scale))
    if plan.columns:
        st.caption(escape_markdown(f"Columns: {plan.columns}"))
    if plan.note:
        st.info(escape_markdown(plan.note))
    show_skipped(plan.skipped_records)
    if plan.learning_rates:
        show_figure(charts.rate_schedule(plan.learning_rates), key="rates")
    if plan.problems:
        st.error("Fix before launching: " + ", ".join(launch_form.fields_to_fix(plan.problems)))


st.title("Launch")
runs = lab.runs()["name"].tolist()
if launch_form.DRAFT not in st.session_state:
    st.session_state["source"] = "demo"
    apply_source()
filled_from = st.session_state[FILLED_FROM]
existing_sources = [*PRESETS, *(CLONE_PREFIX + run for run in runs)]
sources = (
    existing_sources if filled_from in existing_sources else [*existing_sources, filled_from]
)  # its run was deleted
st.session_state["source"] = filled_from  # also when returning from another page
current = launch_form.values()
changes = launch_form.changes(current)

with st.container(horizontal=True, vertical_alignment="bottom"):
    st.selectbox(
        "Start from",
        sources,
        key="source",
        format_func=lambda s: f"{s}: {PRESETS[s].title}" if s in PRESETS else s,
        on_change=apply_source,
        width=620,
    )
    if launch_form.is_edited(current):
        st.button(
            "Reset",
            icon=":material/undo:",
            help="Discard all changes and restore the source's settings.",
            on_click=launch_form.reset,
        )
    if st.button("Launch the demo", icon=":material/play_arrow:"):
        launch(preset("demo"))

settings = launch_form.settings(current)
checked = lab.check(settings) if "torch" in sys.modules else None
problems: list[Problem] = checked[1].problems if checked else []
with st.container(horizontal=True, gap="medium"):  # on narrow screens, the plan is above the form
    side, main = st.container(width=300), st.container(width=620)
with main:
    launchable = checked[0] if checked and not problems else None
    launch_form.show(current, problems, {"optimisation": partial(show_lr_finder, launchable)})
with side:
    launch_pressed = st.button(
        "Launch",
        type="primary",
        icon=":material/rocket_launch:",
        disabled=bool(problems),
        width="stretch",
    )
    show_changes(changes)
    if checked is None:  # a new server: draw the form before loading PyTorch
        st.caption("Loading PyTorch to calculate the estimate ...")
        checked = lab.check(settings)
        if checked[1].problems or not launch_pressed:  # the form was drawn without this check
            runtime.rerun()
    config, plan = checked
    if config and not plan.problems:
        if launch_pressed:
            launch(config)
        st.caption(f"Run name: **{escape_markdown(lab.next_name(config))}**")
        cost = show_measurement(config)
    else:
        cost = None
    show_plan(plan, cost)
