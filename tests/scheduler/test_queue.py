"""The queue: order, what outlives it, what is withdrawn, and that no error ends it."""

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
    """A function that makes a queue for an executor; closed with the test."""
    queues = []

    def make(executor):
        queues.append(Queue(tmp_path, executor))
        return queues[-1]

    yield make
    for opened_queue in queues:
        opened_queue.close(timeout=10)
        assert not opened_queue._thread.is_alive()


class Recorder:
    """An executor that notes what it was given and finishes it, once it is let go."""

    def __init__(self, released=True):
        self.started, self.go = [], threading.Event()
        if released:
            self.go.set()

    def __call__(self, run):
        self.started.append(run.name)
        with run.lock():
            run.append("status", status="running")
            while not self.go.wait(0.01) and not run.stop_request():
                pass
            run.append("status", status=run.stop_request() or "finished")
            run.clear_stop_request()


def drained(queue):
    return lambda: not queue.names()


def test_runs_start_in_order(create, queue, wait):
    executor = Recorder(released=False)
    lane = queue(executor)
    for name in ("c", "a", "b"):
        create(name)
        lane.add(name)
        lane.add(name)
    wait(lambda: executor.started)
    assert lane.names() == ["c", "a", "b"]
    assert executor.started == ["c"]  # one at a time
    executor.go.set()
    wait(drained(lane))
    assert executor.started == ["c", "a", "b"]


def test_order_persists_after_the_queue_closes(tmp_path, create, queue, wait):
    blocked_recorder = Recorder(released=False)
    first = queue(blocked_recorder)
    for name in ("a", "b", "c"):
        create(name)
        first.add(name)
    wait(lambda: blocked_recorder.started)
    first.close()
    assert RunDirectory(tmp_path / "a").status() == "interrupted"
    assert RunDirectory(tmp_path / "b").status() == "queued"
    later_recorder = Recorder()
    second = queue(later_recorder)
    wait(drained(second))
    assert later_recorder.started == ["b", "c"]  # what was interrupted is resumed by a person only
    assert json.loads((tmp_path / "queue.json").read_text()) == []


def test_queued_run_can_be_removed_and_running_one_cannot(create, queue, wait):
    executor = Recorder(released=False)
    lane = queue(executor)
    for name in ("a", "b", "c"):
        create(name)
        lane.add(name)
    wait(lambda: executor.started)
    for name in ("a", "b", "no-such-run"):
        lane.remove(name)
    assert lane.names() == ["a", "c"]
    executor.go.set()
    wait(drained(lane))
    assert executor.started == ["a", "c"]


def test_withdrawn_or_deleted_run_is_skipped(create, queue, wait):
    executor = Recorder(released=False)
    lane = queue(executor)
    runs = {name: create(name) for name in ("a", "b", "c", "d", "e")}
    for name in runs:
        lane.add(name)
    wait(lambda: executor.started)
    stop(runs["b"].path.parent, runs["b"].name)
    runs["c"].request_stop()  # by a process that died before it settled the run
    runs["d"].delete()
    executor.go.set()
    wait(drained(lane))
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
        lane = queue(executor)
        lane.add("a")
        lane.add("b")
        threading.Event().wait(0.3)
        assert executor.started == []
        run.append("status", status="finished")
    wait(drained(lane))
    assert executor.started == ["b"]
    assert next_run.status() == "finished"


def test_run_whose_trainer_died_is_interrupted(create, queue, wait):
    run = create("a")
    run.append("status", status="running")
    executor = Recorder()
    lane = queue(executor)
    lane.add("a")
    wait(drained(lane))
    assert executor.started == []
    assert run.status() == "interrupted"


def test_run_resumed_before_its_trainer_exits_starts_again(create, queue, wait):
    run = create("a")
    rounds = []
    status_written, release = threading.Event(), threading.Event()

    def lingering(run):
        rounds.append(run.name)
        run.append("status", status="finished" if len(rounds) == 2 else "stopped")
        status_written.set()
        release.wait(10)

    lane = queue(lingering)
    lane.add("a")
    status_written.wait(10)
    requeue(run.path.parent, run.name)
    lane.add("a")
    assert lane.names() == ["a"]
    release.set()
    wait(drained(lane))
    assert rounds == ["a", "a"]
    assert run.status() == "finished"


def failing(run):
    raise RuntimeError("no process can be made")


def test_executor_errors_do_not_end_the_queue(create, queue, wait, capfd):
    run, next_run = create("a"), create("b")
    executor = Recorder()
    lane = queue(lambda run: failing(run) if run.name == "a" else executor(run))
    lane.add("a")
    lane.add("b")
    wait(drained(lane))
    assert run.status() == "failed"
    assert run.statuses()[-1]["reason"] == "it could not be started (no process can be made)"
    assert next_run.status() == "finished"
    assert "RuntimeError" in capfd.readouterr().err


@pytest.mark.parametrize("executor", EXECUTORS)
def test_run_deleted_while_starting_leaves_nothing(create, queue, wait, executor):
    run = create("a")

    def delete_then_train(run):
        run.delete()
        EXECUTORS[executor](run)

    lane = queue(delete_then_train)
    lane.add("a")
    wait(drained(lane))
    assert not run.path.exists()


def test_queue_continues_if_it_cannot_be_saved(tmp_path, create, queue, wait):
    executor = Recorder()
    lane = queue(executor)
    (tmp_path / "queue.json").mkdir()
    for name in ("a", "b"):
        create(name)
        with pytest.raises(UserError, match="the queue cannot be written to"):
            lane.add(name)
    wait(drained(lane))
    assert executor.started == ["a", "b"]


@pytest.mark.parametrize(
    "text", ["", "nonsense", "5", '{"a": 1}', "[1, null, [2]]", '["gone", "a", "a", "../a"]']
)
def test_damaged_queue_file_loses_only_the_order(tmp_path, create, queue, wait, text):
    create("a")
    (tmp_path / "queue.json").write_text(text)
    executor = Recorder()
    lane = queue(executor)
    wait(drained(lane))
    assert executor.started == (["a"] if '"a"' in text else [])


def test_closing_an_idle_queue_ends_its_thread_at_once(queue):
    lane = queue(Recorder())
    lane.close(timeout=5)
    assert not lane._thread.is_alive()


def test_closing_while_a_run_starts_ends_that_run(create, queue):
    """The trainer is on its way and holds no lock yet: the request must wait for it."""
    run = create("a")
    spawned, arrive = threading.Event(), threading.Event()
    executor = Recorder(released=False)

    def slow_to_start(run):
        spawned.set()
        arrive.wait(10)
        executor(run)

    lane = queue(slow_to_start)
    lane.add("a")
    spawned.wait(10)
    threading.Timer(0.2, arrive.set).start()
    lane.close(timeout=10)
    assert run.status() == "interrupted"
