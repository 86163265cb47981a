"""Show user errors as messages on a page. Any other exception is a bug and is left to Streamlit."""

import contextlib
from collections.abc import Iterator

import streamlit as st

from core.errors import UserError
from pages.ui.text import escape_markdown


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
