"""The size of a data set as tiles, shared by Data and the run page."""

import pandas as pd
import streamlit as st

from core.views.formats import count

SPLITS = ("train", "test", "validation")


def show_size(table: pd.DataFrame) -> None:
    """Draw the number of examples in each split, and their lengths in tokens.

    Args:
        table: Columns part and tokens.
    """
    tokens = table["tokens"]
    for part in SPLITS:
        st.metric(part.capitalize(), f"{(table['part'] == part).sum():,}", width="content")
    st.metric("Tokens", count(int(tokens.sum())), width="content")
    st.metric("Mean length", f"{tokens.mean():.0f}", width="content")
    st.metric("Longest", f"{tokens.max():,}", width="content")
