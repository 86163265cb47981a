"""Rendering of rows as text, JSON, CSV and Markdown. No data is lost, and no markup is interpreted."""

import csv
import io
import json
import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from core.views.tables import cell, markdown, records, render

ROWS = [
    {"name": "a", "loss": 1.48437, "steps": 12345, "rank": 16, "scores": {"exact": 0.25}},
    {"name": "b|c", "loss": math.nan, "steps": 7, "rank": None, "scores": {}},
]
words = st.text(max_size=20)


def test_json_keeps_types_and_writes_null_for_missing_values() -> None:
    odd_row = {
        "nan": math.nan,
        "na": pd.NA,
        "nat": pd.NaT,
        "single": np.float32("nan"),
        "inf": math.inf,
    }
    rows = [{**ROWS[0], "np": np.int64(3), "flag": np.bool_(True), "list": [math.nan, 1]}, odd_row]
    first, second = json.loads(render(rows, "json"))
    assert first == {**ROWS[0], "np": 3, "flag": True, "list": [None, 1]}
    assert second == dict.fromkeys(odd_row)


def test_csv_keeps_integers_and_leaves_missing_cells_empty() -> None:
    first, second = csv.DictReader(io.StringIO(render(ROWS, "csv")))
    assert first == {
        "name": "a",
        "loss": "1.48437",
        "steps": "12345",
        "rank": "16",
        "scores": "exact 0.25",
    }
    assert second == {"name": "b|c", "loss": "", "steps": "7", "rank": "", "scores": ""}


@given(st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_csv_round_trips_any_text(pairs: list[tuple[str, str]]) -> None:
    rows = [{"a": "x" + a, "b": "x" + b} for a, b in pairs]
    parsed = pd.read_csv(io.StringIO(render(rows, "csv") + "\n"), dtype=str, keep_default_na=False)
    if not any(control in str(pairs) for control in ("\\r", "\\x00")):
        assert parsed.to_dict("records") == rows


@pytest.mark.parametrize("format", ["table", "json", "csv", "md"])
def test_no_rows_render_without_error(format: Any) -> None:
    assert render([], format) in ("", "[]")


def html_cells(text: str) -> list[list[str]]:
    """Parse a Markdown table and return the HTML of each cell."""
    cells: list[list[str]] = []
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    for token in reader.parse(text):
        if token.type == "tr_open":
            cells.append([])
        elif token.type == "inline":
            cells[-1].append(reader.renderer.render([token], reader.options, {}))
    return cells


def test_markdown_is_parsed_as_a_table() -> None:
    rows = [{"name": "a", "loss": 1.48437, "note": None}, {"name": "b", "loss": 2.0, "note": "x"}]
    assert markdown(rows) == (
        "| name | loss | note |\n| --- | --- | --- |\n| a | 1.484 |  |\n| b | 2 | x |"
    )
    assert html_cells(markdown(rows)) == [
        ["name", "loss", "note"],
        ["a", "1.484", ""],
        ["b", "2", "x"],
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a|b"),
        ("a\\|b", "a\\|b"),
        ("ends in \\", "ends in \\"),
        ("two\nlines\r\n\nmore", "two lines more"),
        ("<b>x</b><script>", "&lt;b&gt;x&lt;/b&gt;&lt;script&gt;"),
        ("![x](http://example.org/x.png)", "![x](http://example.org/x.png)"),
        ("`code` *bold* run_12_b", "`code` *bold* run_12_b"),
        ("_so_ is __init__, AT&T and &lt;", "_so_ is __init__, AT&amp;T and &amp;lt;"),
    ],
)
def test_markdown_shows_text_literally(text: str, expected: str) -> None:
    assert html_cells(markdown([{"a": text, "b": "next"}])) == [["a", "b"], [expected, "next"]]


