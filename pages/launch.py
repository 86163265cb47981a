"""Launch a run: start from a preset or an earlier run, change what you like, see what it will do."""

import sys
from concurrent.futures import Future
from typing import TYPE_CHECKING

import streamlit as st

from core import allowed_paths
from core.config import RunConfig
from core.errors import ConfigError, Problem, UserError
from core.planning import measurement
from core.presets import PRESETS, preset
from core.run.names import next_name
from core.tracking import queries
from core.views import charts
from pages import launch_form
from pages.ui import runtime
from pages.ui.text import DASH, count, duration, escape_markdown, show_skipped

if TYPE_CHECKING:
    from core.planning import preflight

CLONE_PREFIX = "clone of "
FILLED_FROM = "filled_from"
"""Session key: the source that the form was last filled from."""
MEASUREMENT_KEY = "measuring"
"""In the session: the settings that are or were measured, and what comes of it."""

lab = runtime.lab()


def source_settings(source: str) -> dict[str, object]:
    """The settings of a preset, or of a run to clone. Raises UserError where its settings are damaged."""
    if source in PRESETS:
        return preset(source).model_dump()
    parent = source.removeprefix(CLONE_PREFIX)
    return {**lab.config(parent).model_dump(), "parent": parent, "name": parent, "notes": ""}


def apply_source() -> None:
    """Fill the form from the selected source. If the source is damaged, keep the form and the previous source."""
    source = st.session_state["source"]
    try:
        launch_form.start_from(source_settings(source))
        st.session_state[FILLED_FROM] = source
    except UserError as error:
        st.error(escape_markdown(str(error)))
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
    """Queue the run and go and watch it."""
    try:
        st.session_state["watch"] = [lab.launch(config)]
    except UserError as error:
        st.error(escape_markdown(str(error)))
    else:
        st.switch_page("pages/live.py")


def check_form(
    settings: dict[str, object],
) -> tuple["preflight.Plan", measurement.Cost | None, list[Problem]]:
    """What a run of these settings would do, what it costs if that was measured, and all that is wrong."""
    from core.planning import preflight

    if outside := allowed_paths.problems(settings):  # what lies there is not even looked at
        return preflight.Plan(), None, outside
    try:
        config = RunConfig.parse(settings)
    except ConfigError:
        return preflight.Plan(), None, preflight.all_problems(settings)
    plan, cost = preflight.check(config), None
    measured_key, future = st.session_state.get(MEASUREMENT_KEY, ("", None))
    if not plan.problems and measured_key == measurement.key(config) and future.done():
        if error := future.exception():
            st.error(escape_markdown(str(error)))
        else:
            cost = future.result()
            plan.problems.extend(preflight.memory_problems(config, cost.memory_mb))
    return plan, cost, plan.problems


def offer_measurement(config: RunConfig) -> None:
    """A button that has time and memory measured, and word of it while it goes on."""
    _, future = st.session_state.get(MEASUREMENT_KEY, ("", None))
    going = future is not None and not future.done()
    pressed = st.button(
        "Measure time and memory",
        help="Takes a few steps in a process of its own; what is not yet downloaded is.",
        icon=":material/speed:",
        disabled=going,
        width="stretch",
    )
    if pressed and not going:  # a second click may arrive before the button is grey
        st.session_state[MEASUREMENT_KEY] = measurement.key(config), measurement.start(config)
        st.rerun()
    if going:
        wait_for_measurement(future)


@st.fragment(run_every=1.0)
def wait_for_measurement(future: Future[measurement.Cost]) -> None:
    """Draw the page anew once it is measured."""
    st.caption("Measuring: a few steps, the longest batch first ...")
    if future.done():
        runtime.rerun()


def show_plan(
    plan: "preflight.Plan", cost: measurement.Cost | None, problems: list[Problem]
) -> None:
    """The figures of the run to come."""
    st.markdown("**What it will do**")
    first, second = st.columns(2)
    first.metric("Steps", DASH if plan.steps is None else f"{plan.steps:,}")
    second.metric("Training tokens", count(plan.tokens))
    parameters_help = None
    if plan.base_parameters:
        parameters_help = (
            f"{plan.base_parameters:,} of the base model: {plan.base_mb:,} MB in fp32. "
        )
        parameters_help += "An output head of its own is among them unless weights are tied."
    first.metric("Parameters", count(plan.parameters), help=parameters_help)
    second.metric("Trainable", count(plan.trainable))
    basis = "measured" if cost else "about"
    seconds, memory = (cost.seconds, cost.memory_mb) if cost else (plan.seconds, plan.memory_mb)
    basis_help = (
        "Measured on a few steps."
        if cost
        else "By arithmetic from how fast the machine is just now; it can be measured."
    )
    first.metric(f"Time, {basis}", duration(seconds), help=f"Of the training steps. {basis_help}")
    gigabytes = DASH if memory is None else f"{memory / 1024:.1f} GB"
    second.metric(f"Memory, {basis}", gigabytes, help=f"Peak of the training process. {basis_help}")
    if plan.disk_mb is not None and plan.disk_peak_mb is not None:
        st.caption(
            f"Disk: up to {plan.disk_peak_mb:,.0f} MB during the run, {plan.disk_mb:,.0f} MB after it."
        )
    if plan.train_examples:
        st.caption(
            f"{plan.train_examples:,} examples to train on, {plan.validation_examples:,} to validate, "
            f"{plan.test_examples:,} to answer at the end. The longest to train on has {plan.longest} tokens"
            + (f"; max_length cuts {plan.cut_examples:,}." if plan.cut_examples else ".")
        )
    if plan.note:
        st.info(escape_markdown(plan.note))
    show_skipped(plan.skipped_records)
    if plan.learning_rates:
        st.plotly_chart(charts.rate_schedule(plan.learning_rates), key="rates")
    if problems:
        messages = [
            f"- **{RunConfig.model_fields[p.field].title}**: {escape_markdown(p.message)}"
            for p in problems
        ]
        st.error("To be mended:\n" + "\n".join(messages))


st.title("Launch")
runs = queries.results(lab.db)["name"].tolist()
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

ready = "torch" in sys.modules
plan, cost, problems = check_form(launch_form.settings(current)) if ready else (None, None, [])
with st.container(horizontal=True, gap="medium"):  # the plan stands above where it is narrow
    side, main = st.container(width=300), st.container(width=620)
with main:
    launch_form.show(current, problems)
with side:
    if st.button(
        "Launch",
        type="primary",
        icon=":material/rocket_launch:",
        disabled=bool(problems),
        width="stretch",
    ):
        launch(RunConfig.parse(launch_form.settings(current)))
    show_changes(changes)
    if plan is None:  # a new server: the form need not wait for what tells what it will do
        st.caption("Loading PyTorch, to work out what it will do ...")
        import core.planning.preflight  # noqa: F401  takes seconds

        runtime.rerun()
    if not problems:
        config = RunConfig.parse(launch_form.settings(current))
        st.caption(f"It will be called **{escape_markdown(next_name(lab.runs_dir, config))}**.")
        offer_measurement(config)
    show_plan(plan, cost, problems)
