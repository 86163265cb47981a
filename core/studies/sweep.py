"""Sweeps: settings to vary, their values, seeds, and the planned runs.

Independent of files and runs.
"""

import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from core.config import IDENTITY_FIELDS, RunConfig, base_type, is_relevant
from core.errors import ConfigError, UserError

Mode = Literal["grid", "random"]
MAX_RUNS = 2000
"""Maximum number of runs in a sweep. More are usually a mistake, such as one axis too many."""
RANGE = re.compile(r"(log\s+)?(\S+?)\s*\.\.\s*(\S+?)\s*x\s*(\d+)")
"""A range of values, such as `log 1e-5..1e-2 x 7`."""
RANGE_DIGITS = 3
"""Significant digits of the values in a range."""


@dataclass(frozen=True)
class Axis:
    """One or more settings that vary together, and their values. Each value applies to all of the settings.

    Args:
        fields: one setting, or several that always share a value, such as `lora_rank` and `lora_alpha`.
        values: at least one, all different.
    """

    fields: tuple[str, ...]
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The settings, such as `lora_rank=lora_alpha`."""
        return "=".join(self.fields)


@dataclass(frozen=True)
class Member:
    """A planned run.

    Args:
        name: name of the run.
        values: the varied settings.
        seed: its random seed.
    """

    name: str
    values: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Sweep:
    """What a study varies.

    Args:
        base: settings of all runs, except for the varied ones and the seed.
        axes: settings to vary. Every combination of their values is a run, for each seed.
        seeds: random seeds. The same seeds are used for every combination, so that differences can be paired.
        mode: `grid` for all combinations, `random` for a random subset of `max_runs` runs.
        max_runs: number of runs in a random subset, rounded down to whole combinations.
        excluded: combinations to leave out, such as invalid ones, each with one value per axis.
    """

    base: RunConfig
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    mode: Mode = "grid"
    max_runs: int | None = None
    excluded: tuple[tuple[Any, ...], ...] = ()

    def combinations(self) -> list[dict[str, Any]]:
        """Return the varied settings of each combination, without combinations that differ only in ineffective settings.

        Raises UserError if there is no combination, one is invalid, or an axis never has an effect.
        """
        self._check_axes()
        excluded = {*self.excluded}
        combinations = [
            {
                field: value
                for axis, value in zip(self.axes, values, strict=True)
                for field in axis.fields
            }
            for values in itertools.product(*(axis.values for axis in self.axes))
            if values not in excluded
        ]
        if not combinations:
            raise UserError("every combination is excluded; use other values")
        configs = self._parse(combinations)
        for axis in self.axes:
            if not any(
                is_relevant(f, config.model_dump()) for f in axis.fields for config in configs
            ):
                raise UserError(f"axis {axis.name}: this setting has no effect in any of the runs")
        distinct: dict[tuple[Any, ...], dict[str, Any]] = {}
        for config, values in zip(configs, combinations, strict=True):
            distinct.setdefault(_effective(config), values)
        return self._subset([*distinct.values()])

    def members(self, prefix: str, first: int = 1) -> Iterator[Member]:
        """Yield the planned runs, named `prefix-NUMBER`. All combinations come before the next seed."""
        pairs = itertools.product(self.seeds, self.combinations())
        for number, (seed, values) in enumerate(pairs, first):
            yield Member(f"{prefix}-{number}", values, seed)

    def _check_axes(self) -> None:
        fields = [field for axis in self.axes for field in axis.fields]
        if repeated := next((field for field in fields if fields.count(field) > 1), None):
            raise UserError(f"axis {repeated}: a setting can only be on one axis")
        if not self.axes:
            raise UserError("a sweep needs at least one axis, such as lr=1e-4,3e-4")
        if not self.seeds:
            raise UserError("seeds = 0: must be at least 1")
        count = math.prod(len(axis.values) for axis in self.axes)
        limit = (self.max_runs or MAX_RUNS) if self.mode == "random" else MAX_RUNS
        total = (
            min(count, limit) * len(self.seeds)
            if self.mode == "random"
            else count * len(self.seeds)
        )
        if total > MAX_RUNS:
            raise UserError(
                f"{total:,} runs: a sweep can have at most {MAX_RUNS:,}; use fewer values or mode = random"
            )
        for axis in self.axes:
            if duplicate := next(
                (v for i, v in enumerate(axis.values) if v in axis.values[:i]), None
            ):
                raise UserError(f"axis {axis.name}: {duplicate} is listed twice")

    def _parse(self, combinations: Sequence[Mapping[str, Any]]) -> list[RunConfig]:
        configs, problems = [], []
        for values in combinations:
            try:
                configs.append(self.base.changed(**values))
            except ConfigError as error:
                setting = ", ".join(f"{name}={value}" for name, value in values.items())
                problems.append(f"{setting}: {error}")
        if problems:
            more = f" {len(problems) - 1} more combinations are invalid." if problems[1:] else ""
            raise UserError(f"invalid combination {problems[0]}.{more}")
        return configs

    def _subset(self, combinations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.mode == "grid":
            return combinations
        if self.max_runs is None:
            raise UserError("max_runs: required for a random sweep")
        count = self.max_runs // len(self.seeds)
        if count < 1:
            raise UserError(
                f"max_runs = {self.max_runs}: must be at least the number of seeds, {len(self.seeds)}"
            )
        chosen = random.Random(self.base.seed).sample(
            range(len(combinations)), min(count, len(combinations))
        )
        return [combinations[i] for i in sorted(chosen)]


def parse_axis(text: str) -> Axis:
    """Parse an axis such as `lr=1e-4,3e-4`, `lora_rank=lora_alpha=4,16` or `lr=log 1e-5..1e-2 x 7`.

    Raises UserError if a setting is unknown, cannot be varied, or a value is invalid.
    """
    parts = text.split("=")
    fields = tuple(part.strip() for part in parts[:-1])
    if not fields or not parts[-1].strip():
        raise UserError(f"axis {text!r}: must be field=value,value,...")
    for field in fields:
        if field not in RunConfig.model_fields:
            raise UserError(
                f"axis {text!r}: unknown setting {field!r}; run `python -m core settings` to list them"
            )
        if not can_vary(field):
            hint = "; use --seeds" if field == "seed" else ""
            raise UserError(f"axis {text!r}: {field} cannot be varied{hint}")
    return Axis(fields, tuple(parse_values(fields[0], parts[-1])))


def can_vary(field: str) -> bool:
    """Whether a setting can be on an axis. Seeds are varied by `Sweep.seeds`."""
    return field in RunConfig.model_fields and field not in (*IDENTITY_FIELDS, "seed")


def parse_values(field: str, text: str) -> list[Any]:
    """Parse comma-separated values or a range. Raises UserError if one is invalid."""
    match = RANGE.fullmatch(text.strip())
    texts = (
        _range(field, match)
        if match
        else [value.strip() for value in text.split(",") if value.strip()]
    )
    return typed_values(field, texts)


def typed_values(field: str, texts: Sequence[Any]) -> list[Any]:
    """Convert typed texts to values of a setting. Raises UserError if one is invalid."""
    values = []
    for value in texts:
        try:
            parsed = RunConfig.parse({field: value})
        except ConfigError as error:
            own = [problem for problem in error.problems if problem.field == field]
            if own:
                raise UserError(f"axis {field}: {own[0]}") from None
            values.append(_typed(field, value))
            continue
        values.append(getattr(parsed, field))
    return values


def _typed(field: str, value: Any) -> Any:
    """Convert a value that is valid only together with other settings."""
    kind = base_type(RunConfig.model_fields[field])
    return kind(value) if kind in (int, float) else value


def _range(field: str, match: re.Match[str]) -> list[Any]:
    is_log, low_text, high_text, count = match.groups()
    try:
        low, high, n = float(low_text), float(high_text), int(count)
    except ValueError:
        raise UserError(
            f"axis {field}: {match[0]!r} is not a range such as log 1e-5..1e-2 x 7"
        ) from None
    if n < 2 or not low < high or (is_log and low <= 0):
        raise UserError(
            f"axis {field}: {match[0]!r} must go from a smaller to a larger value in at least 2 steps"
        )
    points = np.geomspace(low, high, n) if is_log else np.linspace(low, high, n)
    if base_type(RunConfig.model_fields[field]) is int:
        return [round(float(point)) for point in points]
    return [float(f"{point:.{RANGE_DIGITS}g}") for point in points]


def _effective(config: RunConfig) -> tuple[Any, ...]:
    values = config.model_dump()
    return tuple(
        str(value) if is_relevant(name, values) else None for name, value in values.items()
    )
