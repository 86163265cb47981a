"""Sweeps: settings to vary, their values, seeds, and the planned runs.

Independent of files and runs.
"""

import functools
import itertools
import math
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from core.config import IDENTITY_FIELDS, RunConfig, base_type, is_relevant
from core.errors import ConfigError, UserError

Mode = Literal["grid", "random", "search"]
Axes = Sequence[tuple[str, ...]]
"""Varied settings. Those that vary together are in one tuple."""
MIN_SEEDS = 2
"""Number of seeds that a verdict needs. With one, even a verdict across test items holds for that seed only."""
SEARCH_METRICS = ("val_loss", "best_val_loss", "subset_loss", "exact")
"""Metrics that a search can improve."""
STARTUP_COMBINATIONS = 5
"""Number of random combinations at the start of a search."""
MAX_RUNS = 2000
"""Maximum number of runs in a sweep. More are usually a mistake, such as one axis too many."""
MAX_COMBINATIONS = 5000
"""Maximum number of combinations from which a random sweep or a search chooses, and of values of a setting."""
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
        mode: `grid` for all combinations, `random` for a random subset, `search` for combinations that are likely to
            improve on the previous ones.
        max_runs: number of runs in a random subset or a search, rounded down to whole combinations.
        metric: what a search improves; one of SEARCH_METRICS.
        prune: whether to stop runs early if they are worse than others; see `core.studies.pruning`.
        excluded: combinations to leave out, such as invalid ones. Each has one value per axis.
    """

    base: RunConfig
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    mode: Mode = "grid"
    max_runs: int | None = None
    metric: str = "val_loss"
    prune: bool = False
    excluded: tuple[tuple[Any, ...], ...] = ()

    @property
    def fields(self) -> list[tuple[str, ...]]:
        """The varied settings."""
        return [axis.fields for axis in self.axes]

    @property
    def max_combinations(self) -> int:
        """Maximum number of combinations in a random sweep or a search."""
        return (self.max_runs or 0) // len(self.seeds)

    def combinations(self) -> list[dict[str, Any]]:
        """Return the varied settings of each combination. For a search, only the first, random combinations.

        Raises UserError if there is no combination, one is invalid, or an axis never has an effect.
        """
        return self._subset(self.search_space())

    def search_space(self) -> list[dict[str, Any]]:
        """Return all combinations. Of those that differ only in ineffective settings, one is kept. Raises UserError."""
        self._check_axes()
        combinations = _distinct_combinations(self.base, self.axes, self.excluded)
        return [dict(values) for values in combinations]

    def effective(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return a key that is the same for combinations that differ only in ineffective settings."""
        return _effective(self.base.changed(**values))

    def members(self, prefix: str, first: int = 1) -> Iterator[Member]:
        """Yield the planned runs, named `prefix-NUMBER`. All combinations are listed with one seed before the next."""
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
        named = {"seeds": self.seeds, **{f"axis {axis.name}": axis.values for axis in self.axes}}
        if empty := next((name for name, values in named.items() if not values), None):
            raise UserError(f"{empty}: needs at least one value")
        self._check_size(math.prod(len(axis.values) for axis in self.axes))
        for name, values in named.items():
            seen: set[Any] = set()
            for value in values:
                if value in seen:
                    raise UserError(f"{name}: {_text(value)} is listed twice")
                seen.add(value)

    def _check_size(self, count: int) -> None:
        """Raise UserError if there are too many combinations, or if the options of the mode are invalid."""
        if self.mode != "grid":
            if self.max_runs is None:
                raise UserError(f"max_runs: required for a {self.mode} sweep")
            if self.max_combinations < 1:
                raise UserError(
                    f"max_runs = {self.max_runs}: must be at least the number of seeds, {len(self.seeds)}"
                )
            if count > MAX_COMBINATIONS:
                raise UserError(
                    f"{count:,} combinations: a {self.mode} sweep can choose from at most {MAX_COMBINATIONS:,}; use fewer values"
                )
        if self.metric not in SEARCH_METRICS:
            raise UserError(f"metric = {self.metric!r}: must be one of {', '.join(SEARCH_METRICS)}")
        total = len(self.seeds) * (
            count if self.mode == "grid" else min(count, self.max_combinations)
        )
        if total > MAX_RUNS:
            raise UserError(
                f"{total:,} runs: a sweep can have at most {MAX_RUNS:,}; use fewer values or mode = random"
            )

    def _subset(self, combinations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.mode == "grid":
            return combinations
        count = self.max_combinations
        if self.mode == "search":
            count = min(count, STARTUP_COMBINATIONS)
        chosen = random.Random(self.base.seed).sample(
            range(len(combinations)), min(count, len(combinations))
        )
        return [combinations[i] for i in sorted(chosen)]


def products(
    axes: Sequence[Axis], excluded: Collection[tuple[Any, ...]] = ()
) -> Iterator[dict[str, Any]]:
    """Yield all combinations of values as settings, valid or not, without the excluded ones."""
    left_out = {*excluded}
    for values in itertools.product(*(axis.values for axis in axes)):
        if values not in left_out:
            pairs = zip(axes, values, strict=True)
            yield {field: value for axis, value in pairs for field in axis.fields}


@functools.lru_cache(maxsize=8)  # a search needs the same combinations repeatedly
def _distinct_combinations(
    base: RunConfig, axes: tuple[Axis, ...], excluded: tuple[tuple[Any, ...], ...]
) -> list[dict[str, Any]]:
    combinations = [*products(axes, excluded)]
    if not combinations:
        raise UserError("every combination is excluded; use other values")
    configs = _parse(base, combinations)
    for axis in axes:
        if not any(is_relevant(f, config.model_dump()) for f in axis.fields for config in configs):
            raise UserError(f"axis {axis.name}: this setting has no effect in any of the runs")
    distinct: dict[tuple[Any, ...], dict[str, Any]] = {}
    for config, values in zip(configs, combinations, strict=True):
        distinct.setdefault(_effective(config), values)
    return [*distinct.values()]


def _parse(base: RunConfig, combinations: Sequence[Mapping[str, Any]]) -> list[RunConfig]:
    configs, problems = [], []
    for values in combinations:
        try:
            configs.append(base.changed(**values))
        except ConfigError as error:
            setting = ", ".join(f"{name}={value}" for name, value in values.items())
            problems.append(f"{setting}: {error}")
    if problems:
        others = len(problems) - 1
        more = f" {others} more {'combination is' if others == 1 else 'combinations are'} invalid."
        raise UserError(f"invalid combination {problems[0]}.{more if others else ''}")
    return configs


def parse_axis(text: str) -> Axis:
    """Parse an axis such as `lr=1e-4,3e-4`, `lora_rank=lora_alpha=4,16` or `lr=log 1e-5..1e-2 x 7`.

    Raises UserError if a setting is unknown or cannot be varied, or a value is invalid.
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
    if len(texts) > MAX_COMBINATIONS:
        raise UserError(
            f"axis {field}: {len(texts):,} values: can have at most {MAX_COMBINATIONS:,}"
        )
    return typed_values(field, texts)


def typed_values(field: str, texts: Sequence[Any]) -> list[Any]:
    """Convert typed text to values of a setting. Raises UserError if one is invalid."""
    values = []
    for value in texts:
        try:
            parsed = RunConfig.parse({field: value})
        except ConfigError as error:
            own = [p for p in error.problems if p.field == field and not p.conflicting_field]
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
            f"axis {field}: {match[0]!r} must go from a smaller to a larger value and have at least 2 values"
        )
    if n > MAX_COMBINATIONS:
        raise UserError(f"axis {field}: {match[0]!r} can have at most {MAX_COMBINATIONS:,} values")
    points = np.geomspace(low, high, n) if is_log else np.linspace(low, high, n)
    if base_type(RunConfig.model_fields[field]) is int:
        return [*dict.fromkeys(round(float(point)) for point in points)]
    return [float(f"{point:.{RANGE_DIGITS}g}") for point in points]


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def _effective(config: RunConfig) -> tuple[Any, ...]:
    values = config.model_dump()
    return tuple(
        str(value) if is_relevant(name, values) else None for name, value in values.items()
    )
