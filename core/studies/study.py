"""Studies on disk: `studies/NAME.json` in the runs folder stores the plan.

The file lists all runs before any of them is created. If the program is killed in between, `create_runs` continues, so
that every planned run is created exactly once. Deleted runs are not recreated. Hold the lock (`locked`) while reading
and changing a study.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from core.colors import color_of_new_run
from core.config import RunConfig, upgraded
from core.errors import ConfigError, UserError
from core.file_lock import acquire
from core.run.directory import RunDirectory, list_runs
from core.run.files import open_regular, replace_text
from core.run.names import STUDIES_FOLDER, slug
from core.studies.sweep import SEARCH_METRICS, Axis, Member, Mode, Sweep, can_vary

MAX_NAME_CHARACTERS = 40
"""Maximum length of a study's name. Leaves room for the numbers in the names of its runs."""
NUMBERED = re.compile(r".+-[0-9]+")
"""Names of the runs of a study, except for reused runs."""
LOCK_FILE = "studies.lock"
LOCK_TIMEOUT_S = 60.0
"""How long to wait for another process that changes studies. Creating the runs of a large study takes seconds."""
_locks = threading.local()


@dataclass(frozen=True)
class Study:
    """A sweep and its planned runs.

    Args:
        name: also the start of the names of its runs.
        members: the planned runs, in training order.
        is_complete: whether all members have been created.
        first_seeds: number of seeds before the study was extended. Results with more seeds are exploratory, because
            looking at the results before adding seeds makes false verdicts more likely.
        paused: members that `pause_study` withdrew from the queue.
        is_paused: whether the study was paused and not continued.
        deleted: members that were deleted before the study was extended. They are not created again.
        summary: the summary in the report. If empty, it is generated from the effects.
    """

    name: str
    sweep: Sweep
    members: tuple[Member, ...]
    is_complete: bool
    first_seeds: int
    paused: tuple[str, ...] = ()
    question: str = ""
    notes: str = ""
    deleted: tuple[str, ...] = ()
    is_paused: bool = False
    summary: str = ""

    @property
    def combinations(self) -> list[dict[str, Any]]:
        """The varied settings of the members, without repeats for other seeds."""
        return [*{key(m.values): dict(m.values) for m in self.members}.values()]

    @property
    def is_exploratory(self) -> bool:
        """Whether the study was extended with more seeds."""
        return len(self.sweep.seeds) > self.first_seeds

    def config(self, member: Member) -> RunConfig:
        """Return the settings of a planned run."""
        identity = {"name": member.name, "study": self.name, "color": "", "archived": False}
        return self.sweep.base.changed(**member.values, **identity, seed=member.seed)


@contextlib.contextmanager
def locked(runs_dir: Path) -> Iterator[None]:
    """Exclude other threads and processes from changing studies in a folder. Reentrant within a thread.

    Raises UserError if another process holds the lock for too long, or the lock file cannot be written.
    """
    held: set[Path] = _locks.__dict__.setdefault("held", set())
    if runs_dir in held:
        yield
        return
    path = runs_dir / STUDIES_FOLDER / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = acquire(path, LOCK_TIMEOUT_S)
    except OSError as error:
        raise UserError(f"{path} cannot be written to ({error})") from None
    if handle is None:
        raise UserError("Another process is changing studies in this folder. Try again later.")
    held.add(runs_dir)
    try:
        yield
    finally:
        held.discard(runs_dir)
        os.close(handle)


def file_name(name: str) -> str:
    """Return the name under which a study is stored, which is also the start of the names of its runs."""
    return slug(name)[:MAX_NAME_CHARACTERS].strip("-._")


def plan(runs_dir: Path, name: str, sweep: Sweep, question: str = "") -> Study:
    """Write the file of a new study. Creates no runs.

    Raises UserError if the sweep is invalid, the name is taken or the file cannot be written.
    """
    prefix = new_name(runs_dir, name)
    members = tuple(sweep.members(prefix))
    if taken := next((m.name for m in members if (runs_dir / m.name).exists()), None):
        raise UserError(f"study = {prefix!r}: a run named {taken} already exists; use another name")
    study = Study(prefix, sweep, members, False, len(sweep.seeds), question=question)
    write(runs_dir, study)
    return study


