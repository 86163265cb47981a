"""The queue: order, persistence, withdrawn runs, trainers that outlive the dashboard and error handling."""

import json
import threading

import pytest

from core.config import RunConfig
from core.errors import UserError
from core.operations import requeue, stop
from core.run.directory import RunDirectory
from core.scheduler.executors import EXECUTORS
from core.scheduler.queue import Queue


@pytest.fixture
def create(tmp_path):
    return lambda name: RunDirectory.create(tmp_path, RunConfig(name=name))


@pytest.fixture
def queue(tmp_path):
    """A function that creates a queue for an executor. The queues are closed after the test."""
    queues, threads = [], queue_threads()

    def create_queue(executor):
        queues.append(Queue(tmp_path, executor))
        return queues[-1]

    yield create_queue
    for opened_queue in queues:
        opened_queue.close(timeout=10)
    assert queue_threads() == threads


def queue_threads():
    """Return the running threads of all queues."""
    return {thread for thread in threading.enumerate() if thread.name == "queue"}


class Recorder:
    """An executor that records its runs and finishes each one when `release` is set."""

    def __init__(self, released=True):
        self.started, self.release = [], threading.Event()
        if released:
            self.release.set()

    def __call__(self, run):
        self.started.append(run.name)
        with run.lock():
            run.append("status", status="running")
            while not self.release.wait(0.01) and not run.stop_request():
                pass
            run.append("status", status=run.stop_request() or "finished")
            run.clear_stop_request()


def drained(queue):
    return lambda: not queue.names()


def test_runs_start_in_order(create, queue, wait):
    executor = Recorder(released=False)
    run_queue = queue(executor)
    for name in ("c", "a", "b"):
        create(name)
        run_queue.add(name)
        run_queue.add(name)
    wait(lambda: executor.started)
    assert run_queue.names() == ["c", "a", "b"]
    assert executor.started == ["c"]  # one at a time
    executor.release.set()
    wait(drained(run_queue))
    assert executor.started == ["c", "a", "b"]


def test_order_persists_after_the_queue_closes(tmp_path, create, queue, wait):
    first_executor = Recorder(released=False)
    first = queue(first_executor)
    for name in ("a", "b", "c"):
        create(name)
        first.add(name)
    wait(lambda: first_executor.started)
    first.close()
    assert RunDirectory(tmp_path / "a").status() == "interrupted"
    assert RunDirectory(tmp_path / "b").status() == "queued"
    second_executor = Recorder()
    second = queue(second_executor)
    wait(drained(second))
    assert second_executor.started == ["b", "c"]  # an interrupted run is not resumed automatically
    assert json.loads((tmp_path / "queue.json").read_text()) == []


def test_queued_run_can_be_removed_but_not_a_running_one(create, queue, wait):
    executor = Recorder(released=False)
    run_queue = queue(executor)
    for name in ("a", "b", "c"):
        create(name)
        run_queue.add(name)
    wait(lambda: executor.started)
    for name in ("a", "b", "no-such-run"):
        run_queue.remove(name)
    assert run_queue.names() == ["a", "c"]
    executor.release.set()
    wait(drained(run_queue))
    assert executor.started == ["a", "c"]


def test_withdrawn_or_deleted_run_is_skipped(create, queue, wait):
    executor = Recorder(released=False)
    run_queue = queue(executor)
    runs = {name: create(name) for name in ("a", "b", "c", "d", "e")}
    for name in runs:
        run_queue.add(name)
    wait(lambda: executor.started)
    stop(runs["b"].path.parent, runs["b"].name)
    runs["c"].request_stop()  # by a process that died before writing the final status
    runs["d"].delete()
    executor.release.set()
    wait(drained(run_queue))
    assert executor.started == ["a", "e"]
    for name in ("b", "c"):
        assert runs[name].status() == "stopped"
        assert runs[name].statuses()[-1]["reason"] == "withdrawn before it started"
    assert not runs["d"].path.exists()


