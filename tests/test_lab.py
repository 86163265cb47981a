"""The Lab as a whole: launching, following, stopping, resuming and deleting runs; other processes; closing the Lab."""

import contextlib
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from core import lab as lab_module
from core import operations
from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.run.directory import RunDirectory
from core.scheduler.processes import mark_dead_runs
from core.scheduler.queue import QUEUE_FILE
from core.tracking import queries
from core.tracking.index import IndexHeldError
from core.tracking.sync import read_index, rebuild_index

LONG = {"epochs": 1000, "eval_every": 1000}
HOLD = """
import sys
from pathlib import Path
from core.lab import Lab
lab = Lab(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
"""
LAUNCH = """
import sys
from pathlib import Path
from core.config import RunConfig
from core.lab import Lab
lab = Lab(Path(sys.argv[1]))
print(lab.launch(RunConfig.model_validate_json(sys.argv[2])), flush=True)
sys.stdin.readline()
"""
TRAIN = """
import sys, time
from pathlib import Path
from core.config import RunConfig
from core.run.events import EventWriter
from core.run.directory import RunDirectory
from core.scheduler.processes import mark_dead_runs
run = RunDirectory.create(Path(sys.argv[1]), RunConfig(name="theirs"))
with run.lock():
    writer = EventWriter(run.events_path)
    writer.append("status", status="running")
    writer.append("step", step=1, loss=2.5)
    print(time.time(), flush=True)
    time.sleep(60)
"""


