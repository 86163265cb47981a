"""The state of a page, stored in the URL for links and in the session while the user visits other pages.

The URL includes default selections if the default may change, so that a copied link shows the same view later.
Streamlit's `bind="query-params"` is not used, because it neither restores the state on a later visit nor reports
unknown values in a link.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import streamlit as st

from pages.ui.text import escape_markdown

ON = "1"
"""Value of a parameter that is switched on."""
MAX_DIGITS = 15
"""Maximum length of a whole number in a link. Browsers cannot represent all larger ones."""
MAX_WRITTEN = 4
"""Number of recent URLs that are recognized as written by the page.

The browser sends the URL that it shows, which may be outdated if the user is faster than the page.
"""


class PageState:
    """The values of a page's URL parameters.

    A link replaces the whole state. A URL without parameters restores the state of the previous visit. Parameters that
    the page itself wrote to the URL do not count as a link, so they never undo a later change.

    Args:
        page: prefix of session keys.
        parameters: names of the URL parameters, in the order in which they appear in the URL.
    """

    def __init__(self, page: str, parameters: Sequence[str]) -> None:
        self._page, self._parameters = page, parameters
        self._shown: dict[str, list[str]] = {}
        self.notices: list[str] = []
        """Messages about unknown values in the link."""
        state = st.session_state.setdefault(f"{page}:state", {"values": {}, "written": []})
        linked = {name: st.query_params.get_all(name) for name in parameters}
        linked = {name: values for name, values in linked.items() if values}
        self.is_opened_by_link = self._must_write = bool(linked) and linked not in state["written"]
        if self.is_opened_by_link:
            self.open(linked)
            state["written"] = [linked]

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
        """Set a parameter. Without values, it is set to empty, which differs from its default."""
        self._state["values"][parameter] = list(values)

    def clear(self, *parameters: str) -> None:
        """Reset parameters to their defaults."""
        for parameter in parameters:
            self._state["values"].pop(parameter, None)

    def show(self, parameter: str, *values: str) -> None:
        """Show values in the URL. They may differ from the stored ones, for example if there are too many to display."""
        self._shown[parameter] = list(values)

    def show_all(self) -> None:
        """Show all values that are set. Used by pages that draw only some of their widgets."""
        for parameter in self._parameters:
            self.show(parameter, *(self.values(parameter) or ()))

    def show_notices(self) -> None:
        """Show the messages about unknown values in the link."""
        for notice in self.notices:
            st.warning(escape_markdown(notice))

    def write(self) -> None:
        """Update the URL. Parameters not passed to `show` are removed."""
        shown = {name: self._shown[name] for name in self._parameters if self._shown.get(name)}
        is_changed = {name: st.query_params.get_all(name) for name in st.query_params} != shown
        if is_changed or self._must_write:  # a link to the same page does not change the URL
            st.query_params.from_dict(shown)
        self._must_write = False
        written = self._state["written"]
        if shown not in written[-1:]:
            self._state["written"] = [*written, shown][-MAX_WRITTEN:]

    def check(self, parameter: str, known: Container[str], problem: str, prefix: str = "") -> None:
        """Add a notice about unknown values in the link, such as "Unknown run: a, b.".

        Args:
            prefix: Ignored at the start of a value.
        """
        names = [value.removeprefix(prefix) for value in self.linked(parameter)]
        unknown = [name for name in names if name not in known]
        notice = f"{problem}: {', '.join(unknown)}."
        if unknown and notice not in self.notices:
            self.notices.append(notice)

    def select(
        self,
        label: str,
        options: Sequence[str],
        parameter: str,
        default: str | None = None,
        on_change: Callable[[], None] | None = None,
        problem: str = "",
        draw: Callable[..., Any] = st.selectbox,
        **arguments: Any,
    ) -> str:
        """Draw a select box for a parameter and return the selected option. The URL omits the default.

        Args:
            default: The option selected at first; by default, the first one.
            on_change: Called after the user has selected an option.
            problem: Start of the notice about a linked value that is not an option, such as "Unknown judge".
            draw: `st.selectbox` or another widget with the same arguments.
            arguments: Additional arguments for `draw`.
        """
        self.check(parameter, options, problem or f"Unknown {parameter}")
        default = options[0] if default is None else default
        wanted = self.value(parameter)
        selected = self.widget(
            draw,
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
        /,
        on_change: Callable[[], None] | None = None,
        **arguments: Any,
    ) -> Any:
        """Draw a widget for a parameter and return its value. Its key consists of the page and the parameter."""
        key = f"{self._page}_{parameter}"
        is_typed = draw in (st.text_input, st.number_input)
        if not is_typed or key not in st.session_state or st.session_state[key] != value:
            st.session_state[key] = value  # even if equal, it discards what the user is typing

        def take() -> None:
            self.set(parameter, *_texts(st.session_state[key]))
            if on_change:
                on_change()

        chosen = draw(label, key=key, on_change=take, **arguments)
        self.show(parameter, *_texts(chosen))
        return chosen

    def text(self, label: str, parameter: str, **arguments: Any) -> str:
        """Draw a text input for a parameter and return the text."""
        text = self.value(parameter) or ""
        return str(self.widget(st.text_input, label, parameter, text, **arguments)).strip()

    def option(
        self, label: str, options: Sequence[str], parameter: str, prefix: str = "", **arguments: Any
    ) -> str | None:
        """Draw a select box without a default, and return the selected option or None.

        Args:
            prefix: Ignored at the start of the value.
        """
        self.check(parameter, options, f"Unknown {parameter}", prefix)
        wanted = (self.value(parameter) or "").removeprefix(prefix)
        value = wanted if wanted in options else None
        chosen: str | None = self.widget(
            st.selectbox, label, parameter, value, options=options, index=None, **arguments
        )
        return chosen

    def tabs(self, labels: Sequence[str], parameter: str) -> Sequence[Any]:
        """Draw tabs and return their containers. Only the open tab is computed, and the URL omits the first."""
        self.check(parameter, labels, f"Unknown {parameter}")
        wanted = self.value(parameter)
        is_other = wanted in labels[1:]
        tabs: Sequence[Any] = self.widget(
            st.tabs, labels, parameter, wanted if is_other else labels[0]
        )
        self.show(parameter, *([str(wanted)] if is_other else []))
        return tabs

    def toggle(self, label: str, parameter: str, **arguments: Any) -> bool:
        """Draw a toggle that is off by default."""
        is_on = self.value(parameter) == ON
        return bool(self.widget(st.toggle, label, parameter, is_on, **arguments))

    def number(
        self, label: str, parameter: str, low: int, high: int | None, **arguments: Any
    ) -> int | None:
        """Draw an input for a whole number, which may be empty. Values out of range are ignored."""
        text = self.value(parameter) or ""
        is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
        number = int(text) if is_number else None
        if number is not None and not low <= number <= (number if high is None else high):
            number = None
        limits = f"{self._page}_{parameter}_limits"
        if st.session_state.get(limits) != (low, high):  # Streamlit treats it as another widget
            st.session_state.pop(f"{self._page}_{parameter}", None)
            st.session_state[limits] = low, high
        chosen: int | None = self.widget(
            st.number_input, label, parameter, number,
            min_value=low, max_value=high, value=None, **arguments,
        )  # fmt: skip
        return chosen


def open_page(page: str, **values: Iterable[str]) -> None:
    """Open another page with these values. `st.switch_page` would first write them to the current page's URL."""
    linked = {name: list(given) for name, given in values.items()}
    st.session_state[f"{page}:state"] = {"values": dict(linked), "linked": linked, "written": []}
    st.switch_page(f"pages/{page}.py")


def _texts(value: Any) -> list[str]:
    """Convert a widget's value to the values of a URL parameter."""
    if isinstance(value, list | tuple):
        return list(map(str, value))
    return [] if value in (None, "", False) else [ON if value is True else str(value)]