def test_queue_waits_for_a_surviving_trainer(create, queue, wait):
    run, next_run = create("a"), create("b")
    executor = Recorder()
    with run.lock():
        run.append("status", status="running")
        run_queue = queue(executor)
        run_queue.add("a")
        run_queue.add("b")
        threading.Event().wait(0.3)
        assert executor.started == []
        run.append("status", status="finished")
    wait(drained(run_queue))
    assert executor.started == ["b"]
    assert next_run.status() == "finished"


def test_run_whose_trainer_died_is_interrupted(create, queue, wait):
    run = create("a")
    run.append("status", status="running")
    executor = Recorder()
    run_queue = queue(executor)
    run_queue.add("a")
    wait(drained(run_queue))
    assert executor.started == []
    assert run.status() == "interrupted"


def test_run_resumed_before_its_trainer_exits_starts_again(create, queue, wait):
    run = create("a")
    started = []
    status_written, release = threading.Event(), threading.Event()

    def exit_slowly(run):
        started.append(run.name)
        run.append("status", status="finished" if len(started) == 2 else "stopped")
        status_written.set()
        release.wait(10)

    run_queue = queue(exit_slowly)
    run_queue.add("a")
    status_written.wait(10)
    requeue(run.path.parent, run.name)
    run_queue.add("a")
    assert run_queue.names() == ["a"]
    release.set()
    wait(drained(run_queue))
    assert started == ["a", "a"]
    assert run.status() == "finished"


def failing(run):
    raise RuntimeError("cannot start a process")


def test_executor_errors_do_not_end_the_queue(create, queue, wait, capfd):
    run, next_run = create("a"), create("b")
    executor = Recorder()
    run_queue = queue(lambda run: failing(run) if run.name == "a" else executor(run))
    run_queue.add("a")
    run_queue.add("b")
    wait(drained(run_queue))
    assert run.status() == "failed"
    assert run.statuses()[-1]["reason"] == "could not be started (cannot start a process)"
    assert next_run.status() == "finished"
    assert "RuntimeError" in capfd.readouterr().err


@pytest.mark.parametrize("executor", EXECUTORS)
def test_run_deleted_while_starting_leaves_nothing(create, queue, wait, executor):
    run = create("a")

    def delete_then_train(run):
        run.delete()
        EXECUTORS[executor](run)

    run_queue = queue(delete_then_train)
    run_queue.add("a")
    wait(drained(run_queue))
    assert not run.path.exists()


def test_queue_continues_if_it_cannot_be_saved(tmp_path, create, queue, wait):
    executor = Recorder()
    run_queue = queue(executor)
    (tmp_path / "queue.json").mkdir()
    for name in ("a", "b"):
        create(name)
        with pytest.raises(UserError, match="The queue cannot be saved to"):
            run_queue.add(name)
    wait(drained(run_queue))
    assert executor.started == ["a", "b"]


@pytest.mark.parametrize(
    "text", ["", "nonsense", "5", '{"a": 1}', "[1, null, [2]]", '["gone", "a", "a", "../a"]']
)
def test_damaged_queue_file_loses_only_the_order(tmp_path, create, queue, wait, text):
    create("a")
    (tmp_path / "queue.json").write_text(text)
    executor = Recorder()
    run_queue = queue(executor)
    wait(drained(run_queue))
    assert executor.started == (["a"] if '"a"' in text else [])


def test_closing_an_idle_queue_ends_its_thread_at_once(queue):
    threads = queue_threads()
    run_queue = queue(Recorder())
    run_queue.close(timeout=5)
    assert queue_threads() == threads


def test_closing_while_a_run_starts_ends_that_run(create, queue):
    """The trainer has not locked the run yet, so the stop request must persist until it does."""
    run = create("a")
    started, proceed = threading.Event(), threading.Event()
    executor = Recorder(released=False)

    def start_slowly(run):
        started.set()
        proceed.wait(10)
        executor(run)

    run_queue = queue(start_slowly)
    run_queue.add("a")
    started.wait(10)
    threading.Timer(0.2, proceed.set).start()
    run_queue.close(timeout=10)
    assert run.status() == "interrupted"
