"""The source of the Launch form: a run to clone or a preset, also in the URL as `?from=`.

A name in the URL refers to a run or, if no run has this name, to a preset. `preset:demo` is always the preset.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from core.lab import Lab
from core.presets import PRESETS, preset
from pages import launch_form, launch_vary
from pages.ui.errors import show_errors, toast_errors
from pages.ui.text import escape_markdown

CLONE_PREFIX = "clone of "
PRESET_PREFIX = "preset:"
DEFAULT_SOURCE = "demo"
PARAMETER = "from"
WIDGET = "source"
FILLED_FROM = "filled_from"
"""Session key: the source of the form, which is a preset, or CLONE_PREFIX followed by a run."""
ADDRESS = "source_address"
"""Session key: the last value of the URL parameter that was read or written."""
REQUESTED = "requested_settings"
"""Session key: settings that another page has passed to the form."""


def current() -> str:
    """Return the source of the form."""
    return str(st.session_state[FILLED_FROM])


def clone_of(run: str) -> str:
    """Return the source that clones a run."""
    return CLONE_PREFIX + run


def title(source: str) -> str:
    """Return a source as text, such as "run demo-2" or "preset demo"."""
    return f"preset {source}" if source in PRESETS else f"run {source.removeprefix(CLONE_PREFIX)}"


def open_launch(settings: Mapping[str, Any]) -> None:
    """Open Launch and fill in these settings. All others in the form stay the same."""
    st.session_state[REQUESTED] = settings
    st.switch_page("pages/launch.py")


def choose(lab: Lab, runs: Sequence[str]) -> None:
    """Fill the form on the first visit and whenever the URL names another source. Update the URL.

    Args:
        runs: all runs.
    """
    if launch_form.DRAFT not in st.session_state:
        _fill(lab, DEFAULT_SOURCE)
    for name, value in st.session_state.pop(REQUESTED, {}).items():
        launch_form.fill(name, value)
    requested = st.query_params.get(PARAMETER)
    is_arriving = WIDGET not in st.session_state  # Streamlit forgets the widgets of other pages
    if requested and (is_arriving or requested != st.session_state.get(ADDRESS)):
        source = _parse(requested, runs)
        if source is None:
            st.warning(f"Unknown run or preset: {escape_markdown(requested)}.")
            return
        if source != current():
            with show_errors():
                _fill(lab, source)
    if requested or current() != DEFAULT_SOURCE:
        st.query_params[PARAMETER] = st.session_state[ADDRESS] = _address(current(), runs)


def show_select(lab: Lab, runs: Sequence[str]) -> None:
    """Draw the select box: own runs, newest first, then presets.

    Args:
        runs: the runs to offer.
    """
    sources = [*map(clone_of, runs), *PRESETS]
    if current() not in sources:  # the run was deleted or archived
        sources.insert(0, current())
    st.session_state[WIDGET] = current()  # also when returning from another page
    st.selectbox(
        "Start from",
        sources,
        key=WIDGET,
        format_func=lambda source: (
            f"{source}: {PRESETS[source].title}" if source in PRESETS else source
        ),
        on_change=_apply,
        args=(lab,),
        width="stretch",
    )


def _apply(lab: Lab) -> None:
    """Fill the form from the selected source. If the source is damaged, keep the form and the previous source."""
    with toast_errors():
        _fill(lab, st.session_state[WIDGET])
        st.session_state[ADDRESS] = st.query_params.get(PARAMETER)  # it still names the old source
    st.session_state[WIDGET] = current()


def _fill(lab: Lab, source: str) -> None:
    """Fill the form and vary nothing. Raises UserError if the settings of the run to clone are damaged."""
    launch_form.start_from(_settings(lab, source))
    launch_vary.clear()
    st.session_state[FILLED_FROM] = source


def _settings(lab: Lab, source: str) -> dict[str, object]:
    if source in PRESETS:
        return preset(source).model_dump()
    parent = source.removeprefix(CLONE_PREFIX)
    identity = {"parent": parent, "name": parent, "notes": "", "color": "", "archived": False}
    return {**lab.config(parent).model_dump(), **identity}


def _parse(address: str, runs: Sequence[str]) -> str | None:
    """Return the source named in the URL, or None if it does not exist."""
    if address in runs:
        return clone_of(address)
    name = address.removeprefix(PRESET_PREFIX)
    return name if name in PRESETS else None


def _address(source: str, runs: Sequence[str]) -> str:
    name = source.removeprefix(CLONE_PREFIX)
    return PRESET_PREFIX + name if source in PRESETS and name in runs else name
