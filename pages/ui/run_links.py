"""Run names as links to the run page, with a dot in the run's color."""

import zlib
from collections.abc import Sequence

import streamlit as st

from pages.ui.text import escape_markdown

RUN_PAGE = "pages/run.py"
STUDIES_PAGE = "pages/studies.py"
LIVE_RUNS = 8
"""Maximum number of runs in a link to Live. With more, their curves could not be told apart."""


def open_run(name: str) -> None:
    """Open the run page."""
    st.switch_page(RUN_PAGE, query_params={"name": name})


def run_link(name: str, color: str, key: str = "") -> None:
    """Draw a run's name as a link to the run page.

    Args:
        key: distinguishes several links to the same run on a page.
    """
    identifier = f"run-link-{zlib.crc32(f'{key}:{name}'.encode()):x}"
    with st.container(key=identifier, width="content"):
        st.html(f"<style>.st-key-{identifier} a::before {{ {dot_css(color)} }}</style>")
        st.page_link(RUN_PAGE, label=escape_markdown(name), query_params={"name": name})


def study_link(name: str) -> None:
    """Draw a study's name as a link to its page."""
    label = f"Study {escape_markdown(name)}"
    st.page_link(STUDIES_PAGE, label=label, icon=":material/science:", query_params={"study": name})


def live_link(names: Sequence[str]) -> None:
    """Draw a link to Live with the first of some runs."""
    st.page_link(
        "pages/live.py",
        label="Watch in Live",
        icon=":material/show_chart:",
        query_params=[("run", name) for name in names[:LIVE_RUNS]],
    )


def dot_css(color: str) -> str:
    """Return the CSS of a dot before an element."""
    return f"content: ''; flex: none; width: 10px; height: 10px; border-radius: 50%; background: {color};"


def dot_image(color: str) -> str:
    """Return a dot as the URL of an image, for `st.column_config.ImageColumn`."""
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='-6 -6 24 24'><circle cx='6' cy='6' r='5' fill='{color}'/></svg>"
    return "data:image/svg+xml;utf8," + svg.replace("#", "%23")
