"""The command line, called in this process: output, error messages and exit statuses."""

import contextlib
import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from core import operations
from core.cli import commands
from core.config import RunConfig
from core.data.template import format_prompt
from core.nn import pretrained
from core.nn.architecture import FAMILY
from core.presets import PRESETS
from core.run.directory import RunDirectory
from core.scheduler.executors import EXECUTORS
from core.scheduler.trainer_process import main
from core.tracking import queries, sync
from core.tracking.index import INDEX_FILE, Index
from core.training import hardware, trainer
from tests.hub_server import Hub

WORDS = ["red", "green", "blue", "one", "two", "three", "house", "tree", "river", "stone"]
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 96, "vocab_size": 50257}
RUN_KEYS = {
    *("name", "status", "base_model", "method", "lora_rank", "lora_alpha", "batch_size", "epochs"),
    *("optimizer", "lr", "min_lr", "warmup_fraction", "weight_decay", "val_loss", "perplexity"),
    *("scores", "seconds", "peak_memory_mb", "disk_mb", "device", "parent", "notes"),
}


@dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The error message. It must be one line, and standard output must be empty."""
        assert self.out == ""
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("error: ").rstrip("\n")


def call(*arguments: object) -> Result:
    """Run a command as `python -m core` does."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["core", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with pytest.raises(SystemExit) as exit_info:
                commands.main()
            texts = []
            for stream in (out, err):
                stream.flush()
                texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    assert isinstance(exit_info.value.code, int)
    return Result(exit_info.value.code, *texts)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, save_peer: Callable[..., Any]) -> Path:
    """A base model saved with transformers."""
    directory = tmp_path_factory.mktemp("base")
    save_peer(directory, **SIZES)
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.json"
    records = [
        {"instruction": f"Say {a}.", "input": b, "output": a} for a in WORDS for b in WORDS[:2]
    ]
    path.write_text(json.dumps(records))
    return path


@pytest.fixture(scope="module")
def sets(base: Path, data: Path) -> list[str]:
    """Settings for a run that takes two seconds."""
    values = {"base_model": base, "dataset": data, "batch_size": 8, "max_new_tokens": 3}
    return [argument for k, v in values.items() for argument in ("--set", f"{k}={v}")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, sets: list[str]) -> tuple[Path, Result]:
    """A runs directory with a finished run named `mine`, and the result of `train`."""
    runs_dir = tmp_path_factory.mktemp("trained") / "runs"
    options = [
        "--set",
        "name=mine",
        "--set",
        "notes=a|b",
        "--format",
        "json",
        "--executor",
        "thread",
    ]
    return runs_dir, call("train", "--runs-dir", runs_dir, *sets, *options)


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_models_as_json() -> None:
    rows_by_name = {row["name"]: row for row in call("models", "--format", "json").json}
    medium = rows_by_name["gpt2-medium"]
    assert set(medium) == {"name", "parameters", "memory_mb", "lora"}
    assert (medium["parameters"], medium["memory_mb"]) == (406286336, 1549.86)
    assert (medium["lora"]["16"], medium["lora"]["64"]) == (7898384, 31593536)
    assert [rows_by_name[name]["memory_mb"] for name in ("gpt2-large", "gpt2-xl")] == [
        3198.09,
        6248.56,
    ]


def test_find_lr_suggests_a_rate_and_writes_nothing(sets: list[str], runs_dir: Path) -> None:
    runs_dir.mkdir()
    with contextlib.closing(Index(runs_dir / INDEX_FILE)):  # as if a dashboard were open
        before = sorted(runs_dir.iterdir())
        command = ("find-lr", *sets, "--steps", 12, "--runs-dir", runs_dir)
        result = call(*command, "--format", "json").json
        assert sorted(runs_dir.iterdir()) == before
    assert result.keys() == {"suggestion", "steps"}
    assert [row["step"] for row in result["steps"]] == [*range(1, len(result["steps"]) + 1)]
    assert result["steps"][0].keys() == {"step", "lr", "loss", "smoothed"}
    assert result["steps"][0]["lr"] == pytest.approx(1e-6)
    table = call(*command, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(table.out)))
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in result["steps"]]
    assert f"Suggested learning rate: {result['suggestion']:g}" in table.err
    assert (
        "dataset = 'none.json': file not found"
        in call("find-lr", "--set", "dataset=none.json").sentence
    )


