"""Write docs/reference.md from the code: `python -m core.cli.reference` (`make reference`).

Everything derives from RunConfig, METRICS, PRESETS and the command line. A test compares the file with `reference()`.
"""

import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic.fields import FieldInfo

from core.cli.commands import app
from core.config import GROUPS, RunConfig, base_type, choices, is_optional, metadata
from core.metrics import METRICS
from core.presets import PRESETS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"
HEADER = """\
# Reference

Generated from the code by `make reference`; do not edit.

- [Settings](#settings)
- [Metrics](#metrics)
- [Presets](#presets)
- [Commands](#commands)
"""
SETTINGS = """\
The fields of `RunConfig`. Change them in the Launch form, with `--set NAME=VALUE` on the command line, or as
keyword arguments of `RunConfig` in Python. `none` leaves an optional setting empty."""
METRICS_NOTE = """\
The metrics in `core/metrics.py`. Columns hold one value per run and are shown in Results and returned by `Lab.runs()`.
Curves are recorded at each step, the relative update at every tenth step, and axes at each step and evaluation."""
COMMANDS = """\
Run a command with `python -m core COMMAND`. The exit status is 0 for success, 2 for a user error and 1 for anything
else."""
BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}
TYPE_NAMES = {int: "integer", float: "number", str: "text", tuple: "list", Path: "path"}


def reference() -> str:
    """Return the reference as Markdown."""
    sections = [HEADER, "## Settings", SETTINGS]
    for group, title in GROUPS.items():
        sections += [f"### {title}", _settings(group)]
    sections += ["## Metrics", METRICS_NOTE, _metrics()]
    rows = [(f"`{name}`", preset.title) for name, preset in PRESETS.items()]
    sections += ["## Presets", _table(("Preset", "Title"), rows), "## Commands", COMMANDS]
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    for name, command in commands.items():
        sections += [f"### {name}", *_command(name, command)]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _settings(group: str) -> str:
    fields = [
        (name, field)
        for name, field in RunConfig.model_fields.items()
        if metadata(field)["group"] == group
    ]
    rows = [(f"`{name}`", str(f.title), _default(f), _values(f), _help(f)) for name, f in fields]
    return _table(("Setting", "Title", "Default", "Values", "Description"), rows)


def _default(field: FieldInfo) -> str:
    return "`none`" if field.default is None else _value(field.default)


def _values(field: FieldInfo) -> str:
    """Describe the values that a field accepts."""
    if words := choices(field):
        return ", ".join(f"`{word}`" for word in words)
    kind = base_type(field)
    if kind is bool:
        return "`true`, `false`"
    limits = [
        template.format(_number(getattr(limit, name)))
        for limit in field.metadata
        for name, template in BOUNDS.items()
        if hasattr(limit, name)
    ]
    optional = ["`none`"] if is_optional(field) else []
    return ", ".join([" ".join([TYPE_NAMES[kind], " and ".join(limits)]).strip(), *optional])


def _help(field: FieldInfo) -> str:
    condition = metadata(field)["when"]
    if condition in (None, "never"):
        return str(field.description)
    return f"{field.description} Only with `{'method=lora' if condition == 'lora' else condition}`."


def _metrics() -> str:
    rows = []
    for metric in METRICS:
        uses = {"column": metric.result, "curve": metric.chart, "axis": metric.axis}
        shown = ", ".join(use for use, is_used in uses.items() if is_used) or "recorded only"
        rows.append((f"`{metric.name}`", metric.label, metric.description, shown))
    return _table(("Metric", "Title", "Description", "Shown as"), rows)


def _command(name: str, command: Any) -> list[str]:
    """Return a command's usage, help and options table."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    words = ["python -m core", name, *(str(p.metavar or p.name.upper()) for p in arguments)]
    usage = " ".join([*words, "[OPTIONS]"] if options else words)
    rows = [
        (_option(p), "required" if p.required else _value(p.default), _option_help(p))
        for p in options
    ]
    table = _table(("Option", "Default", "Description"), rows) if rows else ""
    return [f"```\n{usage}\n```", str(command.help), table]


def _option(option: Any) -> str:
    annotation = option.type_descriptor.annotation
    names = "/".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return f"`{names}`"
    literals = (
        typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
    )
    kind = TYPE_NAMES.get(annotation, "text").upper()
    return f"`{names} {option.metavar or '|'.join(literals) or kind}`"


def _option_help(option: Any) -> str:
    variable = f"Environment variable: `{option.envvar}`." if option.envvar else ""
    return f"{option.help or ''} {variable}"


def _value(value: Any) -> str:
    """Format a default value. An empty default becomes an empty cell."""
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{_number(value)}`" if isinstance(value, float) else f"`{value}`"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    escaped = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
