"""The state of a run in one line: badge, progress, remaining time, and the buttons that stop or resume it."""

import math
import time
from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.lab import Lab
from pages.ui.errors import toast_errors
from pages.ui.text import duration, escape_markdown

SILENCE_WARNING_S = 60.0
"""Warn about a running run that has written no event for this long."""
STATUS_STYLES = {
    "queued": ("gray", ":material/schedule:"),
    "running": ("blue", ":material/play_circle:"),
    "stopped": ("orange", ":material/stop_circle:"),
    "interrupted": ("orange", ":material/power_off:"),
    "failed": ("red", ":material/error:"),
    "finished": ("green", ":material/check_circle:"),
}
UNKNOWN_STATUS_STYLE = ("gray", ":material/help:")
"""Style of a status that this program never writes."""


def show_run(run: dict[str, Any], lab: Lab) -> None:
    """Draw the status and progress of a run, and its Stop or Resume button."""
    status = run["status"] or "queued"
    color, icon = STATUS_STYLES.get(status, UNKNOWN_STATUS_STYLE)
    with st.container(horizontal=True, vertical_alignment="center"):
        name, bar = st.container(width=220), st.container(width="stretch")
        button = st.container(width=130)
    name.markdown(
        f"**{escape_markdown(run['name'])}** :{color}-badge[{icon} {escape_markdown(status)}]"
    )
    steps, step = run["steps"], run["step"]
    if status == "running" and not steps:
        _show_start(bar, run.get("download"))
    elif steps and steps > 0:
        bar.progress(max(0.0, min(1.0, step / steps)), _progress_text(run, int(step), int(steps)))
    elif status == "queued":
        bar.caption("waiting for its turn")
    if status in ("queued", "running"):
        seconds_since_stop = lab.seconds_since_stop_request(run["name"])
        kill = seconds_since_stop is not None and seconds_since_stop > lab.KILL_AFTER_S
        button.button(
            "Kill" if kill else "Stop" if seconds_since_stop is None else "Stopping",
            key=f"stop:{run['name']}",
            icon=":material/stop:",
            disabled=seconds_since_stop is not None and not kill,
            help="It has not stopped by itself. It goes on from its last checkpoint when resumed."
            if kill
            else None,
            on_click=_attempt,
            args=(lab, lab.stop, run["name"]),
        )
    elif status in ("stopped", "interrupted", "failed"):
        checkpoint_step = lab.checkpoint_step(run["name"])
        button.button(
            "Resume",
            key=f"resume:{run['name']}",
            icon=":material/play_arrow:",
            help=f"From its checkpoint at step {checkpoint_step:,}."
            if checkpoint_step
            else "From the start: it has no checkpoint yet.",
            on_click=_attempt,
            args=(lab, lab.resume, run["name"]),
        )
    silence_s = time.time() - (run.get("heard") or math.inf)
    if status == "running" and silence_s > SILENCE_WARNING_S:
        st.caption(
            f"Nothing heard from it for {duration(silence_s)}. A long step or a large model may need that; "
            f"else press Stop, and {lab.KILL_AFTER_S:.0f} s later Kill."
        )
    if status in ("failed", "interrupted") and run["reason"]:
        st.error(escape_markdown(run["reason"]))


def _show_start(bar: DeltaGenerator, download: dict[str, Any] | None) -> None:
    """Show what a run does before its first step."""
    if download and download["bytes"] < download["total"]:
        done, total = download["bytes"] / 1e6, download["total"] / 1e6
        text = (
            f"downloading {escape_markdown(download['repository'])}: {done:,.0f} of {total:,.0f} MB"
        )
        bar.progress(done / total, text)
    else:
        bar.progress(0.0, "loading the model and the data")


def _progress_text(run: dict[str, Any], step: int, steps: int) -> str:
    if run["status"] == "running" and step == steps:
        return f"step {step} of {steps}: answering the test set"
    text = f"step {step:,} of {steps:,}, {duration(run['seconds'] or 0)}"
    if run["status"] == "running" and step:
        text += f", {duration((steps - step) * run['seconds'] / step)} to go"
    losses = {"loss": run.get("loss"), "validation loss": run.get("val_loss")}
    loss_texts = [f"{name} {value:.4f}" for name, value in losses.items() if value is not None]
    return "; ".join([text, *loss_texts])


def _attempt(lab: Lab, action: Callable[[str], None], name: str) -> None:
    """Run an action before the page is drawn, so that the page shows its result."""
    with toast_errors():
        action(name)
    lab.refresh()
