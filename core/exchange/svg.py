"""Simple SVG pictures for Markdown: curves in panels, and intervals.

They need no scripts. Text is escaped, and the background is white, so that pictures are legible anywhere.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from core.views.explore_charts import log_ticks
from core.views.formats import setting_text

WIDTH_PX = 760
PANEL_HEIGHT_PX, PANEL_GAP_PX = 170, 44
LEFT_PX, RIGHT_PX, BOTTOM_PX = 60, 16, 40
LEGEND_HEIGHT_PX, LEGEND_ROW_PX = 26, 18
ROW_HEIGHT_PX = 22
LABEL_WIDTH_PX = 380
MAX_LABEL_CHARS = 58
TEXT_COLOR, MUTED_COLOR, GRID_COLOR = "#1f2430", "#5c6370", "#e3e6eb"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


@dataclass(frozen=True)
class Line:
    """A mean curve with a band.

    Args:
        label: shown in the legend. Lines with the same label share a color.
        points: columns x, mean, low and high.
    """

    label: str
    color: str
    points: pd.DataFrame


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value, clipped to the range."""
        low, high, own = self.low, self.high, value
        if self.is_log:
            low, high, own = math.log10(low), math.log10(high), math.log10(max(value, low))
        share = (own - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def curves(panels: Mapping[str, Sequence[Line]], x_title: str, y_title: str, is_log: bool) -> str:
    """Draw curves in panels that share their axes.

    Args:
        panels: the lines of each panel, by title.
    """
    lines = [line for panel in panels.values() for line in panel]
    y_values = _finite(
        [value for line in lines for name in ("mean", "low", "high") for value in line.points[name]]
    )
    x_values = _finite([value for line in lines for value in line.points["x"]])
    is_log = is_log and all(value > 0 for value in y_values)
    legend, top = _legend(lines)
    height = top + len(panels) * (PANEL_HEIGHT_PX + PANEL_GAP_PX) + BOTTOM_PX
    if not y_values or not x_values:
        return _document(WIDTH_PX, 40, [_text(8, 24, "No curves yet.", MUTED_COLOR)])
    y_low, y_high = min(y_values), max(y_values)
    margin = 0.04 * (y_high - y_low)
    y_low, y_high = (y_low / 1.1, y_high * 1.1) if is_log else (y_low - margin, y_high + margin)
    y_ticks = [
        t
        for t in (log_ticks(y_low, y_high) if is_log else linear_ticks(y_low, y_high))
        if y_low <= t <= y_high
    ]
    x_scale = Scale(0.0, max(x_values), LEFT_PX, WIDTH_PX - RIGHT_PX)
    parts = legend
    for i, (title, panel) in enumerate(panels.items()):
        start = top + i * (PANEL_HEIGHT_PX + PANEL_GAP_PX) + PANEL_GAP_PX - 12
        y_scale = Scale(y_low, y_high, start + PANEL_HEIGHT_PX, start, is_log)
        parts.append(_text(8, start - 10, title, TEXT_COLOR, weight=600))
        for tick in y_ticks:
            parts.append(_rule(LEFT_PX, y_scale(tick), WIDTH_PX - RIGHT_PX, y_scale(tick)))
            parts.append(
                _text(LEFT_PX - 6, y_scale(tick) + 4, setting_text(tick), MUTED_COLOR, "end")
            )
        for line in panel:
            parts += _curve(line, x_scale, y_scale)
    bottom = top + len(panels) * (PANEL_HEIGHT_PX + PANEL_GAP_PX) - 12
    for tick in linear_ticks(0, max(x_values)):
        parts.append(_text(x_scale(tick), bottom + 16, f"{tick:,g}", MUTED_COLOR, "middle"))
    parts.append(
        _text(WIDTH_PX / 2, bottom + 36, f"{x_title} (y: {y_title})", MUTED_COLOR, "middle")
    )
    return _document(WIDTH_PX, height, parts)


def intervals(rows: Sequence[Mapping[str, Any]], unit: str) -> str:
    """Draw differences with intervals, one row each, and a line at 0.

    Args:
        rows: mappings with label, difference, low, high (None if there is no interval) and color.
        unit: title of the axis.
    """
    values = _finite([row[name] for row in rows for name in ("difference", "low", "high")])
    if not values:
        return _document(WIDTH_PX, 40, [_text(8, 24, "No differences yet.", MUTED_COLOR)])
    low, high = min([0.0, *values]), max([0.0, *values])
    margin = 0.05 * (high - low) or 1.0
    scale = Scale(low - margin, high + margin, LABEL_WIDTH_PX, WIDTH_PX - RIGHT_PX)
    bottom = 16 + ROW_HEIGHT_PX * len(rows)
    parts = []
    for tick in linear_ticks(low - margin, high + margin):
        parts.append(_rule(scale(tick), 8, scale(tick), bottom))
        parts.append(_text(scale(tick), bottom + 16, f"{tick:g}", MUTED_COLOR, "middle"))
    parts.append(_rule(scale(0), 8, scale(0), bottom, MUTED_COLOR))
    for i, row in enumerate(rows):
        y = 16 + ROW_HEIGHT_PX * (i + 0.5)
        parts.append(_text(8, y + 4, _cut(row["label"]), TEXT_COLOR))
        if row["difference"] is None:
            continue
        if row["low"] is not None and row["high"] is not None:
            parts += [
                _rule(scale(row[end]), y - 4, scale(row[end]), y + 4, row["color"])
                for end in ("low", "high")
            ]
            parts.append(f'<line x1="{scale(row["low"]):.1f}" y1="{y:.1f}" x2="{scale(row["high"]):.1f}" y2="{y:.1f}" stroke="{row["color"]}" stroke-width="2"/>')  # fmt: skip
        parts.append(f'<circle cx="{scale(row["difference"]):.1f}" cy="{y:.1f}" r="3.5" fill="{row["color"]}"/>')  # fmt: skip
    parts.append(_text((LABEL_WIDTH_PX + WIDTH_PX) / 2, bottom + 36, unit, MUTED_COLOR, "middle"))
    return _document(WIDTH_PX, bottom + 46, parts)


def linear_ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers within a range."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def _curve(line: Line, x_scale: Scale, y_scale: Scale) -> list[str]:
    points = line.points[np.isfinite(line.points["mean"].to_numpy(float))]
    if points.empty:
        return []
    x = [x_scale(value) for value in points["x"]]
    low, high, mean = (
        [y_scale(value) for value in points[name]] for name in ("low", "high", "mean")
    )
    edge = [*zip(x, high, strict=True), *zip(x[::-1], low[::-1], strict=True)]
    return [
        f'<polygon points="{_points(edge)}" fill="{line.color}" fill-opacity="0.18"/>',
        f'<polyline points="{_points([*zip(x, mean, strict=True)])}" fill="none" stroke="{line.color}" stroke-width="2"/>',
    ]


def _legend(lines: Sequence[Line]) -> tuple[list[str], float]:
    """Return the legend, wrapped to the width of the picture, and its height."""
    parts, x, row = [], 8.0, 0
    for label, color in {line.label: line.color for line in lines}.items():
        text = _cut(label)
        width = 40 + 7 * len(text)
        if x > 8 and x + width > WIDTH_PX:
            x, row = 8.0, row + 1
        y = row * LEGEND_ROW_PX
        parts.append(f'<rect x="{x:.1f}" y="{9 + y}" width="14" height="4" fill="{color}"/>')
        parts.append(_text(x + 20, 15 + y, text, TEXT_COLOR))
        x += width
    return parts, LEGEND_HEIGHT_PX + row * LEGEND_ROW_PX


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _rule(x1: float, y1: float, x2: float, y2: float, color: str = GRID_COLOR) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'


def _text(
    x: float, y: float, text: str, color: str, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{html.escape(text)}</text>"
    )


def _document(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{FONT}" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _cut(label: str) -> str:
    return label if len(label) <= MAX_LABEL_CHARS else label[: MAX_LABEL_CHARS - 1] + "\u2026"


def _finite(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(value)]
