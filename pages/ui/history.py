"""One browser history entry per page, so that Back leaves the page.

Streamlit adds an entry whenever a page changes its URL parameters, including while the page opens.
"""

import streamlit as st

JS = """
const PARAMETERS = { run: "name", studies: "study" };
const CLICK_MS = 10000;

const shown = (url) => {
  const { pathname, searchParams } = new URL(url, location.href);
  return searchParams.get(PARAMETERS[pathname.split("/").pop()]);
};

export default function () {
  if (window.keepsOneEntryPerPage) return;
  window.keepsOneEntryPerPage = true;
  let clickedAt = 0;
  document.addEventListener("pointerdown", (event) => {
    clickedAt = event.target.closest("[data-testid=stMain]") ? Date.now() : 0;
  }, true);
  const push = history.pushState.bind(history);
  history.pushState = (state, title, url) => {
    const isSamePath = new URL(url, location.href).pathname === location.pathname;
    const [old, name] = [shown(location.href), shown(url)];
    const isOther = old !== name && ((old && name) || Date.now() - clickedAt < CLICK_MS);
    if (isSamePath && !isOther) history.replaceState(state, title, url);
    else push(state, title, url);
  };
}
"""
"""Replaces the entry if only the parameters change. Each run and each study has its own entry.

The list of studies has one, too, if the user opens a study from it or returns to it. A study that is restored when the
page opens replaces the entry of the list.
"""
_component = st.components.v2.component("history", js=JS)


def keep_one_entry_per_page() -> None:
    """Change how the browser records changes of the URL, until the tab is reloaded."""
    with st.sidebar:
        _component(key="history")
