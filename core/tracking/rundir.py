"""A run is a directory: its settings, its events, its log, its weights, and a request to stop.

The directory is the truth about the run. Whoever holds its lock may write events: the trainer while it
lives, then whoever settles what it left behind. The kernel frees the lock of a process that dies.
"""

import contextlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from core.config import RunConfig
from core.errors import UserError
from core.tracking.events import EventWriter, parse, read_lines

RESERVED = {"con", "prn", "aux", "nul", *(f"{n}{i}" for n in ("com", "lpt") for i in range(1, 10))}
ENDED = ("stopped", "interrupted", "failed", "finished")
RESUMABLE = ("queued", "stopped", "interrupted", "failed")


def slug(name: str) -> str:
    """A safe directory name from any text: ASCII letters, digits, `.`, `_` and `-`, at most 60."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", ascii_name)[:60].strip("-._ ")
    return f"run-{cleaned}" if cleaned.split(".")[0] in RESERVED | {""} else cleaned


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

    @classmethod
    def create(cls, runs_dir: Path, config: RunConfig) -> "RunDirectory":
        """A new directory of a unique name for these settings, its first event `queued`.

        The settings are written with that name.
        """
        base = slug(config.name or f"{Path(config.base_model).name}-{config.method}")
        runs_dir.mkdir(parents=True, exist_ok=True)
        for i in range(1, 1_000_000):
            run = cls(runs_dir / (base if i == 1 else f"{base}-{i}"))
            with contextlib.suppress(FileExistsError):
                run.path.mkdir()
                break
        run.write_config(config.changed(name=run.name))
        run.append("status", status="queued")
        return run

    @classmethod
    def find(cls, runs_dir: Path, name: str) -> "RunDirectory":
        """The run of that name. Raises UserError where there is none."""
        run = cls(runs_dir / name)
        if name != Path(name).name or not run.config_path.is_file():
            known = ", ".join(sorted(run.name for run in all_runs(runs_dir))[:8])
            raise UserError(
                f"run = {name!r}: there is no such run; it should be one of: {known or 'none yet'}"
            )
        return run

    def config(self) -> RunConfig:
        """The settings. Raises UserError where the file is missing or damaged."""
        try:
            values = json.loads(self.config_path.read_text(encoding="utf-8"))
            return RunConfig.parse(values)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self.name}: config.json cannot be read ({error})") from None

    def write_config(self, config: RunConfig) -> None:
        """Replace the settings by rename."""
        partial = self.config_path.with_suffix(".partial")
        partial.write_text(config.model_dump_json(indent=2), encoding="utf-8")
        partial.replace(self.config_path)

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event from outside the trainer. Hold the lock where a trainer may be alive."""
        writer = EventWriter(self.events_path)
        writer.append(kind, **fields)
        writer.close()

    def status(self) -> str:
        """The newest status, read from the events."""
        return next((e["status"] for e in reversed(self.statuses())), "queued")

    def statuses(self) -> list[dict[str, Any]]:
        """All status events, oldest first."""
        if not self.events_path.exists():
            return []
        lines, offset, found = [b""], 0, []
        while lines:
            lines, offset = read_lines(self.events_path, offset)
            events = (parse(line) for line in lines if b'"event":"status"' in line)
            found += [e for e in events if e and e["event"] == "status" and "status" in e]
        return found

    def request_stop(self, ending: str = "stopped") -> None:
        """Ask the trainer to checkpoint and end with that status."""
        self.stop_path.write_text(ending, encoding="utf-8")

    def stop_request(self) -> str | None:
        """The status to end with, or None where nobody asked."""
        try:
            ending = self.stop_path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return ending if ending in ENDED else "stopped"

    def withdraw_stop(self) -> None:
        """Forget a request to stop."""
        self.stop_path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, timeout: float = 0) -> Iterator[None]:
        """Hold the right to write events. Raises UserError where another holds it past `timeout` s."""
        lock = FileLock(self.path / "trainer.lock", timeout=timeout)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"{self.name} is being trained; stop it first") from None
        try:
            yield
        finally:
            lock.release()

    def is_alive(self) -> bool:
        """Whether a trainer holds the run."""
        try:
            with self.lock():
                return False
        except UserError:
            return True

    def settle(self, reason: str) -> str:
        """Mark a run `interrupted` whose trainer is gone without a last word; return its status."""
        try:
            with self.lock():
                status = self.status()
                if status not in ENDED:
                    status = self.stop_request() or "interrupted"
                    self.append("status", status=status, reason=reason)
                self.withdraw_stop()
                return status
        except UserError:
            return self.status()

    def delete(self) -> None:
        """Remove the directory. Raises UserError while a trainer holds it."""
        with self.lock():
            shutil.rmtree(self.path)


def all_runs(runs_dir: Path) -> list[RunDirectory]:
    """Every run directory, by name. Links are not followed."""
    if not runs_dir.is_dir():
        return []
    with os.scandir(runs_dir) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    runs = (RunDirectory(runs_dir / name) for name in names)
    return [run for run in runs if run.config_path.exists()]
