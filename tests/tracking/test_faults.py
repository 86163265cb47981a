"""System faults during training: a full disk, lack of memory, a clock set back, and unwritable directories.

The run fails with a one-sentence reason and can be resumed bit-identically from its checkpoint. Other runs are not
affected.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from core.cli import commands
from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.operations import KILL_AFTER_S, requeue
from core.run.directory import RunDirectory
from core.run.events import EventWriter, parse, read_lines
from core.scheduler.executors import ROOT, run_in_process, run_in_thread
from core.scheduler.trainer_process import main
from core.tracking import queries
from core.tracking.sync import read_index
from tests.run_fixtures import WORDS

STEPS = 5
"""Number of steps per run. Checkpoints are saved after steps 2, 4 and 5."""
FAULTY = """
import resource, sys
from pathlib import Path
from core.run.directory import RunDirectory
from core.scheduler.trainer_process import main
from core.training.trainer import Trainer

RESOURCES = {"disk": resource.RLIMIT_FSIZE, "memory": resource.RLIMIT_AS}
METHODS = {"none": ("publish_weights", 5), "events": ("record_step", 3), "last-event": ("record_step", 3),
           "checkpoint": ("save_checkpoint", 4), "weights": ("publish_weights", 5), "memory": ("step", 0)}

def limit(name, size):
    resource.setrlimit(RESOURCES[name], (size, resource.RLIM_INFINITY))

def inject(trainer, fault):
    written = (trainer.run.directory / "events.jsonl").stat().st_size
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {"events": ("disk", written + 30), "last-event": ("disk", written + 220),
              "checkpoint": ("disk", 200_000), "weights": ("disk", 200_000), "memory": ("memory", mapped)}
    if fault in limits:
        limit(*limits[fault])

for fault, (name, step) in METHODS.items():
    def faulty(trainer, *arguments, real=getattr(Trainer, name), fault=fault, step=step, **fields):
        if trainer.progress.step == step:
            inject(trainer, fault)
        return real(trainer, *arguments, **fields)
    real = getattr(Trainer, name)
    setattr(Trainer, name, faulty)
    try:
        main(RunDirectory(Path(sys.argv[1]) / fault))
    except OSError as error:
        print(f"{fault}: {error}")
    for resource_name in RESOURCES:
        limit(resource_name, resource.RLIM_INFINITY)
    setattr(Trainer, name, real)
"""
REMAINING_CHECKPOINTS = {
    "events": [2],
    "last-event": [2],
    "checkpoint": [2],
    "weights": [4, STEPS],
    "memory": [],
}
"""Steps at which checkpoints exist after each fault."""


@pytest.fixture(scope="module")
def faulted_runs(tmp_path_factory, base_model):
    """A runs directory with one run per fault and one intact run, and the output of the process that trained them."""
    folder = tmp_path_factory.mktemp("faults")
    data = folder / "words.json"
    data.write_text(json.dumps([{"instruction": f"Say {w}.", "output": w} for w in WORDS]))
    small = {"base_model": str(base_model), "dataset": str(data), "batch_size": 10, "method": "full"}  # fmt: skip
    small |= {"epochs": STEPS, "checkpoint_every": 2, "eval_every": 3, "sample_prompt": ""}
    for name in ("none", *REMAINING_CHECKPOINTS):
        RunDirectory.create(folder / "runs", RunConfig(name=name, max_new_tokens=2, **small))
    # Return freed memory to the system; otherwise, later runs could reuse it under the limit.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    completed = subprocess.run(
        [sys.executable, "-c", FAULTY, str(folder / "runs")],
        cwd=ROOT, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    return folder / "runs", completed.stdout


def events(run, kind):
    parsed = [parse(line) for line in read_lines(run.events_path, 0)[0]]
    return [event for event in parsed if event["event"] == kind]


def files(run):
    return {p: p.read_bytes() for p in sorted(run.path.rglob("*")) if p.is_file()}


def checkpoints(run):
    paths = (run.path / "checkpoint").glob("step-*[0-9]")
    return sorted(int(path.name.removeprefix("step-")) for path in paths)


def outcome(run):
    """Return the parts of a run's results that do not depend on time."""
    [path] = (run.path / "weights").glob("*.safetensors")
    losses = {event["step"]: event["loss"] for event in events(run, "step")}
    answers = [event["answer"] for event in events(run, "generation")]
    return hashlib.sha256(path.read_bytes()).hexdigest(), losses, answers


@pytest.mark.parametrize("fault", ["last-event", "checkpoint", "weights"])
def test_full_disk_fails_the_run_and_names_the_path(faulted_runs, fault):
    last = RunDirectory(faulted_runs[0] / fault).statuses()[-1]
    assert last["status"] == "failed"
    assert str(faulted_runs[0] / fault) in last["reason"], last["reason"]
    assert "full" in last["reason"] or "cannot be written" in last["reason"], last["reason"]


