"""A run is a directory: its settings, its events, its log, its weights, and a request to stop.

The directory is the truth about the run. Whoever holds its lock may write events: the trainer while it
lives, then whoever settles what it left behind. The kernel frees the lock of a process that dies.
"""

import contextlib
import difflib
import json
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from core.config import RunConfig
from core.errors import UserError
from core.nn.architecture import FAMILY
from core.run import log
from core.run.events import EventWriter, parse, read_lines
from core.run.files import open_regular, replace_text
from core.run.lock import acquire
from core.run.names import free_names

ENDED_STATUSES = ("stopped", "interrupted", "failed", "finished")
FINAL_EVENT_BYTES = 1 << 12
"""Maximum size of the final status event of a finished run."""
LOCK_TIMEOUT_S = 1.0
"""Seconds to wait for whoever only looks at a run or settles it; a trainer holds it much longer."""


class RunHeldError(UserError):
    """A trainer holds the run."""


class RunDirectory:
    """One run on disk.

    Args:
        path: its directory; need not exist yet for `create`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log_path(self) -> Path:
        return self.path / "trainer.log"

    @property
    def stop_path(self) -> Path:
        return self.path / "stop"

    @property
    def weights_path(self) -> Path:
        return self.path / "weights"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoint"

    @property
    def _lock_path(self) -> Path:
        return self.path / "trainer.lock"

    @classmethod
    def create(cls, runs_dir: Path, config: RunConfig) -> "RunDirectory":
        """A new directory of a unique name for these settings, its first event `queued`.

        The settings are written with that name, and with paths made absolute, so that the run can be
        resumed from anywhere. Raises UserError where runs_dir cannot be written to.
        """
        run = cls(_new_directory(runs_dir, config))
        try:
            with run.lock():
                run.write_config(config.changed(name=run.name, **_anchored(config)))
                run.append("status", status="queued")
        except UserError:  # the disk is full
            shutil.rmtree(run.path, ignore_errors=True)
            raise
        return run

    @classmethod
    def find(cls, runs_dir: Path, name: str) -> "RunDirectory":
        """The run of that name. Raises UserError where there is none."""
        is_component = name.isprintable() and name == Path(name).name and name not in ("", "..")
        run = cls(runs_dir / name)
        with contextlib.suppress(OSError):
            if is_component and stat.S_ISDIR(run.path.lstat().st_mode) and run.config_path.exists():
                return run
        names = [run.name for run in list_runs(runs_dir)]
        listed = [*dict.fromkeys([*difflib.get_close_matches(name, names, 3), *names])]
        available = ", ".join([*listed[:8], *["..."][: len(listed) > 8]]) or "none yet"
        cause = "" if runs_dir.is_dir() else f", as there is no directory {runs_dir}"
        message = f"there is no such run; it should be one of: {available}{cause}"
        raise UserError(f"run = {name!r}: {message}")

    def is_untouched(self) -> bool:
        """Whether there is nothing but settings: it was about to be queued when its maker was killed."""
        with contextlib.suppress(OSError):
            return {path.name for path in self.path.iterdir()} <= {"config.json", "trainer.lock"}
        return False

    def config(self) -> RunConfig:
        """The settings. Raises UserError where the file is missing or damaged."""
        try:
            with open_regular(self.config_path, "r", encoding="utf-8") as file:
                values = json.load(file)
            return RunConfig.parse(values)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{self.name}: config.json cannot be read ({error})") from None

    def write_config(self, config: RunConfig) -> None:
        """Replace the settings by rename. Raises UserError where they cannot be written."""
        try:
            replace_text(self.config_path, config.model_dump_json(indent=2))
        except OSError as error:
            raise UserError(f"{self.config_path} cannot be written to ({error})") from None

    def checkpoint_step(self) -> int | None:
        """The step of the newest checkpoint by its name; None where there is none."""
        names = (path.name for path in self.checkpoint_paths())
        steps = [int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)", name))]
        return max(steps, default=None)

    def checkpoint_paths(self) -> list[Path]:
        """Return the published checkpoints, newest first."""
        return published_checkpoints(self.checkpoints_path)

    def log_tail(self, size: int = 4000) -> str:
        """The end of the log: what became of the run, and whatever the trainer printed."""
        with contextlib.suppress(OSError), open_regular(self.log_path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return str(file.read().decode("utf-8", errors="replace"))
        return ""

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event from outside the trainer. Hold the lock. Raises UserError where it cannot be written."""
        try:
            with contextlib.closing(EventWriter(self.events_path)) as writer:
                writer.append(kind, **fields)
        except OSError as error:
            raise UserError(f"{self.name}: events.jsonl cannot be written to ({error})") from None

    def status(self) -> str:
        """The newest status, read from the events."""
        return next((e["status"] for e in reversed(self.statuses())), "queued")

    def statuses(self) -> list[dict[str, Any]]:
        """All status events, oldest first. Raises UserError where they cannot be read."""
        return [event for event in self.events("status") if "status" in event]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """All events of a kind, oldest first. Raises UserError where they cannot be read."""
        lines, offset, found = [b""], 0, []
        mark = f'"event":"{kind}"'.encode()  # as EventWriter writes it
        try:
            while lines:
                lines, offset = read_lines(self.events_path, offset)
                events = (parse(line) for line in lines if mark in line)
                found += [event for event in events if event and event["event"] == kind]
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UserError(f"{self.name}: events.jsonl cannot be read ({error})") from None
        return found

    def request_stop(self, ending: str = "stopped") -> None:
        """Ask the trainer to checkpoint and end with that status. Raises UserError where that fails."""
        try:
            replace_text(self.stop_path, ending)
        except OSError as error:
            raise UserError(f"{self.name} cannot be asked to stop ({error})") from None

    def stop_request(self) -> str | None:
        """The status to end with, or None where nobody asked."""
        try:
            with open_regular(self.stop_path, "r", encoding="utf-8", errors="replace") as file:
                ending = file.read(99)
        except OSError:
            return None
        return ending if ending in ENDED_STATUSES else "stopped"

    def seconds_since_stop_request(self) -> float | None:
        """Seconds since somebody asked it to stop, or None where nobody did.

        Infinitely many where the clock was set back since, for then nobody can tell.
        """
        with contextlib.suppress(OSError):
            since = time.time() - self.stop_path.lstat().st_mtime
            return since if since >= 0 else math.inf
        return None

    def clear_stop_request(self) -> None:
        """Forget a request to stop. Raises UserError where it cannot be removed."""
        try:
            self.stop_path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{self.name} is still asked to stop ({error})") from None

    @contextlib.contextmanager
    def lock(self, timeout: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the right to write events.

        Raises:
            RunHeldError: another holds it past `timeout` seconds.
            UserError: the run is gone, or nobody can lock it.
        """
        try:
            handle = acquire(self._lock_path, timeout)
        except FileNotFoundError:
            raise UserError(f"{self.name} is gone: it was deleted") from None
        except OSError as error:
            raise UserError(f"{self.name} cannot be locked ({error})") from None
        if handle is None:
            raise RunHeldError(f"{self.name} is being trained; stop it first")
        try:
            yield
        finally:
            os.close(handle)

    def is_alive(self) -> bool:
        """Whether a trainer holds the run. Looking disturbs nobody else who looks."""
        try:
            handle = acquire(self._lock_path, shared=True)
        except OSError:  # it is gone, or what no trainer could lock
            return False
        if handle is not None:
            os.close(handle)
        return handle is None

    def mark_ended(
        self,
        reason: str,
        ending: str = "interrupted",
        from_statuses: Collection[str] = ("queued", "running"),
    ) -> str | None:
        """Write the final status of a run whose trainer died, and delete the checkpoints of one that had finished.

        Returns the status, or None if it cannot be read.

        Args:
            ending: the status to end with where nobody asked for another.
            from_statuses: the statuses to settle; a run in any other is left as it is.
        """
        with contextlib.suppress(UserError), self.lock():
            if self.status() in from_statuses:
                final_event = {"status": self.stop_request() or ending, "reason": reason}
                self.append("status", **final_event)
                log.append_event(self.log_path, "status", final_event)
                self.clear_stop_request()
            self.discard_checkpoints()
        with contextlib.suppress(UserError):
            return self.status()
        return None

    def discard_training(self) -> None:
        """Delete checkpoints and weights. Hold the lock. Raises UserError if they cannot be deleted."""
        try:
            for path in (self.checkpoints_path, self.weights_path):
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(path)
        except OSError as error:
            raise UserError(f"{self.name} cannot be restarted ({error})") from None

    def discard_checkpoints(self) -> None:
        """Delete what a finished run does not need: its checkpoints, and its weights if it keeps none.

        Hold the lock. Does nothing unless the run has finished and recorded `keep_weights` then, which older versions
        did not. If weights are missing that should be there, nothing is deleted. `checkpoint/` is deleted last, so that
        a deletion that was cut short is noticed and completed by the next call.
        """
        keep_weights = self._finished_with()
        if keep_weights == "none" or (keep_weights and self.weights_path.is_dir()):
            partial = self.weights_path.with_name(f"{self.weights_path.name}.partial")
            discarded = [self.weights_path] if keep_weights == "none" else []
            for path in (partial, *discarded, self.checkpoints_path):
                shutil.rmtree(path, ignore_errors=True)

    def has_leftovers(self) -> bool:
        """Return whether the run has finished, but its trainer died before it deleted the checkpoints."""
        return self.checkpoints_path.is_dir() and self._finished_with() is not None

    def _finished_with(self) -> str | None:
        """Return `keep_weights` as recorded by the last event of a finished run; None for any other run."""
        try:
            with open_regular(self.events_path) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - FINAL_EVENT_BYTES))
                lines: list[bytes] = file.read().split(b"\n")
        except OSError:
            return None
        event = (parse(lines[-2]) if len(lines) > 1 else None) or {}
        keep_weights = event.get("keep_weights")
        is_finished = event.get("event") == "status" and event.get("status") == "finished"
        return keep_weights if is_finished and isinstance(keep_weights, str) else None

    def disk_bytes(self) -> int:
        """Return the size of all files. Links are not followed; files that disappear meanwhile count as nothing."""
        total, folders = 0, [str(self.path)]
        while folders:
            with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        with contextlib.suppress(OSError):
                            total += entry.stat(follow_symlinks=False).st_size
        return total

    def delete(self) -> None:
        """Remove the directory. Raises UserError while a trainer holds it, or where that fails."""
        try:
            with self.lock():
                with contextlib.suppress(IsADirectoryError):
                    self.config_path.unlink(missing_ok=True)  # cut short, it is no run any more
                shutil.rmtree(self.path)
        except OSError as error:
            raise UserError(f"{self.name} cannot be deleted ({error})") from None


def _anchored(config: RunConfig) -> dict[str, str]:
    """The data set and the base model by absolute path, where they are a file and a directory here."""
    absolute_paths = {}
    with contextlib.suppress(RuntimeError):  # the home of an unknown user
        dataset = Path(config.dataset).expanduser()
        if dataset.is_file():
            absolute_paths["dataset"] = str(dataset.resolve())
        base_model = Path(config.base_model)
        if config.base_model not in FAMILY and base_model.is_dir():
            absolute_paths["base_model"] = str(base_model.resolve())
    return absolute_paths


def list_runs(runs_dir: Path) -> list[RunDirectory]:
    """Every run directory, by name. Links are not followed, names that are no UTF-8 passed over."""
    if not runs_dir.is_dir():
        return []
    with os.scandir(runs_dir) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    runs = (RunDirectory(runs_dir / name) for name in names if name.isprintable())
    return [run for run in runs if run.config_path.exists()]


def published_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints in a directory, newest first. Those not completely written are skipped."""
    paths = [path for path in directory.glob("step-*") if path.suffix != ".partial"]
    return sorted(paths, reverse=True)


def discard_leftovers(runs_dir: Path) -> None:
    """Delete the checkpoints of finished runs whose trainer died before it could."""
    with contextlib.suppress(OSError):
        for run in list_runs(runs_dir):
            if run.has_leftovers():
                with contextlib.suppress(UserError), run.lock():
                    run.discard_checkpoints()


def _new_directory(runs_dir: Path, config: RunConfig) -> Path:
    """Make the first that is free; two who ask at once get two."""
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        for path in free_names(runs_dir, config):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                break
    except OSError as error:
        raise UserError(f"{runs_dir} cannot be written to ({error})") from None
    return path
