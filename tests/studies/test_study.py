"""Studies on disk: planned runs are created exactly once, even after a crash, and damaged files are reported."""

import fcntl
import json
import os
import shutil
from dataclasses import replace

import pytest

from core import operations
from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.run.directory import RunDirectory, list_runs
from core.scheduler.executors import EXECUTORS
from core.studies import study
from core.studies.sweep import Sweep, parse_axis

CREATE = """
import sys, time
from pathlib import Path
from core import operations
from core.config import RunConfig
from core.run.directory import RunDirectory
from core.studies.sweep import Sweep, parse_axis

create, delay = RunDirectory.create, float(sys.argv[2])
RunDirectory.create = lambda *arguments: (time.sleep(delay), create(*arguments))[1]
sweep = Sweep(RunConfig(max_examples=50), (parse_axis("lr=log 1e-5..1e-2 x 12"),), (1, 2))
print(*operations.sweep(Path(sys.argv[1]), "rate", sweep))
"""
BASE = RunConfig(max_examples=50)
SWEEP = Sweep(BASE, (parse_axis("lr=1e-4,3e-4"),), (1, 2))


@pytest.fixture(autouse=True)
def idle_executor(monkeypatch):
    monkeypatch.setitem(EXECUTORS, "idle", lambda run: None)


@pytest.fixture
def lab(tmp_path):
    with Lab(tmp_path, "idle") as lab:
        yield lab


def names(runs_dir):
    return [run.name for run in list_runs(runs_dir)]


def test_study_creates_and_queues_every_run(lab):
    created = lab.sweep(SWEEP, "Rate", "Which learning rate?")
    assert created == names(lab.runs_dir) == ["rate-1", "rate-2", "rate-3", "rate-4"]
    assert {lab.config(name).study for name in created} == {"rate"}
    assert [(lab.config(n).lr, lab.config(n).seed) for n in created] == [
        (1e-4, 1), (3e-4, 1), (1e-4, 2), (3e-4, 2),
    ]  # fmt: skip
    [row] = lab.studies()
    assert (row["name"], row["runs"], row["seeds"]) == ("rate", 4, 2)
    assert row["axes"] == {"lr": [1e-4, 3e-4]}
    assert row["question"] == "Which learning rate?"
    assert set(lab.waiting()) <= {*created}


def test_seed_noise_is_available_from_the_lab(lab):
    assert lab.seed_noise().columns.tolist() == [
        "method", "base_model", "dataset", "sd", "low", "high", "df",
    ]  # fmt: skip
    assert lab.seed_noise("exact").empty
    with pytest.raises(UserError, match="unknown metric"):
        lab.seed_noise("nothing")


def test_study_is_named_after_the_varied_settings(lab):
    other = Sweep(BASE, (parse_axis("batch_size=2,4"), parse_axis("lr=1e-4,3e-4")), (1,))
    assert lab.sweep(SWEEP)[0] == "lr-1"
    assert lab.sweep(other)[0] == "batch_size-lr-1"
    RunDirectory.create(lab.runs_dir, RunConfig(name="lr-2-1"))
    assert lab.sweep(SWEEP)[0] == "lr-3-1"
    RunDirectory.create(lab.runs_dir, RunConfig(name="rate-1"))
    with pytest.raises(UserError, match="run named rate-1 already exists"):
        lab.sweep(SWEEP, "rate")


def test_runs_missing_after_a_crash_are_created_once(tmp_path):
    planned = study.plan(tmp_path, "rate", SWEEP)
    RunDirectory.create(tmp_path, planned.config(planned.members[0]))
    with Lab(tmp_path, "idle") as lab:  # the next start of the dashboard
        assert names(tmp_path) == [member.name for member in planned.members]
        lab.stop("rate-4")
        lab.delete("rate-4")
    with Lab(tmp_path, "idle") as lab:
        assert "rate-4" not in names(tmp_path), "a deleted run stays deleted"
        assert lab.studies()[0]["deleted"] == 1


