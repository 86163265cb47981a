"""The look of all pages: Streamlit's layout adjusted by CSS, and contrast that its themes lack."""

from pathlib import Path

import streamlit as st

CSS = Path(__file__).with_name("style.css")
SIDEBAR_WIDTH_PX = 200
NARROW_PX = 1000
"""Below this window width, the sidebar starts closed."""
CONTRAST_CSS = {
    "light": "--caption-color: #565b66; --page-color: #ffffff; --line-color: #dfe2e8; --current-color: #eef4fc; "
    "--right-color: #1a6b35; --wrong-color: #b42318;",
    "dark": "--caption-color: #b3bac7; --page-color: #171614; --line-color: #333a47; --current-color: #182233; "
    "--right-color: #5fcb83; --wrong-color: #ff8f85; --on-primary: #0e1117;",
}
"""Colors by theme. Text has a contrast of at least 4.5:1."""
CONTRAST_RULES = """
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] p { color: var(--caption-color); opacity: 1; }
[data-testid="stBaseButton-primary"]:not(:disabled) { color: var(--on-primary, #ffffff); }
"""
CLOSE_SIDEBAR_JS = f"""
export default function () {{
  if (window.innerWidth < {NARROW_PX} && !window.sidebarWasClosed) {{
    window.sidebarWasClosed = true;
    document.querySelector('[data-testid="stSidebarCollapseButton"] button')?.click();
  }}
}}
"""
close_narrow_sidebar = st.components.v2.component("close_narrow_sidebar", js=CLOSE_SIDEBAR_JS)


def theme() -> str:
    """Return `light` or `dark`."""
    return st.context.theme.type or "light"


def apply() -> None:
    """Add the style to the page."""
    st.html(CSS)
    st.html(f"<style>:root {{ {CONTRAST_CSS[theme()]} }} {CONTRAST_RULES}</style>")
    with st.sidebar:
        close_narrow_sidebar()
