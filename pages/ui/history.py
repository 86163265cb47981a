"""One browser history entry per page, so that Back leaves the page.

Streamlit adds an entry whenever a page changes its URL parameters, including while the page opens.
"""

import streamlit as st

JS = """
const runOf = (url) => new URL(url, location.href).searchParams.get("name");

export default function () {
  if (window.keepsOneEntryPerPage) return;
  window.keepsOneEntryPerPage = true;
  const push = history.pushState.bind(history);
  history.pushState = (state, title, url) => {
    const isSamePath = new URL(url, location.href).pathname === location.pathname;
    const [old, name] = [runOf(location.href), runOf(url)];
    const isOtherRun = old && name && old !== name;
    if (isSamePath && !isOtherRun) history.replaceState(state, title, url);
    else push(state, title, url);
  };
}
"""
"""Replaces the entry if only the parameters change, except for `name`: each run has its own entry."""
_component = st.components.v2.component("history", js=JS)


def keep_one_entry_per_page() -> None:
    """Change how the browser records changes of the URL, until the tab is reloaded."""
    with st.sidebar:
        _component(key="history")