def test_repeating_a_sweep_adds_nothing(tmp_path):
    planned = study.plan(tmp_path, "rate", SWEEP)
    assert len(study.create_runs(tmp_path, planned)) == 4
    assert study.create_runs(tmp_path, study.find(tmp_path, "rate")) == []
    with pytest.raises(UserError, match="study with this name already exists"):
        study.plan(tmp_path, "rate", SWEEP)
    RunDirectory.create(tmp_path, RunConfig(name="other-2"))
    with pytest.raises(UserError, match="run named other-2 already exists"):
        study.plan(tmp_path, "other", SWEEP)


def test_extension_adds_seeds_and_values_and_marks_the_study_exploratory(tmp_path):
    planned = study.plan(tmp_path, "rate", SWEEP)
    study.create_runs(tmp_path, planned)
    more = study.extended(study.find(tmp_path, "rate"), more_seeds=1)
    assert [(m.name, m.seed) for m in more.members[4:]] == [("rate-5", 3), ("rate-6", 3)]
    assert more.is_exploratory
    assert not planned.is_exploratory
    assert study.create_runs(tmp_path, more) == ["rate-5", "rate-6"]
    wider = study.extended(study.find(tmp_path, "rate"), axis="lr", values=[1e-3])
    assert [(m.values, m.seed) for m in wider.members[6:]] == [({"lr": 1e-3}, s) for s in (1, 2, 3)]
    with pytest.raises(UserError, match="nothing to add"):
        study.extended(wider, axis="lr", values=[1e-3])
    with pytest.raises(UserError, match="available: lr"):
        study.extended(wider, axis="batch_size", values=[1])


def test_paused_study_continues(lab):
    lab.sweep(SWEEP, "rate")
    current = lab.waiting()[:1]
    lab.pause_study("rate")
    assert lab.studies()[0]["is_paused"]
    assert lab.studies()[0]["queued"] <= len(current)
    lab.continue_study("rate")
    assert lab.studies()[0]["queued"] == 4
    assert not lab.studies()[0]["is_paused"]


def test_pause_that_is_interrupted_can_be_continued(tmp_path, monkeypatch):
    operations.sweep(tmp_path, "rate", SWEEP)
    stop = RunDirectory.mark_ended

    def crash(run, *arguments):
        if run.name == "rate-3":
            raise KeyboardInterrupt
        stop(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "mark_ended", crash)
        with pytest.raises(KeyboardInterrupt):
            operations.pause_study(tmp_path, "rate")
    assert operations.continue_study(tmp_path, "rate") == ["rate-1", "rate-2"]


def test_extension_does_not_create_deleted_runs_again(tmp_path):
    operations.sweep(tmp_path, "rate", SWEEP)
    RunDirectory.find(tmp_path, "rate-2").delete()
    assert operations.extend_study(tmp_path, "rate", 1) == ["rate-5", "rate-6"]
    RunDirectory.find(tmp_path, "rate-5").delete()
    assert operations.extend_study(tmp_path, "rate", 1) == ["rate-7", "rate-8"]
    assert names(tmp_path) == ["rate-1", "rate-3", "rate-4", "rate-6", "rate-7", "rate-8"]
    extended = study.find(tmp_path, "rate")
    study.write(tmp_path, replace(extended, is_complete=False))  # as after a crash
    assert study.create_runs(tmp_path, extended) == []


def test_files_outside_the_allowed_folders_cannot_be_varied(lab, monkeypatch):
    monkeypatch.setenv("DATA_DIRS", str(lab.runs_dir))
    outside = Sweep(BASE, (parse_axis("dataset=primer,/etc/data.json"),), (1,))
    with pytest.raises(UserError, match="outside the folders"):
        lab.sweep(outside, "data")
    lab.sweep(Sweep(BASE, (parse_axis("dataset=primer,alpaca"),), (1,)), "data")
    with pytest.raises(UserError, match="outside the folders"):
        lab.extend_study("data", axis="dataset", values=["/etc/data.json"])


def test_sweep_leaves_out_deleted_and_damaged_runs_and_reused_names(tmp_path):
    operations.sweep(tmp_path, "rate", SWEEP)
    for name in ("rate-1", "rate-2"):
        RunDirectory.find(tmp_path, name).delete()
    RunDirectory.create(tmp_path, RunConfig(name="rate-2"))
    RunDirectory.find(tmp_path, "rate-3").config_path.write_text("not json")
    assert operations.sweep(tmp_path, "rate", SWEEP) == ["rate-4"]
    assert operations.pause_study(tmp_path, "rate") == ["rate-4"]


