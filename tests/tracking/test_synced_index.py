"""The synced index: rebuilding a broken index, and reading during a rebuild."""

import os
import shutil
import signal
import threading

import duckdb
import pytest

from core.config import RunConfig
from core.errors import UserError
from core.run.directory import RunDirectory
from core.tracking import queries
from core.tracking.index import INDEX_FILE, Index
from core.tracking.synced_index import SyncedIndex


@pytest.fixture
def open_index(tmp_path):
    """A function that opens the synced index for a folder with the run `a`. The index is closed after the test."""
    RunDirectory.create(tmp_path, RunConfig(name="a"))
    indexes = []

    def open_and_sync():
        indexes.append(SyncedIndex(tmp_path, Index(tmp_path / INDEX_FILE)))
        indexes[-1].refresh()
        return indexes[-1]

    yield open_and_sync
    for index in indexes:
        index.close()


def failing_once():
    """Return a query whose first call raises the error that a broken index would cause."""
    errors = [duckdb.IOException("damaged block")]

    def query(db):
        if errors:
            raise errors.pop()
        return queries.results(db)["name"].tolist()

    return query


def test_index_that_was_rebuilt_at_open_can_be_rebuilt_again(tmp_path, open_index):
    index = Index(tmp_path / INDEX_FILE)
    index.cursor().execute("update version set number = 0")
    index.close()
    index = open_index()
    assert "its version was 0" in index.notice
    assert index.read(failing_once()) == ["a"]
    assert "it could not be read (IOException)" in index.notice
    with pytest.raises(UserError, match="cannot be read: damaged block"):
        index.read(failing_once())  # rebuilt only once
    assert index.fault == "The index cannot be updated: damaged block"


def test_reader_retries_after_another_thread_rebuilt_the_index(open_index):
    index = open_index()
    threads = []

    def query(db):
        if not threads:
            threads.append(threading.Thread(target=index.read, args=[failing_once()]))
            threads[0].start()
            threads[0].join()
        return queries.results(db)["name"].tolist()

    assert index.read(query) == ["a"]
    assert index.fault is None


def test_closed_index_cannot_be_rebuilt(tmp_path):
    index = Index(tmp_path / INDEX_FILE)
    index.close()
    with pytest.raises(UserError, match="is closed"):
        index.rebuild("as requested")
    assert (tmp_path / INDEX_FILE).exists()


def test_ctrl_c_during_a_query_is_a_keyboard_interrupt(open_index):
    """DuckDB itself raises RuntimeError, which callers do not expect."""
    index = open_index()

    def long_query(db):
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        db.execute(
            "set threads = 1"
        )  # otherwise, DuckDB may wait for other threads before it reacts
        db.execute("select count(*) from range(10000000000) t(i) where i % 7 = 3").fetchall()

    with pytest.raises(KeyboardInterrupt):
        index.read(long_query)


def test_query_is_cached_until_a_run_changes_or_disappears(tmp_path, open_index):
    index = open_index()
    calls = []

    def query(db):
        calls.append(db)
        return queries.results(db)["status"].tolist()

    assert [index.read_cached(query) for _ in range(3)] == [["queued"]] * 3
    index.refresh()
    assert index.read_cached(query) == ["queued"]
    assert len(calls) == 1
    run = RunDirectory(tmp_path / "a")
    run.append("status", status="running")
    index.refresh()
    assert index.read_cached(query) == ["running"]
    shutil.rmtree(run.path)
    index.refresh()
    assert index.read_cached(query) == []
    assert len(calls) == 3
