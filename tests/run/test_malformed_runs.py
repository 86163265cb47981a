"""Run directories that were edited by hand or received from others. Malformed ones do not affect other runs."""

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.operations import requeue
from core.run.directory import RunDirectory, list_runs
from core.run.events import EventWriter
from core.run.files import open_regular, replace_text
from core.scheduler import preferences
from core.scheduler.preferences import Preferences
from core.scheduler.queue import Queue
from core.tracking.index import INDEX_FILE


def replace_by_directory(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def replace_by_pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def replace_by_link(path):
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


REPLACEMENTS = [replace_by_directory, replace_by_pipe, replace_by_link]
FILES = ["config.json", "events.jsonl", "trainer.lock", "stop"]


def status(lab, name):
    return next((state["status"] for state in lab.states([name])), None)


def test_dead_run_gets_its_final_status_despite_malformed_runs(runs_dir, settings, wait):
    for file, replace_file in itertools.product(FILES, REPLACEMENTS):
        malformed_run = RunDirectory.create(runs_dir, settings(name="a"))
        malformed_run.append("status", status="running")
        replace_file(malformed_run.path / file)
    RunDirectory.create(runs_dir, settings(name="b")).append("status", status="running")
    preferences.save(runs_dir, Preferences(resume_interrupted=False))
    lab = Lab(runs_dir)
    wait(lambda: status(lab, "b") == "interrupted", timeout=15)
    lab.close()


@pytest.mark.parametrize("replace_file", REPLACEMENTS)
@pytest.mark.parametrize("file", FILES)
def test_queue_continues_after_a_malformed_run(runs_dir, settings, wait, file, replace_file):
    malformed_run, _ = (RunDirectory.create(runs_dir, settings(name=name)) for name in ("a", "b"))
    replace_file(malformed_run.path / file)
    (runs_dir / "queue.json").write_text(json.dumps(["a", "b"]))
    started_names = []
    queue = Queue(
        runs_dir, lambda run: (started_names.append(run.name), run.mark_ended("done", "finished"))
    )
    wait(lambda: not queue.names())
    assert started_names[-1] == "b"
    assert queue._thread.is_alive()
    queue.close()


@pytest.mark.parametrize("replace_file", REPLACEMENTS)
@pytest.mark.parametrize("file", ["events.jsonl", "trainer.lock", "stop"])
def test_lab_handles_malformed_runs_or_raises_user_errors(runs_dir, settings, file, replace_file):
    malformed_run = RunDirectory.create(runs_dir, settings(name="a"))
    malformed_run.append("status", status="running")
    replace_file(malformed_run.path / file)
    preferences.save(runs_dir, Preferences(resume_interrupted=True))
    lab = Lab(runs_dir)
    for act in (lab.stop, lab.resume, lab.stop):
        try:
            act("a")
        except UserError:
            continue
    lab.close()


@pytest.mark.parametrize("file", ["config.json.partial", "stop.partial", "stop", "config.json"])
def test_symlinks_are_not_written_through(tmp_path, file):
    run = RunDirectory.create(tmp_path / "runs", RunConfig(name="a"))
    config, outside_file = run.config(), tmp_path / "outside"
    outside_file.write_text("original")
    (run.path / file).unlink(missing_ok=True)
    (run.path / file).symlink_to(outside_file)
    run.write_config(config.changed(notes="new"))
    run.request_stop()
    assert outside_file.read_text() == "original"
    assert (run.config().notes, run.stop_request()) == ("new", "stopped")
    queue = tmp_path / "runs" / "queue.json.partial"
    queue.symlink_to(outside_file)
    replace_text(queue.with_suffix(""), "[]")
    assert outside_file.read_text() == "original"


def test_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for mode, reason in (("rb", "not a regular file"), ("wb", "No such device")):
        with pytest.raises(OSError, match=reason):
            open_regular(tmp_path / "pipe", mode)


def test_non_utf8_name_is_skipped(runs_dir, settings):
    RunDirectory.create(runs_dir, settings(name="a"))
    invalid_path = runs_dir / os.fsdecode(b"caf\xe9")
    invalid_path.mkdir()
    (invalid_path / "config.json").write_text("{}")
    assert [run.name for run in list_runs(runs_dir)] == ["a"]


def test_failed_launch_does_not_leave_a_run_behind(tmp_path, monkeypatch):
    def raise_disk_error(self, kind, /, **fields):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventWriter, "append", raise_disk_error)
    with pytest.raises(UserError, match="No space left"):
        RunDirectory.create(tmp_path, RunConfig(name="a"))
    assert list_runs(tmp_path) == []


def test_run_without_events_is_queued(runs_dir, settings):
    run = RunDirectory.create(runs_dir, settings(name="a"))
    run.events_path.unlink()
    lab = Lab(runs_dir)
    assert lab.waiting() == ["a"]
    lab.close()


def test_run_with_a_log_but_no_events_is_not_queued(runs_dir, settings):
    run = RunDirectory.create(runs_dir, settings(name="a"))
    run.log_path.write_text("running")
    run.events_path.unlink()
    lab = Lab(runs_dir)
    assert lab.waiting() == []
    lab.close()


def test_concurrent_writers_leave_one_complete_file(tmp_path):
    path = tmp_path / "settings.json"
    texts = [f"{i}" * 50_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: replace_text(path, text), texts * 5))
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_failure_to_delete_a_stop_request_is_reported(tmp_path):
    run = RunDirectory.create(tmp_path, RunConfig(name="a"))
    run.append("status", status="interrupted")
    replace_by_directory(run.stop_path)
    with pytest.raises(UserError, match="a: the stop request cannot be deleted"):
        requeue(run.path.parent, run.name)


def test_lab_lock_survives_deleting_the_index(runs_dir):
    first = Lab(runs_dir)
    for path in runs_dir.glob(f"{INDEX_FILE}*"):
        path.unlink()
    second = Lab(runs_dir)
    assert second.driver_pid == os.getpid()
    second.close()
    first.close()


def test_user_stop_request_survives_dashboard_shutdown(runs_dir, settings, wait):
    run = RunDirectory.create(runs_dir, settings(name="a"))
    stop_requests = []

    def train(run):
        run.request_stop("stopped")
        wait(lambda: queue._closing)
        stop_requests.append(run.stop_request())

    queue = Queue(runs_dir, train)
    queue.add("a")
    wait(lambda: run.stop_request())
    queue.close()
    assert stop_requests == ["stopped"]
