"""Index queries: results, downsampled curves, evaluations, answers and states."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from core.colors import PALETTE, color_of_old_run
from core.config import CONDITIONS, RunConfig, base_type, is_relevant, metadata
from core.metrics import AXES
from core.run.directory import RunDirectory, list_runs
from core.run.events import EventWriter
from core.tracking import queries
from core.tracking.index import Index
from core.tracking.sync import Sync
from core.views import report
from core.views.filter import matching

FULL = RunConfig(
    name="full",
    parent="lora",
    notes="it's\n'odd' \"text\"",
    tags=("a b", "c"),
    seed=7,
    base_model="gpt2-medium",
    tie_weights=True,
    dropout=0.1,
    dataset="alpaca",
    max_examples=5000,
    train_fraction=0.8,
    test_fraction=0.15,
    max_length=512,
    mask_prompt=True,
    method="full",
    lora_rank=8,
    epochs=3,
    batch_size=2,
    grad_accumulation=4,
    optimizer="sgd",
    lr=1e-4,
    min_lr=1e-5,
    warmup_fraction=0.2,
    weight_decay=0.05,
    grad_clip=None,
    group_by_length=False,
    device="cuda:1",
    precision="bf16",
    grad_checkpointing=True,
    compile=True,
    eval_every=10,
    eval_examples=16,
    probe_examples=8,
    checkpoint_every=100,
    sample_every=50,
    sample_prompt="Say red.",
    max_new_tokens=64,
)
LORA = RunConfig(
    name="lora",
    method="lora",
    lora_rank=32,
    lora_alpha=64.5,
    lora_dropout=0.05,
    lora_targets="mlp",
    lora_last_layers=2,
    warmup_fraction=0.3,
    grad_clip=0.5,
)
PLAN = {
    "steps": 300,
    "steps_per_epoch": 100,
    "train_examples": 800,
    "parameters": 406_286_336,
    "trainable": 7_898_384,
    "base_hash": "ab12",
    "device": "NVIDIA",
    "precision": "bfloat16",
}


@pytest.fixture
def runs(tmp_path):
    """Methods for creating and syncing runs, and a connection to their index."""
    index = Index(None)
    index_sync = Sync(index.new_cursor())

    class Runs:
        db = index.cursor()

        def create(self, config, start_time=1000.0):
            run = RunDirectory.create(tmp_path, config)
            run.events_path.unlink()
            clock = iter(np.arange(start_time, start_time + 1e6))
            writer = EventWriter(run.events_path, clock=lambda: float(next(clock)))
            writer.append("status", status="queued")
            return writer

        def sync(self):
            index_sync.run(list_runs(tmp_path))

    yield Runs()
    index.close()


def step(writer, number, **metrics):
    metrics = {"epoch": number / 100, "tokens": number * 64, "seconds": number / 2} | metrics
    writer.append("step", step=number, **metrics)


def evaluate(writer, number, train, validation, final=False):
    position = {"step": number, "epoch": number / 100, "tokens": number * 64, "seconds": number / 2}
    writer.append("eval", **position, train_loss=train, val_loss=validation, final=final)


def none_if_missing(value):
    return None if value is None or pd.isna(value) else value


@pytest.mark.parametrize("config", [FULL, LORA], ids=["full", "lora"])
def test_every_setting_is_a_column_and_empty_if_ineffective(runs, config):
    runs.create(config)
    runs.sync()
    [row] = queries.results(runs.db).to_dict("records")
    for name, field in RunConfig.model_fields.items():
        value = PALETTE[0] if name == "color" else getattr(config, name)
        if name == "tags":
            value = ", ".join(value)
        elif metadata(field)["group"] != "identity" and not is_relevant(name, config.model_dump()):
            value = None
        assert none_if_missing(row[name]) == value, name
        if value is not None and base_type(field) is not tuple:
            assert isinstance(row[name], (base_type(field), np.generic)), name
    assert row["name"] == config.name


def test_results_use_the_conditions_of_the_settings(runs, monkeypatch):
    configs = [LORA, FULL, RunConfig(name="default"), RunConfig(name="other", method="full")]
    for config in configs:
        runs.create(config)
    runs.sync()
    conditions = [CONDITIONS["lora"], lambda values: values.get("batch_size") == 4]
    for condition in conditions:
        monkeypatch.setitem(CONDITIONS, "lora", condition)
        results = queries.results(runs.db).set_index("name")
        for config in configs:
            for name in ("lora_rank", "lora_targets"):
                expected = is_relevant(name, config.model_dump())
                assert pd.notna(results.loc[config.name, name]) == expected, (config.name, name)


def test_loss_before_training_does_not_count_as_a_result(runs):
    failed, stopped = runs.create(FULL), runs.create(LORA)
    for writer in (failed, stopped):
        evaluate(writer, 0, 9.0, 8.0)
    step(failed, 1, loss=7.0)
    failed.append("status", status="failed", reason="non-finite loss at step 2")
    step(stopped, 10, loss=3.0)
    evaluate(stopped, 10, 2.0, 1.5)
    stopped.append("status", status="stopped")
    runs.sync()
    columns = ["train_loss", "val_loss", "perplexity"]
    results = queries.results(runs.db).set_index("name")[columns]
    assert results.loc["full"].isna().all()
    assert results.loc["lora"].tolist() == [2.0, 1.5, pytest.approx(np.exp(1.5))]
    states = queries.states(runs.db, ["full", "lora"])
    assert [state["val_loss"] for state in states] == [None, 1.5]
    assert queries.evaluations(runs.db, ["full"])["x"].tolist() == [
        0
    ]  # but it is still in the curve

    frame = queries.results(runs.db)
    assert matching(frame, "val_loss<100")["name"].tolist() == ["lora"]
    exported = {row["name"]: row for row in report.runs(frame, "json")}
    assert exported["full"]["val_loss"] is None
    assert exported["full"]["perplexity"] is None


def evaluate_examples(writer, number, losses, train=None, final=False):
    """Record an evaluation of one-token validation examples, starting at index 90. The first two form the subset."""
    subset_loss = sum(losses[:2]) / 2
    fields = {"val_loss": sum(losses) / len(losses), "subset_loss": subset_loss, "subset_se": 0.5}
    fields |= {"val_indices": [*range(90, 90 + len(losses))], "val_losses": losses}
    fields |= {"val_tokens": [1] * len(losses), "train_loss": None}
    if train:
        fields |= {"train_loss": train[0], "train_indices": [0], "train_losses": train}
        fields |= {"train_tokens": [7]}
    writer.append("eval", step=number, epoch=1.0, tokens=9, seconds=1.0, final=final, **fields)


def test_best_and_subset_losses_use_the_same_examples_throughout(runs):
    writer = runs.create(LORA)
    evaluate_examples(writer, 0, [0.1, 0.1], [9.0])
    evaluate_examples(writer, 10, [3.0, 2.0])
    runs.sync()
    [row] = queries.results(runs.db).to_dict("records")
    assert (row["val_loss"], row["val_set"], row["best_step"]) == (2.5, "subset", 10)
    evaluate_examples(writer, 20, [1.0, 2.0], [0.5])
    evaluate_examples(writer, 30, [2.0, 1.5, 0.25, 0.25], final=True)
    runs.sync()
    [row] = queries.results(runs.db).to_dict("records")
    expected = {"val_loss": 1.0, "val_set": "whole set", "subset_loss": 1.75, "subset_se": 0.5,
                "best_val_loss": 1.5, "best_step": 20, "train_loss": 0.5}  # fmt: skip
    assert {name: row[name] for name in expected} == expected


def test_best_loss_of_older_runs_comes_from_periodic_evaluations(runs):
    writer = runs.create(LORA)
    for number, loss, final in (
        (0, 0.1, False),
        (10, 2.0, False),
        (20, 2.5, False),
        (25, 1.0, True),
    ):
        evaluate(writer, number, 1.0, loss, final=final)
    runs.sync()
    [row] = queries.results(runs.db).to_dict("records")
    assert (row["val_loss"], row["val_set"]) == (1.0, "whole set")
    assert (row["best_val_loss"], row["best_step"], row["subset_loss"]) == (2.0, 10, 2.5)
    assert none_if_missing(row["subset_se"]) is None
    frame = queries.evaluations(runs.db, ["lora"])
    assert frame["subset_loss"].fillna(-1).tolist() == [0.1, 2.0, 2.5, -1]
    assert queries.example_losses(runs.db, ["lora"]).empty


def test_example_losses_have_one_row_per_run_step_and_example(runs):
    writer = runs.create(LORA)
    evaluate_examples(writer, 10, [3.0, 2.0], [0.5])
    evaluate_examples(writer, 20, [1.0, 2.0, 4.0], final=True)
    evaluate_examples(runs.create(FULL), 10, [5.0])
    runs.sync()
    columns = ["run", "step", "part", "dataset_index", "loss", "tokens"]
    frame = queries.example_losses(runs.db, ["lora"])
    assert list(frame) == columns
    assert [tuple(row) for row in frame.itertuples(index=False)] == [
        ("lora", 10, "validation", 90, 3.0, 1),
        ("lora", 10, "validation", 91, 2.0, 1),
        ("lora", 10, "train", 0, 0.5, 7),
        ("lora", 20, "validation", 90, 1.0, 1),
        ("lora", 20, "validation", 91, 2.0, 1),
        ("lora", 20, "validation", 92, 4.0, 1),
    ]
    both = queries.example_losses(runs.db, ["lora", "full"], step=10)
    assert both["loss"].tolist() == [5.0, 3.0, 2.0, 0.5]


def test_settings_from_older_versions_are_converted(runs, tmp_path):
    runs.create(LORA)
    path = tmp_path / "lora" / "config.json"
    settings = json.loads(path.read_text()) | {"eval_batches": 3, "batch_size": 2, "eval_every": 25}
    del settings["eval_examples"], settings["probe_examples"]
    path.write_text(json.dumps(settings))
    runs.sync()
    [row] = queries.results(runs.db).to_dict("records")
    assert (row["eval_examples"], row["probe_examples"], row["eval_every"]) == (6, 6, 25)
    assert RunDirectory.find(tmp_path, "lora").config().eval_examples == 6


def test_rank_column_is_integer_with_missing_values(runs):
    runs.create(FULL)
    runs.create(LORA)
    runs.sync()
    results = queries.results(runs.db).set_index("name")
    assert results.loc["lora", "lora_rank"] == 32
    assert str(results["lora_rank"].dtype) == "Int64"
    assert results.loc["full", ["lora_rank", "lora_alpha", "lora_targets"]].isna().all()


def test_results_show_the_outcome_of_each_run(runs):
    writer = runs.create(FULL)
    writer.append("status", status="running")
    writer.append("plan", **PLAN | {"steps": 1})
    writer.append("plan", **PLAN)
    evaluate(writer, 0, 9.0, 9.5)
    for number in range(1, 11):
        step(writer, number, loss=2.0, memory_mb=100.0 + (number == 5))
    evaluate(writer, 10, 1.25, 1.5, final=True)
    writer.append(
        "generation", item=0, reference="A red, house.", answer="a red house\n", memory_mb=101.5
    )
    writer.append("generation", item=1, reference="blue", answer="green")
    writer.append("status", status="interrupted", reason="power")
    writer.append("status", status="finished", reason=None)
    runs.create(LORA, start_time=5000.0)
    runs.sync()
    results = queries.results(runs.db)
    assert results["name"].tolist() == ["lora", "full"]  # newest first
    waiting, row = results.to_dict("records")
    expected = {
        "status": "finished",
        "created": 1000.0,
        "changed": 1019.0,
        "steps": 300,
        "step": 10,
        "tokens": 640,
        "parameters": 406_286_336,
        "trainable": 7_898_384,
        "base_hash": "ab12",
        "device_name": "NVIDIA",
        "device": "cuda:1",
        "number_format": "bfloat16",
        "precision": "bf16",
        "train_loss": 1.25,
        "val_loss": 1.5,
        "perplexity": math.exp(1.5),
        "seconds": 5.0,
        "peak_memory_mb": 101.5,
        "exact": 0.5,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert none_if_missing(row["reason"]) is None  # the newest status has no reason
    assert (waiting["status"], waiting["step"]) == ("queued", 0)
    for name in ("steps", "val_loss", "perplexity", "seconds", "peak_memory_mb", "exact"):
        assert none_if_missing(waiting[name]) is None


def test_run_without_events_is_queued(runs, tmp_path):
    RunDirectory.create(tmp_path, LORA).events_path.unlink()
    runs.sync()
    assert queries.results(runs.db)["status"].tolist() == ["queued"]


def test_failed_run_has_a_reason(runs):
    writer = runs.create(LORA)
    writer.append("status", status="failed", reason="out of memory")
    runs.sync()
    [row] = queries.results(runs.db).to_dict("records")
    assert (row["status"], row["reason"]) == ("failed", "out of memory")


def test_huge_loss_gives_infinite_perplexity(runs):
    evaluate(runs.create(LORA), 1, 2000.0, 2000.0)
    runs.sync()
    assert queries.results(runs.db)["perplexity"].tolist() == [math.inf]
    assert queries.evaluations(runs.db, ["lora"])["val_perplexity"].tolist() == [math.inf]


def test_invalid_settings_json_gives_an_empty_row(runs, tmp_path):
    runs.create(LORA)
    (tmp_path / "lora" / "config.json").write_text("nonsense")
    runs.sync()
    [row] = queries.results(runs.db).to_dict("records")
    assert (row["name"], row["status"]) == ("lora", "queued")
    assert none_if_missing(row["seed"]) is None


def test_queries_for_no_runs_are_empty(runs):
    runs.create(LORA)
    runs.sync()
    assert queries.curves(runs.db, [], ["loss"])["loss"].empty
    for query in (queries.evaluations, queries.samples, queries.warnings, queries.answers):
        assert query(runs.db, []).empty


@pytest.fixture
def noisy_run(runs):
    """A run of 1,000 steps whose loss falls, with one upward and one downward spike. Returns the losses."""
    losses = np.linspace(5, 1, 1000) + np.random.default_rng(0).normal(0, 0.01, 1000)
    losses[417], losses[800] = 50.0, -3.0
    writer = runs.create(LORA)
    for number, loss in enumerate(losses, 1):
        step(writer, number, loss=loss, lr=1e-4)
    runs.sync()
    return losses


@pytest.mark.parametrize("buckets", [1, 2, 7, 100])
def test_downsampled_curve_keeps_spikes(runs, noisy_run, buckets):
    points = queries.curves(runs.db, ["lora"], ["loss"], buckets=buckets)["loss"]
    assert len(points) <= 2 * buckets
    pairs = set(zip(points["x"], points["y"], strict=True))
    assert {(418, 50.0), (801, -3.0)} <= pairs
    assert pairs <= set(zip(range(1, 1001), noisy_run, strict=True))
    assert points["x"].is_monotonic_increasing


def test_short_curve_is_not_downsampled(runs, noisy_run):
    curves = queries.curves(runs.db, ["lora"], ["loss", "lr"], buckets=1000)
    assert curves["loss"]["y"].tolist() == pytest.approx(noisy_run)
    assert curves["lr"]["y"].tolist() == [1e-4] * 1000


def test_smoothing_is_a_trailing_mean(runs, noisy_run):
    smooth = queries.curves(runs.db, ["lora"], ["loss"], buckets=1000, window=20)["loss"]
    expected = pd.Series(noisy_run).rolling(20, min_periods=1).mean()
    assert smooth["y"].tolist() == pytest.approx(expected.tolist())


def test_curves_support_every_axis(runs, noisy_run):
    scale = {"step": 1, "epoch": 1 / 100, "tokens": 64, "seconds": 1 / 2}
    assert scale.keys() == AXES.keys()
    for x, factor in scale.items():
        points = queries.curves(runs.db, ["lora"], ["loss"], x=x, buckets=1)["loss"]
        assert points["x"].tolist() == pytest.approx([418 * factor, 801 * factor])


def test_curves_of_several_runs_are_separate(runs, noisy_run):
    second_run = runs.create(FULL)
    for number in range(1, 4):
        step(second_run, number, loss=float(number), grad_norm=None if number == 2 else 1.5)
    runs.sync()
    curves = queries.curves(runs.db, ["lora", "full"], ["loss", "grad_norm"], buckets=10, window=2)
    loss = curves["loss"]
    assert loss[loss["run"] == "full"]["y"].tolist() == [1.0, 1.5, 2.5]
    assert 10 < len(loss[loss["run"] == "lora"]) <= 20
    assert set(curves["grad_norm"]["run"]) == {"full"}
    assert set(queries.curves(runs.db, ["full"], ["loss"])["loss"]["run"]) == {"full"}


def gaps_of(points):
    """Return the x value of each gap in a curve."""
    return points["x"][points["y"].isna()].tolist()


@pytest.mark.parametrize("window", [1, 3])
def test_step_without_a_loss_is_a_gap(runs, window):
    writer = runs.create(LORA)
    for number in range(1, 11):
        step(writer, number, loss=None if number in (4, 5, 8) else float(number))
    runs.sync()
    points = queries.curves(runs.db, ["lora"], ["loss"], window=window)["loss"]
    assert points["x"].tolist() == list(range(1, 11))
    assert gaps_of(points) == [4, 5, 8]


@pytest.mark.parametrize("window", [1, 3])
def test_gaps_are_kept_when_downsampling(runs, window):
    writer = runs.create(LORA)
    missing = {*range(301, 400), 777}
    for number in range(1, 1001):
        step(writer, number, loss=None if number in missing else float(number))
    runs.sync()
    points = queries.curves(runs.db, ["lora"], ["loss"], buckets=50, window=window)["loss"]
    assert points["x"].is_monotonic_increasing
    assert len(points) <= 5 * 50
    gaps = gaps_of(points)
    assert {math.floor(x) for x in gaps} <= missing
    assert {301, 399, 777} <= set(gaps)
    present_points = points.dropna()
    assert not present_points["x"].isin(missing).any()
    assert present_points["x"].nunique() == len(present_points)


def test_gap_between_the_extremes_of_a_bucket_is_kept(runs):
    """A bucket always keeps its first and last gaps; this gap is neither."""
    writer = runs.create(LORA)
    losses = [None, 1.0, None, 2.0, None]
    for number, loss in enumerate(losses, 1):
        step(writer, number, loss=loss)
    runs.sync()
    points = queries.curves(runs.db, ["lora"], ["loss"], buckets=1)["loss"]
    assert points["x"].tolist() == [1, 2, 3, 4, 5]
    assert [None if math.isnan(y) else y for y in points["y"]] == losses


def test_unrecorded_metric_has_no_points(runs):
    for spec, norm in ((LORA, None), (FULL, 1.5)):
        writer = runs.create(spec)
        for number in range(1, 4):
            step(writer, number, loss=1.0, grad_norm=norm)
    runs.sync()
    norms = queries.curves(runs.db, ["lora", "full"], ["grad_norm"])["grad_norm"]
    assert norms["run"].tolist() == ["full"] * 3
    assert norms["y"].tolist() == [1.5] * 3


def test_evaluations_are_ordered_and_have_perplexities(runs):
    writer = runs.create(LORA)
    evaluate(writer, 0, 3.0, 3.5)
    evaluate(writer, 25, 2.0, 2.5, final=True)
    runs.sync()
    frame = queries.evaluations(runs.db, ["lora"], x="tokens")
    assert frame["x"].tolist() == [0, 25 * 64]
    assert frame["train_loss"].tolist() == [3.0, 2.0]
    assert frame["val_loss"].tolist() == [3.5, 2.5]
    assert frame["train_perplexity"].tolist() == pytest.approx(np.exp([3.0, 2.0]))
    assert frame["val_perplexity"].tolist() == pytest.approx(np.exp([3.5, 2.5]))
    assert frame["final"].tolist() == [False, True]


def test_answers_are_joined_by_item(runs):
    for config in (LORA, FULL):
        writer = runs.create(config)
        for item in (12, 11):
            writer.append(
                "generation",
                item=item,
                instruction="Say up.",
                input="now",
                reference="up",
                answer=f"{config.name} {item}",
                tokens=2,
                cut=item == 11,
                prompt_cut=False,
            )
    runs.sync()
    frame = queries.answers(runs.db, ["lora", "full"])
    assert frame["answer"].tolist() == ["full 11", "lora 11", "full 12", "lora 12"]
    assert frame.iloc[0].to_dict() == {
        "run": "full",
        "item": 11,
        "instruction": "Say up.",
        "input": "now",
        "reference": "up",
        "answer": "full 11",
        "tokens": 2,
        "cut": True,
        "prompt_cut": False,
        "exact": False,
    }


def test_samples_are_newest_first_and_warnings_oldest_first(runs):
    writer = runs.create(LORA)
    for number in (1, 2):
        writer.append("sample", step=number, prompt="Say red.", text=f"red {number}")
        writer.append("warning", step=number, about="data", message=f"careful {number}")
    runs.sync()
    assert queries.samples(runs.db, ["lora"])["text"].tolist() == ["red 2", "red 1"]
    assert queries.warnings(runs.db, ["lora"])["message"].tolist() == ["careful 1", "careful 2"]


def test_states_match_the_results_and_keep_the_requested_order(runs):
    writer = runs.create(LORA)
    writer.append("status", status="running")
    writer.append("plan", **PLAN)
    for number in (1, 2):
        writer.append(
            "eval",
            step=number,
            epoch=1.0,
            tokens=9,
            seconds=1.0,
            train_loss=1.0,
            val_loss=2.0 / number,
            final=False,
        )
    for number in (1, 2):
        step(writer, number, loss=1.0 / number)
    runs.create(FULL)
    runs.sync()
    states = queries.states(runs.db, ["lora", "no-such-run", "full"])
    assert [state["name"] for state in states] == ["lora", "full"]
    assert states[0]["heard"] == runs.db.execute("select max(time) from step").fetchall()[0][0]
    assert states[0] | {"reason": None, "heard": None} == {
        "name": "lora",
        "status": "running",
        "reason": None,
        "steps": 300,
        "step": 2,
        "seconds": 1.0,
        "loss": 0.5,
        "val_loss": 1.0,
        "is_trained": False,
        "heard": None,
        "download": None,
    }
    results = queries.results(runs.db).set_index("name")
    for state in states:
        for column in ("status", "step", "steps", "seconds"):
            assert none_if_missing(state[column]) == none_if_missing(
                results.loc[state["name"], column]
            )
    assert queries.states(runs.db, []) == []


def test_every_event_kind_updates_the_time_of_the_last_event(runs):
    writer = runs.create(LORA)
    writer.append("status", status="running")
    step(writer, 1, loss=1.0)
    for kind in ("download", "eval", "sample", "warning", "generation"):
        writer.append(kind, step=1)
        runs.sync()
        newest = runs.db.execute(f'select max(time) from "{kind}"').fetchall()[0][0]
        assert [state["heard"] for state in queries.states(runs.db, ["lora"])] == [newest]


def test_missing_setting_has_its_default_and_damaged_files_have_no_settings(runs, tmp_path):
    for name, settings in {
        "old": '{"method": "full"}',
        "broken": "{]",
        "odd": '{"dropout": "x"}',
    }.items():
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text(settings)
    runs.sync()
    results = queries.results(runs.db).set_index("name")
    assert results.loc["old", ["method", "test_fraction", "mask_prompt"]].tolist() == [
        "full",
        0.1,
        False,
    ]
    assert results.loc["old", ["lora_rank", "max_examples"]].isna().all()
    settings = [name for name in RunConfig.model_fields if name not in ("name", "color")]
    assert results.loc["broken", settings].isna().all()
    assert results["color"].to_dict() == {name: color_of_old_run(name) for name in results.index}
    assert pd.isna(results.loc["odd", "dropout"])
    assert results.loc["odd", "lora_rank"] == 16


def test_skipped_step_has_no_loss(runs):
    writer = runs.create(LORA)
    for number, loss in ((1, 1.0), (2, None)):
        step(writer, number, loss=loss)
    runs.sync()
    [state] = queries.states(runs.db, ["lora"])
    assert (state["step"], state["loss"]) == (2, None)


def test_updates_are_returned_by_module_and_as_a_curve(runs):
    writer = runs.create(LORA)
    for number in range(1, 41):
        step(writer, number, loss=1.0)
        if number % 10 == 1:
            axes = {"epoch": number / 100, "tokens": number * 64, "seconds": number / 2}
            values = [number * 1e-4, None if number == 31 else 2e-4]
            writer.append("update", step=number, **axes, relative_update=number * 1e-3,
                          modules=["h.0.attn.q", "lm_head"], relative_updates=values)  # fmt: skip
    writer.append("rewind", step=32)
    runs.sync()
    frame = queries.updates(runs.db, ["lora", "missing"])
    assert list(frame) == ["run", "step", "module", "relative_update"]
    assert frame["step"].tolist() == [1, 1, 11, 11, 21, 21, 31, 31]
    assert frame["module"].tolist() == ["h.0.attn.q", "lm_head"] * 4
    values = [none_if_missing(value) for value in frame["relative_update"]]
    assert values == pytest.approx([1e-4, 2e-4, 11e-4, 2e-4, 21e-4, 2e-4, 31e-4, None])

    both = queries.curves(runs.db, ["lora"], ["relative_update", "loss"], x="tokens")
    assert both["relative_update"]["x"].tolist() == [64, 704, 1344, 1984]
    assert both["relative_update"]["y"].tolist() == pytest.approx([1e-3, 11e-3, 21e-3, 31e-3])
    assert len(both["loss"]) == 32
    [smooth] = queries.curves(runs.db, ["lora"], ["relative_update"], window=11).values()
    assert smooth["y"].tolist() == pytest.approx([1e-3, 6e-3, 16e-3, 26e-3]), "11 steps, not rows"
    assert queries.results(runs.db)["relative_update"].tolist() == pytest.approx([16e-3])


def test_step_returns_metrics_and_batch(runs):
    writer = runs.create(LORA)
    position = {"epoch": 0.5, "seconds": 1.0}
    writer.append("step", step=1, tokens=30, loss=2.0, lr=1e-4, batch=[4, 7], **position)
    writer.append("step", step=2, tokens=70, loss=1.0, lr=2e-4, batch=[1], padding=0.25, **position)
    writer.append("step", step=4, tokens=99, loss=1.0, lr=2e-4, **position)
    runs.sync()
    first, second, fourth = (queries.step(runs.db, "lora", number) for number in (1, 2, 4))
    assert (first["batch"], first["batch_tokens"]) == ([4, 7], 30)
    assert (second["batch"], second["batch_tokens"]) == ([1], 40)
    assert (second["loss"], second["lr"], second["padding"]) == (1.0, 2e-4, 0.25)
    assert (fourth["batch"], fourth["batch_tokens"]) == (None, None), "step 3 is missing"
    assert queries.step(runs.db, "lora", 3) is None
    assert queries.step(runs.db, "missing", 1) is None


def test_rewind_deletes_later_updates_and_malformed_ones_are_skipped(runs):
    writer = runs.create(LORA)
    for number in (1, 11):
        writer.append(
            "update", step=number, relative_update=0.1, modules=["x"], relative_updates=[0.1]
        )
    writer.append("update", step=11, relative_update=0.1, modules=[3], relative_updates=[0.1])
    writer.append("update", step=11, relative_update=0.1, modules=["x"], relative_updates=["y"])
    writer.append("rewind", step=5)
    runs.sync()
    assert queries.updates(runs.db, ["lora"])["step"].tolist() == [1]