def new_name(runs_dir: Path, name: str) -> str:
    """Return the file name of a new study. Raises UserError if the name is taken or has no letter or digit."""
    prefix = file_name(name)
    if not any(character.isalnum() for character in name):
        raise UserError(f"study = {name!r}: must contain a letter or a digit")
    if _path(runs_dir, prefix).exists():
        raise UserError(f"study = {prefix!r}: a study with this name already exists")
    return prefix


def unused_name(runs_dir: Path, sweep: Sweep) -> str:
    """Return a name made of the varied settings, with a number if it is taken by a study or the runs of one."""
    name = slug("-".join(axis.fields[0] for axis in sweep.axes))[:MAX_NAME_CHARACTERS]
    numbered = [run.name for run in list_runs(runs_dir) if NUMBERED.fullmatch(run.name)]
    taken = {*study_names(runs_dir), *(run.rpartition("-")[0] for run in numbered)}
    candidates = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def extended(
    study: Study,
    more_seeds: int = 0,
    axis: str = "",
    values: Sequence[Any] = (),
    more_runs: int = 0,
    taken: Collection[str] = (),
) -> Study:
    """Return the study with more seeds, or with more values on one axis. Existing runs are kept.

    A search tries the new values later, when its current runs have ended.

    Args:
        more_runs: number of runs to add to the maximum of a search.
        taken: names that new runs cannot have; see `taken_names`.

    Raises:
        UserError: nothing would be added, or the axis is unknown.
    """
    sweep = study.sweep
    if more_runs > 0:
        if sweep.mode != "search":
            raise UserError(f"runs = {more_runs}: only a search can be extended with runs")
        sweep = replace(sweep, max_runs=(sweep.max_runs or 0) + more_runs)
    if more_seeds > 0:
        first = max(sweep.seeds) + 1
        seeds = (*sweep.seeds, *range(first, first + more_seeds))
        runs = sweep.max_runs and sweep.max_runs // len(sweep.seeds) * len(seeds)
        sweep = replace(sweep, seeds=seeds, max_runs=runs)  # the same random combinations
    if axis:
        if sweep.mode == "random":
            raise UserError("a random study can only be extended with more seeds")
        if axis not in {a.name for a in sweep.axes}:
            available = ", ".join(a.name for a in sweep.axes)
            raise UserError(f"axis = {axis!r}: not varied in this study; available: {available}")
        axes = [
            replace(a, values=(*a.values, *(v for v in values if v not in a.values)))
            if a.name == axis
            else a
            for a in sweep.axes
        ]
        sweep = replace(sweep, axes=tuple(axes))
    if sweep == study.sweep:
        raise UserError("nothing to add: specify a number of seeds or new values")
    combinations = study.combinations if sweep.mode == "search" else sweep.combinations()
    sweep.search_space()  # raises UserError if a value is invalid
    return with_combinations(replace(study, sweep=sweep), combinations, taken)


def check_repeated(study: Study, sweep: Sweep) -> None:
    """Raise UserError if a sweep is not that of an existing study, which may have been extended since."""
    planned, name = study.sweep, study.name
    values = {axis.fields: axis.values for axis in planned.axes}
    is_same = sweep.base == planned.base and [axis.fields for axis in sweep.axes] == [*values]
    if not is_same or any({*axis.values} - {*values[axis.fields]} for axis in sweep.axes):
        raise UserError(f"study = {name!r}: a study with this name has a different sweep")
    if missing := {*sweep.seeds} - {*planned.seeds}:
        raise UserError(
            f"study = {name!r} has {len(planned.seeds)} seeds; add more with "
            f"`python -m core studies --extend {name} --seeds {len(missing)}`"
        )
    for option in ("mode", "metric", "prune"):
        if getattr(sweep, option) != getattr(planned, option):
            raise UserError(
                f"study = {name!r} has {option} = {getattr(planned, option)}, which cannot be changed; use another name, "
                f"or add seeds with `python -m core studies --extend {name}`"
            )
    if sweep.mode != "grid" and sweep.max_combinations > planned.max_combinations:
        more = (sweep.max_combinations - planned.max_combinations) * len(planned.seeds)
        hint = (
            f"add more with `python -m core studies --extend {name} --runs {more}`"
            if sweep.mode == "search"
            else f"use another name, or add seeds with `python -m core studies --extend {name}`"
        )
        raise UserError(f"study = {name!r} has max_runs = {planned.max_runs}; {hint}")


