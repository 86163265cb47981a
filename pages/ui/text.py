"""Show text from data sets, models and users literally, without interpreting HTML, Markdown or LaTeX."""

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

if TYPE_CHECKING:  # imports the hub client, which most pages do not need
    from core.data.dataset import SkippedRecord

TEXT_CSS = "white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5;"
MARK_CSS = "background: rgba(240, 170, 50, 0.35); border-radius: 3px;"
TOKEN_BORDER_CSS = "border-right: 1px solid rgba(128, 128, 128, 0.35); "
TOKEN_CSS = {
    "given": "opacity: 0.55;",
    "learned": "background: rgba(60, 125, 215, 0.22);",
    "cut": "text-decoration: line-through; opacity: 0.4;",
}
"""Token styles: context only, training target, truncated."""
PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
AUTOLINK_CONTEXT = re.compile(r":(?=\S)|(?i:www)(?=\.)|.(?=@)|[<>~=-](?=[-=>])")
"""Places where Streamlit recognizes icons, links and arrows even in escaped text."""
WORD_JOINER = "\u2060"
"""Zero-width character that breaks up sequences that Streamlit would otherwise interpret."""


def show_text(text: str, empty: str = "(empty)") -> None:
    """Show text literally, keeping line breaks."""
    if text.strip():
        st.html(text_html(text))
    else:
        st.caption(empty)


def text_html(text: str, style: str = TEXT_CSS) -> str:
    """Return the HTML that shows text literally, keeping line breaks."""
    return f'<div dir="auto" style="{style}">{html.escape(text)}</div>'


def words_html(words: Sequence[tuple[str, bool]], style: str = TEXT_CSS) -> str:
    """Return the HTML that shows words literally, with flagged words highlighted."""
    marked = (
        f'<mark style="{MARK_CSS} color: inherit;">{html.escape(word)}</mark>'
        if flag
        else html.escape(word)
        for word, flag in words
    )
    return f'<div dir="auto" style="{style}">{"".join(marked)}</div>'


def show_tokens(tokens: Sequence[tuple[str, str]]) -> None:
    """Show text with token boundaries. The state of each token is a key of TOKEN_CSS."""
    pieces = (
        f'<span style="{TOKEN_BORDER_CSS}{TOKEN_CSS[state]}">{html.escape(text) or " "}</span>'
        for text, state in tokens
    )
    st.html(f'<div dir="auto" style="{TEXT_CSS}">{"".join(pieces)}</div>')


def show_skipped(skipped: Sequence["SkippedRecord"]) -> None:
    """Draw a collapsed table of skipped records with the reason for each."""
    if skipped:
        with st.expander(f"Skipped records ({len(skipped):,})"):
            rows = {
                "Record": [record.source_row for record in skipped],
                "Reason": [record.reason for record in skipped],
            }
            st.dataframe(pd.DataFrame(rows), hide_index=True)


def escape_markdown(text: str) -> str:
    """Escape text for elements that render Markdown. Line breaks become spaces."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # a file name may not be valid UTF-8
    joined = AUTOLINK_CONTEXT.sub(lambda match: match[0] + WORD_JOINER, " ".join(text.split()))
    return PUNCTUATION.sub(r"\\\g<0>", joined)


def capitalize(message: str) -> str:
    """Capitalize the first word of a message, unless it is an identifier such as `max_length` or the `lr` in `lr = 1`."""
    first_word, _, rest = message.partition(" ")
    is_word = first_word.isalpha() and not rest.startswith("= ")
    return message[:1].upper() + message[1:] if is_word else message
