"""The Launch page: start from an earlier run or a preset, change settings, and see the changes and the estimate."""

import sys
from functools import partial

import streamlit as st

from core.config import RunConfig
from core.errors import Problem
from core.presets import preset
from core.views.tables import records
from pages import launch_estimate, launch_form, launch_measurements, launch_source
from pages.ui import runtime
from pages.ui.errors import show_errors
from pages.ui.run_links import run_link
from pages.ui.text import escape_markdown

LAUNCHED = "launched"
"""Session key: the run launched last."""

lab = runtime.lab()


def launch(config: RunConfig) -> str | None:
    """Queue a run and return its name, or show an error and return None."""
    with show_errors():
        name = lab.launch(config)
        st.session_state[LAUNCHED] = name
        return name
    return None


def launch_form_settings(config: RunConfig, is_edited: bool) -> None:
    """Launch a run with the settings in the form, and make it the source for further changes."""
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
    """Show the run launched last, unless it has been deleted."""
    name = st.session_state.get(LAUNCHED)
    if name not in colors:
        return
    with st.container(key="launched", border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            st.markdown(":green[:material/check_circle:] Launched", width="content")
            run_link(name, colors[name], key="launched")
        st.page_link(
            "pages/live.py",
            label="Watch in Live",
            icon=":material/show_chart:",
            query_params={"run": name},
        )


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


st.title("Launch")
runs = records(lab.runs()[["name", "color", "archived"]])
names = [run["name"] for run in runs]
launch_source.choose(lab, names)
current = launch_form.values()
is_edited = launch_form.is_edited(current)
changes = launch_form.changes(current)
settings = launch_form.settings(current)
checked = lab.check(settings) if "torch" in sys.modules else None
problems: list[Problem] = checked[1].problems if checked else []

with st.container(key="launch-layout", horizontal=True, gap="medium"):  # see style.css
    form, panel = st.container(key="launch-form"), st.container(key="sticky-launch")
with form:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        launch_source.show_select(lab, [run["name"] for run in runs if not run["archived"]])
        if not is_edited:
            show_demo_button()
    launchable = checked[0] if checked and not problems else None
    lr_finder = partial(launch_measurements.show_lr_finder, launchable, lab)
    launch_form.show(current, problems, {"optimisation": lr_finder})
with panel:
    header, details = st.container(key="launch-header"), st.container(key="launch-details")
    launch_pressed = header.button(
        "Launch",
        type="primary",
        icon=":material/rocket_launch:",
        disabled=bool(problems),
        width="stretch",
    )
    summary = header.empty()
with details:
    show_launched({run["name"]: run["color"] for run in runs})
    problem_list = st.empty()
    show_changes(changes, is_edited)
    if checked is None:  # a new server: draw the form before loading PyTorch
        st.caption("Loading PyTorch to calculate the estimate ...")
        checked = lab.check(settings)
        if checked[1].problems or not launch_pressed:  # the form was drawn without this check
            runtime.rerun()
    config, plan = checked
    cost = None
    if config and not plan.problems:
        if launch_pressed:
            launch_form_settings(config, is_edited)
        edits = f" · {len(changes)} changed" if changes else ""
        summary.caption(f"Run name: **{escape_markdown(lab.next_name(config))}**{edits}")
    else:
        count = len(launch_form.messages(plan.problems))
        summary.caption(f"{count} {'problem' if count == 1 else 'problems'} to fix")
        lines = "\n".join(f"- {message}" for message in launch_form.messages(plan.problems))
        problem_list.error(f"Fix before launching:\n{lines}")
    estimate = st.container()
    if config and not plan.problems:
        cost = launch_measurements.show_measurement(config, lab)
    if plan.parameters is not None:
        with estimate:
            launch_estimate.show_estimate(plan, cost)
    launch_estimate.show_details(plan)
