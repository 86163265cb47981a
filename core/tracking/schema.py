"""The tables of the index: one per event kind, plus tables for settings, disk sizes and read offsets."""

import zlib

import duckdb

from core.metrics import recorded_fields

REVISION = 8
"""Increment this when the sync fills existing columns differently."""

EVENT_TABLES = {
    "status": {"status": "VARCHAR", "reason": "VARCHAR", "pid": "BIGINT", "host": "VARCHAR"},
    "plan": {
        **recorded_fields("plan"),
        "steps_per_epoch": "BIGINT",
        "train_examples": "BIGINT",
        "base_hash": "VARCHAR",
        "device": "VARCHAR",
        "precision": "VARCHAR",
    },
    "step": {**recorded_fields("step"), "examples": "BIGINT", "batch": "BIGINT[]"},
    "eval": {
        **recorded_fields("eval"),
        "final": "BOOLEAN",
        "val_indices": "BIGINT[]",
        "val_losses": "DOUBLE[]",
        "val_tokens": "BIGINT[]",
        "train_indices": "BIGINT[]",
        "train_losses": "DOUBLE[]",
        "train_tokens": "BIGINT[]",
    },
    "update": {
        **recorded_fields("update"),
        "modules": "VARCHAR[]",
        "relative_updates": "DOUBLE[]",
    },
    "sample": {"step": "BIGINT", "prompt": "VARCHAR", "text": "VARCHAR"},
    "generation": {
        "item": "BIGINT",
        "instruction": "VARCHAR",
        "input": "VARCHAR",
        "reference": "VARCHAR",
        "turns": "VARCHAR",
        "answer": "VARCHAR",
        "tokens": "BIGINT",
        "cut": "BOOLEAN",
        "prompt_cut": "BOOLEAN",
        "memory_mb": "DOUBLE",
        "exact": "BOOLEAN",
        "example": "VARCHAR",
        "subject": "VARCHAR",
    },
    "download": {"repository": "VARCHAR", "bytes": "BIGINT", "total": "BIGINT"},
    "warning": {"step": "BIGINT", "about": "VARCHAR", "message": "VARCHAR"},
    "judge": {
        "id": "VARCHAR",
        "judge": "VARCHAR",
        "kind": "VARCHAR",
        "model": "VARCHAR",
        "temperature": "DOUBLE",
        "prompt": "VARCHAR",
    },
    "verdict": {
        "key": "VARCHAR",
        "id": "VARCHAR",
        "subject": "VARCHAR",
        "repeat": "BIGINT",
        "score": "DOUBLE",
        "reason": "VARCHAR",
        "missing": "VARCHAR",
        "raw": "VARCHAR",
        "tokens_in": "BIGINT",
        "tokens_out": "BIGINT",
        "seconds": "DOUBLE",
    },
}
"""Columns of each event kind's table. Each table also has run, seq and time.

A generation's `exact`, `example` and `subject` are computed during the sync. `example` is a hash of the test example,
and `subject` is a hash of the example and its answer. Verdicts are looked up by these hashes.
For evaluations from older versions, `subset_loss` is `val_loss`, except at the end of a run, where it is null.
"""

SCHEMA_VERSION = zlib.crc32(repr((REVISION, EVENT_TABLES)).encode())
"""An index with a different version is deleted and rebuilt, so adding a field does not require a migration."""
REWINDABLE_TABLES = ("step", "eval", "update", "sample", "warning")
"""Tables from which a rewind deletes all rows after its step."""


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """Create all tables in one transaction."""
    connection.execute("begin transaction")
    connection.execute("create table version (number BIGINT)")
    connection.execute("insert into version values (?)", [SCHEMA_VERSION])
    connection.execute(
        "create table config (run VARCHAR PRIMARY KEY, settings JSON, stamp VARCHAR)"
    )
    connection.execute("create table disk (run VARCHAR PRIMARY KEY, bytes BIGINT, stamp BIGINT)")
    connection.execute("""
        create table ingested (
            run VARCHAR PRIMARY KEY, position BIGINT, seq BIGINT, unreadable BIGINT, before BLOB)
    """)
    for table, columns in EVENT_TABLES.items():
        listed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        connection.execute(
            f'create table "{table}" (run VARCHAR, seq BIGINT, time DOUBLE, {listed})'
        )
    connection.execute("commit")
