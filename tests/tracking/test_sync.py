"""The sync: every event is indexed exactly once, no matter how event files grow, shrink or get damaged."""

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import RunConfig
from core.data.content_hash import content_hash
from core.run.directory import RunDirectory, list_runs
from core.tracking.index import Index
from core.tracking.schema import EVENT_TABLES, REWINDABLE_TABLES
from core.tracking.sync import Sync

STEP = {
    "epoch": 0.5,
    "examples": 8,
    "tokens": 64,
    "padding": 0.25,
    "lr": 5e-5,
    "loss": 2.5,
    "grad_norm": 1.5,
    "seconds": 0.5,
    "tokens_per_s": 128.0,
    "memory_mb": 300.5,
    "batch": [3, 1, 2],
}
SAMPLES = {
    "status": {"status": "running", "reason": None, "pid": 4711, "host": "box"},
    "plan": {
        "steps": 9,
        "steps_per_epoch": 3,
        "train_examples": 24,
        "parameters": 100,
        "trainable": 10,
        "base_hash": "ab12",
        "device": "cpu, 2 threads",
        "precision": "float32",
    },
    "step": {"step": 1, **STEP},
    "eval": {
        "step": 1,
        "epoch": 0.5,
        "tokens": 64,
        "seconds": 0.5,
        "train_loss": 2.5,
        "val_loss": 2.25,
        "subset_loss": 2.0,
        "subset_se": 0.25,
        "final": True,
        "val_indices": [22, 23],
        "val_losses": [2.0, 2.5],
        "val_tokens": [4, 4],
        "train_indices": [0],
        "train_losses": [2.5],
        "train_tokens": [9],
    },
    "update": {
        "step": 1,
        "epoch": 0.5,
        "tokens": 10,
        "seconds": 0.5,
        "relative_update": 0.25,
        "modules": ["h.0"],
        "relative_updates": [0.25],
    },
    "sample": {"step": 1, "prompt": "Say red.", "text": "naïve \0 text"},
    "generation": {
        "item": 10,
        "instruction": "Say up.",
        "input": "",
        "reference": "up",
        "turns": "[]",
        "answer": "down",
        "tokens": 1,
        "cut": False,
        "memory_mb": 301.5,
        "prompt_cut": True,
        "exact": False,
        "example": content_hash("Say up.", "", "up"),
        "subject": content_hash("Say up.", "", "up", "down"),
    },
    "download": {"repository": "a/b", "bytes": 10, "total": 20},
    "warning": {"step": 1, "about": "data", "message": "one record was skipped"},
    "judge": {
        "id": "gemini-12",
        "judge": "gemini",
        "kind": "score",
        "model": "flash",
        "temperature": 0.5,
        "prompt": "Grade {answer}.",
    },
    "verdict": {
        "key": "ab",
        "id": "gemini-12",
        "subject": "cd",
        "repeat": 2,
        "score": 70.0,
        "reason": "close",
        "missing": None,
        "raw": "70",
        "tokens_in": 12,
        "tokens_out": 3,
        "seconds": 0.25,
    },
}
"""One event of each kind, with all indexed fields."""


def line(seq, kind, /, **fields):
    return json.dumps({"seq": seq, "time": 100.0 + seq, "event": kind, **fields}).encode() + b"\n"


def dump(db):
    """Return all tables as text, so that NaN compares equal to NaN."""
    tables = dict.fromkeys(EVENT_TABLES, "run, seq") | {"config": "run", "ingested": "run"}
    query = 'select * from "{}" order by {}'
    return {t: repr(db.execute(query.format(t, key)).fetchall()) for t, key in tables.items()}


def rebuilt(runs_dir):
    index = Index(None)
    Sync(index.cursor()).run(list_runs(runs_dir))
    tables = dump(index.cursor())
    index.close()
    return tables


def numbers(db, table, run="a"):
    query = f'select seq from "{table}" where run = ? order by seq'
    return [seq for (seq,) in db.execute(query, [run]).fetchall()]


@pytest.fixture
def index():
    opened = Index(None)
    yield opened
    opened.close()


@pytest.fixture
def db(index):
    return index.cursor()


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, RunConfig(name="a"))


def grow(run, *lines):
    with run.events_path.open("ab") as file:
        file.write(b"".join(lines))


