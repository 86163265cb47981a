"""SVG pictures: positions of lines and intervals, round ticks, and escaped text."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from core.exchange import svg


def points(values):
    x = np.arange(len(values), dtype=float)
    return pd.DataFrame({"x": x, "mean": values, "low": values, "high": values}, dtype=float)


def texts(drawing):
    return [
        element.text for element in ET.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_curves_are_drawn_in_panels_with_common_axes():
    panels = {
        "lr 1e-4": [svg.Line("4", "#3b7dd8", points([4, 2, 1])), svg.Line("16", "#d9702b", points([4, 1, 0.5]))],
        "lr <b>": [svg.Line("4", "#3b7dd8", points([4, 3, math.nan]))],
    }  # fmt: skip
    drawing = svg.curves(panels, "Step", "loss", True)
    lines = ET.fromstring(drawing).findall("{*}polyline")
    assert len(lines) == 3
    first = [tuple(map(float, pair.split(","))) for pair in lines[0].attrib["points"].split()]
    assert np.diff([y for _, y in first]) == pytest.approx(
        np.full(2, np.diff([y for _, y in first])[0]), abs=0.2
    )
    assert len(lines[2].attrib["points"].split()) == 2, "missing values are left out"
    assert texts(drawing).count("4") == 1, "a label is in the legend once"
    assert "lr <b>" in texts(drawing)


def test_intervals_have_a_row_each_and_a_line_at_zero():
    rows = [
        {"label": "better & faster", "difference": -1.0, "low": -2.0, "high": 0.5, "color": "#3a9d63"},
        {"label": "x" * 99, "difference": 1.0, "low": None, "high": None, "color": "#8a909c"},
        {"label": "diverged", "difference": None, "low": None, "high": None, "color": "#8a909c"},
    ]  # fmt: skip
    drawing = svg.intervals(rows, "Difference")
    circles = ET.fromstring(drawing).findall("{*}circle")
    assert len(circles) == 2
    assert float(circles[0].attrib["cx"]) < float(circles[1].attrib["cx"])
    assert "better & faster" in texts(drawing)
    assert len(max(texts(drawing), key=len)) <= svg.MAX_LABEL_CHARS


def test_pictures_without_values_say_so():
    assert texts(svg.curves({}, "Step", "loss", True)) == ["No curves yet."]
    assert texts(svg.intervals([], "")) == ["No differences yet."]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (-0.3, 0.2, [-0.3, -0.2, -0.1, 0, 0.1, 0.2]), (5, 5, [5])],
)
def test_ticks_are_round(low, high, expected):
    assert svg.linear_ticks(low, high) == pytest.approx(expected)


def test_long_legend_is_wrapped():
    lines = [
        svg.Line(f"Learning rate {i}e-4 and more", "#3b7dd8", points([2, 1])) for i in range(12)
    ]
    root = ET.fromstring(svg.curves({"a": lines}, "Step", "loss", True))
    marks = [rect for rect in root.findall("{*}rect") if rect.attrib["height"] == "4"]
    assert len(marks) == 12
    assert max(float(mark.attrib["x"]) for mark in marks) < svg.WIDTH_PX - 200
    title = next(text for text in root.findall("{*}text") if text.text == "a")
    assert max(float(mark.attrib["y"]) for mark in marks) < float(title.attrib["y"]) - 12