def test_out_of_memory_fails_the_run_and_suggests_a_remedy(faulted_runs):
    last = RunDirectory(faulted_runs[0] / "memory").statuses()[-1]
    assert last["status"] == "failed"
    assert last["reason"].startswith("out of memory; according to the estimate, batch_size = ")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), MemoryError()], ids=repr
)
def test_system_out_of_memory_errors_are_recognized(tmp_path, error):
    def train(config, active):
        raise error

    run = RunDirectory.create(tmp_path, RunConfig())
    main(run, train=train)
    assert run.statuses()[-1]["reason"].startswith("out of memory; ")


def test_run_without_a_final_status_is_marked_as_interrupted(faulted_runs):
    runs_dir, output = faulted_runs
    run = RunDirectory(runs_dir / "events")
    assert "events: [Errno 28] the disk is full" in output
    assert run.status() == "running"
    assert not run.is_alive()
    read_index(runs_dir).close()
    assert run.statuses()[-1]["status"] == "interrupted"
    assert run.statuses()[-1]["reason"] == "the trainer died"


@pytest.mark.parametrize("fault", REMAINING_CHECKPOINTS)
def test_resume_after_a_fault_is_bit_identical(faulted_runs, fault):
    runs_dir, _ = faulted_runs
    intact_run, run = RunDirectory(runs_dir / "none"), RunDirectory(runs_dir / fault)
    files_before = files(intact_run)
    assert intact_run.status() == "finished"
    assert checkpoints(run) == REMAINING_CHECKPOINTS[fault]
    assert not (run.path / "weights").exists()
    run.mark_ended("the trainer died")
    requeue(run.path.parent, run.name)
    run_in_thread(run)
    assert run.status() == "finished"
    [rewind] = events(run, "rewind")
    assert rewind["step"] == max(REMAINING_CHECKPOINTS[fault], default=-1)
    assert not events(run, "warning")
    assert outcome(run) == outcome(intact_run)
    assert files(intact_run) == files_before


def test_trainer_killed_by_the_system_suggests_smaller_settings(tmp_path, settings, monkeypatch):
    run = RunDirectory.create(tmp_path / "runs", settings(name="a"))
    script = tmp_path / "trainer"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    run_in_process(run)
    last = run.statuses()[-1]
    assert last["status"] == "interrupted"
    assert "(signal 9)" in last["reason"]
    assert "use too much memory: according to the estimate, batch_size = " in last["reason"]


def test_clock_set_back_does_not_change_event_order(tmp_path):
    late_clock, early_clock = itertools.count(2_000_000_000, -1000), itertools.count(1_000_000_000)
    for name, clock in (("back", late_clock), ("steady", early_clock)):
        run = RunDirectory.create(tmp_path, RunConfig(name=name))
        run.events_path.unlink()
        writer = EventWriter(run.events_path, clock=lambda clock=clock: next(clock))
        writer.append("status", status="queued")
        writer.append("status", status="running")
        writer.append("plan", steps=4, steps_per_epoch=4)
        for step in range(1, 5):
            position = {"step": step, "epoch": step / 4, "tokens": step, "seconds": float(step)}
            writer.append("step", **position, loss=5.0 - step, lr=1e-3)
            writer.append("eval", **position, train_loss=5.0 - step, val_loss=6.0 - step)
            writer.append("sample", step=step, prompt="p", text=f"{step}")
        writer.append("status", status="failed", reason="first")
        writer.append("status", status="queued")
        writer.append("status", status="finished")
        writer.close()
        assert run.status() == "finished"
    index = read_index(tmp_path)
    db, runs = index.cursor(), ["back", "steady"]
    results = queries.results(db).set_index("name")
    states = pd.DataFrame(queries.states(db, runs)).set_index("name")
    for name in runs:
        assert results.loc[name, ["status", "step", "val_loss"]].tolist() == ["finished", 4, 2.0]
        assert states.loc[name, ["status", "step", "steps"]].tolist() == ["finished", 4, 4]
    curve = queries.curves(db, runs, ["loss"])["loss"]
    evaluations = queries.evaluations(db, runs)
    for name in runs:
        assert curve.loc[curve["run"] == name, "y"].tolist() == [4.0, 3.0, 2.0, 1.0]
        assert evaluations.loc[evaluations["run"] == name, "x"].tolist() == [1, 2, 3, 4]
    assert queries.samples(db, ["back"])["text"].tolist() == ["4", "3", "2", "1"]
    index.close()