def has_exited(pid):
    """Whether a process has exited. In a container, an orphaned process may remain as a zombie."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def trainer_pids():
    """Return the process IDs of all trainers started by this process."""
    pids = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # the process may exit at any time
            pids += [process.pid] if "core.scheduler.trainer_process" in process.cmdline() else []
    return pids


@pytest.fixture
def idle_lab(runs_dir):
    """A Lab that does not train anything, because its runs are queued behind one that never ends."""
    blocker = RunDirectory.create(runs_dir, RunConfig(name="blocker"))
    (runs_dir / QUEUE_FILE).write_text('["blocker"]')
    with blocker.lock():
        opened = Lab(runs_dir)
        yield opened
        opened.close(timeout=0)


def row(lab, name):
    frame = lab.runs().set_index("name")
    return frame.loc[name] if name in frame.index else None


def status(lab, name):
    run_row = row(lab, name)
    return None if run_row is None else run_row["status"]


def trainer_pid(run):
    return next(e["pid"] for e in reversed(run.statuses()) if e["status"] == "running")


def test_run_can_be_launched_stopped_resumed_and_finished(lab, runs_dir, settings, wait):
    name = lab.launch(settings(name="first", **LONG))
    assert status(lab, name) == "queued"
    next_run = lab.launch(settings(name="second"))
    assert lab.waiting() == ["first", "second"]
    wait(lambda: row(lab, name)["step"] >= 3)
    assert (status(lab, name), status(lab, next_run)) == ("running", "queued")
    with pytest.raises(UserError, match="first is being trained; stop it first"):
        lab.delete(name)
    with pytest.raises(UserError, match="first is being trained; stop it first"):
        lab.resume(name)

    lab.stop(next_run)
    assert lab.waiting() == ["first"]
    lab.stop(name)
    wait(lambda: status(lab, name) == "stopped")
    wait(lambda: status(lab, next_run) == "stopped")
    with pytest.raises(UserError, match="Run 'first' is not running"):
        lab.stop(name)

    lab.delete(name)
    lab.resume(next_run)
    wait(trainer_pids)
    lab.stop(next_run)  # while its trainer is starting
    wait(lambda: status(lab, next_run) == "stopped")
    lab.resume(next_run)  # while that trainer is exiting
    wait(lambda: status(lab, next_run) == "finished")
    wait(lambda: not lab.waiting())
    assert status(lab, name) is None
    assert lab.answers([next_run])["reference"].tolist() == ["down"]
    with pytest.raises(UserError, match="Run 'second' has already finished"):
        lab.resume(next_run)
    assert lab.fault is None


def test_closing_ends_the_trainer_and_releases_the_index(runs_dir, settings, wait):
    threads_before = set(threading.enumerate())
    lab = Lab(runs_dir)
    name = lab.launch(settings(name="a", **LONG))
    waiting = lab.launch(settings(name="b"))
    wait(lambda: row(lab, name)["step"] >= 1)
    pid = trainer_pid(RunDirectory(runs_dir / name))
    lab.close()
    lab.close()
    assert has_exited(pid)
    assert trainer_pids() == []
    assert not {"queue", "sync"} & {t.name for t in {*threading.enumerate()} - threads_before}
    index = read_index(runs_dir)
    assert index.path is not None
    results = queries.results(index.cursor()).set_index("name")
    assert results["status"].to_dict() == {name: "interrupted", waiting: "queued"}
    index.close()


@pytest.mark.long
def test_exit_without_closing_ends_the_trainer(runs_dir, settings, child, wait):
    process = child(LAUNCH, runs_dir, settings(name="a", **LONG).model_dump_json())
    assert process.stdout.readline() == "a\n"
    run = RunDirectory(runs_dir / "a")
    wait(lambda: any(event["status"] == "running" for event in run.statuses()))
    process.communicate("\n", timeout=60)
    assert process.returncode == 0
    wait(lambda: run.status() == "interrupted")
    wait(lambda: has_exited(trainer_pid(run)))


@pytest.mark.long
def test_trainer_outlives_its_dashboard_and_is_not_started_twice(runs_dir, settings, child, wait):
    config = settings(name="a", epochs=20)
    process = child(LAUNCH, runs_dir, config.model_dump_json())
    run = RunDirectory(runs_dir / "a")
    wait(lambda: any(event["status"] == "running" for event in run.statuses()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    lab = Lab(runs_dir)
    assert lab.waiting() == ["a"]
    wait(lambda: status(lab, "a") == "finished")
    wait(lambda: not lab.waiting())
    lab.close()
    assert [event["status"] for event in run.statuses()] == ["queued", "running", "finished"]


def test_adopted_trainer_stops_on_request_and_the_next_run_starts(runs_dir, settings, child, wait):
    process = child(LAUNCH, runs_dir, settings(name="a", **LONG).model_dump_json())
    run = RunDirectory(runs_dir / "a")
    wait(lambda: any(event["status"] == "running" for event in run.statuses()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    lab = Lab(runs_dir)
    next_run = lab.launch(settings(name="b"))
    wait(lambda: (row(lab, "a")["step"] or 0) >= 2)
    lab.stop("a")
    wait(lambda: status(lab, "a") == "stopped")
    wait(lambda: has_exited(trainer_pid(run)))
    assert [*(run.path / "checkpoint").glob("step-*")]
    wait(lambda: status(lab, next_run) == "finished")
    lab.close()


def test_run_from_another_process_is_shown_and_interrupted_if_its_trainer_dies(
    idle_lab, child, wait
):
    trainer = child(TRAIN, idle_lab.runs_dir)
    trainer.stdout.readline()
    wait(lambda: row(idle_lab, "theirs") is not None and row(idle_lab, "theirs")["step"] == 1)
    time.sleep(3 * lab_module.SYNC_INTERVAL_S)
    assert status(idle_lab, "theirs") == "running"  # syncs do not mark a live trainer as dead
    trainer.send_signal(signal.SIGKILL)
    wait(lambda: status(idle_lab, "theirs") == "interrupted", timeout=20)
    assert row(idle_lab, "theirs")["reason"] == "the trainer died"


def test_requeued_run_is_not_marked_as_dead(idle_lab, settings):
    name = idle_lab.launch(settings(name="a"))
    run = RunDirectory(idle_lab.runs_dir / name)
    run.append("status", status="running")
    idle_lab.refresh()
    operations.requeue(idle_lab.runs_dir, name)  # the index still has the status `running`
    assert mark_dead_runs(idle_lab.runs_dir, ["a"])
    assert run.status() == "queued"


def test_run_with_a_dead_trainer_is_not_shown_as_running_and_can_be_stopped(runs_dir, settings):
    runs = [RunDirectory.create(runs_dir, settings(name=name)) for name in ("a", "b")]
    for run in runs:
        run.append("status", status="running")
    operations.stop(runs_dir, "a")
    index = read_index(runs_dir)
    results = queries.results(index.cursor()).set_index("name")
    assert results["status"].to_dict() == {"a": "stopped", "b": "interrupted"}
    index.close()


def test_stop_removes_a_queued_run_and_resume_requeues_it(idle_lab, settings):
    name = idle_lab.launch(settings(name="a"))
    idle_lab.stop(name)
    assert idle_lab.waiting() == ["blocker"]
    idle_lab.resume(name)
    assert idle_lab.waiting() == ["blocker", "a"]
    idle_lab.delete(name)
    assert idle_lab.waiting() == ["blocker"]
    idle_lab.refresh()
    assert status(idle_lab, name) is None


def test_concurrent_edits_of_notes_and_tags_do_not_overwrite_each_other(idle_lab, settings):
    name = idle_lab.launch(settings(name="a"))
    with ThreadPoolExecutor(8) as pool:
        for i in range(10):
            edits = [
                pool.submit(idle_lab.edit, name, **change)
                for change in ({"notes": f"note {i}"}, {"tags": f"x, {i}"}) * 4
            ]
            for edit in edits:
                edit.result()
            config = idle_lab.config(name)
            assert (config.notes, config.tags) == (f"note {i}", ("x", str(i)))
    idle_lab.refresh()
    assert row(idle_lab, name)[["notes", "tags"]].tolist() == ["note 9", "x, 9"]
    with pytest.raises(UserError, match="there is no such run"):
        idle_lab.edit("nothing", notes="x")


def test_unreadable_run_is_reported_until_it_can_be_read(idle_lab, settings, wait):
    bad_run, good_run = (idle_lab.launch(settings(name=name)) for name in ("bad", "good"))
    events = RunDirectory(idle_lab.runs_dir / bad_run).events_path
    content = events.read_bytes()
    events.unlink()
    events.mkdir()
    wait(lambda: idle_lab.fault)
    assert idle_lab.fault.startswith("bad cannot be indexed: ")
    RunDirectory(idle_lab.runs_dir / good_run).append("status", status="failed")
    wait(lambda: status(idle_lab, good_run) == "failed")
    events.rmdir()
    events.write_bytes(content)
    wait(lambda: idle_lab.fault is None)


def test_lab_opens_despite_an_unreadable_run(runs_dir, settings):
    RunDirectory.create(runs_dir, settings(name="a")).events_path.unlink()
    (runs_dir / "a" / "events.jsonl").mkdir()
    lab = Lab(runs_dir)
    assert lab.fault.startswith("a cannot be indexed: ")
    lab.close()


def test_commands_index_in_memory_while_the_index_is_locked(runs_dir, settings, child):
    RunDirectory.create(runs_dir, settings(name="a"))
    dashboard = child(HOLD, runs_dir)
    assert dashboard.stdout.readline() == "open\n"
    RunDirectory.create(runs_dir, settings(name="b"))
    index = read_index(runs_dir)
    assert index.path is None
    assert sorted(queries.results(index.cursor())["name"]) == ["a", "b"]
    index.close()
    index = read_index(runs_dir, run_names=["b"])
    assert queries.results(index.cursor())["name"].tolist() == ["b"]
    index.close()
    with pytest.raises(IndexHeldError, match=rf"in use by process {dashboard.pid}\b"):
        rebuild_index(runs_dir)
    dashboard.communicate("\n", timeout=60)
    assert rebuild_index(runs_dir) == 2


def test_lab_waits_for_a_command_that_reads_the_index(runs_dir):
    runs_dir.mkdir()
    index = read_index(runs_dir)
    threading.Timer(0.3, index.close).start()
    with Lab(runs_dir) as lab:
        assert lab.read_only is None


def test_lab_opened_in_another_thread_releases_the_index(runs_dir, child):
    labs = []
    thread = threading.Thread(target=lambda: labs.append(Lab(runs_dir)))
    thread.start()
    thread.join()
    labs[0].close()
    second_process = child(HOLD, runs_dir)
    assert second_process.stdout.readline() == "open\n"


def test_rebuilt_index_matches_the_previous_one(runs_dir, settings):
    for name in ("a", "b"):
        run = RunDirectory.create(runs_dir, settings(name=name))
        run.append("step", step=1, loss=2.5)
    index = read_index(runs_dir)
    results_before = queries.results(index.cursor())
    index.cursor().execute("update step set loss = 0")  # now differs from the event files
    index.close()
    assert rebuild_index(runs_dir) == 2
    index = read_index(runs_dir)
    assert queries.results(index.cursor()).equals(results_before)
    assert index.cursor().execute("select loss from step").fetchall() == [(2.5,), (2.5,)]
    index.close()
    (runs_dir / "lab.duckdb").write_bytes(b"garbage" * 5000)
    assert rebuild_index(runs_dir) == 2


def test_closed_lab_does_not_touch_the_next_labs_index(runs_dir, settings):
    RunDirectory.create(runs_dir, settings(name="a"))
    first = Lab(runs_dir)
    first.close()
    inode = (runs_dir / "lab.duckdb").stat().st_ino
    with Lab(runs_dir) as second:
        for action in (first.runs, first.refresh, lambda: first.wait("a")):
            with pytest.raises(UserError, match="This Lab is closed"):
                action()
        assert (runs_dir / "lab.duckdb").stat().st_ino == inode
        assert second.runs()["name"].tolist() == ["a"]
        assert second.index_notice is None


def test_waiting_for_a_deleted_run_raises_a_user_error(idle_lab, settings):
    name = idle_lab.launch(settings(name="a"))
    threading.Timer(0.5, idle_lab.delete, [name]).start()
    with pytest.raises(UserError, match="a was deleted"):
        idle_lab.wait(name, progress=False)


def test_missing_runs_directory_is_empty(tmp_path):
    index = read_index(tmp_path / "nowhere")
    assert queries.results(index.cursor()).empty
    index.close()
    assert not (tmp_path / "nowhere").exists()
    assert rebuild_index(tmp_path / "new") == 0
