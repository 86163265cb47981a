"""A run's status in one line: badge, progress, remaining time, and buttons to stop or resume it."""

import math
import time
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.lab import Lab
from core.views.formats import duration, loss
from pages.ui.errors import attempt
from pages.ui.run_links import run_link
from pages.ui.text import escape_markdown

ACTIVE_STATUSES = ("running", "queued")
SILENCE_WARNING_S = 60.0
"""Time without events after which a run in training shows a warning, in seconds."""
STATUS_STYLES = {
    "queued": ("gray", ":material/schedule:"),
    "running": ("blue", ":material/play_circle:"),
    "stopped": ("orange", ":material/stop_circle:"),
    "interrupted": ("orange", ":material/power_off:"),
    "failed": ("red", ":material/error:"),
    "finished": ("green", ":material/check_circle:"),
}
UNKNOWN_STATUS_STYLE = ("gray", ":material/help:")
"""Style for a status that this version does not recognize, such as a manually edited one."""


@st.cache_resource(max_entries=64, show_spinner=False)
def states(_lab: Lab, changed_at: int, names: list[str]) -> list[dict[str, Any]]:
    """Return the progress of runs; see `Lab.states`. All sessions share one query per index sync."""
    return _lab.states(names)


def show_run(run: dict[str, Any], lab: Lab, named: bool = True) -> None:
    """Draw the status and progress of a run, with a Stop or Resume button.

    Args:
        run: The columns of `Lab.states` and the run's color.
        named: Start with the name, as a link to the run's page.
    """
    status = run["status"] or "queued"
    with st.container(horizontal=True, vertical_alignment="center"):
        name = st.container(horizontal=True, vertical_alignment="center", gap="small", width=300 if named else 120)  # fmt: skip
        bar, button = st.container(width="stretch"), st.container(width=130)
    with name:
        if named:
            run_link(run["name"], run["color"])
        st.markdown(badge(status), width="content")
    steps, step = run["steps"], run["step"]
    if status == "running" and not steps:
        _show_start(bar, run.get("download"))
    elif steps and steps > 0:
        text = _progress_text(run, int(step), int(steps))
        if status == "finished":
            bar.caption(text)
        else:
            bar.progress(max(0.0, min(1.0, step / steps)), text)
    else:
        bar.caption("Waiting in queue" if status == "queued" else "No training steps")
    if status in ("queued", "running"):
        seconds_since_stop = lab.seconds_since_stop_request(run["name"])
        kill = seconds_since_stop is not None and seconds_since_stop > lab.KILL_AFTER_S
        button.button(
            "Kill" if kill else "Stop" if seconds_since_stop is None else "Stopping",
            key=f"stop:{run['name']}",
            icon=":material/stop:",
            disabled=seconds_since_stop is not None and not kill,
            help="The run did not respond to the stop request. You can resume it from its last checkpoint."
            if kill
            else None,
            on_click=attempt,
            args=(lab, lab.stop, run["name"]),
        )
    elif status in ("stopped", "interrupted", "failed"):
        checkpoint_step = lab.checkpoint_step(run["name"])
        button.button(
            "Resume",
            key=f"resume:{run['name']}",
            icon=":material/play_arrow:",
            help=f"Resume from the checkpoint at step {checkpoint_step:,}."
            if checkpoint_step
            else "No checkpoint yet: training restarts from the beginning.",
            on_click=attempt,
            args=(lab, lab.resume, run["name"]),
        )
    silence_s = time.time() - (run.get("heard") or math.inf)
    if status == "running" and silence_s > SILENCE_WARNING_S:
        st.caption(
            f"No events for {duration(silence_s)}. Long steps and large models can cause this. "
            f"If the run hangs, press *Stop*, then *Kill* after {lab.KILL_AFTER_S:.0f} s."
        )
    if status in ("failed", "interrupted") and run["reason"]:
        st.error(escape_markdown(run["reason"]))
    elif status in ("stopped", "finished") and run["reason"]:
        st.caption(escape_markdown(run["reason"][:1].upper() + run["reason"][1:] + "."))


def badge(status: str) -> str:
    """Return a status as Markdown: a badge with an icon."""
    color, icon = STATUS_STYLES.get(status, UNKNOWN_STATUS_STYLE)
    return f":{color}-badge[{icon} {escape_markdown(status)}]"


def time_left(run: dict[str, Any], step: int, steps: int) -> list[str]:
    """Return the remaining training time as text, or nothing if it is unknown."""
    if not step or run["seconds"] is None:
        return []
    return [f"{duration((steps - step) * run['seconds'] / step)} left"]


def _show_start(bar: DeltaGenerator, download: dict[str, Any] | None) -> None:
    """Show what a run is doing before its first step."""
    if download and download["bytes"] < download["total"]:
        done, total = download["bytes"] / 1e6, download["total"] / 1e6
        text = (
            f"Downloading {escape_markdown(download['repository'])}: {done:,.0f} of {total:,.0f} MB"
        )
        bar.progress(done / total, text)
    else:
        bar.progress(0.0, "Loading the model and data")


def _progress_text(run: dict[str, Any], step: int, steps: int) -> str:
    is_trained = run["status"] == "finished" or step == steps or run.get("is_trained")
    if run["status"] == "running" and is_trained:
        return f"Step {step:,} of {steps:,} · answering the test examples"
    parts = [f"Step {step:,} of {steps:,}", f"{duration(run['seconds'] or 0)} elapsed"]
    if run["status"] == "running":
        parts += time_left(run, step, steps)
    val_name = "validation loss" if is_trained else "validation loss (subset)"
    losses = {"loss": run.get("loss"), val_name: run.get("val_loss")}
    loss_texts = [f"{name} {loss(value)}" for name, value in losses.items() if value is not None]
    return " · ".join([*parts, *loss_texts])