@pytest.mark.parametrize("command", ["models", "settings", "presets"])
def test_every_format_shows_the_same_table(command: str) -> None:
    rows = call(command, "--format", "json").json
    text = call(command, "--format", "csv").out
    assert len(list(csv.DictReader(io.StringIO(text)))) == len(rows)
    assert len(call(command, "--format", "md").out.splitlines()) == len(rows) + 2
    table = call(command).out
    assert all(str(row.get("name") or row.get("setting") or row["preset"]) in table for row in rows)


def test_every_preset_and_setting_is_listed() -> None:
    assert [row["preset"] for row in call("presets", "--format", "json").json] == list(PRESETS)
    listed = [row["setting"] for row in call("settings", "--format", "json").json]
    assert listed == list(RunConfig.model_fields)


def test_help_lists_every_command() -> None:
    result = call("--help")
    assert result.status == 0
    assert call() == result, "no arguments must print the help"
    for (
        name
    ) in "models train check find-lr runs stop resume delete generate export reindex demo".split():  # noqa: SIM905
        assert f"\n  {name} " in result.out
        assert call(name, "--help").status == 0


MISTAKES: list[tuple[list[str], str]] = [
    (["trian"], "No such command 'trian'"),
    (["models", "--format", "xml"], "'--format'.*'xml' is not one of"),
    (["models", "--nonsense"], "No such option"),
    (["generate", "mine"], "'--prompt'"),
    (
        ["generate", "base:gpt2-nano", "--prompt", "x", "--max-new-tokens", "0"],
        "'--max-new-tokens'",
    ),
    (["generate", "base:gpt2-nano", "--prompt", "x", "--temperature", "nan"], "'--temperature'"),
    (["generate", "base:gpt2-nano", "--prompt", "x", "--seed", "9" * 30], "'--seed'"),
    (["generate", "base:none", "--prompt", "x"], "base_model = 'none': unknown model"),
    (["generate", "../x", "--prompt", "x"], "run = '../x': there is no such run"),
    (["stop", "none"], "run = 'none': there is no such run; the folder runs does not exist"),
    (["resume", "none"], "there is no such run"),
    (["export", "none", "x.html", "--format", "capsule"], "run = 'none': there is no such run"),
    (["export", "none", "x.html", "--format", "hf"], "'--format'.*'hf' is not one of 'capsule'"),
    (["export", "none", "x.html"], "Missing option '--format'. Choose from: capsule"),
    (["export", "none", "no/x.html", "--format", "capsule"], "no: directory not found"),
    (["export", "none", ".", "--format", "capsule"], "is a directory. Name a file"),
    (["reindex", "--runs-dir", "nowhere"], "runs_dir = 'nowhere': directory not found"),
    (
        ["stop", "none", "--runs-dir", "nowhere"],
        "there is no such run; the folder nowhere does not exist",
    ),
    (["delete", ".."], "there is no such run"),
    (["delete", ""], "there is no such run"),
    (["train", "--executor", "cloud"], "executor = 'cloud': must be process or thread"),
    (["demo", "--executor", "cloud"], "executor = 'cloud'"),
    (
        ["train", "--preset", "run_99"],
        "Unknown preset 'run_99'. Available: demo",
    ),
    (["train", "--set", "lr"], "--set = 'lr': must be field=value"),
    (["train", "--set", "lr=fast"], "lr = 'fast': must be a number, such as 0.1 or 5e-5"),
    (["train", "--set", "batchsize=2"], "batchsize = '2': .* did you mean batch_size"),
    (["train", "--set", "base_model=gpt5"], "base_model = 'gpt5': unknown model"),
    (["train", "--set", "dataset=none.json"], "dataset = 'none.json': file not found"),
    (["train", "--set", "dataset=data/none.json.gz"], "'data/none.json.gz': file not found"),
    (["train", "--set", "max_examples=3"], "the test split would be empty with 3 examples"),
    (["train", "--set", "max_length=2000"], "max_length = 2000: must be at most 256"),
    (["train", "--set", "precision=fp16", "--set", "device=cpu"], "precision = 'fp16'"),
]


