"""Reuse finished runs as members of a study, so that they are not trained again."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from core.config import IDENTITY_FIELDS, RunConfig, is_relevant
from core.errors import UserError
from core.run.directory import RunDirectory
from core.studies import study as studies_on_disk
from core.studies.study import Study
from core.studies.sweep import Member, Sweep

INDEXED = frozenset({"base_model", "dataset", "method", "batch_size", "epochs"})
"""Settings that are compared in the index first. They always have an effect."""


def identical_runs(
    runs_dir: Path, sweep: Sweep, members: Sequence[Member], runs: pd.DataFrame
) -> dict[str, str]:
    """Return finished runs with the same settings and seed as planned ones, by the name of the planned run.

    Runs of other studies are not included, because a run belongs to one study.

    Args:
        runs: `queries.results`.
    """
    varied = {name for fields in sweep.fields for name in fields}
    candidates = runs[(runs["status"] == "finished") & runs["study"].isna()]
    for name in INDEXED - varied:  # reading the settings of all runs would take seconds
        candidates = candidates[candidates[name] == getattr(sweep.base, name)]
    by_settings: dict[tuple[Any, ...], str] = {}
    for name in candidates.loc[candidates["seed"].isin(sweep.seeds), "name"]:
        with contextlib.suppress(UserError):  # deleted in the meantime
            config = RunDirectory.find(runs_dir, name).config()
            by_settings.setdefault(_effective(config), name)
    found = {m.name: by_settings.get(_effective(_config(sweep, m))) for m in members}
    return {planned: name for planned, name in found.items() if name is not None}


def check(runs_dir: Path, sweep: Sweep, study_name: str, reused: Mapping[str, str]) -> None:
    """Raise UserError if a run does not exist, or is no longer identical to the planned one.

    Args:
        reused: the names of the finished runs, by the name of the planned run; see `identical_runs`.
    """
    for member in sweep.members(study_name):
        if member.name in reused:
            run = RunDirectory.find(runs_dir, reused[member.name])
            config = run.config()
            is_free = config.study is None and run.status() == "finished"
            if not is_free or _effective(config) != _effective(_config(sweep, member)):
                raise UserError(f"run = {run.name!r}: cannot be reused because it has changed")


def with_reused(runs_dir: Path, study: Study, reused: Mapping[str, str]) -> Study:
    """Make finished runs members of a new study before its runs are created, and return the study.

    If the program is killed halfway, the planned runs are trained as well.
    """
    for name in reused.values():
        run = RunDirectory.find(runs_dir, name)
        run.write_config(run.config().changed(study=study.name))
    members = tuple(replace(m, name=reused.get(m.name, m.name)) for m in study.members)
    changed = replace(study, members=members)
    studies_on_disk.write(runs_dir, changed)
    return changed


def _config(sweep: Sweep, member: Member) -> RunConfig:
    return sweep.base.changed(**member.values, seed=member.seed)


def _effective(config: RunConfig) -> tuple[Any, ...]:
    """Return the settings that have an effect. Those that only identify a run are left out."""
    values = config.model_dump()
    return tuple(
        str(value) if is_relevant(name, values) else None
        for name, value in values.items()
        if name not in IDENTITY_FIELDS
    )
