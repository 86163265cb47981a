"""Rows for the journal's runs, and how runs are matched to the journal runs that they repeat."""

import pandas as pd
import pytest

from core.config import RunConfig
from core.presets import PRESETS, preset
from core.run.directory import RunDirectory
from core.tracking import queries, sync
from core.views import journal, report
from core.views.tables import records

JOURNAL_RUNS = [name for name, config in PRESETS.items() if config.journal]


@pytest.fixture
def frame(tmp_path):
    """Three runs: an evaluated repeat of run_12, a repeat of run_6, and a run that does not repeat a journal run."""
    run = RunDirectory.create(tmp_path, preset("run_12").changed(name="again", seed=7))
    run.append("plan", steps=1)
    run.append("eval", step=1, train_loss=1.0, val_loss=1.4, final=True)
    RunDirectory.create(tmp_path, preset("run_6").changed(name="six", eval_every=9))
    RunDirectory.create(tmp_path, RunConfig(name="other"))
    index = sync.read_index(tmp_path)
    yield queries.results(index.cursor())
    index.close()


def test_rows_match_the_journal():
    rows = {row["name"]: row for row in journal.rows()}
    assert list(rows) == [f"journal {name}" for name in JOURNAL_RUNS]
    run_4 = rows["journal run_4"]
    assert (run_4["val_loss"], run_4["perplexity"], run_4["scores"]) == (
        1.417,
        4.125,
        {"gemini": 51.8},
    )
    assert (run_4["seconds"], run_4["device"], run_4["lora_rank"]) == (1323.0, "A100", None)
    assert rows["journal run_18"]["scores"] == {}
    assert {row["status"] for row in rows.values()} == {"journal"}


def test_run_is_compared_with_the_journal_run_it_repeats(frame):
    differences = {row["name"]: journal.difference(row) for row in records(frame)}
    names = ("journal_run", "loss_to_journal", "loss_to_journal_se")
    assert {name: tuple(row[n] for n in names) for name, row in differences.items()} == {
        "again": ("run_12", 0.012, None),
        "six": ("run_6", None, None),
        "other": (None, None, None),
    }


def test_journal_comparison_uses_the_subset_loss_and_its_standard_error(
    tmp_path,
):
    run = RunDirectory.create(tmp_path, preset("run_12").changed(name="again"))
    run.append("plan", steps=2)
    losses = {"train_loss": None, "subset_loss": 1.3, "subset_se": 0.0712345}
    run.append("eval", step=1, val_loss=1.3, final=False, **losses)
    run.append("eval", step=2, val_loss=1.9, final=True, **losses | {"subset_loss": 1.4})
    index = sync.read_index(tmp_path)
    results = queries.results(index.cursor())
    index.close()
    [row] = records(results)
    assert journal.difference(row) == {
        "journal_run": "run_12",
        "loss_to_journal": 0.012,
        "loss_to_journal_se": 0.0712,
    }
    [own, *journal_rows] = report.runs(results, "json", True)
    assert (own["val_loss"], own["val_set"], own["loss_to_journal_se"]) == (
        1.9,
        "whole set",
        0.0712,
    )
    assert (own["best_val_loss"], own["best_step"]) == (1.3, 1)
    assert {row["val_set"] for row in journal_rows} == {"subset"}


def test_journal_presets_evaluate_as_many_examples_as_the_journal():
    for name in JOURNAL_RUNS:
        config = preset(name)
        assert config.eval_examples == {2: 10, 4: 20}[config.batch_size]


def test_every_journal_preset_matches_its_journal_run(tmp_path):
    for name in JOURNAL_RUNS:
        RunDirectory.create(tmp_path, preset(name))
    index = sync.read_index(tmp_path)
    repeated_runs = {
        row["name"]: journal.repeated(row) for row in records(queries.results(index.cursor()))
    }
    index.close()
    assert repeated_runs == {name: name for name in JOURNAL_RUNS}


def test_matching_uses_the_effective_batch_size():
    settings = journal.settings("run_1")
    assert journal.repeated({**settings, "batch_size": 1, "grad_accumulation": 2}) == "run_1"
    assert journal.repeated({**settings, "batch_size": 4, "grad_accumulation": 1}) is None


@pytest.mark.parametrize("labels", [["gemini"], ["gemini m1", "gemini m2"], ["gemini-0a1b"]])
def test_gemini_score_column_ignores_the_judge_name(frame, labels):
    row = records(frame)[0]
    scores = {"exact": 1.0, **{label: {"mean": 52.0} for label in labels}}
    assert journal.columns({**row, "scores": scores})["gemini_eval"] == 52.0


def test_journal_rows_follow_the_runs_and_markdown_uses_journal_headings(frame):
    combined = report.runs(frame, "json", True)
    assert [row["name"] for row in combined[3:]] == [f"journal {name}" for name in JOURNAL_RUNS]
    assert combined[-1]["lora_rank"] == 16
    assert isinstance(combined[-1]["lora_rank"], int)
    head = list(report.runs(frame, "md", True)[0])
    assert head[:9] == [
        "run_name",
        "model_sz",
        "batch_sz",
        "n_epochs",
        "opt",
        "lr",
        "min_lr",
        "warmup",
        "wd",
    ]
    assert {"rank", "alpha", "loss", "perplex", "gemini_eval"} <= set(head)
    assert len(report.runs(frame, "json")) == 3


def test_journal_is_shown_without_runs(tmp_path):
    index = sync.read_index(tmp_path)
    empty = queries.results(index.cursor())
    index.close()
    assert isinstance(empty, pd.DataFrame)
    assert len(report.runs(empty, "table", True)) == len(JOURNAL_RUNS)
