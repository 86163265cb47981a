"""The index file: damage, other schema versions, locking and concurrent readers."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pytest

from core.config import RunConfig
from core.errors import UserError
from core.run.directory import RunDirectory, list_runs
from core.tracking.index import Index, IndexHeldError
from core.tracking.schema import EVENT_TABLES, SCHEMA_VERSION
from core.tracking.sync import Sync, read_index

HOLD = """
import sys, time
from pathlib import Path
from core.tracking.index import Index
index = Index(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""
HOLD_WITH_DUCKDB = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""
WRITE_AND_DIE = """
import os, sys
from pathlib import Path
from core.tracking.index import Index
from core.tracking.sync import Sync
from core.run.directory import list_runs
path = Path(sys.argv[1])
index = Index(path)
Sync(index.cursor()).run(list_runs(path.parent))
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def path(tmp_path):
    """The path of an index in a folder that contains one run."""
    RunDirectory.create(tmp_path, RunConfig(name="a"))
    return tmp_path / "lab.duckdb"


def build(path):
    index = Index(path)
    Sync(index.cursor()).run(list_runs(path.parent))
    index.close()


def check_rebuilt(path, reason):
    index = read_index(path.parent)
    assert index.path == path
    assert index.rebuilt.startswith("The index was rebuilt from the run directories: ")
    assert reason in index.rebuilt
    assert index.cursor().execute("select run, status from status").fetchall() == [("a", "queued")]
    index.close()
    reopened = Index(path)
    assert reopened.rebuilt is None
    reopened.close()


def test_index_persists_after_its_process_ends(path):
    build(path)
    index = Index(path)
    assert index.rebuilt is None
    assert index.cursor().execute("select run, status from status").fetchall() == [("a", "queued")]
    index.close()


def test_new_index_has_all_tables(path):
    index = Index(path)
    tables = {
        t for (t,) in index.cursor().execute("select table_name from duckdb_tables()").fetchall()
    }
    assert tables == {*EVENT_TABLES, "version", "config", "disk", "ingested"}
    index.close()


def test_index_with_a_different_schema_version_is_rebuilt(path):
    build(path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("update version set number = 99")
    check_rebuilt(path, f"its version was 99, but this program uses {SCHEMA_VERSION}")


def test_database_that_is_not_an_index_is_rebuilt(path):
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table mine (x INTEGER)")
    check_rebuilt(path, "its version was 0")


def test_index_with_a_missing_table_is_rebuilt(path):
    build(path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("drop table ingested")
    check_rebuilt(path, "CatalogException")


@pytest.mark.parametrize("content", [b"garbage " * 5000, b"\0" * 20_000, b"DUCK"])
def test_file_with_invalid_content_is_rebuilt(path, content):
    path.write_bytes(content)
    check_rebuilt(path, "it could not be opened")


def test_directory_with_the_name_of_the_index_is_kept(path):
    path.mkdir()
    with pytest.raises(UserError, match="cannot be rebuilt"):
        Index(path)
    assert path.is_dir()


def test_empty_file_becomes_a_new_index(path):
    path.write_bytes(b"")
    build(path)
    build(path)


def test_index_with_damaged_blocks_is_rebuilt(path):
    build(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(size - 3 * 4096))
    check_rebuilt(path, "it")


@pytest.fixture
def wal(path, child):
    """The write-ahead log left behind by a killed process."""
    process = child(WRITE_AND_DIE, path)
    process.wait()
    log = path.with_name("lab.duckdb.wal")
    assert log.stat().st_size > 100
    return log


def test_index_with_a_corrupted_write_ahead_log_is_rebuilt(path, wal):
    content = wal.read_bytes()
    middle = len(content) // 2
    wal.write_bytes(content[:middle] + b"damaged" + content[middle + 7 :])
    check_rebuilt(path, reason="")  # depends on which part of the index is damaged


def test_truncated_write_ahead_log_is_replayed(path, wal):
    wal.write_bytes(wal.read_bytes()[:-30])
    index = read_index(path.parent)
    assert index.cursor().execute("select run, status from status").fetchall() == [("a", "queued")]
    index.close()


def test_unwritable_directory_is_reported_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        Index(tmp_path / "file" / "lab.duckdb")


@pytest.mark.parametrize("code", [HOLD, HOLD_WITH_DUCKDB])
def test_error_names_the_process_that_holds_the_index(path, child, code):
    holder = child(code, path)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(IndexHeldError, match=rf"in use by process {holder.pid}\b") as caught:
        Index(path)
    assert caught.value.pid == holder.pid
    in_memory = read_index(path.parent)
    assert in_memory.path is None
    assert in_memory.cursor().execute("select run from status").fetchall() == [("a",)]
    in_memory.close()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    index = Index(path)
    # HOLD_WITH_DUCKDB creates a file without the index tables.
    assert index.rebuilt is None or code is HOLD_WITH_DUCKDB
    index.close()


def test_index_can_be_opened_only_once_per_process(path):
    """DuckDB would allow it to be opened twice, and two syncs would insert every event twice."""
    index = Index(path)
    with pytest.raises(IndexHeldError, match=rf"in use by process {os.getpid()}\b"):
        Index(path)
    threading.Timer(0.2, index.close).start()
    waited = Index(path, timeout=10)
    waited.close()


def test_failed_opening_releases_the_lock(path, child):
    holder = child(HOLD_WITH_DUCKDB, path)
    assert holder.stdout.readline() == "held\n"
    for _ in range(2):
        with pytest.raises(IndexHeldError, match=str(holder.pid)):
            Index(path)


def test_closing_releases_the_index_despite_open_cursors(path, child):
    index = Index(path)
    cursors = []

    def open_cursors():
        cursors.append(index.cursor())
        cursors.append(index.new_cursor())

    thread = threading.Thread(target=open_cursors)
    thread.start()
    thread.join()
    index.close()
    index.close()
    second_process = child(HOLD, path)
    assert second_process.stdout.readline() == "held\n"
    with pytest.raises(duckdb.ConnectionException):
        cursors[0].execute("select 1")


def test_concurrent_readers_see_consistent_data(path):
    run = RunDirectory(path.parent / "a")
    index = Index(path)
    stop_event = threading.Event()
    cursors = set()

    def check_counts():
        cursors.add(id(index.cursor()))
        assert index.cursor() is index.cursor()
        max_step = 0
        while not stop_event.is_set():
            [(rows, last, total, last_seq)] = (
                index.cursor()
                .execute(
                    """select count(*), coalesce(max(step), 0), coalesce(sum(step), 0),
                       (select max(seq) - 1 from ingested) from step"""
                )
                .fetchall()
            )
            assert rows == last == (last_seq or 0)
            assert total == last * (last + 1) // 2
            assert last >= max_step
            max_step = last
        return max_step

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(check_counts) for _ in range(6)]
        index_sync = Sync(index.new_cursor())
        with run.events_path.open("a") as file:
            for step in range(1, 76):
                file.write(f'{{"seq":{step + 1},"time":1,"event":"step","step":{step}}}\n')
                if step % 3 == 0:
                    file.flush()
                    index_sync.run(list_runs(path.parent))
        stop_event.set()
        assert max(reader.result() for reader in readers) > 0
    assert len(cursors) == 6
    index.close()
