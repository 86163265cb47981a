"""Show user errors as messages on a page. Any other exception is a bug and is left to Streamlit."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import streamlit as st

from core.errors import UserError
from pages.ui.text import escape_markdown

if TYPE_CHECKING:  # takes seconds to import
    from core.lab import Lab


@contextlib.contextmanager
def show_errors(stop: bool = False) -> Iterator[None]:
    """Show a UserError raised in the block in place of the rest of the block.

    Args:
        stop: Stop the page after the error.
    """
    try:
        yield
    except UserError as error:
        st.error(escape_markdown(str(error)))
        if stop:
            st.stop()


@contextlib.contextmanager
def toast_errors() -> Iterator[None]:
    """Show a UserError raised in the block as a toast that stays until dismissed.

    For callbacks: they run before the page is drawn, so an error box would appear above the title.
    """
    try:
        yield
    except UserError as error:
        st.toast(escape_markdown(str(error)), icon=":material/error:", duration="infinite")


def attempt(lab: "Lab", action: Callable[..., object], *args: object, **options: object) -> None:
    """Run an action as a callback, so that the page drawn afterward shows its result."""
    with toast_errors():
        action(*args, **options)
    lab.refresh()
