"""Run directories: each run's settings, events, log, checkpoints, weights and stop request.

The directory is the source of truth about a run. Only the holder of its lock may write events: the trainer, or the
process that writes the final status of a trainer that died. The kernel releases the lock when its holder dies.
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

from core.colors import color_of_new_run
from core.config import RunConfig, upgraded
from core.errors import UserError
from core.file_lock import acquire
from core.nn.architecture import FAMILY
from core.run import log, trash
from core.run.events import EventWriter, parse, read_lines
from core.run.files import open_regular, replace_text
from core.run.names import free_names

ENDED_STATUSES = ("stopped", "interrupted", "failed", "finished")
"""Statuses of runs that are neither queued nor running."""
FINAL_EVENT_BYTES = 1 << 12
"""Maximum size of the last event of a finished run."""
MAX_STOP_REQUEST_CHARACTERS = 999
LOCK_TIMEOUT_S = 1.0
"""Long enough to wait for brief holders of a run's lock. A trainer holds it for its lifetime."""


class RunHeldError(UserError):
    """The run is locked, usually by its trainer."""


class RunDirectory:
    """One run on disk.

    Args:
        path: the run directory.
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
        """Create a run with a unique name and the status `queued`.

        Its settings are stored with this name, a color and absolute paths, so that the run can be resumed from any
        working directory. Raises UserError if `runs_dir` cannot be written to.
        """
        run = cls(_new_directory(runs_dir, config))
        try:
            with run.lock():
                color = config.color or color_of_new_run(len(list_runs(runs_dir)))
                paths = _absolute_paths(config)
                run.write_config(config.changed(name=run.name, color=color, **paths))
                run.append("status", status="queued")
        except (UserError, KeyboardInterrupt):  # the disk is full, or Ctrl-C
            shutil.rmtree(run.path, ignore_errors=True)
            raise
        return run

    @classmethod
    def find(cls, runs_dir: Path, name: str) -> "RunDirectory":
        """Return the run with this name. Raises UserError if there is none."""
        is_component = name.isprintable() and name == Path(name).name and name not in ("", "..")
        run = cls(runs_dir / name)
        with contextlib.suppress(OSError):
            if is_component and stat.S_ISDIR(run.path.lstat().st_mode) and run.config_path.exists():
                return run
        names = [run.name for run in list_runs(runs_dir)]
        listed = [*dict.fromkeys([*difflib.get_close_matches(name, names, 3), *names])]
        available = ", ".join([*listed[:8], *["..."][: len(listed) > 8]])
        hint = f"available: {available}" if listed else f"there are no runs in {runs_dir} yet"
        if not runs_dir.is_dir():
            hint = f"the folder {runs_dir} does not exist"
        raise UserError(f"run = {name!r}: there is no such run; {hint}")

    def is_untouched(self) -> bool:
        """Return whether the run has nothing but settings, because its creator was killed before the first event."""
        with contextlib.suppress(OSError):
            return {path.name for path in self.path.iterdir()} <= {"config.json", "trainer.lock"}
        return False

    def config(self) -> RunConfig:
        """Return the settings. Raises UserError if the file is missing or damaged."""
        try:
            with open_regular(self.config_path, "r", encoding="utf-8") as file:
                values = json.load(file)
            return RunConfig.parse(upgraded(values))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{self.name}: config.json cannot be read ({error})") from None

    def write_config(self, config: RunConfig) -> None:
        """Replace the settings atomically. Raises UserError if they cannot be written."""
        try:
            replace_text(self.config_path, config.model_dump_json(indent=2))
        except OSError as error:
            raise UserError(f"{self.config_path} cannot be written to ({error})") from None

    def checkpoint_step(self) -> int | None:
        """Return the step of the newest checkpoint, taken from its name, or None."""
        names = (path.name for path in self.checkpoint_paths())
        steps = [int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)", name))]
        return max(steps, default=None)

    def checkpoint_paths(self) -> list[Path]:
        """Return the published checkpoints, newest first."""
        return published_checkpoints(self.checkpoints_path)

    def log_tail(self, size: int = 4000) -> str:
        """Return the last `size` bytes of the log, which also contains the trainer's output."""
        with contextlib.suppress(OSError), open_regular(self.log_path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return str(file.read().decode("utf-8", errors="replace"))
        return ""

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event from outside the trainer. The caller must hold the lock.

        Raises UserError if the event cannot be written.
        """
        try:
            with contextlib.closing(EventWriter(self.events_path)) as writer:
                writer.append(kind, **fields)
        except OSError as error:
            raise UserError(f"{self.name}: events.jsonl cannot be written to ({error})") from None

    def status(self) -> str:
        """Return the status in the newest status event."""
        return next((e["status"] for e in reversed(self.statuses())), "queued")

    def statuses(self) -> list[dict[str, Any]]:
        """Return all status events, oldest first. Raises UserError if they cannot be read."""
        return [event for event in self.events("status") if "status" in event]

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Return all events of some kinds, oldest first. Raises UserError if they cannot be read."""
        lines, offset, events = [b""], 0, []
        markers = [f'"event":"{kind}"'.encode() for kind in kinds]  # as EventWriter writes it
        try:
            while lines:
                lines, offset = read_lines(self.events_path, offset)
                candidates = (parse(line) for line in lines if any(m in line for m in markers))
                events += [event for event in candidates if event and event["event"] in kinds]
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UserError(f"{self.name}: events.jsonl cannot be read ({error})") from None
        return events

    def request_stop(self, ending: str = "stopped", reason: str | None = None) -> None:
        """Ask the trainer to save a checkpoint and end with this status. Raises UserError if that fails."""
        try:
            replace_text(self.stop_path, f"{ending}\n{reason}" if reason else ending)
        except OSError as error:
            raise UserError(f"{self.name}: the stop request cannot be written ({error})") from None

    def stop_request(self) -> str | None:
        """Return the requested final status, or None if no stop has been requested."""
        try:
            ending = self._read_stop_request().partition("\n")[0]
        except OSError:
            return None
        return ending if ending in ENDED_STATUSES else "stopped"

    def stop_reason(self) -> str | None:
        """Return the reason of the stop request, or None if it has none."""
        with contextlib.suppress(OSError):
            return self._read_stop_request().partition("\n")[2].strip() or None
        return None

    def _read_stop_request(self) -> str:
        with open_regular(self.stop_path, "r", encoding="utf-8", errors="replace") as file:
            return str(file.read(MAX_STOP_REQUEST_CHARACTERS))

    def seconds_since_stop_request(self) -> float | None:
        """Return the age of the stop request, or None if there is none.

        The age is infinite if the request's time is in the future because the clock was set back.
        """
        with contextlib.suppress(OSError):
            since = time.time() - self.stop_path.lstat().st_mtime
            return since if since >= 0 else math.inf
        return None

    def clear_stop_request(self) -> None:
        """Delete the stop request. Raises UserError if that fails."""
        try:
            self.stop_path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{self.name}: the stop request cannot be deleted ({error})") from None

    @contextlib.contextmanager
    def lock(self, timeout: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Lock the run. Only the holder of the lock may write events.

        Args:
            timeout: seconds to wait if another process holds the lock.

        Raises:
            RunHeldError: the run is still locked after the timeout.
            UserError: the run was deleted or cannot be locked.
        """
        try:
            handle = acquire(self._lock_path, timeout)
        except FileNotFoundError:
            raise UserError(f"{self.name} was deleted") from None
        except OSError as error:
            raise UserError(f"{self.name} cannot be locked ({error})") from None
        if handle is None:
            raise RunHeldError(f"{self.name} is being trained; stop it first")
        try:
            yield
        finally:
            os.close(handle)

    def is_alive(self) -> bool:
        """Return whether the run is locked, usually by its trainer. Concurrent calls do not affect each other."""
        try:
            handle = acquire(self._lock_path, shared=True)
        except OSError:  # deleted, or a trainer could not lock it either
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
        """Write the final status of a run whose trainer died. If the run has finished, delete its checkpoints.

        Args:
            ending: the final status, unless a stop request specifies a different one.
            from_statuses: statuses to replace. Any other status is kept.

        Returns:
            The status, or None if it cannot be read.
        """
        with contextlib.suppress(UserError), self.lock():
            if self.status() in from_statuses:
                ending = self.stop_request() or ending
                final_event = {"status": ending, "reason": self.stop_reason() or reason}
                self.append("status", **final_event)
                log.append_event(self.log_path, "status", final_event)
                self.clear_stop_request()
            self.discard_checkpoints()
        with contextlib.suppress(UserError):
            return self.status()
        return None

    def discard_training(self) -> None:
        """Delete checkpoints and weights. The caller must hold the lock. Raises UserError if the deletion fails."""
        try:
            for path in (self.checkpoints_path, self.weights_path):
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(path)
        except OSError as error:
            raise UserError(f"{self.name} cannot be restarted ({error})") from None

    def discard_checkpoints(self) -> None:
        """Delete the checkpoints of a finished run, and its weights if it keeps none.

        The caller must hold the lock. Does nothing if the weights to keep are missing, or unless the last event has the
        status `finished` and records `keep_weights` (in older versions, it did not). `checkpoint/` is deleted last, so
        that the next call notices and completes an interrupted deletion.
        """
        keep_weights = self._recorded_keep_weights()
        if keep_weights == "none" or (keep_weights and self.weights_path.is_dir()):
            partial = self.weights_path.with_name(f"{self.weights_path.name}.partial")
            discarded = [self.weights_path] if keep_weights == "none" else []
            for path in (partial, *discarded, self.checkpoints_path):
                shutil.rmtree(path, ignore_errors=True)

    def has_leftovers(self) -> bool:
        """Return whether the run has finished but its checkpoints have not been deleted."""
        return self.checkpoints_path.is_dir() and self._recorded_keep_weights() is not None

    def _recorded_keep_weights(self) -> str | None:
        """Return `keep_weights` as recorded in the last event of a finished run, or None for any other run."""
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
        """Return the total size of all files. Does not follow links and ignores files deleted during the call."""
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

    def files(self) -> list[tuple[str, int]]:
        """Return the path and size in bytes of each regular file, sorted by path. Does not follow links."""
        sizes = []
        for folder, _, names in os.walk(self.path):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):  # the file may have been deleted
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        relative = os.fsencode(path.relative_to(self.path).as_posix())
                        sizes.append((relative.decode("utf-8", "replace"), status.st_size))
        return sorted(sizes)

    def move_to_trash(self) -> str:
        """Move the run to the trash and return its ID there; see `core.run.trash`.

        Raises UserError if it is being trained or cannot be moved.
        """
        with self.lock():
            return trash.add(self.path)

    def delete(self) -> None:
        """Delete the run permanently. Raises UserError if it is being trained or cannot be deleted."""
        try:
            with self.lock():
                with contextlib.suppress(IsADirectoryError):
                    # Without its settings, a partly deleted directory is not a run.
                    self.config_path.unlink(missing_ok=True)
                shutil.rmtree(self.path)
        except OSError as error:
            raise UserError(f"{self.name} cannot be deleted ({error})") from None


def _absolute_paths(config: RunConfig) -> dict[str, str]:
    """Return the absolute paths of the data set and the base model if they are a local file and a local directory."""
    absolute_paths = {}
    with contextlib.suppress(RuntimeError):  # `~user` does not exist
        dataset = Path(config.dataset).expanduser()
        if dataset.is_file():
            absolute_paths["dataset"] = str(dataset.resolve())
        base_model = Path(config.base_model)
        if config.base_model not in FAMILY and base_model.is_dir():
            absolute_paths["base_model"] = str(base_model.resolve())
    return absolute_paths


def list_runs(runs_dir: Path) -> list[RunDirectory]:
    """Return all runs, sorted by name. Skips links and names that are not valid UTF-8."""
    if not runs_dir.is_dir():
        return []
    with os.scandir(runs_dir) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    runs = (RunDirectory(runs_dir / name) for name in names if name.isprintable())
    return [run for run in runs if run.config_path.exists()]


def published_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints in a directory, newest first. Skips incomplete ones."""
    paths = [path for path in directory.glob("step-*") if path.suffix != ".partial"]
    return sorted(paths, reverse=True)


def discard_leftovers(runs_dir: Path) -> None:
    """Delete the checkpoints of finished runs whose trainer died before deleting them."""
    with contextlib.suppress(OSError):
        for run in list_runs(runs_dir):
            if run.has_leftovers():
                with contextlib.suppress(UserError), run.lock():
                    run.discard_checkpoints()


def _new_directory(runs_dir: Path, config: RunConfig) -> Path:
    """Create a directory with the first unused name. Concurrent calls get different names."""
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        for path in free_names(runs_dir, config):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                break
    except OSError as error:
        raise UserError(f"{runs_dir} cannot be written to ({error})") from None
    return path
