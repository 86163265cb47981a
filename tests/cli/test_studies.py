"""The commands `sweep`, `studies` and `effects` on a tiny study."""

import math

import pytest

from core.run.directory import RunDirectory, list_runs
from tests.cli.test_commands import call

TINY = [
    argument
    for setting in ("max_examples=40", "max_length=32", "batch_size=8", "max_new_tokens=1", "sample_prompt=")
    for argument in ("--set", setting)
]  # fmt: skip
SWEEP = ["sweep", "--study", "rate", "--axis", "lr=1e-5,5e-3", "--seeds", "2", *TINY, "--executor", "thread"]  # fmt: skip
EFFECT_KEYS = {
    "field", "from", "to", "context", "metric", "direction", "seeds", "n", "difference", "low", "high", "p", "q",
    "margin", "verdict",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    runs_dir = tmp_path_factory.mktemp("study") / "runs"
    rows = call(*SWEEP, "--runs-dir", runs_dir, "--format", "json").json
    assert [row["status"] for row in rows] == ["finished"] * 4
    return runs_dir


def test_effects_of_a_sweep(runs_dir):
    [effect] = call("effects", "--study", "rate", "--runs-dir", runs_dir, "--format", "json").json
    assert effect.keys() >= EFFECT_KEYS
    assert (effect["field"], effect["from"], effect["to"]) == ("lr", 1e-5, 5e-3)
    losses = {
        (run.config().lr, run.config().seed): run.events("eval")[-1]["val_loss"]
        for run in list_runs(runs_dir)
    }
    ratios = [math.log(losses[5e-3, seed] / losses[1e-5, seed]) for seed in (123, 124)]
    typical = math.sqrt(losses[1e-5, 123] * losses[1e-5, 124])
    assert effect["difference"] == pytest.approx(typical * math.expm1(sum(ratios) / 2))
    assert effect["low"] < effect["difference"] < effect["high"]
    assert effect["seeds"] == 2
    assert not effect["exploratory"]
    assert effect["verdict"] in ("better", "worse", "equivalent", "undecided")
    table = call("effects", "--runs-dir", runs_dir, "--metric", "exact")
    assert "lr: 1e-5 → 0.005" in table.out


def test_study_is_exported_as_html_and_as_markdown(runs_dir, tmp_path):
    for name, start in (("a.html", b"<!doctype html>"), ("a.zip", b"PK")):
        arguments = (
            "export",
            "rate",
            tmp_path / name,
            "--format",
            "report",
            "--runs-dir",
            runs_dir,
        )
        result = call(*arguments)
        assert (result.status, result.err) == (0, "")
        assert (tmp_path / name).read_bytes().startswith(start)
        assert call(*arguments).sentence.endswith("already exists. Use --force to replace it.")
    refused = call(
        "export", "rate", tmp_path / "a.pdf", "--format", "report", "--runs-dir", runs_dir
    )
    assert (refused.status, refused.sentence) == (
        2, f"{tmp_path / 'a.pdf'} must end in .html, or in .zip for Markdown with pictures.",
    )  # fmt: skip


def test_repeating_the_command_trains_nothing(runs_dir):
    before = {run.name: run.events_path.stat().st_size for run in list_runs(runs_dir)}
    assert call(*SWEEP, "--runs-dir", runs_dir).status == 0
    assert {run.name: run.events_path.stat().st_size for run in list_runs(runs_dir)} == before


def test_studies_are_listed_and_extended(runs_dir):
    [row] = call("studies", "--runs-dir", runs_dir, "--format", "json").json
    assert (row["name"], row["runs"], row["finished"], row["seeds"]) == ("rate", 4, 4, 2)
    assert row["axes"] == {"lr": [1e-5, 5e-3]}
    options = ["--extend", "rate", "--seeds", 1, "--runs-dir", runs_dir, "--format", "json"]
    [row] = call("studies", *options).json
    assert (row["runs"], row["queued"], row["seeds"]) == (6, 2, 3)
    assert RunDirectory(runs_dir / "rate-5").config().seed == 125
    assert "exploratory" in call("effects", "--study", "rate", "--runs-dir", runs_dir).err
    [row] = call("studies", "--pause", "rate", "--runs-dir", runs_dir, "--format", "json").json
    assert (row["queued"], row["is_paused"]) == (0, True)
    [row] = call("studies", "--continue", "rate", "--runs-dir", runs_dir, "--format", "json").json
    assert (row["queued"], row["is_paused"]) == (2, False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sweep", "--study", "s", "--axis", "rank=4"], "unknown setting 'rank'"),
        (["sweep", "--study", "!", "--axis", "lr=1e-4"], "must contain a letter or a digit"),
        (["sweep", "--study", "s", "--axis", "lora_rank=4", "--set", "method=full"], "no effect"),
        (["effects", "--study", "s"], "unknown study"),
        (["effects", "--metric", "charm"], "unknown metric. Available: val_loss"),
        (["effects", "--margin", "-1"], "must be greater than 0"),
        (["studies", "--pause", "s"], "unknown study"),
        (["sweep", "--study", "s", "--axis", "lr=1e-4", "--mode", "search"], "max_runs: required"),
        (
            ["sweep", "--study", "s", "--axis", "lr=1e-4", "--max-runs", 2],
            "only has an effect with --mode random",
        ),
        (["sweep", "--study", "s", "--axis", "lr=1e-4", "--metric", "charm"], "metric = 'charm'"),
    ],
)
def test_user_errors_are_one_sentence(tmp_path, arguments, expected):
    result = call(*arguments, "--runs-dir", tmp_path / "runs")
    assert result.status == 2
    assert expected in result.sentence


def test_effects_without_comparable_runs_print_a_message(tmp_path):
    result = call("effects", "--runs-dir", tmp_path)
    assert result.status == 0
    assert "No runs differ by exactly one change." in result.err


def test_search_adds_runs_until_its_maximum(tmp_path, settings):
    config = settings(epochs=3)
    sets = [
        f"{name}={getattr(config, name)}"
        for name in ("base_model", "dataset", "mask_prompt", "batch_size", "epochs")
    ]
    options = [
        argument
        for text in [*sets, "max_new_tokens=1", "sample_prompt="]
        for argument in ("--set", text)
    ]
    runs_dir = tmp_path / "runs"
    command = ["sweep", "--study", "s", "--axis", "lr=log 1e-4..1e-1 x 9", *options]
    search = [
        *command,
        "--mode",
        "search",
        "--max-runs",
        7,
        "--prune",
        "--executor",
        "thread",
        "--runs-dir",
        runs_dir,
    ]
    result = call(*search, "--format", "json")
    assert result.status == 0, result.err
    assert "Run 7 of 7" in result.err
    assert len({run["lr"] for run in result.json}) == len(result.json) == 7
    [row] = call("studies", "--runs-dir", runs_dir, "--format", "json").json
    assert (row["mode"], row["runs"], row["max_runs"]) == ("search", 7, 7)
    assert row["finished"] + row["pruned"] == 7
    before = {run.name: run.events_path.stat().st_size for run in list_runs(runs_dir)}
    assert call(*search).status == 0
    assert {run.name: run.events_path.stat().st_size for run in list_runs(runs_dir)} == before
    more = call(
        *command,
        "--seeds",
        2,
        "--mode",
        "search",
        "--max-runs",
        14,
        "--prune",
        "--runs-dir",
        runs_dir,
    )
    assert "`python -m core studies --extend s --seeds 1`" in more.sentence
    [row] = call(
        "studies", "--extend", "s", "--runs", 2, "--runs-dir", runs_dir, "--format", "json"
    ).json
    assert row["max_runs"] == 9
