"""The report on a study: a self-contained HTML file, or Markdown with SVG pictures in a ZIP archive.

The HTML file works offline, like a run capsule: plotly.js is packed, and a Content-Security-Policy allows no requests and
no scripts other than the two in the file. All text is escaped. Does not know where the record comes from.
"""

import io
import re
import zipfile
from dataclasses import asdict, replace
from typing import Any, Literal

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from core.exchange import packing, svg
from core.exchange.redaction import without_home, without_keys
from core.exchange.study_content import MetricPart, StudyContent, content
from core.exchange.study_record import StudyRecord
from core.views import charts, report_charts
from core.views.tables import MARKDOWN_SYNTAX, markdown

ReportFormat = Literal["html", "md"]
LINE_START = re.compile(r"^(\s*)([#>+=~-]|\d+[.)])")
"""Markdown syntax at the start of a line."""
EARLIEST_DATE = (1980, 1, 1, 0, 0, 0)
"""Date of all files in the archive. It is fixed, so that the same study always produces the same file."""
EFFECT_HEADINGS = {
    "change": "Change", "context": "Context", "difference": "Difference", "interval": "95% interval",
    "seeds": "Seeds", "diverged": "Diverged", "verdict": "Verdict", "note": "Note",
}  # fmt: skip


def render(record: StudyRecord, format: ReportFormat) -> bytes:
    """Return the report: an HTML file, or a ZIP archive with report.md and its pictures."""
    parts = _shareable(content(record))
    return _html(parts) if format == "html" else _archive(parts)


def _html(parts: StudyContent) -> bytes:
    """Return the report as an HTML file."""
    plotly = get_plotlyjs()
    script = packing.script("study_report.js")
    style = "".join(
        (packing.FOLDER / name).read_text(encoding="utf-8")
        for name in ("capsule.css", "study_report.css")
    )
    figures = _figures(parts)
    page = asdict(replace(parts, curves={})) | {
        "has_curves": bool(parts.curves),
        "headings": EFFECT_HEADINGS,
    }
    for part in page["parts"]:
        part["groups"], part["effects"] = map(_without_empty, (part["groups"], part["effects"]))
    page["pictured"] = [f"effects-{i}" in figures for i in range(len(parts.parts))]
    scripts = {
        "style": Markup(style),
        "script": Markup(script),
        "script_hashes": " ".join(map(packing.csp_hash, (script, plotly))),
        "plotly": packing.packed_plotly(),
        "figures": packing.packed(
            {"figures": figures, "templates": charts.TEMPLATES, "font": packing.FONT}
        ),
    }
    template = packing.environment().get_template("study_report.html.jinja")
    return template.render(**page, **scripts).encode("utf-8", errors="replace")


def _archive(parts: StudyContent) -> bytes:
    """Return the report as a ZIP archive with report.md and its pictures in pictures/."""
    pictures = _pictures(parts)
    files = {"report.md": _markdown(parts, pictures), **pictures}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name, EARLIEST_DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, text.encode("utf-8", errors="replace"))
    return buffer.getvalue()


def _shareable(parts: StudyContent) -> StudyContent:
    """Return the content without API keys or the path of the home folder."""

    def clean(value: Any) -> Any:
        return without_home(without_keys(value))

    texts = {
        name: clean(value) for name, value in vars(parts).items() if name not in ("parts", "curves")
    }
    curves = {
        clean(title): [replace(line, label=clean(line.label)) for line in lines]
        for title, lines in parts.curves.items()
    }
    metrics = [MetricPart(**clean(vars(part))) for part in parts.parts]
    return StudyContent(**texts, parts=metrics, curves=curves)


def _figures(parts: StudyContent) -> dict[str, charts.Figure]:
    """Return the Plotly figures by the ID of the element that shows them."""
    figures = {}
    if parts.curves:
        figures["curves"] = report_charts.curve_panels(
            {
                title: [(line.label, line.color, line.points) for line in lines]
                for title, lines in parts.curves.items()
            }
        )
    for i, part in enumerate(parts.parts):
        if part.pictured:
            figures[f"effects-{i}"] = report_charts.effect_intervals(part.pictured, part.unit)
    return figures


