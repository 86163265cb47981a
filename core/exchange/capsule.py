"""The run capsule: one run as a self-contained HTML file with interactive charts, answers, scores, settings and log.

The file works without a network and without this program. It contains plotly.js in compressed form. Its
Content-Security-Policy allows no requests and no scripts other than the two in the file. Text in HTML is escaped by
Jinja2's autoescape. Data for scripts is stored in Base64 and displayed only as text.

Does not know where the record comes from.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from core.config import GROUPS, IDENTITY_FIELDS, RunConfig, is_relevant, metadata
from core.exchange import packing
from core.exchange.redaction import without_home, without_keys
from core.exchange.run_record import RunRecord
from core.metrics import CURVES
from core.views import charts, formats
from core.views.tables import records

MAX_BYTES = 5_000_000
"""Maximum size of a capsule. Answers that do not fit are left out, and the capsule says so."""
MAX_TEXT_CHARS = 20_000
"""Longer prompts and answers are truncated."""
MAX_SAMPLES = 100
MAX_WARNINGS = 200
CHARTED = ("loss", "lr", "grad_norm", "relative_update", "tokens_per_s", "memory_mb")
"""Curves below the loss chart, in this order."""


def render(record: RunRecord) -> bytes:
    """Return a run as an HTML file of at most MAX_BYTES."""
    plotly = get_plotlyjs()
    script = packing.script("capsule.js")
    judges = {row["id"]: _judge_title(row) for row in record.scores}
    figure = _figure(record)
    page = {
        "name": record.row["name"],
        "color": record.row["color"],
        "status": record.row["status"],
        "parent": record.config.parent,
        "notes": record.config.notes,
        "facts": _facts(record),
        "tiles": _tiles(record),
        "settings": _settings(record),
        "has_parent": record.parent is not None,
        "scores": _scores(record),
        "samples": _samples(record),
        "samples_left_out": max(0, len(record.samples) - MAX_SAMPLES),
        "warnings": records(record.warnings.head(MAX_WARNINGS)),
        "warnings_left_out": max(0, len(record.warnings) - MAX_WARNINGS),
        "tags": [tag for tag in record.config.tags if tag],
        "log": record.log,
        "reason": record.row["reason"] or "",
        "has_charts": bool(figure["data"]),
        "answer_count": len(record.answers),
    }
    page = without_home(without_keys(page))
    scripts = {
        "style": Markup((packing.FOLDER / "capsule.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hashes": " ".join(map(packing.csp_hash, (script, plotly))),
        "plotly": packing.packed_plotly(),
        "figures": packing.packed(
            {"figure": figure, "templates": charts.TEMPLATES, "font": packing.FONT}
        ),
    }
    template = packing.environment().get_template("capsule.html.jinja")

    def build(answers: Markup, shown: int) -> bytes:
        content = template.render(**page, **scripts, answers=answers, answers_shown=shown)
        return content.encode("utf-8", errors="replace")

    rows: list[dict[str, Any]] = without_home(without_keys(_answers(record, judges)))
    budget = MAX_BYTES - len(build(Markup(), len(rows)))
    return build(*_fitting(rows, [*judges.values()], budget))


def _fitting(rows: list[dict[str, Any]], judges: list[str], budget: int) -> tuple[Markup, int]:
    """Pack as many answers as fit into `budget` bytes. Return them and their number."""
    shown = len(rows)
    while True:
        packed = packing.packed({"rows": rows[:shown], "judges": judges})
        if len(packed) <= budget or shown == 0:
            return packed, shown
        shown = min(shown - 1, int(shown * budget / len(packed) * 0.97))


def _facts(record: RunRecord) -> list[str]:
    """Return the facts shown below a run's name."""
    row, config = record.row, record.config
    method = f"LoRA, rank {config.lora_rank}" if config.method == "lora" else "full fine-tuning"
    facts = [config.base_model, method, config.dataset]
    if row["created"]:
        created = datetime.datetime.fromtimestamp(row["created"], datetime.UTC)
        facts.append(f"{created:%B} {created.day}, {created:%Y, %H:%M} UTC")
    return [*facts, *([row["device_name"]] if row["device_name"] else [])]