def test_every_field_of_every_event_kind_is_stored(tmp_path, db, run):
    assert SAMPLES.keys() == EVENT_TABLES.keys()
    generation = SAMPLES["generation"]
    derived_fields = ("exact", "example", "subject")
    recorded = {k: v for k, v in generation.items() if k not in derived_fields}
    fields_by_kind = {**SAMPLES, "generation": recorded}
    grow(run, *(line(seq, kind, **fields_by_kind[kind]) for seq, kind in enumerate(SAMPLES, 2)))
    index_sync = Sync(db)
    assert index_sync.run(list_runs(tmp_path))
    for seq, (kind, fields) in enumerate(SAMPLES.items(), 2):
        assert fields.keys() == EVENT_TABLES[kind].keys()
        cursor = db.execute(f'select * from "{kind}" where seq = ?', [seq])
        names = [column[0] for column in cursor.description]
        [row] = cursor.fetchall()
        expected = {"run": "a", "seq": seq, "time": 100.0 + seq, **fields}
        assert dict(zip(names, row, strict=True)) == expected
    assert not index_sync.run(list_runs(tmp_path))


steps = st.integers(0, 6)
EVENTS = st.one_of(
    st.tuples(st.sampled_from(REWINDABLE_TABLES), steps),
    st.tuples(st.just("generation"), steps),
    st.tuples(st.just("status"), steps),
    st.tuples(st.just("rewind"), st.integers(-1, 6)),
    st.tuples(st.just("malformed"), st.sampled_from([b"", b"{", b"\xff\0", b'{"seq":1}', b"7"])),
    st.tuples(st.just("unknown"), steps),
    st.tuples(st.just("mistyped"), steps),
)


def encode_events(events):
    """Return the lines of an event file, the expected sequence numbers by table, and the number of unreadable lines."""
    seqs_by_table = {table: [] for table in EVENT_TABLES}
    lines, seq, unreadable = [], 0, 0
    for kind, value in events:
        if kind == "malformed":
            lines.append(value + b"\n")
            unreadable += 1
            continue
        seq += 1
        if kind == "mistyped":
            lines.append(line(seq, "step", step=value, loss="high"))
            unreadable += 1
        elif kind == "rewind":
            lines.append(line(seq, "rewind", step=value))
            seqs_by_table["generation"] = []
            for table in REWINDABLE_TABLES:
                seqs_by_table[table] = [
                    (step, n) for step, n in seqs_by_table[table] if step <= value
                ]
        else:
            fields = {"status": "running"} if kind == "status" else {"step": value}
            lines.append(line(seq, kind, **fields))
            if kind == "unknown":
                unreadable += 1
            else:
                seqs_by_table[kind].append((value, seq))
    return (
        lines,
        {table: [n for _, n in step_seqs] for table, step_seqs in seqs_by_table.items()},
        unreadable,
    )


@pytest.fixture(scope="module")
def shared():
    """An index shared by all examples. Syncing an empty list of runs empties it."""
    opened = Index(None)
    yield opened
    opened.close()


@given(st.lists(EVENTS, max_size=25), st.data())
def test_each_event_is_indexed_once_however_the_file_grows(shared, events, data):
    lines, expected, unreadable = encode_events(events)
    content = b"".join(lines)
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=6))
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "a")
        run.path.mkdir()
        run.config_path.write_text("{}")
        db = shared.cursor()
        index_sync = Sync(db)
        index_sync.run([])
        for start, stop_offset in zip(
            [0, *sorted(cuts)], [*sorted(cuts), len(content)], strict=True
        ):
            grow(run, content[start:stop_offset])
            if data.draw(st.booleans()):
                index_sync = Sync(db)
            index_sync.run(list_runs(run.path.parent))
        assert {table: numbers(db, table) for table in EVENT_TABLES} == expected
        unreadable_rows = db.execute("select unreadable from ingested").fetchall()
        assert unreadable_rows == ([(unreadable,)] if content else [])
        grown = dump(db)
        index_sync.run([])
        Sync(db).run(list_runs(run.path.parent))
        assert dump(db) == grown


