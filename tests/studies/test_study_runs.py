"""The runs of a study and the means of its combinations, read from the index."""

import math

import pytest

from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.run.directory import RunDirectory
from core.scheduler.executors import EXECUTORS
from core.studies import study
from core.studies.sweep import Sweep, parse_axis

LOSSES = {1: [1.0, 1.21], 2: [2.0, 9.0], 4: [None, 3.0]}
"""Loss by batch size, for two seeds. 9 is above the base model's loss; None has not finished."""
UPDATES = {1: 0.01, 2: 0.04, 4: 0.02}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setitem(EXECUTORS, "idle", lambda run: None)
    sweep = Sweep(RunConfig(), (parse_axis("batch_size=1,2,4"),), (1, 2))
    planned = study.plan(tmp_path, "sizes", sweep)
    study.create_runs(tmp_path, planned)
    RunDirectory.create(tmp_path, RunConfig(name="other"))
    for member in planned.members:
        size = member.values["batch_size"]
        loss = LOSSES[size][member.seed - 1]
        run = RunDirectory(tmp_path / member.name)
        position = {"step": 4, "epoch": 1.0, "tokens": 9, "seconds": float(size)}
        run.append("eval", **{**position, "step": 0}, val_loss=4.0, subset_loss=4.0, final=False)
        run.append("step", **position, loss=1.0, lr=1e-3, memory_mb=100.0)
        run.append("update", **position, module="all", relative_update=UPDATES[size] * member.seed)
        if loss is None:
            continue
        run.append("eval", **position, val_loss=loss, subset_loss=loss, final=True)
        run.append("status", status="finished")
    with Lab(tmp_path, "idle") as lab:
        yield lab


def values(runs):
    return {
        (int(run["batch_size"]), int(run["seed"])): run["value"] for run in runs.to_dict("records")
    }


def test_runs_have_the_metric_only_if_they_finished_without_diverging(lab):
    runs = lab.study_runs("sizes")
    measured = {key: value for key, value in values(runs).items() if not math.isnan(value)}
    assert measured == {(1, 1): 1.0, (1, 2): 1.21, (2, 1): 2.0, (4, 2): 3.0}
    assert runs.loc[runs["diverged"], "batch_size"].tolist() == [2]
    assert len(runs) == 6


def test_relative_update_of_diverged_runs_counts(lab):
    measured = values(lab.study_runs("sizes", "relative_update"))
    assert measured[2, 2] == pytest.approx(0.08)
    assert math.isnan(measured[4, 1]), "it has not finished"
    table = lab.study_means("sizes", "relative_update")
    assert table["mean"].tolist() == pytest.approx([0.01 * 2**0.5, 0.04 * 2**0.5, 0.04])
    assert table["n"].tolist() == [2, 2, 1]
    assert table["low"][0] < 0.01 * 2**0.5 < table["high"][0]
    assert math.isnan(table["low"][2])


def test_means_equal_those_of_the_summary(lab):
    means, summary = lab.study_means("sizes"), lab.study_summary("sizes")
    assert means["mean"].tolist() == summary["mean"].tolist() == pytest.approx([1.1, 2.0, 3.0])
    assert means["verdict"].isna().all()


def test_too_few_runs_and_unknown_names_raise_user_error(lab):
    with pytest.raises(UserError, match=r"at least 15 .* There are 5\."):
        lab.importance("sizes")
    with pytest.raises(UserError, match="unknown metric"):
        lab.study_runs("sizes", "luck")
    with pytest.raises(UserError, match="unknown study"):
        lab.importance("shapes")
