"""CSS for all pages: adjustments of Streamlit's layout, and more contrast than its themes have."""

from pathlib import Path

import streamlit as st

CSS = Path(__file__).with_name("style.css")
SIDEBAR_WIDTH_PX = 200
NARROW_PX = 1000
"""Below this window width, the sidebar starts closed."""
CONTRAST_CSS = {
    "light": "--page-color: #ffffff; --line-color: #d9dde3; --caption-color: #565b66; --on-primary: #ffffff; "
    "--tag-color: #e3e6eb; --current-color: #eef4fc; --right-color: #1a6b35; --wrong-color: #b42318; "
    "--equal-color: #1f5fae;",
    "dark": "--page-color: #14161b; --line-color: #3a414e; --caption-color: #b3bac7; --on-primary: #0e1117; "
    "--tag-color: #333a47; --current-color: #182233; --right-color: #5fcb83; --wrong-color: #ff8f85; "
    "--equal-color: #7fb2f0;",
}
"""Colors by theme. Those of the page and of lines are in .streamlit/config.toml too. Text has a contrast of 4.5:1."""
CONTRAST_RULES = """
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] p { color: var(--caption-color); opacity: 1; }
[data-testid="stBaseButton-primary"]:not(:disabled) { color: var(--on-primary); }
"""
THEME_DELAY_MS = 300
"""Time for Streamlit to switch its own theme before the page is redrawn."""
WINDOW_JS = f"""
export default function ({{ setTriggerValue }}) {{
  if (window.innerWidth < {NARROW_PX} && !window.sidebarWasClosed) {{
    window.sidebarWasClosed = true;
    document.querySelector('[data-testid="stSidebarCollapseButton"] button')?.click();
  }}
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const redraw = () => setTimeout(() => setTriggerValue("theme", dark.matches), {THEME_DELAY_MS});
  dark.addEventListener("change", redraw);
  return () => dark.removeEventListener("change", redraw);
}}
"""
"""Closes the sidebar in narrow windows, and reruns the page when the system switches between light and dark.

Streamlit only switches its own elements. Colors in CONTRAST_CSS and in charts are set in Python.
"""
follow_window = st.components.v2.component("follow_window", js=WINDOW_JS)


def theme() -> str:
    """Return `light` or `dark`."""
    return st.context.theme.type or "light"


def apply() -> None:
    """Add the style to the page."""
    st.html(CSS)
    st.html(f"<style>:root {{ {CONTRAST_CSS[theme()]} }} {CONTRAST_RULES}</style>")
    with st.sidebar:
        follow_window(on_theme_change=lambda: None)