def _pictures(parts: StudyContent) -> dict[str, str]:
    """Return the SVG pictures by path in the archive."""
    pictures = {}
    if parts.curves:
        pictures["pictures/curves.svg"] = svg.curves(parts.curves, "Step", "validation loss", True)
    for i, part in enumerate(parts.parts):
        if part.pictured:
            pictures[f"pictures/effects-{i + 1}.svg"] = svg.intervals(part.pictured, part.unit)
    return pictures


def _markdown(parts: StudyContent, pictures: dict[str, str]) -> str:
    """Return the report as Markdown. User text is escaped, so that it appears as typed."""
    blocks = [f"# {_escaped(parts.name)}", " · ".join(parts.facts)]
    if parts.question:
        blocks.append(f"**Question:** {_escaped(parts.question)}")
    blocks += ["## Summary", "\n".join(f"- {_escaped(line)}" for line in parts.summary)]
    varied = [
        {"Setting": row["setting"], "Name": row["name"], "Values": row["values"]}
        for row in parts.varied
    ]
    blocks += ["## What was varied", markdown(varied)]
    for i, part in enumerate(parts.parts):
        blocks.append(f"## {_escaped(part.title)}")
        blocks += [part.note] if part.note else []
        blocks += ["### Combinations", markdown(_without_empty(part.groups)) or "None."]
        blocks += ["### Effects"]
        if f"pictures/effects-{i + 1}.svg" in pictures:
            blocks.append(
                f"![Differences with 95% intervals](pictures/effects-{i + 1}.svg)\n\n"
                "Green: better. Red: worse. Blue: equivalent. Gray: undecided. The context is in parentheses."
            )
        rows = [{title: row[key] for key, title in EFFECT_HEADINGS.items()} for row in part.effects]
        blocks.append(
            markdown(_without_empty(rows)) or "No two combinations differ by exactly one change."
        )
        if part.effects_left_out:
            blocks.append(f"{part.effects_left_out:,} more effects are not listed.")
    if parts.curves:
        blocks += [
            "## Curves",
            "![Validation loss by step](pictures/curves.svg)",
            parts.curves_note,
        ]
    blocks += ["## Seeds", "\n".join(f"- {_escaped(line)}" for line in parts.seeds)]
    changed = [row for row in parts.settings if row["is_changed"]]
    settings = [
        {"Setting": r["title"], "Name": r["name"], "Value": r["value"], "Default": r["default"]}
        for r in changed
    ]
    blocks += [
        "## Settings",
        "Settings shared by all runs that differ from the defaults.",
        markdown(settings) or "None.",
    ]
    blocks += ["## Runs", markdown(_without_empty(parts.runs)) or "None."]
    if parts.notes.strip():
        blocks += ["## Notes", _escaped_lines(parts.notes)]
    blocks += ["## Statistics", "\n".join(f"- {line}" for line in parts.statistics)]
    blocks += ["## Repeat", _fenced(parts.command)]
    return "\n\n".join(blocks) + "\n"


def _without_empty(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return rows without the columns that are empty in all of them."""
    shown = [name for name in (rows[0] if rows else {}) if any(row[name] for row in rows)]
    return [{name: row[name] for name in shown} for row in rows]


def _escaped(text: str) -> str:
    """Escape Markdown and HTML in one line of text."""
    joined = MARKDOWN_SYNTAX.sub(r"\\\g<0>", " ".join(text.split()))
    return LINE_START.sub(r"\1\\\2", joined)


def _escaped_lines(text: str) -> str:
    """Escape Markdown and HTML, and keep line breaks."""
    return "\n".join(f"{_escaped(line)}  " if line.strip() else "" for line in text.splitlines())


def _fenced(text: str) -> str:
    """Return a code block whose fence does not occur in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"