def _tiles(record: RunRecord) -> list[dict[str, str]]:
    """Return a run's key results, each with a title, a value and a note. Values that were not measured are omitted."""
    row = record.row
    tiles = []
    if row["best_val_loss"] is not None:
        note = f"at step {row['best_step']:,}" if row["best_step"] is not None else ""
        tiles.append(("Best validation loss", formats.loss(row["best_val_loss"]), note))
    if row["val_loss"] is not None:
        note = f"{row['val_set']}, perplexity {row['perplexity']:.3f}" if row["perplexity"] else ""
        tiles.append(("Final validation loss", formats.loss(row["val_loss"]), note))
    both = record.evaluations.query("x > 0").dropna(subset=["subset_loss", "train_loss"])
    if len(both):
        gap, step = both["subset_loss"].iloc[-1] - both["train_loss"].iloc[-1], both["x"].iloc[-1]
        tiles.append(("Validation \u2212 training loss", f"{gap:+.4f}", f"at step {step:,}"))
    if row["exact"] is not None:
        note = f"of {len(record.answers):,} test answers" if len(record.answers) else ""
        tiles.append(("Exact answers", formats.percent(row["exact"]), note))
    for score in record.scores:
        if not score["is_base"] and score["mean"] is not None:
            tiles.append((_judge_title(score), formats.score(score["mean"]), _interval(score)))
    if row["seconds"] is not None:
        note = f"{row['step']:,} of {row['steps']:,} steps" if row["steps"] else ""
        tiles.append(("Training time", formats.duration(row["seconds"]), note))
    if row["peak_memory_mb"] is not None:
        trainable = (
            f"{formats.count(row['trainable'])} of {formats.count(row['parameters'])} trained"
            if row["parameters"] and row["trainable"]
            else ""
        )
        tiles.append(("Peak memory", formats.memory(row["peak_memory_mb"]), trainable))
    return [{"title": title, "value": value, "note": note} for title, value, note in tiles]


def _judge_title(score: Mapping[str, Any]) -> str:
    return f"{score['model']} ({score['judge']})"


def _interval(score: Mapping[str, Any]) -> str:
    low, high = score["low"], score["high"]
    if low is None or high is None or low != low:
        return ""
    return f"95% interval {low:.1f} to {high:.1f}"


def _scores(record: RunRecord) -> list[dict[str, Any]]:
    """Return the rows of the score table, with the positions of the mean and the interval in percent."""
    rows = []
    for score in record.scores:
        mean = score["mean"]
        has_interval = mean is not None and bool(_interval(score))
        rows.append({
            "judge": _judge_title(score), "run": score["run"], "is_base": score["is_base"],
            "mean": formats.score(mean), "interval": _interval(score).removeprefix("95% interval "),
            "scored": score["scored"], "missing": score["missing"], "difference": score["difference"],
            "at": None if mean is None else round(mean, 2),
            "low": round(score["low"], 2) if has_interval else None,
            "width": round(score["high"] - score["low"], 2) if has_interval else None,
        })  # fmt: skip
    return rows


def _settings(record: RunRecord) -> list[dict[str, Any]]:
    """Return one row per setting with its value, its default, the parent's value, and flags for differences."""
    config, parent = record.config, record.parent
    rows = []
    for name, field in RunConfig.model_fields.items():
        if name in IDENTITY_FIELDS:
            continue
        own = _setting(name, config)
        parents = _setting(name, parent) if parent else ""
        is_set = is_relevant(name, config.model_dump())
        rows.append({
            "group": GROUPS[metadata(field)["group"]], "name": name, "title": str(field.title),
            "description": str(field.description), "value": own,
            "default": formats.setting_text(field.default), "parent": parents,
            "differs_from_default": is_set and getattr(config, name) != field.default,
            "differs_from_parent": parent is not None and own != parents,
        })  # fmt: skip
    return rows


def _setting(name: str, config: RunConfig) -> str:
    """Format a setting. A setting that has no effect is shown as a dash."""
    values = config.model_dump()
    if not is_relevant(name, values):
        return formats.DASH
    return formats.value_text(name, values[name])