def test_rewind_deletes_later_steps_and_all_answers(tmp_path, db, run):
    for step in (1, 2, 3):
        for kind in REWINDABLE_TABLES:
            grow(run, line(10 * step + REWINDABLE_TABLES.index(kind), kind, step=step))
    grow(run, line(40, "generation", item=1), line(41, "rewind", step=1))
    grow(run, line(42, "step", step=2), line(43, "generation", item=2))
    Sync(db).run(list_runs(tmp_path))
    remaining_seqs = {
        t: db.execute(f'select step from "{t}" order by seq').fetchall()
        for t in (*REWINDABLE_TABLES,)
    }
    assert remaining_seqs == {t: [(1,), (2,)] if t == "step" else [(1,)] for t in REWINDABLE_TABLES}
    assert db.execute("select item from generation").fetchall() == [(2,)]


def test_rewind_does_not_affect_other_runs(tmp_path, db, run):
    second_run = RunDirectory.create(tmp_path, RunConfig(name="b"))
    for current_run in (run, second_run):
        grow(current_run, line(2, "step", step=5), line(3, "generation", item=1))
    grow(second_run, line(4, "rewind", step=-1))
    Sync(db).run(list_runs(tmp_path))
    assert (numbers(db, "step", "a"), numbers(db, "step", "b")) == ([2], [])
    assert (numbers(db, "generation", "a"), numbers(db, "generation", "b")) == ([3], [])


SYNC_FOREVER = """
import sys
from pathlib import Path
from core.tracking.index import Index
from core.tracking.sync import Sync
from core.run.directory import list_runs
runs_dir = Path(sys.argv[1])
index = Index(runs_dir / "lab.duckdb")
index_sync = Sync(index.cursor())
print("open", flush=True)
while True:
    if index_sync.run(list_runs(runs_dir)):
        print("synced", flush=True)
"""


def test_killed_sync_does_not_lose_or_duplicate_events(tmp_path, child, run):
    seq = 1
    for _ in range(2):
        process = child(SYNC_FOREVER, tmp_path)
        assert process.stdout.readline() == "open\n"
        for _ in range(6):
            new_lines = [line(n, "step", step=n, **STEP) for n in range(seq + 1, seq + 41)]
            seq += 40
            if seq % 3 == 0:
                new_lines.append(line(seq := seq + 1, "rewind", step=seq - 20))
            grow(run, *new_lines)
            process.stdout.readline()
        grow(run, *(line(n, "step", step=n, **STEP) for n in range(seq + 1, seq + 200)))
        seq += 199
        process.send_signal(signal.SIGKILL)
        process.wait()
    index = Index(tmp_path / "lab.duckdb")
    assert index.rebuilt is None
    Sync(index.cursor()).run(list_runs(tmp_path))
    assert dump(index.cursor()) == rebuilt(tmp_path)
    assert len(numbers(index.cursor(), "step")) > 500
    index.close()


def test_failed_transaction_is_rolled_back(tmp_path, db, run):
    index_sync = Sync(db)
    index_sync.run(list_runs(tmp_path))
    dump_before = dump(db)
    db.execute("alter table ingested rename to elsewhere")
    grow(run, line(2, "step", step=1), line(3, "rewind", step=0), line(4, "step", step=1))
    index_sync.run(list_runs(tmp_path))
    assert index_sync.fault.startswith("a cannot be indexed")
    db.execute("alter table elsewhere rename to ingested")
    assert dump(db) == dump_before
    assert index_sync.run(list_runs(tmp_path))
    assert index_sync.fault is None
    assert dump(db) == rebuilt(tmp_path)


def test_truncated_file_is_reread(tmp_path, db, run):
    grow(run, *(line(n, "step", step=n) for n in range(2, 8)))
    index_sync = Sync(db)
    index_sync.run(list_runs(tmp_path))
    os.truncate(run.events_path, run.events_path.stat().st_size - 100)
    assert index_sync.run(list_runs(tmp_path))
    assert dump(db) == rebuilt(tmp_path)
    assert 0 < len(numbers(db, "step")) < 6
    assert len(db.execute("select * from config").fetchall()) == 1  # the settings are not affected


def test_file_truncated_and_regrown_is_reread(tmp_path, db, run):
    """This can happen after a power failure while the dashboard is closed. Sequence numbers are reused."""
    first = run.events_path.read_bytes()
    grow(run, *(line(n, "step", step=n, loss=1.0) for n in range(2, 8)))
    Sync(db).run(list_runs(tmp_path))
    run.events_path.write_bytes(first)
    grow(run, *(line(n, "step", step=n, loss=3.0) for n in range(2, 30)))
    Sync(db).run(list_runs(tmp_path))
    assert dump(db) == rebuilt(tmp_path)
    assert db.execute("select distinct loss from step").fetchall() == [(3.0,)]


