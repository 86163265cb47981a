"""Keep an open index in sync with the run directories. It does not depend on which process drives the runs."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import duckdb

from core.errors import UserError
from core.tracking.index import Index
from core.tracking.sync import Sync, is_broken, sources

Result = TypeVar("Result")


class SyncedIndex:
    """The open index for a folder. A broken index is rebuilt once. Thread-safe.

    Args:
        runs_dir: the folder with the run directories.
        index: the open index. `close` closes it.
    """

    def __init__(self, runs_dir: Path, index: Index) -> None:
        self._runs_dir, self._index = runs_dir, index
        self._sync_lock = threading.Lock()
        self._sync: Sync | None = None
        self._was_rebuilt = self._closed = False
        self.fault: str | None = None
        """Why the index is out of date; None if it is current."""
        self.changed_at = 0
        """Monotonic time of the last sync that changed the index, in nanoseconds; used as a cache key."""
        self._cache: dict[Callable[..., Any], tuple[int, Any]] = {}

    @property
    def notice(self) -> str | None:
        """Why the index is out of date or was rebuilt; None if neither applies."""
        return self.fault or self._index.rebuilt

    def refresh(self) -> None:
        """Sync the index with the run directories now. Raises UserError if it is closed."""
        with self._sync_lock, _keyboard_interrupts():
            self._require_open()
            try:
                self._sync_now()
            except duckdb.Error as error:
                self._rebuild(error)
            except OSError as error:
                self.fault = f"The run directories cannot be read: {error}"

    def read(self, query: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """Run a query. If the index is broken, rebuild it and retry once.

        Raises:
            UserError: the index is closed or cannot be read.
        """
        self._require_open()
        generation = self._index.generation
        try:
            with _keyboard_interrupts():
                return query(self._index.cursor(), *args, **options)
        except duckdb.Error as error:
            with self._sync_lock:
                self._require_open()
                if generation == self._index.generation:
                    self._rebuild(error)
                if generation == self._index.generation:
                    raise UserError(f"The index cannot be read: {error}") from error
        return query(self._index.cursor(), *args, **options)

    def read_cached(self, query: Callable[[duckdb.DuckDBPyConnection], Result]) -> Result:
        """Like `read`, but run the query only if the index has changed. Do not modify the result."""
        changed_at = self.changed_at  # before the query: a sync during it invalidates the result
        cached_at, result = self._cache.get(query, (None, None))
        if cached_at != changed_at:
            result = self.read(query)
            self._cache[query] = changed_at, result
        return cast(Result, result)

    def close(self) -> None:
        """Write everything to disk and release the file."""
        with self._sync_lock:
            self._closed = True
            self._index.close()

    def _require_open(self) -> None:
        if self._closed:
            raise UserError("This Lab is closed.")

    def _sync_now(self) -> None:
        self._sync = self._sync or Sync(self._index.new_cursor())
        changed = True  # if it fails halfway
        try:
            changed = self._sync.run(sources(self._runs_dir))
        finally:
            if changed:
                self.changed_at = time.monotonic_ns()
        self.fault = self._sync.fault

    def _rebuild(self, error: duckdb.Error) -> None:
        """Rebuild the index if it is broken and has not been rebuilt yet. Otherwise set `fault`."""
        if self._was_rebuilt or not is_broken(error):
            self.fault = f"The index cannot be updated: {error}"
            return
        self._was_rebuilt = True
        try:
            self._index.rebuild(f"it could not be read ({type(error).__name__})")
            self._sync = None
            self._sync_now()
        except (OSError, UserError, duckdb.Error) as failure:
            self.fault = f"The index cannot be updated: {failure}"


@contextlib.contextmanager
def _keyboard_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt if Ctrl-C interrupts a query, for which DuckDB (2.0) raises RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise
