"""Driving runs from one dashboard: reordering the queue, killing hanging trainers, and resuming interrupted runs."""

import json
import os
import signal
import time

import psutil
import pytest

from core import lab as lab_module
from core import operations
from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.operations import requeue, stop
from core.run.directory import RunDirectory
from core.scheduler import preferences
from core.scheduler.preferences import Preferences
from core.scheduler.processes import identity, kill_trainer, kill_tree
from core.scheduler.queue import QUEUE_FILE, Queue
from core.tracking.index import INDEX_FILE, IndexHeldError
from core.tracking.sync import read_index, rebuild_index
from tests.test_lab import HOLD, LONG, has_exited, trainer_pid

HOLD_RUN = """
import sys
from pathlib import Path
from core.run.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.readline()
"""
DRIVE = """
import signal, sys
from pathlib import Path
from core.config import RunConfig
from core.lab import Lab
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
lab = Lab(Path(sys.argv[1]))
print(lab.launch(RunConfig.model_validate_json(sys.argv[2])), flush=True)
signal.pause()
"""


def step_count(run):
    return run.events_path.read_text().count('"event":"step"')


def backdate_stop_request(run):
    past = time.time() - operations.KILL_AFTER_S - 1
    os.utime(run.stop_path, (past, past))


def test_hanging_trainer_is_killed_by_the_second_stop_request(lab, runs_dir, settings, wait):
    name = lab.launch(settings(name="a", **LONG))
    run = RunDirectory(runs_dir / name)
    wait(lambda: step_count(run) >= 1)
    pid = trainer_pid(run)
    os.kill(pid, signal.SIGSTOP)
    lab.stop(name)
    lab.stop(name)  # it is too soon to kill the trainer
    assert not has_exited(pid)
    backdate_stop_request(run)
    lab.stop(name)
    wait(lambda: has_exited(pid))
    wait(lambda: run.status() == "stopped")
    wait(lambda: not lab.waiting())
    requeue(run.path.parent, run.name)
    assert run.status() == "queued"


@pytest.mark.long
def test_run_that_stops_in_time_is_not_killed(lab, runs_dir, settings, wait):
    name = lab.launch(settings(name="a", **LONG))
    run = RunDirectory(runs_dir / name)
    wait(lambda: step_count(run) >= 1)
    lab.stop(name)
    wait(lambda: run.status() == "stopped")
    assert run.statuses()[-1]["reason"] is None
    with pytest.raises(UserError, match="Run 'a' is not running"):
        stop(run.path.parent, run.name)


def test_kill_trainer_spares_other_processes(runs_dir):
    run = RunDirectory.create(runs_dir, RunConfig(name="a"))
    own_identity = identity()
    assert own_identity["pid"] == os.getpid()
    since_boot = psutil.Process()._proc.create_time(monotonic=True)  # according to the kernel
    assert abs(own_identity["started"] - since_boot) < 1
    with run.lock():
        for identity_fields in (
            own_identity,  # this process is not a trainer
            own_identity | {"started": own_identity["started"] - 60},
            own_identity | {"host": "elsewhere"},
            own_identity | {"pid": 2**22 + 1},
            {"pid": "1", "started": None, "host": own_identity["host"]},
            {},
        ):
            run.append("status", status="running", **identity_fields)
            assert not kill_trainer(run)


def test_killing_a_process_kills_its_children(child, wait):
    parent = child(
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']);"
        "print('up', flush=True); time.sleep(99)"
    )
    assert parent.stdout.readline() == "up\n"
    [grandchild] = psutil.Process(parent.pid).children()
    kill_tree(parent.pid)
    wait(lambda: has_exited(grandchild.pid))
    assert parent.wait(10) == -signal.SIGKILL


@pytest.mark.long
def test_closing_dashboard_kills_a_hanging_trainer(runs_dir, settings, child, wait, monkeypatch):
    process = child(DRIVE, runs_dir, settings(name="a", **LONG).model_dump_json())
    run = RunDirectory(runs_dir / process.stdout.readline().strip())
    wait(lambda: step_count(run) >= 1)
    pid = trainer_pid(run)
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    process.terminate()
    process.wait(60)
    assert time.monotonic() - start < 60
    assert has_exited(pid)
    assert run.status() == "interrupted"


def test_queued_runs_can_be_reordered_and_the_order_persists(lab, runs_dir, settings, wait):
    first = lab.launch(settings(name="first", **LONG))
    for name in "abc":
        lab.launch(settings(name=name))
    wait(lambda: step_count(RunDirectory(runs_dir / first)) >= 1)
    lab.move("c", -1)
    assert lab.waiting() == [first, "a", "c", "b"]
    lab.move("a", 9)
    lab.move(first, 1)  # no effect, because it is running
    lab.move("no-such-run", 1)
    assert (
        json.loads((runs_dir / QUEUE_FILE).read_text()) == lab.waiting() == [first, "c", "b", "a"]
    )


def test_interrupted_runs_are_requeued_at_startup_if_enabled(runs_dir, settings, wait):
    first = Lab(runs_dir)
    for name in "ab":
        first.launch(settings(name=name, epochs=3))
    stopped_run = first.launch(settings(name="stopped"))
    first.stop(stopped_run)
    first.close()
    runs = {name: RunDirectory(runs_dir / name) for name in ("a", "b", "stopped")}
    assert runs["a"].status() == "interrupted"
    second = Lab(runs_dir)
    wait(lambda: runs["b"].status() == "finished")
    assert runs["a"].status() == "interrupted", "resumed although the preference is off"
    second.close()
    preferences.save(runs_dir, Preferences(resume_interrupted=True))
    third = Lab(runs_dir)
    wait(lambda: runs["a"].status() == "finished")
    third.close()
    assert runs["stopped"].status() == "stopped", "resumed although the user stopped it"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"resume_interrupted": "yes", "baseline": 3}']
)
def test_unreadable_preferences_fall_back_to_defaults(tmp_path, content):
    (tmp_path / preferences.PREFERENCES_FILE).write_text(content)
    assert preferences.load(tmp_path) == Preferences()


def test_preferences_of_older_versions_have_no_baseline(tmp_path):
    (tmp_path / preferences.PREFERENCES_FILE).write_text('{"resume_interrupted": true}')
    assert preferences.load(tmp_path) == Preferences(resume_interrupted=True, baseline="")
    preferences.save(tmp_path, Preferences(baseline="one"))
    assert preferences.load(tmp_path).baseline == "one"


def test_second_dashboard_is_read_only_until_the_first_ends(runs_dir, settings, child, wait):
    run = RunDirectory.create(runs_dir, settings(name="a"))
    (runs_dir / QUEUE_FILE).write_text('["a"]')
    holder = child(HOLD, runs_dir)
    assert holder.stdout.readline() == "open\n"
    second = Lab(runs_dir)
    assert second.driver_pid == holder.pid
    assert not second.driver_has_ended()
    wait(lambda: run.status() == "finished")
    wait(lambda: second.runs()["status"].tolist() == ["finished"])
    refusal = rf"Read-only: another dashboard \(pid {holder.pid}\) is using this folder"
    for action in (
        lambda: second.launch(settings(name="b")),
        lambda: second.stop("a"),
        lambda: second.resume("a"),
        lambda: second.delete("a"),
        lambda: second.edit("a", notes="mine"),
    ):
        with pytest.raises(UserError, match=refusal):
            action()
    assert [path.name for path in runs_dir.iterdir() if path.is_dir()] == ["a"]
    holder.communicate("\n", timeout=60)
    assert second.driver_has_ended()
    second.close()
    third = Lab(runs_dir)
    assert (third.driver_pid, third.read_only) == (None, None)
    wait(lambda: third.waiting() == [])
    third.close()


def test_second_dashboard_cannot_rebuild_the_index(runs_dir, child):
    holder = child(HOLD, runs_dir)
    assert holder.stdout.readline() == "open\n"
    Lab(runs_dir).close()
    with pytest.raises(IndexHeldError):
        rebuild_index(runs_dir)
    holder.communicate("\n", timeout=60)
    index = read_index(runs_dir)
    assert index.path == runs_dir / INDEX_FILE
    index.close()


def test_run_created_by_a_killed_dashboard_is_queued(runs_dir, settings, wait, monkeypatch):
    monkeypatch.setattr(lab_module, "ENQUEUE_GRACE_S", -1.0)
    orphan = RunDirectory.create(runs_dir, settings(name="orphan"))
    withdrawn = RunDirectory.create(runs_dir, settings(name="withdrawn"))
    stop(withdrawn.path.parent, withdrawn.name)
    lab = Lab(runs_dir)
    wait(lambda: orphan.status() == "finished")
    lab.close()
    assert withdrawn.status() == "stopped"


def test_run_just_created_by_a_command_is_not_queued(runs_dir, settings):
    RunDirectory.create(runs_dir, settings(name="theirs"))
    lab = Lab(runs_dir)
    assert lab.waiting() == []
    lab.close()


def test_trainer_started_by_a_killed_dashboard_blocks_the_next_run(runs_dir, settings, child, wait):
    """The new dashboard's trainer for that run exits at once because the run is locked."""
    runs = [RunDirectory.create(runs_dir, settings(name=name)) for name in "ab"]
    (runs_dir / QUEUE_FILE).write_text('["a", "b"]')
    earlier_trainers, started_names = [], []

    def executor(run):
        started_names.append(run.name)
        if run.name == "a":
            earlier_trainers.append(child(HOLD_RUN, run.path))
            assert earlier_trainers[0].stdout.readline() == "held\n"

    queue = Queue(runs_dir, executor)
    wait(lambda: earlier_trainers)
    time.sleep(1.2)
    assert queue.names() == ["a", "b"]
    assert started_names == ["a"]
    earlier_trainers[0].communicate("\n", timeout=60)
    wait(lambda: not queue.names())
    queue.close()
    assert started_names == ["a", "b"]
    assert not runs[1].is_alive()
