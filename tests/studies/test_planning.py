"""Planning a study: runs, steps, time, disk space, problems and reused runs."""

import shutil
import time
from types import SimpleNamespace

import pytest

from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.metrics import MIB
from core.planning import preflight
from core.run.directory import RunDirectory
from core.scheduler.executors import EXECUTORS
from core.studies.sweep import Sweep, parse_axis

BASE = RunConfig(max_examples=60)
MAX_SECONDS = 1.0


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setitem(EXECUTORS, "idle", lambda run: None)
    with Lab(tmp_path / "runs", "idle") as lab:
        yield lab


def sweep(*axes, seeds=(1, 2), **options):
    base = options.pop("base", BASE)
    return Sweep(base, tuple(parse_axis(text) for text in axes), seeds, **options)


def finish(lab, **settings):
    run = RunDirectory.create(lab.runs_dir, BASE.changed(**settings))
    run.append("status", status="finished")
    lab.refresh()
    return run


def test_plan_lists_the_runs_that_would_be_created(lab):
    planned = sweep("lr=1e-4,3e-4", "batch_size=2,4")
    plan = lab.plan_sweep(planned, "Rate")
    assert not plan.problems
    assert plan.study == "rate"
    assert not list(lab.runs_dir.glob("rate*"))
    names = lab.sweep(plan.sweep, "Rate")
    assert [run.name for run in plan.runs] == names
    for run in plan.runs:
        config = lab.config(run.name)
        assert {name: getattr(config, name) for name in run.values} == run.values
        assert config.seed == run.seed


def test_totals_are_the_sums_over_all_runs(lab):
    plan = lab.plan_sweep(sweep("lr=1e-4,3e-4", "batch_size=2,4"))
    single = {size: preflight.check(BASE.changed(batch_size=size)) for size in (2, 4)}
    assert plan.steps == 4 * single[2].steps + 4 * single[4].steps
    seconds = [plan.seconds + plan.evaluation_seconds for plan in single.values()]
    assert plan.seconds == pytest.approx(4 * sum(seconds))
    kept, peak = single[2].disk_mb, single[2].disk_peak_mb
    assert plan.disk_mb == pytest.approx(7 * kept + peak)


def test_settings_with_the_same_cost_are_checked_once(lab, monkeypatch):
    checked = []
    check = preflight.check
    monkeypatch.setattr(preflight, "check", lambda *a: checked.append(a) or check(*a))
    plan = lab.plan_sweep(sweep("lr=log 1e-5..1e-2 x 10", "lora_rank=4,16", "min_lr=0,1e-6"))
    assert len(plan.runs) == 80
    assert len(checked) == 2


def test_plan_of_200_runs_is_fast(lab):
    planned = sweep("lr=log 1e-5..1e-2 x 10", "lora_rank=lora_alpha=4,8,16,32", seeds=range(5))
    lab.plan_sweep(planned)
    start = time.monotonic()
    assert len(lab.plan_sweep(planned).runs) == 200
    assert time.monotonic() - start < MAX_SECONDS


def test_invalid_combinations_are_named_and_left_out(lab):
    base = BASE.changed(min_lr=1e-5)
    plan = lab.plan_sweep(sweep("lr=1e-6,1e-4", "max_length=64,2000", base=base))
    assert len(plan.invalid) == 3
    assert plan.invalid_message.startswith(
        "3 combinations are invalid: min_lr = 1e-05: must be at most lr"
    )
    assert "max_length = 2000: must be at most 256" in plan.invalid_message
    assert [dict(run.values) for run in plan.runs] == [{"lr": 1e-4, "max_length": 64}] * 2
    lab.sweep(plan.sweep, "valid")
    assert len(lab.extend_study("valid", seeds=1)) == 1  # still without the invalid combinations
    assert lab.study("valid").sweep.excluded == plan.sweep.excluded


def test_problems_of_all_runs_are_reported_once(lab):
    plan = lab.plan_sweep(sweep("lr=1e-4,3e-4", base=BASE.changed(dataset="missing.json")))
    assert [problem.field for problem in plan.setting_problems] == ["dataset"]
    assert not plan.invalid