def test_deleted_run_is_removed_from_the_index(tmp_path, db, run):
    RunDirectory.create(tmp_path, RunConfig(name="b"))
    grow(run, line(2, "step", step=1))
    index_sync = Sync(db)
    index_sync.run(list_runs(tmp_path))
    run.delete()
    index_sync.run(list_runs(tmp_path))
    assert dump(db) == rebuilt(tmp_path)
    assert db.execute("select run from config").fetchall() == [("b",)]


@pytest.mark.parametrize("new_sync", [True, False])
def test_recreated_run_replaces_the_deleted_one(tmp_path, db, run, new_sync):
    grow(run, *(line(n, "step", step=n, loss=1.0) for n in range(2, 5)))
    index_sync = Sync(db)
    index_sync.run(list_runs(tmp_path))
    run.delete()
    recreated = RunDirectory.create(tmp_path, RunConfig(name="a", notes="the second"))
    grow(recreated, *(line(n, "step", step=n, loss=2.0) for n in range(2, 9)))
    (Sync(db) if new_sync else index_sync).run(list_runs(tmp_path))
    assert dump(db) == rebuilt(tmp_path)
    assert db.execute("select count(*), max(loss), min(loss) from step").fetchall() == [
        (7, 2.0, 2.0)
    ]


def test_deleted_event_file_removes_its_events(tmp_path, db, run):
    index_sync = Sync(db)
    index_sync.run(list_runs(tmp_path))
    run.events_path.unlink()
    assert index_sync.run(list_runs(tmp_path))
    assert numbers(db, "status") == []
    assert db.execute("select run from config").fetchall() == [("a",)]


def settings_of(db, field="notes"):
    return db.execute(f"select settings->>'$.{field}' from config").fetchall()


def test_edited_settings_are_synced_despite_equal_timestamps(tmp_path, db, run):
    index_sync = Sync(db)
    index_sync.run(list_runs(tmp_path))
    stat = run.config_path.stat()
    run.write_config(run.config().changed(notes="x"))
    os.utime(run.config_path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert index_sync.run(list_runs(tmp_path))
    assert settings_of(db) == [("x",)]
    assert not index_sync.run(list_runs(tmp_path))


@pytest.mark.parametrize("text", ["", "nonsense", '{"notes": "\\ud800"}', "\xff"])
def test_invalid_settings_json_is_empty_until_fixed(tmp_path, db, run, text):
    valid_text = run.config_path.read_text()
    run.config_path.write_bytes(text.encode("latin-1"))
    index_sync = Sync(db)
    index_sync.run(list_runs(tmp_path))
    assert index_sync.fault is None
    assert settings_of(db, "seed") == [(None,)]
    run.config_path.write_text(valid_text)
    index_sync.run(list_runs(tmp_path))
    assert settings_of(db, "seed") == [("123",)]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("step", {"step": "one"}),
        ("step", {"step": 1.5}),
        ("step", {"step": True}),
        ("step", {"step": 2**63}),
        ("step", {"step": -(2**70)}),
        ("step", {"loss": "low"}),
        ("step", {"loss": [1]}),
        ("step", {"loss": 10**400}),
        ("step", {"batch": 3}),
        ("step", {"batch": [1, "2"]}),
        ("step", {"batch": [2**64]}),
        ("step", {"time": "noon"}),
        ("eval", {"final": "yes"}),
        ("status", {"status": {"is": "running"}}),
        ("sample", {"text": 5}),
        ("rewind", {"step": "all"}),
        ("rewind", {"step": None}),
        ("rewind", {}),
        ("rewind", {"step": 2**200}),
        ("no_such_kind", {}),
    ],
)
def test_field_of_the_wrong_type_skips_only_its_event(tmp_path, db, run, kind, fields):
    second_run = RunDirectory.create(tmp_path, RunConfig(name="b"))
    grow(run, line(2, "step", step=1), line(3, kind, **fields), line(4, "step", step=2))
    grow(second_run, line(2, "step", step=1))
    index_sync = Sync(db)
    index_sync.run(list_runs(tmp_path))
    assert index_sync.fault is None
    assert numbers(db, "step", "a") == [2, 4]
    assert numbers(db, "step", "b") == [2]
    ingested_rows = db.execute("select run, seq, unreadable from ingested order by run").fetchall()
    assert ingested_rows == [("a", 4, 1), ("b", 2, 0)]


