"""The ledger of one judge: every verdict it ever gave, so that nothing is asked or paid twice.

A file of numbered events in `runs/verdicts/`, only ever appended to, like a run's; the index takes it in. One
process writes at a time. Knows no service and no run.
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
from core.judging.judge import Item, Verdict, judge_id
from core.run.event_files import VERDICTS_FOLDER
from core.run.events import EventWriter, parse, read_lines
from core.run.lock import acquire

MAX_RAW_CHARACTERS = 8000
"""Letters of a reply that are kept."""


class Ledger:
    """An open ledger: a context manager.

    Args:
        runs_dir: its folder is made there.
        spec: the judge's.

    Raises:
        UserError: another process scores with this judge, or the folder cannot be written to.
    """

    def __init__(self, runs_dir: Path, spec: Mapping[str, Any]) -> None:
        self.id = judge_id(spec)
        self.path = runs_dir / VERDICTS_FOLDER / f"{self.id}.jsonl"
        self._write_lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as opening:  # let go of, should any of it fail
                lock = acquire(self.path.with_suffix(".lock"))
                if lock is None:
                    message = f"another scoring with {self.id} is going on; wait for it or stop it"
                    raise UserError(message)
                opening.callback(os.close, lock)
                self._writer = opening.enter_context(contextlib.closing(EventWriter(self.path)))
                self.scores_by_key = _read(self.path)
                """Score by key of every verdict, None where it is missing."""
                if self.path.stat().st_size == 0:
                    self._writer.append("judge", id=self.id, **spec)
                self._resources = opening.pop_all()
        except OSError as error:
            raise UserError(f"{self.path.parent} cannot be written to ({error})") from None

    def write(self, key: str, item: Item, repeat: int, verdict: Verdict) -> None:
        """Keep a verdict. Of two with one key the later counts. Raises UserError where the disk is full."""
        fields = {**asdict(verdict), "raw": verdict.raw[:MAX_RAW_CHARACTERS]}
        fields = {name: value for name, value in fields.items() if value not in (None, "")}
        identifiers = {"key": key, "id": self.id, "subject": item.subject, "repeat": repeat}
        with self._write_lock:
            try:
                self._writer.append("verdict", **identifiers, **fields)
            except OSError as error:
                raise UserError(f"{self.path} cannot be written to ({error})") from None
            self.scores_by_key[key] = verdict.score

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._write_lock:
            self._resources.close()


def known_verdicts(runs_dir: Path, spec: Mapping[str, Any]) -> Mapping[str, float | None]:
    """Score by key of every verdict that a judge's ledger holds, without opening it to write."""
    path = runs_dir / VERDICTS_FOLDER / f"{judge_id(spec)}.jsonl"
    if not path.exists():
        return {}
    stat = path.stat()
    return MappingProxyType(_read_once(path, stat.st_ino, stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _read_once(path: Path, *_: int) -> dict[str, float | None]:
    """For a page that asks at each click; the file's identity is among the arguments."""
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
