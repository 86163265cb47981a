"""Rows on their way into the index: gathered over many runs and written together, which is much quicker."""

from collections.abc import Iterable
from typing import Any

import duckdb
import pyarrow as pa

from core.tracking import bulk

MOST = 100_000
"""Rows after which more should not be gathered."""


class Pending:
    """What is still to be written; empty after `write`."""

    def __init__(self) -> None:
        self.size = 0
        """Rows of events."""
        self._steps: list[pa.Table] = []
        self._rows: dict[str, list[list[Any]]] = {}
        self._places: dict[str, list[Any]] = {}
        self._configs: dict[str, list[str]] = {}

    def add_steps(self, run: str, steps: pa.Table) -> None:
        """Steps of a run, as `bulk.split` gives them."""
        self._steps.append(steps.add_column(0, "run", pa.repeat(run, len(steps))))
        self.size += len(steps)

    def add_row(self, table: str, row: list[Any]) -> None:
        """An event, in the order of its table's columns."""
        self._rows.setdefault(table, []).append(row)
        self.size += 1

    def set_place(self, run: str, *place: Any) -> None:
        """How far a run's events were read, in the order of the columns of `ingested`."""
        self._places[run] = [run, *place]

    def set_config(self, run: str, settings: str, stamp: str) -> None:
        """A run's settings as they stand in its file; what is no JSON counts as none."""
        self._configs[run] = [run, settings, stamp]

    def write(self, db: duckdb.DuckDBPyConnection) -> None:
        """Put it into the index, by the transaction that is going on. Raises duckdb.Error."""
        if self._steps:
            steps = pa.concat_tables(self._steps)
            listed = ", ".join(f'"{name}"' for name in ("run", *bulk.SCHEMA.names))
            db.execute(f"insert into step ({listed}) select {listed} from steps")
            del steps
        for table, rows in self._rows.items():
            with db.appender(table) as appender:
                appender.append_rows(rows)
        if self._places:
            columns = _columns(self._places.values())
            unnested = ", ".join(["unnest(?)"] * len(columns))
            db.execute(f"insert or replace into ingested select {unnested}", columns)
        if self._configs:
            db.execute(
                """
                insert or replace into config
                select run, case when json_valid(settings) then settings else '{}' end, stamp
                from (select unnest(?) as run, unnest(?) as settings, unnest(?) as stamp)
                """,
                _columns(self._configs.values()),
            )
        self.size = 0
        for gathered in (self._steps, self._rows, self._places, self._configs):
            gathered.clear()


def _columns(rows: Iterable[list[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
