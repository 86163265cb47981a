"""The lineage of runs as a graph. A click on a run opens its page."""

from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import streamlit as st

from core.lab import Lab
from core.views import lineage
from pages.ui import baseline, style
from pages.ui.run_links import open_run
from pages.ui.selection import show_cut

HELP = "Losses are best validation losses. If both settings have several seeds, a change is shown with its effect, the 95% interval and a verdict. A single pair of runs proves nothing."
LINKS_JS = """
export default function ({ setTriggerValue }) {
  const open = (event) => {
    const link = event.target.closest?.('.st-key-lineage-graph a');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    setTriggerValue('address', link.href.baseVal);
  };
  document.addEventListener('click', open);
  return () => document.removeEventListener('click', open);
}
"""
"""Opens the page without reloading the tab, which would end the session and ask for the password again."""
follow_links = st.components.v2.component("follow_lineage_links", js=LINKS_JS)


def show(
    lab: Lab,
    runs: pd.DataFrame,
    names: Sequence[str],
    focus: str = "",
    with_isolated: bool = True,
) -> None:
    """Draw the graph of some runs.

    Args:
        runs: all runs.
        names: the runs to draw, most important first.
        focus: the run whose node is emphasized.
        with_isolated: include single runs without a parent or children.
    """
    noise = baseline.noise(lab, [lineage.METRIC], runs)[lineage.METRIC]
    graph = lineage.build(
        runs, names, baseline.effects(lab, lineage.METRIC, runs), noise, with_isolated
    )
    if not graph.edges and len(graph.nodes) < 2:
        st.caption(
            "This run was not cloned from another run, and no run was cloned from it."
            if focus
            else "None of these runs was cloned from another."
        )
        return
    total = len(graph.nodes) + graph.hidden
    show_cut(len(graph.nodes), total, "runs and groups of runs, closest first")
    with st.container(key="lineage-graph"):
        st.graphviz_chart(
            lineage.dot(graph, style.theme(), focus), alt=f"Lineage of {len(names):,} runs"
        )
    clicked = follow_links(key="follow_lineage_links", on_address_change=lambda: None)
    left_out = (
        f" {graph.isolated:,} runs without relatives are not shown." if graph.isolated else ""
    )
    st.caption(HELP + left_out)
    _open(clicked.address or "", runs)


def _open(address: str, runs: pd.DataFrame) -> None:
    """Open the page of a run or a study."""
    query = parse_qs(urlsplit(address).query)
    name, study = (query.get(key, [""])[0] for key in ("name", "study"))
    if name in set(runs["name"]):
        open_run(name)
    if study in set(runs["study"].dropna()):
        st.switch_page("pages/studies.py", query_params={"study": study})