@pytest.mark.parametrize(
    ("arguments", "expected_message"), MISTAKES, ids=lambda value: " ".join(value)[:40]
)
def test_invalid_arguments_exit_with_status_2_and_one_sentence(
    arguments: list[str], expected_message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.status == 2
    assert re.search(expected_message, result.sentence)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "expected_message"),
    [
        (b"[{", "it is not valid JSON"),
        (b"{}", "its only record is not usable: no instruction or output (line 1); a record"),
        (b"[1]", "its only record is not usable: not an object (record 1); a record"),
        (
            b'[{"instruction": "a", "output": 3}]',
            "its only record is not usable: output is a number (record 1); a record",
        ),
        (b"\xff\xfe\xff", "it cannot be read as UTF-8 text"),
        (b"", "it contains no examples"),
    ],
)
def test_malformed_data_set_is_reported(
    content: bytes, expected_message: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    for command in ("check", "train"):
        result = call(command, "--set", f"dataset={path}")
        assert result.status == 2
        assert "error: dataset = " in result.err  # because a long path is shortened
        assert f": {expected_message}" in result.err
        assert result.err.count("\n") == 1
    assert not Path("runs/gpt2-nano-lora").exists()


def test_all_invalid_settings_are_reported_at_once() -> None:
    assignments = [
        "batch_size=x",
        "dataset=none.json",
        "base_model=gpt5",
        "nonsense=1",
        "lr",
        "epochs=0",
    ]
    result = call(
        "train", *(argument for assignment in assignments for argument in ("--set", assignment))
    )
    assert result.status == 2
    for field in ("batch_size", "dataset", "base_model", "nonsense", "--set", "epochs"):
        assert f"{field} = " in result.sentence


def test_batch_too_large_for_memory_is_reported(
    sets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "available_memory_mb", lambda device: 50.0)
    assert "not even batch_size = 1 fits" in call("train", *sets).sentence


def test_file_as_runs_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "is a file" in call("runs", "--runs-dir", tmp_path / "file").sentence


def test_check_prints_the_plan(sets: list[str], tmp_path: Path) -> None:
    plan = call("check", *sets, "--set", "epochs=3", "--format", "json").json
    assert (plan["steps"], plan["steps_per_epoch"], plan["train_examples"]) == (9, 3, 17)
    assert plan["problems"] == []
    assert plan["memory_mb"] > 300
    table = call("check", "--preset", "demo")
    assert (table.status, table.err) == (0, "")
    assert "train_examples" in table.out


def test_check_prints_the_plan_and_its_problems(sets: list[str]) -> None:
    result = call(
        "check", *sets, "--set", "max_length=99", "--set", "lora_last_layers=2", "--format", "json"
    )
    assert result.status == 2
    plan = json.loads(result.out)
    assert plan["steps"] == 3
    assert [p.split(" = ")[0] for p in plan["problems"]] == ["max_length", "lora_last_layers"]
    assert "max_length = 99: " in result.err
    assert "lora_last_layers = 2: " in result.err


def test_check_lists_skipped_records_and_unused_keys(base: Path, tmp_path: Path) -> None:
    records = [
        {"instruction": f"Say {i}.", "output": str(i), "system": "\x1b[31m"} for i in range(40)
    ]
    records[2]["output"] = ""
    records[3]["\x1b[2J"] = "x"
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"data": records}, indent=2))
    arguments = ("check", "--set", f"base_model={base}", "--set", f"dataset={path}")
    plan = call(*arguments, "--format", "json").json
    assert plan["skipped_records"] == [{"place": "record 3", "reason": "empty output"}]
    assert plan["unused_keys"] == {"system": 39, "[2J": 1}
    assert "1 of 40 records are skipped: empty output (record 3)" in plan["note"]
    table = call(*arguments)
    assert table.status == 0
    assert "\x1b" not in table.out
    row = next(line for line in table.out.splitlines() if "skipped_records" in line)
    assert row.split()[-2] == "1"


def test_empty_runs_directory_prints_an_empty_table(runs_dir: Path) -> None:
    for format, out in (("json", "[]\n"), ("table", "\n"), ("csv", "\n"), ("md", "\n")):
        result = call("runs", "--runs-dir", runs_dir, "--format", format)
        assert (result.status, result.out) == (0, out)
        assert "No runs in" in result.err
    assert not runs_dir.exists()


