"""Launch a run: start from a preset or an earlier run, change what you like, see what it will do."""

import streamlit as st

from core import charts
from core.config import RunConfig
from core.errors import ConfigError, Problem, UserError
from core.presets import PRESETS, preset
from core.tracking import queries
from core.training import preflight
from pages.shared import form, runtime
from pages.shared.text import count, duration, plain

CLONE = "clone of "

lab = runtime.lab()


def source_settings(source: str) -> dict[str, object]:
    """The settings of a preset, or of a run to clone. Raises UserError where its settings are damaged."""
    if source in PRESETS:
        return preset(source).model_dump()
    parent = source.removeprefix(CLONE)
    return {**lab.config(parent).model_dump(), "parent": parent, "name": "", "notes": ""}


def take_source() -> None:
    """Fill the form from what was chosen."""
    st.session_state["filled_from"] = source = st.session_state["source"]
    try:
        form.start_from(source_settings(source))
    except UserError as error:
        st.error(plain(str(error)))


def launch(config: RunConfig) -> None:
    """Queue the run and go and watch it."""
    try:
        st.session_state["watch"] = [lab.launch(config)]
    except UserError as error:
        st.error(plain(str(error)))
    else:
        st.switch_page("pages/live.py")


def examine(settings: dict[str, object]) -> tuple[preflight.Plan, list[Problem]]:
    """What a run of these settings would do, and all that is wrong with them."""
    try:
        plan = preflight.check(RunConfig.parse(settings))
    except ConfigError:
        return preflight.Plan(), preflight.all_problems(settings)
    return plan, plan.problems


def show_plan(plan: preflight.Plan, problems: list[Problem]) -> None:
    """The figures of the run to come."""
    st.markdown("**What it will do**")
    first, second = st.columns(2)
    first.metric("Steps", "unknown" if plan.steps is None else f"{plan.steps:,}")
    second.metric("Training tokens", count(plan.tokens))
    first.metric("Parameters", count(plan.parameters))
    second.metric("Trainable", count(plan.trainable))
    first.metric(
        "Time, about", duration(plan.seconds), help="Of the training steps, by arithmetic."
    )
    memory = "unknown" if plan.memory_mb is None else f"{plan.memory_mb / 1024:.1f} GB"
    second.metric("Memory, about", memory, help="Peak of the training process, by arithmetic.")
    if plan.train_examples:
        st.caption(
            f"{plan.train_examples:,} examples to train on, {plan.validation_examples:,} to validate, "
            f"{plan.test_examples:,} to answer at the end. The longest to train on has {plan.longest} tokens"
            + (f"; max_length cuts {plan.cut_examples:,}." if plan.cut_examples else ".")
        )
    if plan.note:
        st.info(plain(plan.note))
    if plan.learning_rates:
        st.plotly_chart(charts.rate_schedule(plan.learning_rates), key="rates")
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        titles = [str(RunConfig.model_fields[p.field].title) for p in problems]
        st.error(f"{len(problems)} {noun} to mend: {', '.join(titles)}")


st.title("Launch")
runs = queries.results(lab.db)["name"].tolist()
if form.DRAFT not in st.session_state:
    st.session_state["source"] = "demo"
    take_source()
sources = [*PRESETS, *(CLONE + run for run in runs)]
if "source" not in st.session_state and st.session_state["filled_from"] in sources:
    st.session_state["source"] = st.session_state["filled_from"]  # back from another page

with st.container(horizontal=True, vertical_alignment="bottom"):
    st.selectbox(
        "Start from",
        sources,
        key="source",
        format_func=lambda s: f"{s}: {PRESETS[s].title}" if s in PRESETS else s,
        on_change=take_source,
        width=620,
    )
    if st.button("Launch the demo", icon=":material/play_arrow:"):
        launch(preset("demo"))

current = form.values()
plan, problems = examine(form.settings(current))
with st.container(horizontal=True, gap="medium"):  # the plan stands above where it is narrow
    side, main = st.container(width=300), st.container(width=620)
with main:
    form.show(current, problems)
with side:
    if st.button(
        "Launch",
        type="primary",
        icon=":material/rocket_launch:",
        disabled=bool(problems),
        width="stretch",
    ):
        launch(RunConfig.parse(form.settings(current)))
    show_plan(plan, problems)
