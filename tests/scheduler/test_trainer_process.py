"""Real training in the trainer process and with both executors: runs that finish, stop, die or fail."""

import os
import signal
import sys
import threading
import time

import pytest
import torch

from core.errors import UserError
from core.operations import requeue
from core.run.directory import RunDirectory, RunHeldError, list_runs
from core.run.events import parse, read_lines
from core.scheduler.executors import EXECUTORS, ROOT, run_in_process, run_in_thread
from core.scheduler.trainer_process import main
from core.tracking import queries
from core.tracking.index import Index
from core.tracking.sync import Sync

LONG = {"epochs": 150, "checkpoint_every": 10, "eval_every": 100}
"""Settings with one step per epoch. Each step takes a few milliseconds."""


@pytest.fixture
def runs_dir(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def create(runs_dir, settings):
    return lambda **changes: RunDirectory.create(runs_dir, settings(name="a", **changes))


@pytest.fixture
def start_run(wait):
    """A function that trains a run with an executor in a thread, which is joined after the test."""
    threads = []

    def start(run, executor=run_in_process):
        threads.append(threading.Thread(target=executor, args=(run,)))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def db(runs_dir):
    """A function that syncs the index and returns a connection to it."""
    index = Index(None)
    index_sync = Sync(index.new_cursor())

    def sync():
        index_sync.run(list_runs(runs_dir))
        return index.cursor()

    yield sync
    index.close()


def events(run, kind=None):
    parsed = [parse(line) for line in read_lines(run.events_path, 0)[0]]
    assert [event["seq"] for event in parsed] == list(range(1, len(parsed) + 1))
    return [event for event in parsed if kind in (None, event["event"])]


def last_step(run):
    step_events = events(run, "step")
    return step_events[-1]["step"] if step_events else 0


def status_names(run):
    return [event["status"] for event in run.statuses()]


def check_finished_run(db, steps):
    rows = db.execute("select step from step order by seq").fetchall()
    assert rows == [(step,) for step in range(1, steps + 1)]
    [row] = queries.results(db).to_dict("records")
    assert (row["status"], row["step"], row["steps"]) == ("finished", steps, steps)
    assert len(queries.answers(db, ["a"])) == 1


def test_final_status_says_why_a_run_ended_early(create, db):
    run = create(epochs=30, eval_every=1, lr=10.0, method="full", early_stopping_patience=2)
    run_in_thread(run)
    last = run.statuses()[-1]
    assert last["status"] == "finished", run.log_tail()
    assert last["reason"].startswith("stopped early at step ")
    assert f"finished: {last['reason']}" in run.log_tail()
    [row] = queries.results(db()).to_dict("records")
    assert row["reason"] == last["reason"]
    assert row["val_set"] == "whole set"
    assert row["best_step"] <= row["step"] < row["steps"] == 30
    [state] = queries.states(db(), ["a"])
    assert state["is_trained"]
    assert not run.checkpoints_path.exists()


def test_stop_request_can_have_a_reason(create):
    run = create(**LONG)

    def train(config, active):
        run.request_stop(reason="pruned after 20% of the steps")
        assert active.stop_requested()
        return "stopped"

    main(run, train=train)
    assert run.statuses()[-1]["reason"] == "pruned after 20% of the steps"
    assert run.status() == "stopped"
    assert run.stop_request() is run.stop_reason() is None


@pytest.fixture(scope="module")
def losses():
    """Losses by executor. They must be the same."""
    return {}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_run_finishes_with_every_executor(create, db, losses, executor):
    run = create(epochs=4, min_lr=1e-5, eval_every=25)
    EXECUTORS[executor](run)
    assert status_names(run) == ["queued", "running", "finished"], run.log_tail()
    assert [e["event"] for e in events(run)] == [
        "status",
        "status",
        "plan",
        "eval",
        "step",
        "update",
        *["step"] * 3,
        "eval",
        "generation",
        "status",
    ]
    log = [line[20:].split(",")[0] for line in run.log_tail().splitlines()]
    [first, last] = [f"{event['train_loss']:.4f}" for event in events(run, "eval")]
    assert log == [
        "running",
        "4 steps on 10 examples",
        f"step 0: training loss {first}",
        f"step 4: training loss {last}",
        "finished",
    ]
    assert (run.path / "weights" / "manifest.json").exists()
    assert not run.is_alive()
    assert run.stop_request() is None
    check_finished_run(db(), 4)
    [row] = queries.results(db()).to_dict("records")
    assert row["val_loss"] < queries.evaluations(db(), ["a"])["val_loss"][0]
    losses[executor] = [event["loss"] for event in events(run, "step")]
    assert losses[executor] == pytest.approx(next(iter(losses.values())), rel=1e-5)


@pytest.mark.long
def test_run_stops_within_two_steps_and_resumes(create, db, start_run, wait):
    run = create(**LONG)
    thread = start_run(run)
    wait(lambda: last_step(run) >= 5)
    run.request_stop()
    request_step = last_step(run)
    thread.join(60)
    assert status_names(run)[-1] == "stopped"
    assert request_step <= last_step(run) <= request_step + 2
    assert run.stop_request() is None
    db()
    stop_step = last_step(run)
    requeue(run.path.parent, run.name)
    run_in_thread(run)
    assert status_names(run) == ["queued", "running", "stopped", "queued", "running", "finished"]
    assert [event["step"] for event in events(run, "rewind")] == [stop_step]
    check_finished_run(db(), LONG["epochs"])


def test_killed_trainer_resumes_from_its_checkpoint(create, db, start_run, wait):
    run = create(**LONG)
    thread = start_run(run)
    wait(lambda: last_step(run) >= 45)
    os.kill(run.statuses()[-1]["pid"], signal.SIGKILL)
    thread.join(60)
    assert run.statuses()[-1]["status"] == "interrupted"
    assert "(signal 9)" in run.statuses()[-1]["reason"]
    db()
    requeue(run.path.parent, run.name)
    run_in_thread(run)
    [rewind] = events(run, "rewind")
    assert rewind["step"] % 20 == 0
    assert rewind["step"] >= 40
    check_finished_run(db(), LONG["epochs"])


def test_second_trainer_is_refused_and_sigterm_interrupts_the_first(create, start_run, wait):
    run = create(**LONG | {"epochs": 1000})
    thread = start_run(run)
    wait(lambda: last_step(run) >= 1)
    with pytest.raises(RunHeldError, match="a is being trained"):
        main(run)
    assert status_names(run) == ["queued", "running"]
    os.kill(run.statuses()[-1]["pid"], signal.SIGTERM)
    thread.join(60)
    assert status_names(run) == ["queued", "running", "interrupted"]
    stop_step = last_step(run)
    assert (run.path / "checkpoint" / f"step-{stop_step:08d}" / "manifest.json").exists()


def test_download_is_reported_and_can_be_stopped(hub, create, start_run, wait):
    hub.hold(bytes(60_000_000))
    hub.pause = 0.1  # one second for every 10 MB that the client reads
    run = create(base_model="gpt2")
    start_run(run)
    wait(lambda: events(run, "download"))
    run.request_stop()
    wait(lambda: run.status() == "stopped")
    first, *_, last = events(run, "download")
    assert (first["repository"], first["total"]) == ("openai-community/gpt2", 60_000_000)
    assert first["bytes"] <= last["bytes"] < 60_000_000
    hub.pause = 0.0
    requeue(run.path.parent, run.name)
    run_in_process(run)
    assert run.status() == "failed"
    assert "model.safetensors is damaged" in run.statuses()[-1]["reason"]  # the file is all zeros
    [_, resumed] = hub.ranges
    assert int(resumed.removeprefix("bytes=").rstrip("-")) >= 10_000_000


@pytest.mark.parametrize("executor", EXECUTORS)
def test_missing_data_set_fails_with_one_sentence(create, capfd, executor):
    run = create(dataset="/nowhere/words.json")
    EXECUTORS[executor](run)
    last = run.statuses()[-1]
    assert last["status"] == "failed"
    assert last["reason"].startswith("dataset = '/nowhere/words.json': file not found")
    printed = run.log_tail() + capfd.readouterr().err
    assert last["reason"] in printed
    assert "Traceback" not in printed + run.events_path.read_text()


def test_unreadable_settings_fail_with_one_sentence(create):
    run = create()
    run.config_path.write_text('{"epochs": "many"}')
    run_in_thread(run)
    assert run.statuses()[-1]["status"] == "failed"
    assert "epochs = 'many'" in run.statuses()[-1]["reason"]


def test_traceback_of_an_unexpected_error_is_written_only_to_the_log(create, capfd):
    run = create()

    def train(config, active):
        raise ZeroDivisionError("one\nby none")

    main(run, train=train)
    last = run.statuses()[-1]
    assert (last["status"], last["reason"]) == ("failed", "ZeroDivisionError: one by none")
    assert "Traceback" in capfd.readouterr().err  # goes to the log in a trainer process
    assert "Traceback" not in run.events_path.read_text()


def test_unwritable_directory_fails_the_run_with_one_sentence(create):
    run = create()
    (run.path / "checkpoint").write_text("a file")
    run_in_process(run)
    last = run.statuses()[-1]
    assert last["status"] == "failed"
    assert f"{run.path / 'checkpoint'}/step-" in last["reason"]
    assert "cannot be written to" in last["reason"]


def failure_reason(run, error, config_text=None):
    """Return the reason recorded for a run whose training raises an error."""

    def train(config, active):
        if config_text:
            run.config_path.write_text(config_text)
        raise error

    main(run, train=train)
    return run.statuses()[-1]["reason"]


def test_out_of_memory_error_suggests_a_remedy(create):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    for error in (caught.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")):
        assert (
            failure_reason(create(batch_size=8), error)
            == "out of memory; according to the estimate, batch_size = 4 with grad_accumulation = 2 fits"
        )
    assert failure_reason(create(), ValueError("one\n  two")) == "ValueError: one two"
    reason = failure_reason(create(), MemoryError(), config_text="{]")
    assert reason.startswith("out of memory; try a smaller batch")


def test_run_withdrawn_before_its_trainer_starts_is_not_trained(create):
    for requested_status in ("stopped", "interrupted"):
        run = create()
        run.request_stop(requested_status)
        main(run)
        assert status_names(run) == ["queued", requested_status]
        assert run.stop_request() is None


@pytest.mark.parametrize("final_status", ["stopped", "interrupted", "failed", "finished"])
def test_ended_run_is_not_trained_again(create, final_status):
    run = create()
    run.append("status", status=final_status)
    main(run)
    assert status_names(run) == ["queued", final_status]


def test_trainer_of_a_deleted_run_fails_and_writes_nothing(create, child):
    run = create()
    run.delete()
    with pytest.raises(UserError, match="a was deleted"):
        main(run)
    process = child(
        "import runpy, sys; sys.argv = ['worker', *sys.argv[1:]];"
        "runpy.run_module('core.scheduler.trainer_process', run_name='__main__')",
        run.path,
    )
    assert process.wait(30) == 1
    assert not run.path.exists()


def test_trainer_that_ignores_a_stop_is_killed(create, start_run, wait):
    run = create()
    thread = start_run(run, lambda run: run_in_process(run, grace=0.5))
    wait(lambda: status_names(run)[-1] == "running")
    pid = run.statuses()[-1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    run.request_stop()
    thread.join(60)
    assert 0.5 < time.monotonic() - start < 20
    assert status_names(run)[-1] == "stopped"
    assert "(signal 9)" in run.statuses()[-1]["reason"]


def test_trainer_that_fails_to_start_does_not_leave_a_queued_run(create, monkeypatch):
    run = create()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    run_in_process(run)
    assert run.statuses()[-1]["status"] == "interrupted"
    assert "(exit status 1)" in run.statuses()[-1]["reason"]


def test_run_resumed_before_its_trainer_exits_stays_queued(create, monkeypatch):
    """The executor must not take the new status `queued` as a sign that the trainer died."""
    run = create()
    script = run.path / "trainer"
    script.write_text(
        f"#!{sys.executable}\n"
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from core.operations import requeue\n"
        "from core.run.directory import RunDirectory\n"
        "run = RunDirectory(Path(sys.argv[-1]))\n"
        "run.append('status', status='stopped')\n"
        "requeue(run.path.parent, run.name)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    run_in_process(run)
    assert status_names(run) == ["queued", "stopped", "queued"], run.log_tail()
