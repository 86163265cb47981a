"""Filtering table rows by words and comparisons."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from core.views.filter import matching

FRAME = pd.DataFrame({
    "name": ["one", "two", "three"],
    "method": ["full", "lora", "lora"],
    "lora_rank": pd.array([None, 4, 16], dtype="Int64"),
    "val_loss": [1.5, float("nan"), 0.5],
    "group_by_length": [True, False, True],
    "exact": [0.85, 0.5, None],
    "created": ["2026-11-25 10:00", "2026-11-26 09:00", None],
    "notes": ["Some thoughts, lr>1", None, ""],
})  # fmt: skip


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", "one two three"),
        ("lora", "two three"),
        ("LORA 16", "three"),
        ("val_loss<1", "three"),
        ("val_loss<=1.5", "one three"),
        ("val_loss>0", "one three"),
        ("val_loss!=0.5", "one two"),
        ("lora_rank=4", "two"),
        ("lora_rank=4.0", "two"),
        ("lora_rank!=4", "one three"),
        ("lora_rank>=4 method=lora val_loss<9", "three"),
        ("method=LORA", "two three"),
        ("method=lo", ""),
        ("group_by_length=true", "one three"),
        ("name>p", "two three"),
        ("lora_rank > 4", "three"),
        ("lora_rank==4", "two"),
        ("lora_rank => 4", "two three"),
        ("lora_rank=none", "one"),
        ("lora_rank!=none", "two three"),
        ("exact>80%", "one"),
        ("exact>=0.5", "one two"),
        ("created>2026-11-26", "two"),
        ("created<2026-11-26", "one"),
        ("created>2025", "one two"),
        ("<1", ""),
        ("notes=", "two three"),
    ],
)
def test_query_selects_rows(query, names):
    assert matching(FRAME, query)["name"].tolist() == names.split()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("valloss<1", "Unknown column 'valloss' in filter 'valloss<1'. Did you mean val_loss?"),
        ("zzz=1", "Unknown column 'zzz' in filter 'zzz=1'. Use a column such as lr or val_loss."),
        ("val_loss<low", "Invalid filter 'val_loss<low': compare val_loss with a number."),
    ],
)  # fmt: skip
def test_invalid_comparison_is_reported(query, message):
    with pytest.raises(UserError) as raised:
        matching(FRAME, query)
    assert str(raised.value) == message


def test_columns_can_be_named_by_title():
    titles = {
        "Validation loss": "val_loss",
        "Loss": "nothing",
        "Rank": "lora_rank",
        "a+b 95%": "exact",
    }
    for query, names in {
        "validation loss < 1": ["three"],
        "Validation_Loss<1 lora": ["three"],
        "rank=4": ["two"],
        "a+b 95% > 0.6": ["one"],
        "rank": [],
    }.items():
        assert matching(FRAME, query, titles)["name"].tolist() == names, query


def test_empty_table_keeps_its_columns():
    assert [*matching(FRAME[:0], "lora")] == [*FRAME]


@given(st.text(st.sampled_from("name<>=!lr 1e-4nan\u202e\x00"), max_size=30) | st.text(max_size=30))
def test_any_query_selects_rows_or_raises_a_user_error(query):
    try:
        matches = matching(FRAME, query)
    except UserError:
        return
    assert set(matches["name"]) <= set(FRAME["name"])
