"""The tables of the index: one for each kind of event, and what it keeps of each run's files."""

import duckdb

SCHEMA_VERSION = 7
"""Of an index: one of another version is set aside and rebuilt."""

EVENT_TABLES = {
    "status": {"status": "VARCHAR", "reason": "VARCHAR", "pid": "BIGINT", "host": "VARCHAR"},
    "plan": {
        "steps": "BIGINT",
        "steps_per_epoch": "BIGINT",
        "train_examples": "BIGINT",
        "parameters": "BIGINT",
        "trainable": "BIGINT",
        "base_hash": "VARCHAR",
        "device": "VARCHAR",
        "precision": "VARCHAR",
    },
    "step": {
        "step": "BIGINT",
        "epoch": "DOUBLE",
        "examples": "BIGINT",
        "tokens": "BIGINT",
        "padding": "DOUBLE",
        "lr": "DOUBLE",
        "loss": "DOUBLE",
        "grad_norm": "DOUBLE",
        "seconds": "DOUBLE",
        "tokens_per_s": "DOUBLE",
        "memory_mb": "DOUBLE",
        "batch": "BIGINT[]",
    },
    "eval": {
        "step": "BIGINT",
        "epoch": "DOUBLE",
        "tokens": "BIGINT",
        "seconds": "DOUBLE",
        "train_loss": "DOUBLE",
        "val_loss": "DOUBLE",
        "final": "BOOLEAN",
    },
    "sample": {"step": "BIGINT", "prompt": "VARCHAR", "text": "VARCHAR"},
    "generation": {
        "item": "BIGINT",
        "instruction": "VARCHAR",
        "input": "VARCHAR",
        "reference": "VARCHAR",
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
"""Tables by the kind of event they hold, and the fields they keep; each also has run, seq and time.

`exact`, `example` and `subject` of a generation are not fields of the event: the sync adds them. The latter two are hashes
of the test example and of the example with its answer, by which verdicts are found.
"""

REWINDABLE_TABLES = ("step", "eval", "sample", "warning")
"""Tables from which a rewind drops what came after its step."""


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """All tables or none."""
    connection.execute("begin transaction")
    connection.execute("create table version (number INTEGER)")
    connection.execute("insert into version values (?)", [SCHEMA_VERSION])
    connection.execute(
        "create table config (run VARCHAR PRIMARY KEY, settings JSON, stamp VARCHAR)"
    )
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
