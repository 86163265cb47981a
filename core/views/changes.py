"""Settings that differ between runs and the runs or presets they started from."""

import functools
import operator
from typing import Any

import pandas as pd

from core.config import IDENTITY_FIELDS, RunConfig, is_relevant
from core.presets import PRESETS
from core.views import journal
from core.views.formats import lowered, value_text

SETTINGS = tuple(name for name in RunConfig.model_fields if name not in IDENTITY_FIELDS)
SAME = "same settings"
Values = tuple[Any, ...]
"""The values of SETTINGS in order. Settings that have no effect are None."""


def from_parents(runs: pd.DataFrame) -> list[str]:
    """Return the changes of each run from its parent as text, such as `gradient clipping 1 → none`.

    For a run of a study, the text lists the settings that the study varies: `study rates: learning rate 1e-3, seed
    123`. A run whose parent is missing is compared with the most similar preset: `preset demo: epochs 2 → 3`.

    Args:
        runs: Runs as returned by `Lab.runs`.
    """
    columns = [_values(runs[name]) for name in SETTINGS]
    settings = dict(zip(runs["name"], zip(*columns, strict=True), strict=True))
    studies = _values(runs["study"])
    members: dict[str, list[Values]] = {}
    for study, values in zip(studies, settings.values(), strict=True):
        members.setdefault(study, []).append(values)
    varied = {study: _varied(values) for study, values in members.items() if study}
    return [
        f"study {study}: {_values_text(settings[name], varied[study])}"
        if varied.get(study)
        else _text(differences(settings[parent], settings[name]))
        if parent in settings
        else _from_preset(settings[name])
        for name, parent, study in zip(runs["name"], _values(runs["parent"]), studies, strict=True)
    ]


def _varied(members: list[Values]) -> list[int]:
    """Return the positions of the settings in which the members of a study differ, with the seed last."""
    differing = [i for i, values in enumerate(zip(*members, strict=True)) if len({*values}) > 1]
    return sorted(differing, key=lambda i: SETTINGS[i] == "seed")


def _values_text(values: Values, positions: list[int]) -> str:
    """Return some settings of a run as text, without those that have no effect."""
    return ", ".join(
        f"{lowered(str(RunConfig.model_fields[SETTINGS[i]].title))} {value_text(SETTINGS[i], values[i])}"
        for i in positions
        if is_relevant(SETTINGS[i], dict(zip(SETTINGS, values, strict=True)))
    )


def differences(old: Values, new: Values) -> list[str]:
    """Return the settings that have an effect in the new run and differ from the old one.

    A setting without an effect in the old run, such as the rank without LoRA, is assumed to have its default there.
    """
    if old == new:
        return []
    old_run, new_run = (dict(zip(SETTINGS, values, strict=True)) for values in (old, new))
    texts = []
    for name in SETTINGS:
        if old_run[name] == new_run[name] or not is_relevant(name, new_run):
            continue
        field = RunConfig.model_fields[name]
        before = old_run[name] if is_relevant(name, old_run) else field.default
        if before != new_run[name]:
            texts.append(
                f"{lowered(str(field.title))} {value_text(name, before)} → {value_text(name, new_run[name])}"
            )
    return texts


@functools.lru_cache(maxsize=4096)
def _from_preset(settings: Values) -> str:
    presets = {name: _preset_values(name) for name in PRESETS}
    nearest = min(presets, key=lambda name: sum(map(operator.ne, presets[name], settings)))
    changes = differences(presets[nearest], settings)
    return f"preset {nearest}: {_text(changes)}" if changes else f"preset {nearest}"


@functools.cache
def _preset_values(name: str) -> Values:
    values = journal.settings(name)
    return tuple(values[setting] for setting in SETTINGS)


def _text(changes: list[str]) -> str:
    return ", ".join(changes) or SAME


def _values(column: pd.Series) -> list[Any]:
    """Return the values of a column. Missing values become None."""
    return column.astype(object).where(column.notna(), None).tolist()
