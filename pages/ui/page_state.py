"""The state of a page, stored in the URL for links and in the session while the user visits other pages.

Streamlit's `bind="query-params"` is not used, because Back would return to a URL without the page's parameters.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import streamlit as st

from pages.ui.text import escape_markdown


class PageState:
    """The values of a page's URL parameters.

    A link replaces the whole state. A URL without parameters restores the state of the previous visit. Parameters that
    the page itself wrote to the URL do not count as a link, so they never undo a later change.

    Args:
        page: prefix of session keys.
        parameters: names of the URL parameters, in the order of the URL.
    """

    def __init__(self, page: str, parameters: Sequence[str]) -> None:
        self._page, self._parameters = page, parameters
        self._shown: dict[str, list[str]] = {}
        self.notices: list[str] = []
        """Messages about unknown values in the link."""
        state = st.session_state.setdefault(f"{page}:state", {"values": {}, "written": {}})
        linked = {name: st.query_params.get_all(name) for name in parameters}
        linked = {name: values for name, values in linked.items() if values}
        if linked and linked != state["written"]:
            self.open(linked)
            state["written"] = linked

    @property
    def _state(self) -> dict[str, Any]:
        return st.session_state[f"{self._page}:state"]

    def open(self, values: Mapping[str, Iterable[str]]) -> None:
        """Replace the whole state, like a link."""
        linked = {name: list(dict.fromkeys(given)) for name, given in values.items()}
        self._state.update(values=dict(linked), linked=linked)

    def values(self, parameter: str) -> list[str] | None:
        """Return the values of a parameter, or None if neither a link nor the user has set it."""
        return self._state["values"].get(parameter)

    def value(self, parameter: str) -> str | None:
        """Return the first value of a parameter, or None if there is none."""
        return next(iter(self.values(parameter) or ()), None)

    def linked(self, parameter: str) -> list[str]:
        """Return the values from the link, if they have not been changed since."""
        linked = self._state.get("linked", {}).get(parameter)
        return linked if linked is not None and linked == self.values(parameter) else []

    def set(self, parameter: str, *values: str) -> None:
        """Change a parameter. Without values, it is remembered as deliberately empty."""
        self._state["values"][parameter] = list(values)

    def clear(self, *parameters: str) -> None:
        """Return parameters to their defaults."""
        for parameter in parameters:
            self._state["values"].pop(parameter, None)

    def show(self, parameter: str, *values: str) -> None:
        """Show values in the URL. They may differ from those set, for example if there are too many to display."""
        self._shown[parameter] = list(values)

    def show_notices(self) -> None:
        """Show the messages about unknown values in the link."""
        for notice in self.notices:
            st.warning(escape_markdown(notice))

    def write(self) -> None:
        """Update the URL. Parameters not passed to `show` are removed."""
        shown = {name: self._shown[name] for name in self._parameters if self._shown.get(name)}
        if {name: st.query_params.get_all(name) for name in st.query_params} != shown:
            st.query_params.from_dict(shown)
        self._state["written"] = shown

    def check(self, parameter: str, known: Container[str], problem: str) -> None:
        """Add a notice about values in the link that are not known, such as "Unknown run: a, b."."""
        if unknown := [value for value in self.linked(parameter) if value not in known]:
            self.notices.append(f"{problem}: {', '.join(unknown)}.")

    def select(
        self,
        label: str,
        options: Sequence[str],
        parameter: str,
        default: str | None = None,
        on_change: Callable[[], None] | None = None,
        problem: str = "",
        **arguments: Any,
    ) -> str:
        """Draw a select box for a parameter and return the selected option. The URL omits the default.

        Args:
            default: The option selected at first; by default, the first one.
            on_change: Called after the user has selected an option.
            problem: Start of the notice about a linked value that is not an option, such as "Unknown judge".
            arguments: Additional arguments for `st.selectbox`.
        """
        self.check(parameter, options, problem or f"Unknown {parameter}")
        default = options[0] if default is None else default
        wanted = self.value(parameter)
        selected = self.widget(
            st.selectbox,
            label,
            parameter,
            wanted if wanted in options else default,
            on_change,
            options=options,
            **arguments,
        )
        self.show(parameter, *([] if selected == default else [selected]))
        return str(selected)

    def widget(
        self,
        draw: Callable[..., Any],
        label: Any,
        parameter: str,
        value: Any,
        on_change: Callable[[], None] | None = None,
        **arguments: Any,
    ) -> Any:
        """Draw a widget for a parameter and return its value. Its key is the page and the parameter."""
        key = f"{self._page}_{parameter}"
        st.session_state[key] = value

        def take() -> None:
            chosen = st.session_state[key]
            self.set(parameter, *([chosen] if isinstance(chosen, str) else chosen or []))
            if on_change:
                on_change()

        return draw(label, key=key, on_change=take, **arguments)