def test_sweep_with_a_long_name_can_be_repeated(tmp_path):
    name = "learning rates and ranks for instruction tuning"
    created = operations.sweep(tmp_path, name, SWEEP)
    assert operations.sweep(tmp_path, name, SWEEP) == created == names(tmp_path)


def test_texts_of_a_study_can_be_edited(lab):
    lab.sweep(SWEEP, "rate", "Which rate?")
    lab.edit_study("rate", notes="Two seeds.", summary="3e-4 is better.")
    lab.edit_study("rate", question="Which learning rate?")
    found = lab.study("rate")
    assert (found.question, found.notes) == ("Which learning rate?", "Two seeds.")
    assert found.summary == "3e-4 is better."
    lab.edit_study("rate", summary="")
    assert lab.study("rate").summary == ""
    with pytest.raises(UserError, match="unknown study"):
        lab.edit_study("other", notes="x")


def test_study_files_without_a_summary_can_be_read(tmp_path):
    study.plan(tmp_path, "rate", SWEEP)
    path = tmp_path / "studies" / "rate.json"
    saved = json.loads(path.read_text())
    del saved["summary"]
    path.write_text(json.dumps(saved))
    assert study.find(tmp_path, "rate").summary == ""


def edit(**values):
    return lambda text: json.dumps(json.loads(text) | values)


def edit_member(**values):
    def change(text):
        saved = json.loads(text)
        saved["members"][0] |= values
        return json.dumps(saved)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "not json", "cannot be read"),
        (lambda text: text.replace('"rate-1"', '"../rate-1"'), "invalid name"),
        (lambda text: text.replace('"axes"', '"removed"'), "cannot be read"),
        (lambda text: text.replace('"lora_rank": 16', '"lora_rank": -1'), "lora_rank"),
        (lambda text: json.dumps([]), "cannot be read"),
        (edit(seeds=["a"]), "seeds"),
        (edit(seeds=[]), "seeds"),
        (edit(members=[]), "there are no runs"),
        (edit(mode="other"), "unknown mode"),
        (edit(max_runs="x"), "max_runs"),
        (edit(mode="search"), "max_runs is required"),
        (edit(metric="charm"), "unknown metric"),
        (edit(axes=[{"fields": ["lr"], "values": []}]), "values of lr"),
        (edit(axes=[{"fields": ["lr"], "values": [[1e-4]]}]), "values of lr"),
        (edit(paused=None, deleted=3), "cannot be read"),
        (edit(axes=[{"fields": ["name"], "values": ["x"]}]), "'name' cannot be varied"),
        (edit_member(name="rate-2"), "same name"),
        (edit_member(seed="x"), "seed of rate-1"),
        (edit_member(values=[1]), "rate-1 changes a setting"),
        (edit_member(values={"study": "x"}), "rate-1 changes a setting"),
    ],
)
def test_invalid_study_file_raises_user_error(tmp_path, change, message):
    study.plan(tmp_path, "rate", SWEEP)
    path = tmp_path / "studies" / "rate.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message):
        study.find(tmp_path, "rate")
    with Lab(tmp_path, "idle") as lab:
        assert message in lab.studies()[0]["error"]


def test_processes_that_create_the_same_study_create_every_run_once(tmp_path, child):
    processes = [child(CREATE, tmp_path, 0) for _ in range(3)]
    outputs = [process.communicate(timeout=200)[0].split() for process in processes]
    expected = [f"rate-{number}" for number in range(1, 25)]
    assert outputs == [expected] * 3
    assert sorted(names(tmp_path)) == sorted(expected)


