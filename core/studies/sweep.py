"""Sweeps: settings to vary, their values, seeds, and the planned runs.

Independent of files and runs.
"""

import itertools
import math
import operator
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from core.config import IDENTITY_FIELDS, RunConfig, base_type, is_relevant
from core.errors import ConfigError, Problem, UserError

Mode = Literal["grid", "random"]
MAX_RUNS = 2000
"""Maximum number of runs in a sweep. More are usually a mistake, such as one axis too many."""
MAX_COMBINATIONS = 100_000
"""Maximum number of combinations from which a random subset is chosen."""
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
        excluded: combinations to leave out, such as invalid ones.
    """

    base: RunConfig
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    mode: Mode = "grid"
    max_runs: int | None = None
    excluded: tuple[Mapping[str, Any], ...] = ()

    def combinations(self) -> list[dict[str, Any]]:
        """Return the varied settings of each combination, without combinations that differ only in ineffective settings.

        Raises UserError if there is no combination, one is invalid, or an axis never has an effect.
        """
        valid, invalid = self._scan()
        if invalid:
            values, problems = invalid[0]
            setting = ", ".join(f"{name}={value}" for name, value in values.items())
            more = f" {len(invalid) - 1} more combinations are invalid." if invalid[1:] else ""
            raise UserError(f"invalid combination {setting}: {ConfigError(problems)}.{more}")
        if not valid:
            raise UserError("every combination is excluded; use other values")
        return valid

    def invalid_combinations(self) -> list[tuple[dict[str, Any], list[Problem]]]:
        """Return the combinations whose settings contradict each other, with their problems. Raises UserError."""
        return self._scan()[1]

    def members(self, prefix: str, first: int = 1) -> Iterator[Member]:
        """Yield the planned runs, named `prefix-NUMBER`. All combinations come before the next seed."""
        pairs = itertools.product(self.seeds, self.combinations())
        for number, (seed, values) in enumerate(pairs, first):
            yield Member(f"{prefix}-{number}", values, seed)

    def _scan(self) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], list[Problem]]]]:
        """Return the valid combinations of the sweep and the invalid ones found on the way. Raises UserError."""
        self._check_axes()
        total = math.prod(len(axis.values) for axis in self.axes)
        count, order = total, list(range(total))
        if self.mode == "random":
            count = self._subset_size()
            random.Random(self.base.seed).shuffle(order)
        excluded = {frozenset(values.items()) for values in self.excluded}
        distinct: dict[tuple[Any, ...], tuple[int, dict[str, Any]]] = {}
        invalid = []
        for index in order:
            values = self._combination(index)
            if frozenset(values.items()) in excluded:
                continue
            try:
                config = self.base.changed(**values)
            except ConfigError as error:
                invalid.append((values, error.problems))
                continue
            distinct.setdefault(effective(config), (index, values))
            if len(distinct) == count:
                break
        return [v for _, v in sorted(distinct.values(), key=operator.itemgetter(0))], invalid

    def _combination(self, index: int) -> dict[str, Any]:
        """Return a combination by its position in the grid. The last axis varies fastest."""
        chosen: list[Any] = []
        for axis in reversed(self.axes):
            index, position = divmod(index, len(axis.values))
            chosen.insert(0, axis.values[position])
        return {f: v for axis, v in zip(self.axes, chosen, strict=True) for f in axis.fields}

    def _check_axes(self) -> None:
        fields = [field for axis in self.axes for field in axis.fields]
        if repeated := next((field for field in fields if fields.count(field) > 1), None):
            raise UserError(f"axis {repeated}: a setting can only be on one axis")
        if not self.axes:
            raise UserError("a sweep needs at least one axis, such as lr=1e-4,3e-4")
        if not self.seeds:
            raise UserError("seeds = 0: must be at least 1")
        if empty := next((axis for axis in self.axes if not axis.values), None):
            raise UserError(f"axis {empty.name}: needs at least one value")
        count = math.prod(len(axis.values) for axis in self.axes)
        if count > MAX_COMBINATIONS:
            raise UserError(
                f"{count:,} combinations: there can be at most {MAX_COMBINATIONS:,}; use fewer values"
            )
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

        base = self.base.model_dump()
        for axis in self.axes:
            combinations = (base | self._combination(index) for index in range(count))
            if not any(is_relevant(f, values) for values in combinations for f in axis.fields):
                raise UserError(f"axis {axis.name}: this setting has no effect in any of the runs")

    def _subset_size(self) -> int:
        """Return the number of combinations in a random subset. Raises UserError if it is not specified."""
        if self.max_runs is None:
            raise UserError("max_runs: required for a random sweep")
        count = self.max_runs // len(self.seeds)
        if count < 1:
            raise UserError(
                f"max_runs = {self.max_runs}: must be at least the number of seeds, {len(self.seeds)}"
            )
        return count


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
    if match:
        return typed_values(field, _range(field, match))
    return typed_values(field, [value.strip() for value in text.split(",") if value.strip()])


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


def effective(config: RunConfig) -> tuple[Any, ...]:
    """Return the settings that make a run differ from others, with None for settings without effect."""
    values = config.model_dump()
    return tuple(
        str(value) if is_relevant(name, values) else None
        for name, value in values.items()
        if name not in IDENTITY_FIELDS
    )