@given(words, words)
def test_any_text_stays_in_its_markdown_cell(first: str, second: str) -> None:
    text = markdown([{"a": f"x{first}x", "b": f"y{second}y"}])
    assert len(text.split("\n")) == 3
    [_, [a, b]] = html_cells(text)
    assert (a[0], a[-1], b[0], b[-1]) == ("x", "x", "y", "y")


def test_table_shows_markup_literally_and_is_complete() -> None:
    row = {
        "name": "[bold]x[/bold]" * 3,
        "answer": "long " * 100,
        **{f"c{i}": "x" * 9 for i in range(30)},
    }
    text = render([row], "table")
    assert "[bold]x[/bold]" * 3 in text
    assert text.count("long") == 100
    assert text.count("x" * 9) == 30


def test_wide_table_is_split_and_each_part_starts_with_the_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    rows = [{"name": f"run-{n}", **{f"column_{i}": n * i for i in range(20)}} for n in range(9)]
    lines = re.sub(r"\x1b\[[0-9;]*m", "", render(rows, "table")).splitlines()
    assert max(map(len, lines)) <= 60
    heads = [line.replace("┃", " ").split() for line in lines if "column" in line]
    assert len(heads) > 2
    assert {head[0] for head in heads} == {"name"}
    assert [word for head in heads for word in head[1:]] == [f"column_{i}" for i in range(20)]
    assert sum("run-3" in line for line in lines) == len(heads)


def test_name_is_not_truncated_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    text = render([{"name": "a-run-with-a-name", "answer": "word " * 30}], "table")
    assert "a-run-with-a-name" in text
    assert text.count("word") == 30
    assert len(text.splitlines()) > 5


def test_wide_table_is_transposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    rows = [{"name": f"run-{i}", **{f"setting_{j}": 10 * i + j for j in range(20)}} for i in (1, 2)]
    lines = [
        line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", render(rows, "table")).splitlines()
    ]
    assert ["│", "setting_7", "│", "17", "│", "27", "│"] in lines
    assert ["┃", "name", "┃", "run-1", "┃", "run-2", "┃"] in lines
    monkeypatch.setenv("COLUMNS", "250")
    for names in (["same", "same"], ["name", "other"]):
        rows_with_names = [{**row, "name": name} for row, name in zip(rows, names, strict=True)]
        assert "17" in render(rows_with_names, "table")
        assert "27" in render(rows_with_names, "table")
    monkeypatch.setenv("COLUMNS", "400")
    assert len(render(rows, "table").splitlines()) == 6


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (406286336, "406,286,336"),
        (5e-05, "5e-05"),
        (1.48437, "1.484"),
        (47002.9, "47003"),
        (999_999.0, "999999"),
        (1e6, "1e+06"),
        (4.333525503e28, "4.334e+28"),
        (-4.333525503e28, "-4.334e+28"),
        (math.inf, "inf"),
        (True, "True"),
        (None, ""),
        (pd.NA, ""),
        (math.nan, ""),
        (("a", "b"), "a, b"),
        ({"exact": 0.5, "x": None}, "exact 0.5, x "),
    ],
)
def test_cell_is_formatted_for_display(value: object, expected: str) -> None:
    assert cell(value) == expected


@pytest.mark.parametrize("format", ["table", "md"])
def test_large_numbers_are_short_in_display_formats(format: Any) -> None:
    text = render([{"name": "a", "perplexity": 4.333525503e28}], format)
    assert "4.334e+28" in text
    assert "43335" not in text


def test_csv_keeps_large_numbers_in_full_precision() -> None:
    text = render([{"name": "a", "perplexity": 4.333525503e28}], "csv")
    assert float(text.split(",")[-1]) == 4.333525503e28


def test_records_are_python_values() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [1.5, math.nan], "c": ["x", None]})
    frame["d"] = pd.array([1, None], dtype="Int64")
    result = records(frame)
    assert result == [
        {"a": 1, "b": 1.5, "c": "x", "d": 1},
        {"a": 2, "b": None, "c": None, "d": None},
    ]
    assert [type(value) for value in result[0].values()] == [int, float, str, int]
