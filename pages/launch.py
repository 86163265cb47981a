"""The Launch page: start from a run or preset, change or vary settings, and see the changes and the estimate."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from core.config import RunConfig
from core.errors import Problem
from core.presets import preset
from core.studies.sweep import Sweep
from core.views.formats import axis_title, plural
from core.views.tables import records
from pages import (
    launch_estimate,
    launch_form,
    launch_measurements,
    launch_source,
    launch_study,
    launch_vary,
)
from pages.ui import runtime
from pages.ui.errors import show_errors
from pages.ui.run_links import live_link, run_link
from pages.ui.text import capitalize, escape_markdown

if TYPE_CHECKING:  # these import PyTorch, which takes seconds
    from core.planning.preflight import Plan
    from core.studies.planning import SweepPlan

LAUNCHED = "launched"
"""Session key: the run launched last."""

lab = runtime.lab()


class Checked(NamedTuple):
    """The outcome of checking the form. `config` is None if settings are invalid.

    Args:
        plan: the plan of a single run.
        study: the plan of a study, if settings are varied.
        sweep: the sweep of the study.
        blockers: reasons why nothing can be launched, as Markdown.
    """

    config: RunConfig | None
    problems: list[Problem]
    blockers: list[str]
    plan: "Plan | None" = None
    study: "SweepPlan | None" = None
    sweep: Sweep | None = None


def check(settings: Mapping[str, object], vary: launch_vary.Vary) -> Checked:
    """Check the settings and plan the run or, if settings are varied, the study."""
    errors = [f"**{axis_title(n)}**: {escape_markdown(text)}" for n, text in vary.errors.items()]
    base = launch_study.first_valid(settings, vary.axes) if vary.axes else None
    if base is None:
        config, plan = lab.check(launch_study.with_first_values(settings, vary.axes))
        return Checked(config, plan.problems, errors + launch_form.messages(plan.problems), plan)
    sweep = launch_study.sweep(base, vary.axes)
    study = launch_study.plan(lab, sweep)
    problems = [*study.setting_problems]
    sentences = [escape_markdown(capitalize(text)) for text in study.problems]
    blockers = errors + launch_form.messages(problems) + sentences
    return Checked(base, problems, blockers, study=study, sweep=sweep)


def button_label(checked: Checked | None) -> str:
    """Return the label of the launch button."""
    if checked and checked.study and checked.study.runs:
        return f"Launch {plural(checked.study.count, 'run')}"
    return "Launch"


def launch(config: RunConfig) -> str | None:
    """Queue a run and return its name, or show an error and return None."""
    with show_errors():
        name = lab.launch(config)
        st.session_state[LAUNCHED] = name
        st.session_state.pop(launch_study.LAUNCHED, None)
        return name
    return None


def launch_form_settings(config: RunConfig, is_edited: bool) -> None:
    """Launch a run with the settings in the form, and make it the source of further changes."""
    name = launch(config)
    if name is None:
        return
    if is_edited:
        launch_form.continue_from(name)
        st.session_state[launch_source.FILLED_FROM] = launch_source.clone_of(name)
    runtime.rerun()


def show_demo_button() -> None:
    """Draw the button that launches the demo, independent of the form."""
    pressed = st.button(
        "Launch the demo",
        icon=":material/play_arrow:",
        help="Fine-tunes the included model on the included data.",
    )
    if pressed and launch(preset("demo")):
        runtime.rerun()


def show_launched(colors: dict[str, str]) -> None:
    """Show the most recently launched run, unless it has been deleted."""
    name = st.session_state.get(LAUNCHED)
    if name is None or name not in colors:
        return
    with st.container(key="launched", border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            st.markdown(":green[:material/check_circle:] Launched", width="content")
            run_link(name, colors[name], key="launched")
        live_link([name])


def show_changes(changes: list[launch_form.Change], is_edited: bool) -> None:
    """List the settings that differ from the source, each with an undo button."""
    source = escape_markdown(launch_source.title(launch_source.current()))
    if not is_edited:
        st.caption(f"Same settings as {source}.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**Changes from {source}**", width="stretch")
        st.button(
            "Reset",
            icon=":material/restart_alt:",
            type="tertiary",
            help="Discard all changes and restore the source's settings.",
            on_click=launch_form.reset,
        )
    with st.container(key="changes", gap=None):  # see style.css
        for change in changes:
            _show_change(change)
    if not changes:
        st.caption("Only settings that have no effect differ.")


def _show_change(change: launch_form.Change) -> None:
    field = launch_form.FIELDS[change.name].title
    old, new = escape_markdown(change.old), escape_markdown(change.new)
    with st.container(horizontal=True, vertical_alignment="center", wrap=False):
        st.markdown(f"{field}: {old} → **{new}**", width="stretch")
        st.button(
            ":material/undo:",
            key=f"undo:{change.name}",
            type="tertiary",
            help=f"Undo the change to {field}",
            on_click=launch_form.undo,
            args=(change.name,),
        )


def launch_all(checked: Checked) -> None:
    """Launch the run or the study."""
    if checked.study and checked.sweep:
        if launch_study.launch(lab, checked.sweep, checked.study):
            st.session_state.pop(LAUNCHED, None)
            runtime.rerun()
    elif checked.config:
        launch_form_settings(checked.config, is_edited)


def show_summary(checked: Checked) -> None:
    """Show what would be launched, or the number of problems."""
    edits = f" · {len(changes)} changed" if changes else ""
    if is_repeated and not checked.blockers:
        summary.caption("Launched. Change something to launch another study.")
    elif checked.blockers:
        count = len(checked.blockers)
        summary.caption(f"{plural(count, 'problem')} to fix")
        lines = "\n".join(f"- {message}" for message in checked.blockers)
        problem_list.error(f"Fix before launching:\n{lines}")
    elif has_invalid:
        summary.caption("Fix the invalid combinations, or skip them.")
    elif checked.study:
        summary.caption(f"Study: **{escape_markdown(checked.study.study)}**{edits}")
    elif checked.config:
        summary.caption(f"Run name: **{escape_markdown(lab.next_name(checked.config))}**{edits}")


st.title("Launch")
runs = records(lab.runs()[["name", "color", "archived"]])
colors = {run["name"]: run["color"] for run in runs}
launch_source.choose(lab, [*colors])
launch_vary.open_link()
vary, varied = launch_vary.parsed(), launch_vary.texts()
variants = launch_vary.variants(vary.axes)
current = launch_form.values()
is_edited = launch_form.is_edited(current)
changes = [c for c in launch_form.changes(current, variants) if c.name not in varied]
settings = launch_form.settings(current, variants)
checked = check(settings, vary) if "torch" in sys.modules else None
problems = checked.problems if checked else []
is_repeated = bool(checked and checked.sweep and launch_study.is_launched(checked.sweep, colors))
has_invalid = bool(checked and checked.study and launch_study.is_blocked(checked.study))

with st.container(key="launch-layout", horizontal=True, gap="medium"):  # see style.css
    form, panel = st.container(key="launch-form"), st.container(key="sticky-launch")
with form:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        launch_source.show_select(lab, [run["name"] for run in runs if not run["archived"]])
        if not is_edited and not varied:
            show_demo_button()
    launchable = checked.config if checked and not problems else None
    lr_finder = partial(launch_measurements.show_lr_finder, launchable, lab)
    launch_form.show(current, problems, {"optimisation": lr_finder}, varied, variants)
with panel:
    header, details = st.container(key="launch-header"), st.container(key="launch-details")
    launch_pressed = header.button(
        button_label(checked),
        key="launch",
        type="primary",
        icon=":material/rocket_launch:",
        disabled=is_repeated or has_invalid or bool(checked and checked.blockers),
        width="stretch",
    )
    summary = header.empty()
with details:
    show_launched(colors)
    launch_study.show_launched(colors)
    problem_list = st.empty()
    if checked and checked.study and checked.study.invalid:
        launch_vary.show_invalid(str(checked.study.invalid_message))
    with st.container(key="vary", border=bool(varied)):
        names = launch_form.names(current, variants)
        launch_vary.show(current, names, launch_form.is_alpha_locked())
    show_changes(changes, is_edited)
    if checked is None:  # a new server: draw the form before loading PyTorch
        st.caption("Loading PyTorch to calculate the estimate…")
        checked = check(settings, vary)
        if varied or checked.problems or not launch_pressed:  # they were drawn without this check
            runtime.rerun()
    if launch_pressed and not (checked.blockers or has_invalid or is_repeated):
        launch_all(checked)
    show_summary(checked)
    if checked.study and checked.config:
        launch_study.show_plan(lab, checked.config, checked.study)
    elif checked.plan and not varied:
        estimate, cost = st.container(), None
        if checked.config and not checked.blockers:
            cost = launch_measurements.show_measurement(checked.config, lab)
        if checked.plan.parameters is not None:
            with estimate:
                launch_estimate.show_estimate(checked.plan, cost)
        launch_estimate.show_details(checked.plan)
launch_vary.write_url()
