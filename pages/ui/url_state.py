"""State of a page that is kept in a URL parameter and, while the user visits other pages, in the session.

For state that several widgets share or that must be checked by the page. A single widget with fixed options uses
`bind="query-params"` instead.
"""

from collections.abc import Iterable

import streamlit as st


class UrlState:
    """The values of one URL parameter.

    A link replaces the values in the session. Values that the page has written to the URL do not count as a link, so
    that they never undo a later change.

    Args:
        parameter: name of the URL parameter.
        key: session key of the values, as a list of strings. Other pages may set it before they open this page.
    """

    def __init__(self, parameter: str, key: str) -> None:
        self._parameter, self._key = parameter, key
        linked = st.query_params.get_all(parameter)
        if linked and linked != st.session_state.get(f"{key}:written"):
            st.session_state[key] = list(dict.fromkeys(linked))
            st.session_state[f"{key}:written"] = linked
            st.session_state[f"{key}:linked"] = st.session_state[key]

    @property
    def values(self) -> list[str] | None:
        """The current values, or None if there was neither a link nor a selection."""
        return st.session_state.get(self._key)

    @property
    def is_linked(self) -> bool:
        """Whether the current values come from a link and have not been changed since."""
        linked = st.session_state.get(f"{self._key}:linked")
        return linked is not None and linked == self.values

    def set(self, values: Iterable[str]) -> None:
        """Change the values."""
        st.session_state[self._key] = list(values)

    def write(self, values: Iterable[str]) -> None:
        """Show values in the URL, which may be fewer than those in the session."""
        written = list(values)
        if st.query_params.get_all(self._parameter) != written:
            st.query_params[self._parameter] = written
        st.session_state[f"{self._key}:written"] = written
