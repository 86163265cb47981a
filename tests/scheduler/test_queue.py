"""The queue: order, what outlives it, what is withdrawn, and that no error ends it."""

import json
import threading

import pytest

from core.config import RunConfig
from core.errors import UserError
from core.lab import requeue, stop
from core.run.directory import RunDirectory
from core.scheduler.executors import EXECUTORS
from core.scheduler.queue import Queue


@pytest.fixture
def create(tmp_path):
    return lambda name: RunDirectory.create(tmp_path, RunConfig(name=name))


@pytest.fixture
def queue(tmp_path):
    """A function that makes a queue for an executor; closed with the test."""
    made = []

    def make(executor):
        made.append(Queue(tmp_path, executor))
        return made[-1]

    yield make
    for each in made:
        each.close(timeout=10)
        assert not each._thread.is_alive()


class Recorder:
    """An executor that notes what it was given and finishes it, once it is let go."""

    def __init__(self, going=True):
        self.taken, self.go = [], threading.Event()
        if going:
            self.go.set()

    def __call__(self, run):
        self.taken.append(run.name)
        with run.lock():
            run.append("status", status="running")
            while not self.go.wait(0.01) and not run.stop_request():
                pass
            run.append("status", status=run.stop_request() or "finished")
            run.clear_stop_request()


def drained(queue):
    return lambda: not queue.names()


def test_runs_are_taken_in_order(create, queue, wait):
    executor = Recorder(going=False)
    lane = queue(executor)
    for name in ("c", "a", "b"):
        create(name)
        lane.add(name)
        lane.add(name)
    wait(lambda: executor.taken)
    assert lane.names() == ["c", "a", "b"]
    assert executor.taken == ["c"]  # one at a time
    executor.go.set()
    wait(drained(lane))
    assert executor.taken == ["c", "a", "b"]


def test_the_order_outlives_the_queue(tmp_path, create, queue, wait):
    blocked = Recorder(going=False)
    first = queue(blocked)
    for name in ("a", "b", "c"):
        create(name)
        first.add(name)
    wait(lambda: blocked.taken)
    first.close()
    assert RunDirectory(tmp_path / "a").status() == "interrupted"
    assert RunDirectory(tmp_path / "b").status() == "queued"
    later = Recorder()
    second = queue(later)
    wait(drained(second))
    assert later.taken == ["b", "c"]  # what was interrupted is resumed by a person only
    assert json.loads((tmp_path / "queue.json").read_text()) == []


def test_what_waits_is_removed_and_what_runs_is_not(create, queue, wait):
    executor = Recorder(going=False)
    lane = queue(executor)
    for name in ("a", "b", "c"):
        create(name)
        lane.add(name)
    wait(lambda: executor.taken)
    for name in ("a", "b", "no-such-run"):
        lane.remove(name)
    assert lane.names() == ["a", "c"]
    executor.go.set()
    wait(drained(lane))
    assert executor.taken == ["a", "c"]


def test_a_run_withdrawn_or_deleted_while_it_waits_is_passed_over(create, queue, wait):
    executor = Recorder(going=False)
    lane = queue(executor)
    runs = {name: create(name) for name in ("a", "b", "c", "d", "e")}
    for name in runs:
        lane.add(name)
    wait(lambda: executor.taken)
    stop(runs["b"])
    runs["c"].request_stop()  # by a process that died before it settled the run
    runs["d"].delete()
    executor.go.set()
    wait(drained(lane))
    assert executor.taken == ["a", "e"]
    for name in ("b", "c"):
        assert runs[name].status() == "stopped"
        assert runs[name].statuses()[-1]["reason"] == "withdrawn before it started"
    assert not runs["d"].path.exists()


def test_a_trainer_that_outlived_its_dashboard_is_waited_for(create, queue, wait):
    run, after = create("a"), create("b")
    executor = Recorder()
    with run.lock():
        run.append("status", status="running")
        lane = queue(executor)
        lane.add("a")
        lane.add("b")
        threading.Event().wait(0.3)
        assert executor.taken == []
        run.append("status", status="finished")
    wait(drained(lane))
    assert executor.taken == ["b"]
    assert after.status() == "finished"


def test_a_run_whose_trainer_died_with_its_dashboard_is_interrupted(create, queue, wait):
    run = create("a")
    run.append("status", status="running")
    executor = Recorder()
    lane = queue(executor)
    lane.add("a")
    wait(drained(lane))
    assert executor.taken == []
    assert run.status() == "interrupted"


def test_a_run_resumed_before_its_trainer_is_gone_is_taken_again(create, queue, wait):
    run = create("a")
    rounds = []
    said, leave = threading.Event(), threading.Event()

    def lingering(run):
        rounds.append(run.name)
        run.append("status", status="finished" if len(rounds) == 2 else "stopped")
        said.set()
        leave.wait(10)

    lane = queue(lingering)
    lane.add("a")
    said.wait(10)
    requeue(run)
    lane.add("a")
    assert lane.names() == ["a"]
    leave.set()
    wait(drained(lane))
    assert rounds == ["a", "a"]
    assert run.status() == "finished"


def failing(run):
    raise RuntimeError("no process can be made")


def test_no_error_of_an_executor_ends_the_queue(create, queue, wait, capfd):
    run, after = create("a"), create("b")
    executor = Recorder()
    lane = queue(lambda run: failing(run) if run.name == "a" else executor(run))
    lane.add("a")
    lane.add("b")
    wait(drained(lane))
    assert run.status() == "failed"
    assert run.statuses()[-1]["reason"] == "it could not be started (no process can be made)"
    assert after.status() == "finished"
    assert "RuntimeError" in capfd.readouterr().err


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_run_deleted_just_as_it_starts_leaves_nothing(create, queue, wait, executor):
    run = create("a")

    def late(run):
        run.delete()
        EXECUTORS[executor](run)

    lane = queue(late)
    lane.add("a")
    wait(drained(lane))
    assert not run.path.exists()


def test_a_queue_that_cannot_be_stored_goes_on(tmp_path, create, queue, wait):
    executor = Recorder()
    lane = queue(executor)
    (tmp_path / "queue.json").mkdir()
    for name in ("a", "b"):
        create(name)
        with pytest.raises(UserError, match="the queue cannot be written to"):
            lane.add(name)
    wait(drained(lane))
    assert executor.taken == ["a", "b"]


@pytest.mark.parametrize(
    "text", ["", "nonsense", "5", '{"a": 1}', "[1, null, [2]]", '["gone", "a", "a", "../a"]']
)
def test_a_damaged_file_costs_the_order_and_nothing_else(tmp_path, create, queue, wait, text):
    create("a")
    (tmp_path / "queue.json").write_text(text)
    executor = Recorder()
    lane = queue(executor)
    wait(drained(lane))
    assert executor.taken == (["a"] if '"a"' in text else [])


def test_closing_an_idle_queue_ends_its_thread_at_once(queue):
    lane = queue(Recorder())
    lane.close(timeout=5)
    assert not lane._thread.is_alive()


def test_closing_just_as_a_run_is_spawned_ends_that_run(create, queue):
    """The trainer is on its way and holds no lock yet: the request must wait for it."""
    run = create("a")
    spawned, arrive = threading.Event(), threading.Event()
    executor = Recorder(going=False)

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