def taken_names(runs_dir: Path) -> set[str]:
    """Return the names of all runs, including damaged ones. A run that is not part of a study can have such a name."""
    with contextlib.suppress(FileNotFoundError):
        return {entry.name for entry in os.scandir(runs_dir)}
    return set()


def with_combinations(
    study: Study, combinations: Sequence[Mapping[str, Any]], taken: Collection[str] = ()
) -> Study:
    """Return the study with members for all seeds of these combinations. Existing members are kept.

    Args:
        taken: names that new runs cannot have.
    """
    existing = {(key(member.values), member.seed) for member in study.members}
    added = [
        (seed, values)
        for seed, values in itertools.product(study.sweep.seeds, combinations)
        if (key(values), seed) not in existing
    ]
    numbers = itertools.count(max(_number(member.name) for member in study.members) + 1)
    names = (name for number in numbers if (name := f"{study.name}-{number}") not in taken)
    members = [
        Member(name, dict(values), seed)
        for (seed, values), name in zip(added, names, strict=False)  # the names never end
    ]
    return replace(study, members=(*study.members, *members), is_complete=False)


def create_runs(runs_dir: Path, study: Study) -> list[str]:
    """Create the runs of the study that do not exist yet, and return their names. Raises UserError if that fails."""
    created: list[str] = []
    if study.is_complete:
        return created
    with locked(runs_dir):
        count = len(list_runs(runs_dir))
        for member in study.members:
            path = runs_dir / member.name
            if member.name in study.deleted:
                continue
            _discard_unfinished(path)
            if not path.exists():
                color = color_of_new_run(count + len(created))
                config = study.config(member).changed(color=color)
                created.append(RunDirectory.create(runs_dir, config).name)
        write(runs_dir, replace(study, is_complete=True))
    return created


def complete_all(runs_dir: Path) -> None:
    """Create planned runs of all studies that are missing after a crash. Skips damaged studies."""
    for name in study_names(runs_dir):
        with contextlib.suppress(UserError), locked(runs_dir):  # damaged, or the disk is full
            create_runs(runs_dir, find(runs_dir, name))


def _discard_unfinished(path: Path) -> None:
    """Delete a run directory whose creator was killed before it wrote the settings."""
    with contextlib.suppress(OSError):
        names = {entry.name for entry in path.iterdir()}
        if all(name == "trainer.lock" or name.startswith("config.json.") for name in names):
            shutil.rmtree(path)


def missing(runs_dir: Path, study: Study) -> tuple[str, ...]:
    """Return the names of the members that do not exist."""
    return tuple(m.name for m in study.members if not (runs_dir / m.name).exists())


def find(runs_dir: Path, name: str) -> Study:
    """Return a study. Raises UserError if it does not exist or its file is damaged."""
    names = study_names(runs_dir)
    if name not in names:
        hint = f"available: {', '.join(names)}" if names else f"there are no studies in {runs_dir}"
        raise UserError(f"study = {name!r}: unknown study; {hint}")
    path = _path(runs_dir, name)
    try:
        with open_regular(path, "r", encoding="utf-8") as file:
            return _from_json(name, json.load(file))
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        ConfigError,
    ) as error:
        raise UserError(f"{path.name} cannot be read ({error})") from None


def stamp(runs_dir: Path, name: str) -> tuple[int, int] | None:
    """Return a value that changes whenever the file of a study does; None if there is no file."""
    with contextlib.suppress(OSError):
        stat = _path(runs_dir, name).stat()
        return stat.st_mtime_ns, stat.st_size
    return None


def study_names(runs_dir: Path) -> list[str]:
    """Return the names of all studies. Skips links."""
    folder = runs_dir / STUDIES_FOLDER
    if folder.is_symlink():
        return []
    return sorted(path.stem for path in folder.glob("*.json") if not path.is_symlink())


def write(runs_dir: Path, study: Study) -> None:
    """Write the file of a study atomically. Raises UserError if that fails."""
    path = _path(runs_dir, study.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(_to_json(study), indent=2))
    except OSError as error:
        raise UserError(f"{path} cannot be written to ({error})") from None


