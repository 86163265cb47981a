"""Plotly figures with the theme of the page, and clicks on their points."""

import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from core.views import charts
from pages.ui import style

CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
}
"""The toolbar appears on hover, next to the title, with buttons to save, zoom, pan and reset."""
SHOWN = "figure_shown"
"""Session key: set once the tab has shown a figure."""
HEAD_START_S = 0.35
"""Time for the browser to show the page before it loads Plotly, which blocks it for most of a second."""


def show_figure(figure: charts.Figure, key: str, **options: Any) -> Any:
    """Show a figure and return its selection events, if `on_select` is among the options of `st.plotly_chart`."""
    if SHOWN not in st.session_state:
        time.sleep(HEAD_START_S)
    themed = charts.themed(figure, style.theme())
    selection = st.plotly_chart(themed, theme=None, key=key, config=CONFIG, **options)
    st.session_state[SHOWN] = True  # not if a rerun has replaced this one in the meantime
    return selection


CLICK_JS = """
const MAX_MOVE_PX = 4;

function watch(area) {
  const plot = area.querySelector(".js-plotly-plot");
  if (!plot?.on || plot.isWatched) return;
  plot.isWatched = true;
  plot.on("plotly_hover", ({ points, xvals }) => {
    const distance = (point) => Math.abs(point.x - xvals[0]);
    area.hoveredX = points.reduce((a, b) => (distance(b) < distance(a) ? b : a)).x;
  });
  plot.on("plotly_unhover", () => { area.hoveredX = undefined; });
}

export default function ({ data, setTriggerValue }) {
  const area = document.querySelector(`.st-key-${data.area}`);
  const stop = new AbortController();
  const options = { capture: true, signal: stop.signal };
  let pressed;
  area.addEventListener("pointermove", () => watch(area), options);
  area.addEventListener("pointerdown", ({ clientX, clientY }) => {
    pressed = { x: area.hoveredX, clientX, clientY };
  }, options);
  document.addEventListener("pointerup", ({ clientX, clientY }) => {
    if (!pressed) return;
    const { x, ...start } = pressed;
    pressed = undefined;
    const move = Math.hypot(clientX - start.clientX, clientY - start.clientY);
    if (x !== undefined && move <= MAX_MOVE_PX) setTriggerValue("click", x);
  }, options);
  return () => stop.abort();
}
"""
"""Reports the x-value under the cursor when the user clicks in the plot.

Streamlit's own selections belong to one version of a figure, so clicks would be lost while new data replaces it.
"""
_clicks = st.components.v2.component("chart_clicks", js=CLICK_JS)


def on_click(area: str, key: str, select: Callable[[float], None]) -> None:
    """Call a function with the x-value of each point that the user clicks. Call this after drawing the figure.

    Args:
        area: Key of the container with the figure.
        key: Key of the component.
        select: Called before the page is rerun.
    """

    def report() -> None:
        if (x := st.session_state[key]["click"]) is not None:
            select(float(x))

    _clicks(key=key, data={"area": area}, on_click_change=report)