def test_runs_directory_can_be_set_by_the_environment(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNS_DIR", str(runs_dir))
    assert f"No runs in {runs_dir} yet: the directory does not exist." in call("runs").err
    RunDirectory.create(runs_dir, RunConfig(name="mine"))
    assert [row["name"] for row in call("runs", "--format", "json").json] == ["mine"]


def test_train_prints_the_row_for_the_run(trained: tuple[Path, Result]) -> None:
    runs_dir, result = trained
    [row] = result.json
    assert set(row) >= RUN_KEYS
    assert (row["name"], row["status"], row["batch_size"], row["notes"]) == (
        "mine",
        "finished",
        8,
        "a|b",
    )
    assert row["perplexity"] > 1
    assert "step 3: loss train" in result.err
    assert "3/3" in result.err
    [listed_row] = call("runs", "--runs-dir", runs_dir, "--format", "json").json
    assert listed_row == row
    assert "a\\|b" in call("runs", "--runs-dir", runs_dir, "--format", "md").out


def test_answers_are_indexed(trained: tuple[Path, Result]) -> None:
    index = sync.read_index(trained[0])
    answers = queries.answers(index.cursor(), ["mine"])
    index.close()
    assert answers["instruction"].tolist() == ["Say river.", "Say stone."]
    assert answers["item"].tolist() == [17, 18]


@pytest.mark.parametrize(
    ("command", "expected_message"),
    [
        ("stop", "Run 'mine' is not running (status: finished)."),
        ("resume", "Run 'mine' has already finished."),
    ],
)
def test_finished_run_cannot_be_stopped_or_resumed(
    trained: tuple[Path, Result], command: str, expected_message: str
) -> None:
    result = call(command, "mine", "--runs-dir", trained[0])
    assert result.status == 2
    assert expected_message in result.sentence


def generate(trained: tuple[Path, Result], *arguments: object) -> Any:
    options = ("--runs-dir", trained[0], "--format", "json", "--max-new-tokens", 5)
    return call("generate", *arguments, *options).json


def test_generate_prints_answers_from_runs_and_bases(
    trained: tuple[Path, Result], base: Path
) -> None:
    models = ["mine", f"base:{base}", "base:gpt2-nano"]
    rows = generate(trained, *models, "--prompt", "Say red.", "--input", "now")
    assert [row["run"] for row in rows] == models
    for row in rows:
        assert set(row) == {"run", "prompt", "answer", "tokens"}
        assert row["prompt"] == "Say red."
        assert 0 < row["tokens"] <= 5
        assert row["answer"]
    assert rows == generate(trained, *models, "--prompt", "Say red.", "--input", "now")
    assert "Say red." in call("generate", f"base:{base}", "--prompt", "Say red.").out


def test_generate_raw_omits_the_template(trained: tuple[Path, Result], base: Path) -> None:
    model_name = f"base:{base}"
    full_prompt = format_prompt("Say red.")
    raw = generate(trained, model_name, "--prompt", full_prompt, "--raw")
    assert raw[0]["answer"] == generate(trained, model_name, "--prompt", "Say red.")[0]["answer"]
    assert raw != generate(trained, model_name, "--prompt", "Say red.", "--raw")


def test_generate_sampling_depends_on_temperature_and_seed(
    trained: tuple[Path, Result], base: Path
) -> None:
    arguments = (f"base:{base}", "--prompt", "Say red.", "--temperature", 1.5, "--seed")
    assert (
        generate(trained, *arguments, 1)
        == generate(trained, *arguments, 1)
        != generate(trained, *arguments, 2)
    )
    greedy = generate(trained, f"base:{base}", "--prompt", "Say red.")
    assert generate(trained, *arguments, 3, "--top-k", 1) == greedy


def test_generate_with_a_tiny_temperature_is_greedy(base: Path) -> None:
    arguments = ("generate", f"base:{base}", "--prompt", "Say red.", "--max-new-tokens", 5)
    greedy = call(*arguments, "--format", "json").json
    assert call(*arguments, "--temperature", "1e-38", "--format", "json").json == greedy


def test_train_prints_a_name_that_differs_from_the_requested_one(
    sets: list[str], runs_dir: Path
) -> None:
    RunDirectory.create(runs_dir, RunConfig(name="mine"))
    arguments = (*sets, "--executor", "thread", "--runs-dir", runs_dir, "--format", "json")
    expected = {
        "mine": "Run name: mine-2 ('mine' is taken)\n",
        "Größe 1": "Run name: größe-1 (from 'Größe 1')\n",
        "": f"Run name: {Path(sets[1]).name}-lora (no name given)\n",
    }
    for name, line in expected.items():
        result = call("train", *arguments, "--set", f"name={name}")
        assert line in result.err
        [row] = result.json  # stdout has only the table
        assert f"Run name: {row['name']} " in line
    assert "Run name" not in call("train", *arguments, "--set", "name=学习率实验").err
    assert RunDirectory.find(runs_dir, "学习率实验").status() == "finished"


def test_generate_reports_a_truncated_prompt(base: Path) -> None:
    result = call("generate", f"base:{base}", "--prompt", "long " * 200, "--max-new-tokens", 3)
    assert result.status == 0
    assert (
        result.err
        == f"base:{base}: the prompt exceeds the context length, so its beginning was cut off\n"
    )


def test_delete_removes_a_finished_run_and_refuses_a_running_one(runs_dir: Path) -> None:
    run = RunDirectory.create(runs_dir, RunConfig(name="gone"))
    with run.lock():
        result = call("delete", "gone", "--runs-dir", runs_dir)
    assert (result.status, result.sentence) == (2, "gone is being trained; stop it first")
    assert run.path.exists()
    assert call("delete", "gone", "--runs-dir", runs_dir).status == 0
    assert not run.path.exists()
    assert call("runs", "--runs-dir", runs_dir, "--format", "json").json == []


def test_export_writes_a_capsule_and_replaces_a_file_only_with_force(
    trained: tuple[Path, Result], tmp_path: Path
) -> None:
    file = tmp_path / "a.html"
    arguments = ("export", "mine", file, "--format", "capsule", "--runs-dir", trained[0])
    result = call(*arguments)
    assert (result.status, result.err) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(file))}: \d\.\d MB\n", result.out)
    content = file.read_bytes()
    assert content.startswith(b"<!doctype html>")
    file.write_text("mine")
    refused = call(*arguments)
    assert refused.status == 2
    assert refused.sentence == f"{file} already exists. Use --force to replace it."
    assert file.read_text() == "mine"
    assert call(*arguments, "--force").status == 0
    assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_reindex_rebuilds_the_index(runs_dir: Path) -> None:
    for name in ("a", "b"):
        RunDirectory.create(runs_dir, RunConfig(name=name))
    rows_before = call("runs", "--runs-dir", runs_dir, "--format", "json").json
    (runs_dir / INDEX_FILE).write_bytes(b"damaged")
    assert call("reindex", "--runs-dir", runs_dir).out == "2 runs indexed\n"
    assert call("runs", "--runs-dir", runs_dir, "--format", "json").json == rows_before