def test_every_run_exists_once_after_a_kill(tmp_path, child, wait):
    process = child(CREATE, tmp_path, 0.05)
    wait(lambda: len(names(tmp_path)) > 3)
    process.kill()
    process.wait()
    created = len(names(tmp_path))
    assert created < 24
    unfinished = tmp_path / "rate-24"  # killed before it wrote the settings
    unfinished.mkdir()
    (unfinished / "trainer.lock").touch()
    (unfinished / "config.json.12ab.partial").touch()
    study.complete_all(tmp_path)
    assert sorted(names(tmp_path)) == sorted(f"rate-{number}" for number in range(1, 25))
    assert len({(r.config().lr, r.config().seed) for r in list_runs(tmp_path)}) == 24


def test_lock_excludes_other_processes_but_not_its_own_thread(tmp_path, monkeypatch):
    with study.locked(tmp_path), study.locked(tmp_path):
        handle = os.open(tmp_path / "studies" / study.LOCK_FILE, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    monkeypatch.setattr(study, "LOCK_TIMEOUT_S", 0.01)
    with pytest.raises(UserError, match="Another process is changing studies"):
        operations.sweep(tmp_path, "rate", SWEEP)
    os.close(handle)
    assert len(operations.sweep(tmp_path, "rate", SWEEP)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (1, 2, 3, 4)}, "has 2 seeds; add more with `python -m core studies --extend rate --seeds 2`"),
        ({"mode": "random", "max_runs": 4}, "has mode = grid, which cannot be changed; .* `python -m core studies --extend rate`"),
        ({"prune": True}, "has prune = False"),
        ({"axes": (parse_axis("lr=1e-4,5e-4"),)}, "has a different sweep"),
        ({"base": BASE.changed(epochs=3)}, "has a different sweep"),
    ],
)  # fmt: skip
def test_repeated_sweep_with_other_options_raises_user_error(tmp_path, changes, message):
    operations.sweep(tmp_path, "rate", SWEEP)
    with pytest.raises(UserError, match=message):
        operations.sweep(tmp_path, "rate", replace(SWEEP, **changes))
    assert len(names(tmp_path)) == 4


def test_sweep_can_be_repeated_after_its_study_was_extended(tmp_path):
    operations.sweep(tmp_path, "rate", SWEEP)
    operations.extend_study(tmp_path, "rate", 1)
    operations.extend_study(tmp_path, "rate", axis="lr", values=[1e-3])
    assert len(operations.sweep(tmp_path, "rate", SWEEP)) == 9


def test_errors_about_larger_sweeps_suggest_a_remedy(tmp_path):
    axes = (parse_axis("lr=log 1e-5..1e-2 x 8"),)
    for mode, remedy in (("search", "--extend search --runs 4"), ("random", "use another name")):
        planned = Sweep(BASE, axes, (1, 2), mode, 6)
        operations.sweep(tmp_path, mode, planned)
        assert len(operations.sweep(tmp_path, mode, replace(planned, max_runs=4))) == 6
        with pytest.raises(UserError, match=f"has max_runs = 6; .*{remedy}"):
            operations.sweep(tmp_path, mode, replace(planned, max_runs=10))


def test_more_runs_than_the_disk_holds_raise_user_error(lab, monkeypatch):
    usage = shutil.disk_usage(lab.runs_dir)._replace(free=60 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    full = BASE.changed(method="full")
    with pytest.raises(
        UserError, match=r"2 runs need about .* but only 60 MB is free .* keep_weights = none"
    ):
        lab.sweep(Sweep(full, SWEEP.axes, (1,)), "rate")
    assert names(lab.runs_dir) == []
    assert lab.studies() == []
    search = Sweep(BASE, (parse_axis("lr=log 1e-5..1e-2 x 500"),), (1,), "search", 500)
    with pytest.raises(UserError, match="500 runs need about"):
        lab.sweep(search, "rate")
    assert len(lab.sweep(SWEEP, "rate")) == 4
    with pytest.raises(UserError, match="400 runs need about"):
        lab.extend_study("rate", seeds=200)
    assert len(names(lab.runs_dir)) == 4
    assert len(lab.study("rate").members) == 4


def test_unknown_study_lists_the_others(tmp_path):
    with pytest.raises(UserError, match="there are no studies"):
        study.find(tmp_path, "rate")
    study.plan(tmp_path, "rate", SWEEP)
    with pytest.raises(UserError, match="available: rate"):
        study.find(tmp_path, "../rate")
