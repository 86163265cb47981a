"""Show Plotly figures with the theme of the page."""

from typing import Any

import streamlit as st

from core.views import charts
from pages.ui import style

CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
}
"""The toolbar appears on hover, next to the title, with buttons to save, zoom, pan and reset."""


def show_figure(figure: charts.Figure, key: str, **options: Any) -> Any:
    """Show a figure and return its selection events, if `on_select` is among the options of `st.plotly_chart`."""
    themed = charts.themed(figure, style.theme())
    return st.plotly_chart(themed, theme=None, key=key, config=CONFIG, **options)
