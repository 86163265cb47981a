"""Table rows for models, settings, runs and answers. Model sizes are checked against the journal."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.config import IDENTITY_FIELDS, RunConfig, is_relevant
from core.run.directory import RunDirectory
from core.tracking import queries, sync
from core.views import report
from core.views.tables import render

PUBLIC_COLUMNS = [
    "name",
    "status",
    "base_model",
    "method",
    "lora_rank",
    "lora_alpha",
    "batch_size",
    "epochs",
    "optimizer",
    "lr",
    "min_lr",
    "warmup_fraction",
    "weight_decay",
    "val_loss",
    "val_set",
    "perplexity",
    "best_val_loss",
    "best_step",
    "scores",
    "seconds",
    "peak_memory_mb",
    "disk_mb",
    "device",
    "parent",
    "notes",
]
"""Columns in the JSON output that scripts rely on."""
JOURNAL_MODELS = {
    "gpt2-medium": (406286336, 1549.86, {"16": 7898384, "32": 15796768, "64": 31593536}),
    "gpt2-large": (838359040, 3198.09, {"16": 14095632}),
    "gpt2-xl": (1638022400, 6248.56, {}),
}


def write_finished_run(runs_dir: Path, answers: list[str], **values: Any) -> None:
    """Write a finished run as a list of events."""
    run = RunDirectory.create(runs_dir, RunConfig.parse(values))
    with run.lock():
        run.append("status", status="running")
        run.append("plan", steps=2, device="Abacus")
        position = {"step": 2, "epoch": 1.0, "tokens": 90, "seconds": 1.5}
        run.append("step", **position, loss=2.0, lr=1e-4, memory_mb=512.25)
        run.append("eval", **position, train_loss=2.0, val_loss=1.5, final=True)
        for item, answer in enumerate(answers):
            prompt_fields = {
                "instruction": f"Say {item}.",
                "input": "",
                "reference": f"It is {item}.",
            }
            run.append("generation", item=item, answer=answer, tokens=3, **prompt_fields)
        run.append("status", status="finished")


@pytest.fixture
def index(tmp_path: Path) -> Any:
    write_finished_run(tmp_path, ["It is 0.", " two\n"], name="lora", notes="a|b", min_lr=1e-6)
    write_finished_run(
        tmp_path, ["it is 0.", "it is 1."], name="full", method="full", parent="lora", lora_rank=8
    )
    RunDirectory.create(tmp_path, RunConfig(name="waiting", device="cpu"))
    opened = sync.read_index(tmp_path)
    yield opened
    opened.close()


def rows(index: Any, format: Any) -> dict[str, dict[str, Any]]:
    report_table = report.runs(queries.results(index.cursor()), format)
    return {row["name"]: row for row in report_table}


def test_model_sizes_match_the_journal() -> None:
    rows_by_name = {row["name"]: row for row in report.models("json")}
    assert list(rows_by_name) == ["gpt2-nano", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    for name, (parameters, memory, lora) in JOURNAL_MODELS.items():
        assert (rows_by_name[name]["parameters"], rows_by_name[name]["memory_mb"]) == (
            parameters,
            memory,
        )
        assert lora.items() <= rows_by_name[name]["lora"].items()
    for row in rows_by_name.values():
        assert set(row) == {"name", "parameters", "memory_mb", "lora"}


def test_models_print_memory_with_two_decimals() -> None:
    text = render(report.models("table"), "table")
    for shown in ("406,286,336", "1549.86", "3198.09", "6248.56", "7,898,384", "14,095,632"):
        assert shown in text
    assert "52.23" in text


def test_every_setting_is_a_row() -> None:
    rows_by_setting = {row["setting"]: row for row in report.settings("json")}
    assert list(rows_by_setting) == list(RunConfig.model_fields)
    assert rows_by_setting["optimizer"]["choices"] == "adamw, sgd, muon"
    assert rows_by_setting["min_lr"]["default"] == "none"
    assert rows_by_setting["train_fraction"]["default"] == 0.85
    assert all(row["description"] and row["group"] for row in rows_by_setting.values())
    assert rows_by_setting["lr"]["group"] == "optimisation"
    assert {"Optimization"} < {row["group"] for row in report.settings("table")}


def test_runs_have_the_documented_columns(index: Any) -> None:
    run_rows = rows(index, "json")
    assert set(run_rows) == {"lora", "full", "waiting"}
    assert all(list(row) == PUBLIC_COLUMNS for row in run_rows.values())
    lora = run_rows["lora"]
    assert (lora["status"], lora["val_loss"], lora["perplexity"]) == (
        "finished",
        1.5,
        pytest.approx(4.481689),
    )
    assert (lora["seconds"], lora["peak_memory_mb"], lora["notes"]) == (1.5, 512.25, "a|b")
    assert (lora["lora_rank"], lora["min_lr"], lora["warmup_fraction"]) == (16, 1e-6, 0)
    assert isinstance(lora["lora_rank"], int)


def test_ineffective_and_missing_values_are_none(index: Any) -> None:
    run_rows = rows(index, "json")
    assert (run_rows["full"]["lora_rank"], run_rows["full"]["lora_alpha"]) == (None, None)
    assert (run_rows["full"]["min_lr"], run_rows["full"]["warmup_fraction"]) == (None, 0)
    assert run_rows["full"]["parent"] == "lora"
    waiting = run_rows["waiting"]
    assert (waiting["status"], waiting["val_loss"], waiting["seconds"]) == ("queued", None, None)


def test_device_is_the_requested_one_until_the_run_starts(index: Any) -> None:
    run_rows = rows(index, "json")
    assert [run_rows[name]["device"] for name in ("lora", "waiting")] == ["Abacus", "cpu"]


def test_scores_are_a_dict_by_judge(index: Any) -> None:
    run_rows = rows(index, "json")
    assert run_rows["lora"]["scores"] == {"exact": 0.5}
    assert run_rows["full"]["scores"] == {"exact": 1.0}
    assert run_rows["waiting"]["scores"] == {}


def test_table_omits_empty_columns(index: Any) -> None:
    table = rows(index, "table")
    assert {"parent", "notes", "min_lr"} <= set(table["full"])
    frame = queries.results(index.cursor())
    [waiting] = report.runs(frame[frame["name"] == "waiting"], "table")
    assert not {"parent", "notes", "min_lr", "scores", "val_loss"} & set(waiting)
    assert waiting["batch_size"] == 4


def test_table_without_runs_is_empty(tmp_path: Path) -> None:
    opened = sync.read_index(tmp_path)
    assert report.runs(queries.results(opened.cursor()), "json") == []
    opened.close()


def test_answers_are_shown_side_by_side(index: Any) -> None:
    answers = queries.answers(index.cursor(), ["lora", "full"])
    result = report.side_by_side(answers, 5)
    assert [row["instruction"] for row in result] == ["Say 0.", "Say 1."]
    assert [row["lora"] for row in result] == ["It is 0.", "two"]
    assert [row["full"] for row in result] == ["it is 0.", "it is 1."]
    assert result[0]["reference"] == "It is 0."
    assert len(report.side_by_side(answers, 1)) == 1


def test_missing_answer_is_an_empty_cell() -> None:
    prompt_fields = {"instruction": "Say.", "input": "", "reference": "It."}
    answers = pd.DataFrame(
        [
            {"run": "a", "item": 3, **prompt_fields, "answer": "x"},
            {"run": "a", "item": 4, **prompt_fields, "answer": "y"},
            {"run": "b", "item": 4, **prompt_fields, "answer": "z"},
        ]
    )
    first, second = report.side_by_side(answers, 5)
    assert (first["a"], first["b"]) == ("x", None)
    assert (second["a"], second["b"]) == ("y", "z")


def test_table_shows_every_differing_setting(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        RunDirectory.create(tmp_path, RunConfig(name=name, seed=seed))
    opened = sync.read_index(tmp_path)
    csv_text = rows(opened, "csv")
    assert (csv_text["one"]["seed"], csv_text["two"]["seed"]) == (1, 2)
    assert "dropout" not in csv_text["one"]
    assert tuple(rows(opened, "json")["one"]) == report.RUN_COLUMNS, (
        "JSON has the same columns for all runs"
    )
    opened.close()


def settings(name: str, **changes: Any) -> dict[str, Any]:
    """Return a row of settings as read from the index. Settings that have no effect are None."""
    values = RunConfig.parse({"name": name, **changes}).model_dump()
    return {key: value if is_relevant(key, values) else None for key, value in values.items()}


def test_settings_of_several_runs_are_those_that_differ() -> None:
    full_run = settings("one", method="full", lr=1e-4)
    lora = settings("two", method="lora", lora_rank=4, min_lr=1e-5, notes="mine", tags="a")
    assert report.settings_of([full_run, lora]).to_dict("index") == {
        "Method": {"one": "full", "two": "lora"},
        "Rank": {"one": "", "two": "4"},
        "Learning rate": {"one": "1e-4", "two": "5e-5"},
        "Min learning rate": {"one": "none", "two": "1e-5"},
    }
    assert len(report.settings_of([full_run, lora], every=True)) == len(
        RunConfig.model_fields
    ) - len(IDENTITY_FIELDS)
    assert report.settings_of([lora, {**lora, "name": "three"}]).empty
    close = settings("three", lr=1.00004e-4, method="full")
    assert report.settings_of([full_run, close]).loc["Learning rate"].tolist() == [
        "1e-4",
        "1.00004e-4",
    ]


def test_settings_of_one_run_are_those_that_differ_from_the_default() -> None:
    assert report.settings_of([settings("one")]).empty
    result = report.settings_of([settings("Setting", method="full", seed=7)])
    assert result.to_dict("index") == {
        "Seed": {"Setting": "7", "Default value": "123"},
        "Method": {"Setting": "full", "Default value": "lora"},
    }


def test_settings_of_a_run_are_shown_next_to_its_parent_and_the_defaults() -> None:
    parent = settings("old", lora_rank=8, grad_clip=1.0)
    run = settings("new", lora_rank=8, grad_clip=None)
    table = report.run_settings(run, parent)
    assert table.to_dict("records") == [
        {"Setting": "Rank", "Value": "8", "Parent": "8", "Default": "16"},
        {"Setting": "Gradient clipping", "Value": "none", "Parent": "1", "Default": "1"},
    ]
    full = report.run_settings(settings("full", method="full"), parent).set_index("Setting")
    assert full.loc["Rank"].tolist() == ["", "8", "16"]
    assert list(report.run_settings(run, None)) == ["Setting", "Value", "Default"]
    assert report.run_settings(settings("one"), None).empty
    assert len(report.run_settings(run, None, every=True)) == len(RunConfig.model_fields) - len(
        IDENTITY_FIELDS
    )


def test_differing_columns_ignore_ineffective_differences() -> None:
    frame = pd.DataFrame([
        settings("one", method="full"),
        settings("two", grad_clip=None, lora_last_layers=2, min_lr=1e-5, warmup_fraction=0.1),
        settings("three", min_lr=1e-5),
    ])  # fmt: skip
    assert report.differing(frame) == [
        "method", "lora_last_layers", "min_lr", "warmup_fraction", "grad_clip",
    ]  # fmt: skip


def test_incomparable_runs_cause_a_warning() -> None:
    first_run = settings("one")
    assert report.incomparable(pd.DataFrame([first_run])) is None
    assert report.incomparable(pd.DataFrame([first_run, settings("two", lr=1e-3)])) is None
    losses = report.incomparable(pd.DataFrame([first_run, settings("two", mask_prompt=True)]))
    assert losses is not None
    assert losses.startswith("These losses may be averaged over different tokens (Mask prompt)")
    problems = report.incomparable(pd.DataFrame([first_run, settings("two", max_examples=9)]))
    assert problems is not None
    assert "tested on different examples (Max examples)" in problems
    subsets = report.incomparable(pd.DataFrame([first_run, settings("two", eval_examples=9)]))
    assert subsets is not None
    assert subsets.startswith("Subset losses and best validation losses")
    damaged_run = dict.fromkeys(first_run) | {"name": "damaged"}
    assert report.incomparable(pd.DataFrame([first_run, damaged_run])) is None


def test_runs_with_the_same_test_examples_are_selected() -> None:
    rows = [settings("one"), settings("two", max_examples=9), settings("three", lr=1e-3)]
    assert report.same_test_set(pd.DataFrame(rows)) == ["one", "three"]
    assert report.same_test_set(pd.DataFrame(rows[1:])) == ["two"]