def _path(runs_dir: Path, name: str) -> Path:
    return runs_dir / STUDIES_FOLDER / f"{name}.json"


def key(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a hashable key for the varied settings of a member."""
    return tuple(sorted((name, str(value)) for name, value in values.items()))


def _number(name: str) -> int:
    """Return the number at the end of a member's name; 0 for a reused run without one."""
    return int(name.rpartition("-")[2]) if NUMBERED.fullmatch(name) else 0


def _to_json(study: Study) -> dict[str, Any]:
    sweep = study.sweep
    return {
        "name": study.name,
        "question": study.question,
        "notes": study.notes,
        "summary": study.summary,
        "base": sweep.base.model_dump(mode="json"),
        "axes": [{"fields": axis.fields, "values": axis.values} for axis in sweep.axes],
        "seeds": sweep.seeds,
        "mode": sweep.mode,
        "max_runs": sweep.max_runs,
        "metric": sweep.metric,
        "prune": sweep.prune,
        "excluded": sweep.excluded,
        "first_seeds": study.first_seeds,
        "is_complete": study.is_complete,
        "paused": study.paused,
        "is_paused": study.is_paused,
        "deleted": study.deleted,
        "members": [{"name": m.name, "values": m.values, "seed": m.seed} for m in study.members],
    }


def _from_json(name: str, values: dict[str, Any]) -> Study:
    axes = tuple(Axis(tuple(a["fields"]), tuple(a["values"])) for a in values["axes"])
    sweep = Sweep(
        RunConfig.parse(upgraded(values["base"])),
        axes,
        tuple(values["seeds"]),
        values["mode"],
        values["max_runs"],
        values.get("metric", "val_loss"),
        bool(values.get("prune", False)),
        tuple(tuple(combination) for combination in values.get("excluded", ())),
    )
    members = tuple(Member(m["name"], m["values"], m["seed"]) for m in values["members"])
    _check_sweep(sweep)
    _check_members(members, {field for axis in axes for field in axis.fields})
    return Study(
        name, sweep, members, bool(values["is_complete"]), int(values["first_seeds"]),
        tuple(values["paused"]), str(values["question"]), str(values["notes"]),
        tuple(values.get("deleted", ())), bool(values.get("is_paused", values["paused"])),
        str(values.get("summary", "")),
    )  # fmt: skip


def _check_sweep(sweep: Sweep) -> None:
    """Raise ValueError if an edited file has values that `Sweep` does not expect."""
    if sweep.mode not in get_args(Mode):
        raise ValueError(f"unknown mode {sweep.mode!r}")
    if not sweep.seeds or not all(type(seed) is int for seed in sweep.seeds):
        raise ValueError("seeds must be a list of integers")
    if sweep.max_runs is not None and type(sweep.max_runs) is not int:
        raise ValueError("max_runs must be an integer")
    if sweep.mode != "grid" and not sweep.max_runs:
        raise ValueError(f"max_runs is required for mode {sweep.mode!r}")
    if sweep.metric not in SEARCH_METRICS:
        raise ValueError(f"unknown metric {sweep.metric!r}")
    for axis in sweep.axes:
        if not axis.values or not all(
            value is None or isinstance(value, str | int | float) for value in axis.values
        ):
            raise ValueError(f"the values of {axis.name} must be a list of numbers or strings")
    for field in (field for axis in sweep.axes for field in axis.fields):
        if not can_vary(field):
            raise ValueError(f"{field!r} cannot be varied")


def _check_members(members: Sequence[Member], varied: set[str]) -> None:
    """Raise ValueError if an edited file has invalid or repeated runs."""
    if not members:
        raise ValueError("there are no runs")
    for member in members:
        name = member.name
        if not isinstance(name, str) or slug(name) != name:
            raise ValueError("a run has an invalid name")
        if type(member.seed) is not int:
            raise ValueError(f"the seed of {name} must be an integer")
        if not isinstance(member.values, dict) or not member.values.keys() <= varied:
            raise ValueError(f"{name} changes a setting that the study does not vary")
    if len({member.name for member in members}) < len(members):
        raise ValueError("two runs have the same name")