def test_stop_request_with_a_future_timestamp_counts_as_old(tmp_path):
    """If the clock has been set back, a hanging trainer can still be killed at once."""
    run = RunDirectory.create(tmp_path, RunConfig(name="a"))
    run.request_stop()
    os.utime(run.stop_path, (4_000_000_000, 4_000_000_000))
    assert run.seconds_since_stop_request() > KILL_AFTER_S
    run.mark_ended("the trainer died")
    assert run.status() == "stopped"


@pytest.fixture(params=["/proc", "/sys/kernel", "/dev/null", "a file"])
def unwritable(request, tmp_path):
    """A path where not even root can create files."""
    if request.param != "a file":
        return Path(request.param) / "runs" if request.param == "/proc" else Path(request.param)
    (tmp_path / "runs").write_text("a file")
    return tmp_path / "runs"


def test_unwritable_directory_is_reported_in_one_sentence(unwritable):
    def launch(directory):
        with contextlib.closing(
            Lab(directory)
        ) as lab:  # an existing directory would be opened read-only
            lab.launch(RunConfig(dataset="primer"))

    for attempt in (launch, lambda directory: RunDirectory.create(directory, RunConfig())):
        with pytest.raises(UserError, match="cannot be written to") as caught:
            attempt(unwritable)
        assert "\n" not in str(caught.value)


READ_ONLY = """
import os, sys
from pathlib import Path
from core.config import RunConfig
from core.errors import UserError
from core.tracking import queries
from core.lab import Lab
from core.tracking.sync import read_index

if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
lab = Lab(Path(sys.argv[1]))
print(lab.read_only, flush=True)
for action in (lab.stop, lab.resume, lab.delete, lambda _: lab.launch(RunConfig())):
    try:
        action("a")
    except UserError as error:
        print(error, flush=True)
while sys.stdin.readline():
    lab.refresh()
    index = read_index(lab.runs_dir)
    for state, in (lab.states(["a"]), queries.states(index.cursor(), ["a"])):
        print(state["status"], state["step"], flush=True)
    index.close()
lab.close()
"""


def test_read_only_runs_directory_is_read_and_synced(settings, child):
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "runs", settings(name="a"))
        for path in (Path(folder), run.path.parent, run.path):
            path.chmod(0o755 if path == Path(folder) else 0o555)
        reader = child(READ_ONLY, run.path.parent)
        try:
            reason = reader.stdout.readline().strip()
            assert reason.startswith(f"{run.path.parent} cannot be written to (")
            for _ in range(4):
                assert reader.stdout.readline().strip() == f"Read-only: {reason}."
            run.path.chmod(0o755)
            with run.lock():
                for event in ({"kind": "status", "status": "running"}, {"kind": "step", "step": 1}):
                    run.append(**event)
                reader.stdin.write("\n")
                reader.stdin.flush()
                assert [reader.stdout.readline() for _ in range(2)] == ["running 1\n"] * 2
            files_before = files(run)
            reader.communicate("\n")  # the trainer is now dead, but the reader cannot record that
            assert reader.returncode == 0
            assert files(run) == files_before
            assert {path.name for path in run.path.parent.iterdir()} == {"a"}
        finally:
            for path in (run.path.parent, run.path):
                path.chmod(0o755)


@pytest.mark.parametrize(
    "arguments",
    [["train", "--set", "max_examples=40", "--set", "base_model=gpt2-nano"], ["demo"], ["reindex"]],
    ids=" ".join,
)
def test_commands_report_an_unwritable_directory(unwritable, arguments, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["core", *arguments, "--runs-dir", str(unwritable)])
    with pytest.raises(SystemExit) as exit_info:
        commands.main()
    captured = capfd.readouterr()
    assert (exit_info.value.code, captured.out) == (2, ""), captured.err
    assert captured.err.count("error: ") == 1
    assert "Traceback" not in captured.err
    assert str(unwritable) in captured.err


def test_lab_recovers_after_the_runs_directory_is_replaced(tmp_path, settings):
    runs_dir, moved_dir = tmp_path / "runs", tmp_path / "aside"
    run = RunDirectory.create(runs_dir, settings(name="a"))
    run.append("status", status="finished")
    lab = Lab(runs_dir)
    runs_dir.rename(moved_dir)
    runs_dir.write_text("a file")
    try:
        with pytest.raises(UserError, match="cannot be written to"):
            lab.launch(settings(name="b"))
        lab.refresh()
        assert lab.runs().empty
        runs_dir.unlink()
        moved_dir.rename(runs_dir)
        lab.refresh()
        assert lab.runs()["status"].tolist() == ["finished"]
        assert lab.fault is None
    finally:
        lab.close()