def test_unusual_numbers_and_texts_are_stored(tmp_path, db, run):
    odd_line = (
        b'{"seq":2,"time":1,"event":"step","step":1,"loss":NaN,"grad_norm":Infinity,"lr":1}\n'
    )
    text = b'{"seq":3,"time":1,"event":"sample","step":1,"text":"half \\ud800, emoji \\ud83d\\ude00"}\n'
    grow(run, odd_line, text)
    Sync(db).run(list_runs(tmp_path))
    assert (
        repr(db.execute("select loss, grad_norm, lr from step").fetchall()) == "[(nan, inf, 1.0)]"
    )
    assert db.execute("select text from sample").fetchall() == [("half ?, emoji 😀",)]


def disk_bytes(db):
    [[size]] = db.execute("select bytes from disk").fetchall()
    return size


def test_disk_size_is_measured_when_a_run_changes(tmp_path, db, run):
    checkpoint = run.path / "checkpoint" / "step-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(bytes(1000))
    sync = Sync(db)
    sync.run(list_runs(tmp_path))
    first_size = disk_bytes(db)
    assert first_size == 1000 + sum(p.stat().st_size for p in run.path.iterdir() if p.is_file())
    (checkpoint / "weights").write_bytes(bytes(3000))
    assert not sync.run(list_runs(tmp_path))
    assert disk_bytes(db) == first_size, "measured although no event was written"
    new_line = line(2, "step", step=1, **STEP)
    grow(run, new_line)
    sync.run(list_runs(tmp_path))
    assert disk_bytes(db) == first_size + 2000 + len(new_line)
    shutil.rmtree(run.path / "checkpoint")  # as a trainer does after writing its last event
    assert Sync(db).run(list_runs(tmp_path))
    assert disk_bytes(db) == first_size - 1000 + len(new_line)
    assert not Sync(db).run(list_runs(tmp_path))
    run.delete()
    sync.run(list_runs(tmp_path))
    assert db.execute("select * from disk").fetchall() == []


def test_unreadable_run_does_not_block_others(tmp_path, db, run):
    RunDirectory.create(tmp_path, RunConfig(name="b"))
    run.events_path.unlink()
    run.events_path.mkdir()
    index_sync = Sync(db)
    assert index_sync.run(list_runs(tmp_path))
    assert "a cannot be indexed" in index_sync.fault
    assert numbers(db, "status", "b") == [1]
    run.events_path.rmdir()
    index_sync.run(list_runs(tmp_path))
    assert index_sync.fault is None


def test_run_deleted_during_sync_is_not_a_fault(tmp_path, db, run):
    index_sync = Sync(db)
    runs = list_runs(tmp_path)
    index_sync.run(runs)
    grow(run, line(2, "step", step=1))
    shutil.rmtree(run.path)
    index_sync.run(runs)
    assert index_sync.fault is None
    index_sync.run(list_runs(tmp_path))
    assert db.execute("select * from config").fetchall() == []


def test_long_files_are_synced_in_chunks(tmp_path, db, run, monkeypatch):
    grow(run, *(line(n, "step", step=n) for n in range(2, 200)))
    monkeypatch.setattr("core.run.events.READ_CHUNK_BYTES", 1000)
    Sync(db).run(list_runs(tmp_path))
    assert numbers(db, "step") == list(range(2, 200))
    assert dump(db) == rebuilt(tmp_path)


class CountingCursor:
    """A DuckDB cursor that counts the statements it executes."""

    def __init__(self, cursor):
        self.cursor, self.statements = cursor, 0

    def __getattr__(self, name):
        self.statements += name.startswith("execute")
        return getattr(self.cursor, name)


def test_syncing_6000_steps_takes_few_statements(tmp_path, db, run):
    grow(run, *(line(n, "step", step=n, **STEP) for n in range(2, 6002)))
    counting = CountingCursor(db)
    Sync(counting).run(list_runs(tmp_path))
    assert 0 < counting.statements < 100
    assert len(numbers(db, "step")) == 6000