def test_stop_ends_a_queued_run_at_once_and_reports_a_dead_one(runs_dir: Path) -> None:
    queued_run, dead_run = (
        RunDirectory.create(runs_dir, RunConfig(name=name)) for name in ("w", "d")
    )
    with dead_run.lock():
        dead_run.append("status", status="running", pid=1)
    assert call("stop", "w", "--runs-dir", runs_dir).out == "w: stopped\n"
    rows = call("runs", "--runs-dir", runs_dir, "--format", "json").json
    assert {row["name"]: row["status"] for row in rows} == {"w": "stopped", "d": "interrupted"}
    assert queued_run.status() == "stopped"


def test_failed_run_exits_with_status_1_and_its_reason(
    base: Path, sets: list[str], tmp_path: Path, runs_dir: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((base / "config.json").read_bytes())
    tensors = load_file(base / "model.safetensors")
    save_file({name: t * math.nan for name, t in tensors.items()}, broken / "model.safetensors")
    options = ["--set", f"base_model={broken}", "--set", "name=bad", "--executor", "thread"]
    result = call("train", "--runs-dir", runs_dir, *sets, *options)
    assert (result.status, result.out) == (1, "")
    assert "error: bad failed: " in result.err
    assert "finite" in result.err
    assert "Traceback" not in result.err


def test_damaged_base_model_is_an_error_before_launch(
    base: Path, sets: list[str], tmp_path: Path, runs_dir: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((base / "config.json").read_bytes())
    (broken / "model.safetensors").write_bytes(b"damaged")
    result = call("train", "--runs-dir", runs_dir, *sets, "--set", f"base_model={broken}")
    assert result.status == 2
    assert "model.safetensors is damaged" in result.sentence
    assert not runs_dir.exists()


def test_train_repairs_a_damaged_hub_model(
    hub: Hub, runs_dir: Path, base: Path, sets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILY, "gpt2", pretrained.architecture(str(base)))
    hub.hold_file(base / "model.safetensors")
    blob = pretrained.fetch("gpt2").resolve()
    blob.write_bytes(blob.read_bytes()[:1000])
    arguments = [*sets, "--set", "base_model=gpt2", "--format", "json"]
    checked = call("check", *arguments).json
    assert checked["problems"] == []
    assert "the cached file for gpt2 is damaged" in checked["note"]
    [row] = call("train", *arguments, "--runs-dir", runs_dir, "--executor", "thread").json
    assert row["status"] == "finished"
    assert blob.read_bytes() == (base / "model.safetensors").read_bytes()


@pytest.fixture
def stopped(runs_dir: Path, base: Path, data: Path) -> RunDirectory:
    """A five-step run named `half` that was stopped after the second step."""
    settings = {"base_model": str(base), "dataset": str(data), "batch_size": 4, "max_new_tokens": 3}
    run = RunDirectory.create(runs_dir, RunConfig.parse({"name": "half", **settings}))

    def stop_after_two_steps(config: RunConfig, active: Any) -> str:
        emit = active.emit

        def emit_and_stop(kind: str, **fields: Any) -> None:
            emit(kind, **fields)
            if kind == "step" and fields["step"] == 2:
                run.request_stop()

        active.emit = emit_and_stop
        return trainer.train(config, active)

    main(run, train=stop_after_two_steps)
    assert (run.status(), run.checkpoint_step()) == ("stopped", 2)
    return run


def step_losses(run: RunDirectory) -> list[float]:
    """Return a run's losses from the index."""
    with contextlib.closing(sync.read_index(run.path.parent)) as index:
        return list(queries.curves(index.cursor(), [run.name], ["loss"])["loss"]["y"])


def test_resume_lists_changed_settings_and_restart_trains_with_them(
    stopped: RunDirectory, runs_dir: Path
) -> None:
    arguments = ("half", "--runs-dir", runs_dir, "--executor", "thread", "--format", "json")
    stopped.write_config(stopped.config().changed(batch_size=2, seed=7))
    refused = call("resume", *arguments)
    assert refused.status == 2
    assert "batch_size = 2 (was 4)" in refused.sentence
    assert "seed = 7 (was 123)" in refused.sentence
    assert "`python -m core resume half --restart`" in refused.sentence
    assert (stopped.status(), stopped.checkpoint_step()) == ("stopped", 2)

    [row] = call("resume", *arguments, "--restart").json
    assert (row["status"], row["batch_size"]) == ("finished", 2)
    fresh = RunDirectory.create(runs_dir, stopped.config())
    main(fresh)
    assert len(step_losses(stopped)) == 9
    assert step_losses(stopped) == step_losses(fresh)


def test_restart_discards_checkpoints_and_earlier_steps(
    stopped: RunDirectory, runs_dir: Path
) -> None:
    assert len(step_losses(stopped)) == 2
    operations.requeue(runs_dir, stopped.name, restart=True)
    assert stopped.status() == "queued"
    assert stopped.checkpoint_step() is None
    assert not step_losses(stopped)
    assert stopped.events_path.read_text().count('"event":"step"') == 2


def test_resume_without_checkpoint_settings_compares_the_recorded_plan(
    stopped: RunDirectory, runs_dir: Path
) -> None:
    [manifest] = stopped.path.glob("checkpoint/*/manifest.json")
    facts = json.loads(manifest.read_text())
    del facts["settings"], facts["train_examples"]
    manifest.write_text(json.dumps(facts))
    config = stopped.config()
    stopped.write_config(config.changed(batch_size=2))
    arguments = ("resume", "half", "--runs-dir", runs_dir, "--executor", "thread")
    assert "number of steps = 9 (was 5)" in call(*arguments).err
    assert (stopped.status(), stopped.checkpoint_step()) == ("failed", 2)
    stopped.write_config(config)
    assert call(*arguments).status == 0
    [warning] = stopped.events("warning")
    assert warning["message"].endswith("could not be checked")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda text: text[:-20], "half: config.json cannot be read"),
        (lambda text: text.replace('"batch_size": 4', '"batch_size": 0'), "batch_size = 0: "),
        (lambda text: text.replace("data.json", "dota.json"), "file not found"),
    ],
    ids=["truncated", "invalid value", "missing file"],
)
def test_restart_with_unusable_settings_keeps_the_checkpoints(
    stopped: RunDirectory, runs_dir: Path, damage: Callable[[str], str], sentence: str
) -> None:
    text = stopped.config_path.read_text()
    assert damage(text) != text
    stopped.config_path.write_text(damage(text))
    result = call("resume", "half", "--restart", "--runs-dir", runs_dir)
    assert result.status == 2
    assert sentence in result.sentence
    assert (stopped.status(), stopped.checkpoint_step()) == ("stopped", 2)