def test_files_outside_the_allowed_folders_are_not_read(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIRS", str(tmp_path / "allowed"))
    (tmp_path / "secret.json").write_text("not json")
    plan = lab.plan_sweep(sweep(f"dataset=primer,{tmp_path / 'secret.json'}"))
    assert "outside the folders" in plan.invalid_message
    assert {run.values["dataset"] for run in plan.runs} == {"primer"}


def test_random_subset_avoids_invalid_combinations(lab):
    base = BASE.changed(min_lr=1e-5)
    axes = "lr=1e-6,2e-6,3e-6,1e-4,2e-4,3e-4", "max_length=64,2000"
    plan = lab.plan_sweep(sweep(*axes, base=base, mode="random", max_runs=6, seeds=(1, 2)))
    assert len(plan.runs) == 6
    assert not plan.problems


def test_combinations_that_fail_for_the_same_reason_are_left_out_at_once(lab, monkeypatch):
    checked = []
    check = preflight.check
    monkeypatch.setattr(preflight, "check", lambda *a: checked.append(a) or check(*a))
    base = BASE.changed(method="full")
    ranks = f"lora_rank={','.join(map(str, range(1, 41)))}"
    planned = sweep("method=full,lora", "max_length=64,2000", ranks, base=base, seeds=(1,))
    plan = lab.plan_sweep(planned)
    assert len(plan.runs) == 1 + 40
    assert len(plan.invalid) == 2 * 40
    assert len(checked) == 2 * (1 + 40)


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        (["lr=1e-4,1e-4"], {}, "axis lr: 0.0001 is listed twice"),
        (["lora_rank=4,8"], {"base": BASE.changed(method="full")}, "axis lora_rank: this setting has no effect"),
        (["max_length=2000,3000"], {}, "every combination is excluded"),
        (["lr=log 1e-5..1e-2 x 700"], {"seeds": (1, 2, 3)}, "2,100 runs: a sweep can have at most 2,000"),
                (["lr=1e-4,3e-4"], {"mode": "random"}, "max_runs: required"),
    ],
)  # fmt: skip
def test_problems_are_sentences(lab, axes, options, message):
    plan = lab.plan_sweep(sweep(*axes, **options))
    texts = [*plan.problems, *map(str, plan.setting_problems), *map(str, plan.invalid)]
    assert message in " ".join(texts)


def test_later_runs_of_a_search_are_counted(lab):
    plan = lab.plan_sweep(sweep("lr=log 1e-5..1e-2 x 20", mode="search", max_runs=24))
    assert plan.count == 24
    assert 0 < len(plan.runs) < 24
    assert plan.steps == 24 * plan.runs[0].steps
    assert lab.plan_sweep(sweep("lr=1e-4,3e-4", mode="search", max_runs=24)).count == 4


def test_study_that_does_not_fit_on_the_disk_is_refused(lab, monkeypatch):
    one = preflight.check(BASE)
    free = int((one.disk_peak_mb + one.disk_mb) * MIB) + 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert not lab.plan_sweep(sweep("lr=1e-4,3e-4", seeds=(1,))).problems
    [problem] = lab.plan_sweep(sweep("lr=1e-4,3e-4")).problems
    assert problem.startswith("runs = 4: they need about")
    assert "enough for 2" in problem


def test_taken_name_is_a_problem(lab):
    lab.sweep(sweep("lr=1e-4,3e-4"), "rate")
    assert "already exists" in lab.plan_sweep(sweep("lr=1e-4"), "rate").problems[0]
    assert "must contain a letter" in lab.plan_sweep(sweep("lr=1e-4"), "?").problems[0]
    assert lab.plan_sweep(sweep("lr=1e-4")).study == "lr"


def test_finished_run_takes_the_place_of_an_identical_one(lab):
    finish(lab, name="demo", lr=1e-4, seed=1, notes="first")
    finish(lab, name="other", lr=1e-4, seed=1, eval_every=7)
    planned = sweep("lr=1e-4,3e-4", seeds=(1, 2))
    assert not lab.plan_sweep(planned).reused
    plan = lab.plan_sweep(planned, "rate", reuse=True)
    assert plan.reused == {"rate-1": "demo"}
    assert [run.name for run in plan.trained] == ["rate-2", "rate-3", "rate-4"]
    assert lab.sweep(planned, "rate", reused=plan.reused) == ["demo", "rate-2", "rate-3", "rate-4"]
    assert lab.config("demo").study == "rate"
    assert lab.config("demo").notes == "first"
    assert lab.studies()[0]["runs"] == 4
    assert lab.extend_study("rate", seeds=1) == ["rate-5", "rate-6"]
    assert not lab.plan_sweep(planned, reuse=True).reused  # it belongs to a study now


def test_reused_run_that_has_changed_is_an_error(lab):
    run = finish(lab, name="demo", lr=1e-4, seed=1)
    planned = sweep("lr=1e-4,3e-4", seeds=(1, 2))
    plan = lab.plan_sweep(planned, "rate", reuse=True)
    run.write_config(run.config().changed(lr=2e-4))
    with pytest.raises(UserError, match="'demo': cannot be reused"):
        lab.sweep(planned, "rate", reused=plan.reused)
    assert lab.studies() == []


def test_study_without_new_runs_is_a_problem(lab):
    finish(lab, lr=1e-4, seed=1)
    plan = lab.plan_sweep(sweep("lr=1e-4", seeds=(1,)), reuse=True)
    assert "every run of this study exists already" in plan.problems[0]
