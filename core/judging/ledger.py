"""Verdict ledgers. Each records one judge's verdicts, so that no verdict is requested or paid for twice.

A ledger is an append-only file in `runs/verdicts/`. It has the same format as a run's event file and is synced into
the index. Only one process can write to it at a time. This module does not depend on services or runs.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from core.errors import UserError
from core.file_lock import acquire
from core.judging.judge import Item, Verdict, judge_id
from core.run.event_files import VERDICTS_FOLDER
from core.run.events import EventWriter, parse, read_lines

MAX_RAW_CHARACTERS = 8000
"""Longer replies are truncated."""


class Ledger:
    """A ledger opened for writing. Use as a context manager.

    Args:
        runs_dir: contains the folder for ledgers, which is created if missing.
        spec: identifies the judge; see `Judge.spec`.

    Raises:
        UserError: another scoring job uses this judge, or the folder cannot be written.
    """

    def __init__(self, runs_dir: Path, spec: Mapping[str, Any]) -> None:
        self.id = judge_id(spec)
        self.path = runs_dir / VERDICTS_FOLDER / f"{self.id}.jsonl"
        self._write_lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as opening:  # closes everything if a step fails
                lock = acquire(self.path.with_suffix(".lock"))
                if lock is None:
                    raise UserError(
                        f"Another scoring job is using the judge {self.id}. "
                        "Wait until it finishes, or stop it."
                    )
                opening.callback(os.close, lock)
                self._writer = opening.enter_context(contextlib.closing(EventWriter(self.path)))
                self.scores_by_key = _read(self.path)
                """The score of each verdict, by cache key. None if the verdict has no score."""
                if self.path.stat().st_size == 0:
                    self._writer.append("judge", id=self.id, **spec)
                self._resources = opening.pop_all()
        except OSError as error:
            raise UserError(f"Cannot write to {self.path.parent}: {error}") from None

    def write(self, key: str, item: Item, repeat: int, verdict: Verdict) -> None:
        """Append a verdict. It supersedes earlier ones with the same key. Raises UserError if the write fails."""
        fields = {**asdict(verdict), "raw": verdict.raw[:MAX_RAW_CHARACTERS]}
        fields = {name: value for name, value in fields.items() if value not in (None, "")}
        identifiers = {"key": key, "id": self.id, "subject": item.subject, "repeat": repeat}
        with self._write_lock:
            try:
                self._writer.append("verdict", **identifiers, **fields)
            except OSError as error:
                raise UserError(f"Cannot write to {self.path}: {error}") from None
            self.scores_by_key[key] = verdict.score

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._write_lock:
            self._resources.close()


def known_verdicts(runs_dir: Path, spec: Mapping[str, Any]) -> Mapping[str, float | None]:
    """Return the score of each verdict in a judge's ledger, by cache key. Does not lock the ledger."""
    path = runs_dir / VERDICTS_FOLDER / f"{judge_id(spec)}.jsonl"
    if not path.exists():
        return {}
    stat = path.stat()
    return MappingProxyType(_read_cached(path, stat.st_ino, stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _read_cached(path: Path, *_: int) -> dict[str, float | None]:
    """Read a ledger. Cached, because pages read it on every rerun. The other arguments are used only as cache keys."""
    return _read(path)


def _read(path: Path) -> dict[str, float | None]:
    scores_by_key: dict[str, float | None] = {}
    lines, offset = read_lines(path, 0)
    while lines:
        for event in map(parse, lines):
            if event and event["event"] == "verdict" and isinstance(event.get("key"), str):
                scores_by_key[event["key"]] = event.get("score")
        lines, offset = read_lines(path, offset)
    return scores_by_key