def test_finished_run_cannot_be_restarted(trained: tuple[Path, Result]) -> None:
    result = call("resume", "mine", "--restart", "--runs-dir", trained[0])
    assert (result.status, result.sentence) == (
        2,
        "Run 'mine' has already finished.",
    )
    assert (trained[0] / "mine" / "weights").is_dir()


def test_demo_trains_three_runs_and_prints_their_table_and_answers(
    base: Path, data: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, Any] = {"base_model": str(base), "dataset": str(data), "method": "full"}
    small |= {"batch_size": 8, "max_new_tokens": 3, "lr": 1e-3, "min_lr": 1e-4}
    monkeypatch.setattr(commands, "DEMO", small)
    monkeypatch.setattr(commands, "DEMO_LORA", {**small, "method": "lora"})
    result = call("demo", "--executor", "thread", "--runs-dir", runs_dir)
    assert result.status == 0, result.err
    rows = {r["name"]: r for r in call("runs", "--runs-dir", runs_dir, "--format", "json").json}
    assert {name: (row["method"], row["lora_rank"]) for name, row in rows.items()} == {
        "demo-full": ("full", None),
        "demo-lora-16": ("lora", 16),
        "demo-lora-4": ("lora", 4),
    }
    assert {row["status"] for row in rows.values()} == {"finished"}
    assert "Say river." in result.out
    assert result.out.count("demo-lora-16") == 3
    assert result.out.index("pretrained") < result.out.index("demo-full")
    assert all({"exact", "reference"} == set(row["scores"]) for row in rows.values())
    second_result = call("demo", "--executor", "thread", "--runs-dir", runs_dir)
    assert "demo-full-2" in second_result.out
    assert "demo-full " not in second_result.out


def test_demo_stops_at_the_first_run_that_does_not_finish(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C stops the whole demo, not only the current run."""
    monkeypatch.setitem(
        EXECUTORS, "thread", lambda run: run.mark_ended("stopped by hand", "stopped")
    )
    result = call("demo", "--executor", "thread", "--runs-dir", runs_dir)
    assert result.status == 1
    message = (
        "demo-full was stopped: stopped by hand. Resume it with `python -m core resume demo-full`."
    )
    assert message in result.err
    assert len(list(runs_dir.glob("demo-*"))) == 1


def test_locked_index_is_bypassed_and_cannot_be_rebuilt(
    trained: tuple[Path, Result],
) -> None:
    index = Index(trained[0] / INDEX_FILE)
    try:
        assert len(call("runs", "--runs-dir", trained[0], "--format", "json").json) == 1
        result = call("reindex", "--runs-dir", trained[0])
    finally:
        index.close()
    assert result.status == 2
    assert "is in use by process" in result.sentence


def test_internal_error_is_not_reported_as_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exception propagates, so Python prints a traceback and exits with status 1."""
    monkeypatch.setattr(commands.report, "settings", lambda format: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("settings")
