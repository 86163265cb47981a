"""Check whether a run can resume from its checkpoint with its current settings.

A checkpoint records the settings that determine the weights, the data order and the number of steps. This
module reads manifests but not tensors, so commands and pages can check a run before they queue it.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from core.config import RunConfig, is_relevant, metadata
from core.errors import UserError
from core.run.directory import RunDirectory

MANIFEST = "manifest.json"
"""File in a checkpoint or weights directory that lists the other files."""
SETTINGS = "settings"
"""Key for the recorded settings in a checkpoint's manifest. Checkpoints from older versions do not have it."""
FREE_GROUPS = ("identity", "hardware", "cadence")
"""Groups of settings that may change before a run resumes."""
FIXED = tuple(
    name
    for name, field in RunConfig.model_fields.items()
    if name == "seed" or (metadata(field)["group"] not in FREE_GROUPS and name != "nonfinite")
)
"""Settings that must not change during a run, because they affect what the model learns or in which order.

`nonfinite` may change: users change it to get past the step at which a run failed.
"""
INPUTS = {"dataset": "data set", "base_model": "base model"}
"""Settings that may be paths, and the keys under which a checkpoint's `origin` records the hashes of their content."""
COUNTS = {
    "steps": "number of steps",
    "steps_per_epoch": "number of steps per epoch",
    "train_examples": "number of training examples",
}
"""Counts derived from settings and data, by their key in a `plan` event. A checkpoint records only the last one."""


def recorded(config: RunConfig) -> dict[str, Any]:
    """Return the settings to record in a checkpoint, with None for settings that have no effect."""
    values = config.model_dump()
    return {name: values[name] if is_relevant(name, values) else None for name in FIXED}


def check_newest(run: Path, config: RunConfig) -> None:
    """Check all settings except the inputs against the newest readable checkpoint.

    Only the trainer can compare the inputs, because it reads their content.

    Args:
        run: the run directory.

    Raises:
        UserError: a setting that must not change has changed.
    """
    for path in RunDirectory(run).checkpoint_paths():
        manifest = path / MANIFEST
        if not manifest.is_file():
            continue
        try:
            facts = json.loads(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # the trainer also falls back to an older checkpoint
        if isinstance(facts, dict):
            check(run.name, facts, config, ignored=INPUTS)
            return


def check(
    name: str,
    facts: Mapping[str, Any],
    config: RunConfig,
    counts: Mapping[str, int] | None = None,
    earlier: Mapping[str, Any] | None = None,
    ignored: Collection[str] = (),
) -> None:
    """Check the settings against a checkpoint.

    Checkpoints from older versions do not record settings. For these, only changes that alter a count are detected.

    Args:
        name: the run's name.
        facts: the checkpoint's manifest.
        counts: the current counts, by the keys of COUNTS, if known.
        earlier: the run's newest `plan` event, for a checkpoint without recorded settings.
        ignored: settings to exclude from the comparison.

    Raises:
        UserError: settings have changed. The message lists each with its new and old value.
    """
    changed = [f"{k} = {_text(v)} (was {_text(was)})" for k, v, was in _changes(facts, config)
               if k not in ignored]  # fmt: skip
    was = facts if has_settings(facts) else {**(earlier or {}), **facts}
    for key, now in (counts or {}).items():
        if was.get(key) not in (None, now):
            changed.append(f"{COUNTS[key]} = {now} (was {was[key]})")
    if changed:
        raise UserError(
            f"{name} cannot resume from step {facts.get('step')} because its settings have changed: "
            f"{', '.join(changed)}; restore them in config.json, or restart from step 0 "
            f"with `python -m core resume {name} --restart`"
        )


def has_settings(facts: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint's manifest records the settings."""
    return isinstance(facts.get(SETTINGS), dict)


def unchanged_inputs(facts: Mapping[str, Any], origin: Mapping[str, str]) -> list[str]:
    """Return the settings in INPUTS whose content is the same as when the checkpoint was written.

    Args:
        facts: the checkpoint's manifest.
        origin: the current hash of each input, keyed by the values of INPUTS.
    """
    recorded_origin = facts.get("origin")
    if not isinstance(recorded_origin, dict):
        return []
    return [name for name, key in INPUTS.items() if recorded_origin.get(key) == origin[key]]


def input_warnings(facts: Mapping[str, Any], origin: Mapping[str, str]) -> list[str]:
    """Return a message for each input that has changed since the checkpoint.

    For the arguments, see `unchanged_inputs`. Checkpoints that do not record hashes never produce a message.
    """
    if not isinstance(facts.get("origin"), dict):
        return []
    unchanged = unchanged_inputs(facts, origin)
    return [
        f"the {key} has changed since step {facts.get('step')}; "
        "from here on, the run differs from the one that was launched"
        for name, key in INPUTS.items()
        if name not in unchanged
    ]


def _changes(facts: Mapping[str, Any], config: RunConfig) -> list[tuple[str, Any, Any]]:
    """Return (name, current value, recorded value) for each changed setting."""
    if not has_settings(facts):
        return []
    current = recorded(config)
    # Settings added since the checkpoint was written are assumed to have their default values.
    defaults = {
        name: None if value is None else RunConfig.model_fields[name].default
        for name, value in current.items()
    }
    previous = {**defaults, **facts[SETTINGS]}
    return [
        (name, current[name], previous[name]) for name in FIXED if current[name] != previous[name]
    ]


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