def _samples(record: RunRecord) -> list[dict[str, Any]]:
    """Return at most MAX_SAMPLES samples, ordered by step and evenly spaced."""
    rows = records(record.samples.sort_values("step", kind="stable"))
    if len(rows) > MAX_SAMPLES:
        rows = [rows[round(i)] for i in np.linspace(0, len(rows) - 1, MAX_SAMPLES)]
    return [{**row, "prompt": _cut(row["prompt"]), "text": _cut(row["text"])} for row in rows]


def _answers(record: RunRecord, judges: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return one row per test example. `scores` has a score or None for each judge."""
    return [
        {
            **{
                key: _cut(row[key])
                for key in ("instruction", "input", "reference", "answer", "pretrained")
            },
            "item": row["item"],
            "exact": row["exact"],
            "cut": bool(row["cut"]),
            "scores": [row.get(id) for id in judges],
        }
        for row in records(record.answers)
    ]


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= MAX_TEXT_CHARS:
        return text
    return f"{text[:MAX_TEXT_CHARS]} … ({len(text) - MAX_TEXT_CHARS:,} more characters)"


def _figure(record: RunRecord) -> charts.Figure:
    """Return all charts of a run as one figure with a shared x-axis. Without data, it has no traces."""
    name = str(record.row["name"])
    colors = {name: str(record.row["color"])}
    panels: dict[str, charts.Figure] = {}
    if len(record.evaluations):
        panels["eval"] = _named(
            charts.loss_curves(record.evaluations, colors, "step", log=False),
            ["Validation loss", "Training loss"],
        )
    for metric in CHARTED:
        curve = record.curves[metric]
        if not curve["y"].notna().any():
            continue
        smooth = record.smooth_loss if metric == "loss" else None
        label = CURVES[metric].label
        titles = [label] if smooth is None else [label, f"{label}, smoothed"]
        figure = charts.step_curves(curve, smooth, colors, metric, "step", log=False)
        panels[metric] = _named(figure, titles)
    if not panels:
        return {"data": [], "layout": {}}
    for metric, panel in panels.items():
        for trace in panel["data"]:
            trace["yhoverformat"] = charts.HOVER_FORMATS.get(metric, charts.DEFAULT_HOVER_FORMAT)
    figure = charts.stack([*panels.values()])
    figure["layout"] |= {"shapes": _marks(record, [*panels]), "showlegend": False}
    figure["layout"]["font"] = {"family": packing.FONT}
    return figure


def _named(figure: charts.Figure, titles: Sequence[str]) -> charts.Figure:
    """Name the traces by metric. Figures of several runs name them by run."""
    for trace, title in zip(figure["data"], titles, strict=True):
        trace["name"] = title
        trace.pop("hovertemplate", None)  # may name the run
    return figure


def _marks(record: RunRecord, panels: Sequence[str]) -> list[dict[str, Any]]:
    """Return lines at the best step and at the clipping threshold."""
    marks = []
    line = {"color": "#8a93a3", "width": 1, "dash": "dash"}
    best, clip = record.row["best_step"], record.config.grad_clip
    if "eval" in panels and best is not None:
        axis = _y_axis(panels, "eval")
        at_best = {"x0": best, "x1": best, "xref": "x", "y0": 0, "y1": 1, "yref": f"{axis} domain"}
        label = {"text": f"best, step {best:,}", "textposition": "end", "textangle": 0}
        label |= {"xanchor": "right" if best > record.row["step"] / 2 else "left"}
        marks.append({"type": "line", **at_best, "line": line, "label": label})
    if "grad_norm" in panels and clip is not None:
        axis = _y_axis(panels, "grad_norm")
        at_clip = {"x0": 0, "x1": 1, "xref": "x domain", "y0": clip, "y1": clip, "yref": axis}
        label = {"text": f"clipped above {formats.setting_text(clip)}", "textposition": "end"}
        label |= {"xanchor": "right", "yanchor": "bottom"}
        marks.append({"type": "line", **at_clip, "line": line, "label": label})
    return marks


def _y_axis(panels: Sequence[str], panel: str) -> str:
    index = panels.index(panel)
    return "y" if index == 0 else f"y{index + 1}"
