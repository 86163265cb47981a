"""The laboratory as a whole: runs launched, followed, stopped, resumed, deleted; other processes; its end."""

import contextlib
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from core import lab as laboratory
from core.errors import UserError
from core.lab import Lab
from core.run.directory import RunDirectory
from core.tracking import queries
from core.tracking.index import IndexHeldError
from core.tracking.sync import mark_dead_runs, read_index, rebuild_index

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
run = RunDirectory.create(Path(sys.argv[1]), RunConfig(name="theirs"))
with run.lock():
    writer = EventWriter(run.events_path)
    writer.append("status", status="running")
    writer.append("step", step=1, loss=2.5)
    print(time.time(), flush=True)
    time.sleep(60)
"""


def gone(pid):
    """Whether a process has ended; one whose parent died may stay a zombie in a container."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def trainers():
    """Trainers among our children, however they come to an end meanwhile."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [process.pid] if "core.scheduler.trainer_process" in process.cmdline() else []
    return found


@pytest.fixture
def idle_lab(runs_dir):
    """A laboratory whose runs wait behind one that is never done, so that nothing is trained."""
    blocker = runs_dir / "blocker"
    blocker.mkdir(parents=True)
    with RunDirectory(blocker).lock():
        opened = Lab(runs_dir)
        opened.queue.add("blocker")
        yield opened
        opened.close(patience=0)


def row(lab, name):
    frame = queries.results(lab.db).set_index("name")
    return frame.loc[name] if name in frame.index else None


def status(lab, name):
    found = row(lab, name)
    return None if found is None else found["status"]


def trainer_of(run):
    return next(e["pid"] for e in reversed(run.statuses()) if e["status"] == "running")


def test_a_run_is_launched_followed_stopped_resumed_and_finished(lab, runs_dir, settings, wait):
    name = lab.launch(settings(name="first", **LONG))
    assert status(lab, name) == "queued"
    after = lab.launch(settings(name="second"))
    assert lab.queue.names() == ["first", "second"]
    wait(lambda: row(lab, name)["step"] >= 3)
    assert (status(lab, name), status(lab, after)) == ("running", "queued")
    with pytest.raises(UserError, match="first is being trained; stop it first"):
        lab.delete(name)
    with pytest.raises(UserError, match="first is being trained; stop it first"):
        lab.resume(name)

    lab.stop(after)
    assert lab.queue.names() == ["first"]
    lab.stop(name)
    wait(lambda: status(lab, name) == "stopped")
    wait(lambda: status(lab, after) == "stopped")
    with pytest.raises(UserError, match="first is not running: it is stopped"):
        lab.stop(name)

    lab.delete(name)
    lab.resume(after)
    wait(trainers)
    lab.stop(after)  # while its trainer is on its way
    wait(lambda: status(lab, after) == "stopped")
    lab.resume(after)  # while that trainer is on its way out
    wait(lambda: status(lab, after) == "finished")
    wait(lambda: not lab.queue.names())
    assert status(lab, name) is None
    assert queries.answers(lab.db, [after])["reference"].tolist() == ["down"]
    with pytest.raises(UserError, match="second is finished; there is nothing to resume"):
        lab.resume(after)
    assert lab.fault is None


def test_closing_ends_the_trainer_and_lets_the_next_one_in(runs_dir, settings, wait):
    lab = Lab(runs_dir)
    name = lab.launch(settings(name="a", **LONG))
    waiting = lab.launch(settings(name="b"))
    wait(lambda: row(lab, name)["step"] >= 1)
    pid = trainer_of(RunDirectory(runs_dir / name))
    lab.close()
    lab.close()
    assert gone(pid)
    assert trainers() == []
    assert not {"queue", "sync"} & {thread.name for thread in threading.enumerate()}
    index = read_index(runs_dir)
    assert index.path is not None
    results = queries.results(index.cursor()).set_index("name")
    assert results["status"].to_dict() == {name: "interrupted", waiting: "queued"}
    index.close()


def test_a_process_that_ends_without_closing_ends_as_if_it_had(runs_dir, settings, child, wait):
    process = child(LAUNCH, runs_dir, settings(name="a", **LONG).model_dump_json())
    assert process.stdout.readline() == "a\n"
    run = RunDirectory(runs_dir / "a")
    wait(lambda: any(event["status"] == "running" for event in run.statuses()))
    process.communicate("\n", timeout=60)
    assert process.returncode == 0
    wait(lambda: run.status() == "interrupted")
    wait(lambda: gone(trainer_of(run)))


def test_a_trainer_outlives_its_dashboard_and_is_not_started_twice(runs_dir, settings, child, wait):
    config = settings(name="a", epochs=20)
    process = child(LAUNCH, runs_dir, config.model_dump_json())
    run = RunDirectory(runs_dir / "a")
    wait(lambda: any(event["status"] == "running" for event in run.statuses()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    lab = Lab(runs_dir)
    assert lab.queue.names() == ["a"]
    wait(lambda: status(lab, "a") == "finished")
    wait(lambda: not lab.queue.names())
    lab.close()
    assert [event["status"] for event in run.statuses()] == ["queued", "running", "finished"]


def test_a_trainer_that_was_found_again_stops_when_asked_and_the_next_run_comes(
    runs_dir, settings, child, wait
):
    process = child(LAUNCH, runs_dir, settings(name="a", **LONG).model_dump_json())
    run = RunDirectory(runs_dir / "a")
    wait(lambda: any(event["status"] == "running" for event in run.statuses()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    lab = Lab(runs_dir)
    after = lab.launch(settings(name="b"))
    wait(lambda: (row(lab, "a")["step"] or 0) >= 2)
    lab.stop("a")
    wait(lambda: status(lab, "a") == "stopped")
    wait(lambda: gone(trainer_of(run)))
    assert [*(run.path / "checkpoint").glob("step-*")]
    wait(lambda: status(lab, after) == "finished")
    lab.close()


def test_a_run_of_another_process_shows_up_and_is_settled_when_it_dies(idle_lab, child, wait):
    trainer = child(TRAIN, idle_lab.runs_dir)
    launched = float(trainer.stdout.readline())
    wait(lambda: row(idle_lab, "theirs") is not None and row(idle_lab, "theirs")["step"] == 1)
    assert time.time() - launched < 2
    time.sleep(3 * laboratory.SYNC_INTERVAL_S)
    assert status(idle_lab, "theirs") == "running"  # it is alive, whoever looks
    trainer.send_signal(signal.SIGKILL)
    wait(lambda: status(idle_lab, "theirs") == "interrupted", timeout=20)
    assert row(idle_lab, "theirs")["reason"] == "the trainer died"


def test_a_queued_run_is_never_taken_for_dead(idle_lab, settings):
    name = idle_lab.launch(settings(name="a"))
    run = RunDirectory(idle_lab.runs_dir / name)
    run.append("status", status="running")
    idle_lab.refresh()
    laboratory.requeue(run)  # the index still says that it runs
    assert mark_dead_runs(idle_lab.runs_dir, idle_lab.index)
    assert run.status() == "queued"


def test_a_dead_run_is_never_shown_as_running_and_can_be_stopped(runs_dir, settings):
    runs = [RunDirectory.create(runs_dir, settings(name=name)) for name in ("a", "b")]
    for run in runs:
        run.append("status", status="running")
    laboratory.stop(runs[0])
    index = read_index(runs_dir)
    results = queries.results(index.cursor()).set_index("name")
    assert results["status"].to_dict() == {"a": "stopped", "b": "interrupted"}
    index.close()


def test_stopping_takes_a_waiting_run_off_the_queue_and_resuming_puts_it_back(idle_lab, settings):
    name = idle_lab.launch(settings(name="a"))
    idle_lab.stop(name)
    assert idle_lab.queue.names() == ["blocker"]
    idle_lab.resume(name)
    assert idle_lab.queue.names() == ["blocker", "a"]
    idle_lab.delete(name)
    assert idle_lab.queue.names() == ["blocker"]
    idle_lab.refresh()
    assert status(idle_lab, name) is None


def test_notes_and_tags_are_edited_from_many_tabs_at_once(idle_lab, settings):
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


def test_a_run_that_cannot_be_read_is_a_fault_until_it_can(idle_lab, settings, wait):
    bad, good = (idle_lab.launch(settings(name=name)) for name in ("bad", "good"))
    events = RunDirectory(idle_lab.runs_dir / bad).events_path
    content = events.read_bytes()
    events.unlink()
    events.mkdir()
    wait(lambda: idle_lab.fault)
    assert idle_lab.fault.startswith("bad cannot be indexed: ")
    RunDirectory(idle_lab.runs_dir / good).append("status", status="failed")
    wait(lambda: status(idle_lab, good) == "failed")
    events.rmdir()
    events.write_bytes(content)
    wait(lambda: idle_lab.fault is None)


def test_a_laboratory_opens_over_a_run_that_cannot_be_read(runs_dir, settings):
    RunDirectory.create(runs_dir, settings(name="a")).events_path.unlink()
    (runs_dir / "a" / "events.jsonl").mkdir()
    lab = Lab(runs_dir)
    assert lab.fault.startswith("a cannot be indexed: ")
    lab.close()


def test_while_a_dashboard_holds_the_index_others_read_the_directories(runs_dir, settings, child):
    RunDirectory.create(runs_dir, settings(name="a"))
    dashboard = child(HOLD, runs_dir)
    assert dashboard.stdout.readline() == "open\n"
    RunDirectory.create(runs_dir, settings(name="b"))
    index = read_index(runs_dir)
    assert index.path is None
    assert sorted(queries.results(index.cursor())["name"]) == ["a", "b"]
    index.close()
    index = read_index(runs_dir, only=["b"])
    assert queries.results(index.cursor())["name"].tolist() == ["b"]
    index.close()
    with pytest.raises(IndexHeldError, match=rf"in use by process {dashboard.pid}\b"):
        rebuild_index(runs_dir)
    dashboard.communicate("\n", timeout=60)
    assert rebuild_index(runs_dir) == 2


def test_a_laboratory_waits_for_a_command_that_reads(runs_dir):
    runs_dir.mkdir()
    index = read_index(runs_dir)
    threading.Timer(0.3, index.close).start()
    Lab(runs_dir).close()


def test_a_laboratory_opened_in_a_thread_that_is_gone_closes_wholly(runs_dir, child):
    opened = []
    thread = threading.Thread(target=lambda: opened.append(Lab(runs_dir)))
    thread.start()
    thread.join()
    opened[0].close()
    other = child(HOLD, runs_dir)
    assert other.stdout.readline() == "open\n"


def test_rebuilding_gives_what_was_there(runs_dir, settings):
    for name in ("a", "b"):
        run = RunDirectory.create(runs_dir, settings(name=name))
        run.append("step", step=1, loss=2.5)
    index = read_index(runs_dir)
    before = queries.results(index.cursor())
    index.cursor().execute("update step set loss = 0")  # as no program of ours would
    index.close()
    assert rebuild_index(runs_dir) == 2
    index = read_index(runs_dir)
    assert queries.results(index.cursor()).equals(before)
    assert index.cursor().execute("select loss from step").fetchall() == [(2.5,), (2.5,)]
    index.close()
    (runs_dir / "lab.duckdb").write_bytes(b"garbage" * 5000)
    assert rebuild_index(runs_dir) == 2


def test_there_need_not_be_any_runs(tmp_path):
    index = read_index(tmp_path / "nowhere")
    assert queries.results(index.cursor()).empty
    index.close()
    assert not (tmp_path / "nowhere").exists()
    assert rebuild_index(tmp_path / "new") == 0
