"""The command line in real processes: Ctrl-C, stop, a killed trainer, and a dashboard that holds the index.

Other commands are called in the test process, which is faster because PyTorch is imported only once.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.run.directory import RunDirectory
from core.tracking import queries, sync
from tests.cli.test_commands import call

ROOT = Path(__file__).parents[2]
WORDS = ["red", "green", "blue", "one", "two", "three", "house", "tree", "river", "stone"]
STEPS = 300
"""Number of steps in the run `long`, high enough that it cannot finish before it is stopped."""
RECORDS = [{"instruction": f"Say {a}.", "input": b, "output": a} for a in WORDS for b in WORDS[:2]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, save_peer: Callable[..., Any]) -> Path:
    directory = tmp_path_factory.mktemp("base")
    save_peer(directory, n_layer=1, n_head=2, n_embd=8, n_positions=96, vocab_size=50257)
    return directory


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory outside the repository, with a data set."""
    (tmp_path / "here" / "data").mkdir(parents=True)
    (tmp_path / "here" / "data" / "words.json").write_text(json.dumps(RECORDS))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(workdir: Path) -> Iterator[Start]:
    """A function that starts Python with the given arguments. Processes still running after the test are killed."""
    processes = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=workdir,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Shells make background jobs ignore SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def core(start: Start) -> Start:
    """A function that starts a command."""
    return lambda *arguments: start("-m", "core", *arguments)


def wait_for_exit(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """Wait for a command to exit with the given status. Return its standard output and error."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    assert "Traceback" not in err
    return out, err


@pytest.fixture
def train(core: Start, base: Path) -> Start:
    """A function that starts training the run `long`, with three steps per epoch."""

    def run(*arguments: object) -> subprocess.Popen[str]:
        values = {
            "name": "long",
            "base_model": base,
            "dataset": "data/words.json",
            "epochs": STEPS // 3,
        }
        values |= {"batch_size": 6, "max_new_tokens": 2, "sample_prompt": "", "eval_every": 9999}
        values |= {"mask_prompt": True}  # only a few targets, so a step takes milliseconds
        sets = [argument for k, v in values.items() for argument in ("--set", f"{k}={v}")]
        return core("train", *sets, *arguments)

    return run


def wait_for_first_step(workdir: Path, status: str = "running") -> RunDirectory:
    """Wait until the run `long` has completed a step, and return the run."""
    run = RunDirectory(workdir / "runs" / "long")
    deadline = time.monotonic() + 60
    while not (run.events_path.exists() and '"event":"step"' in run.events_path.read_text()):
        assert time.monotonic() < deadline, "no step within 60 s"
        time.sleep(0.02)
    assert run.status() == status
    return run


def steps(run: RunDirectory) -> list[int]:
    """Return the recorded steps, except those superseded by a rewind."""
    effective_steps: list[int] = []
    for line in run.events_path.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "rewind":
            effective_steps = [step for step in effective_steps if step <= event["step"]]
        elif event["event"] == "step":
            effective_steps.append(event["step"])
    return effective_steps


def test_run_trains_on_a_local_file(core: Start, workdir: Path) -> None:
    """The run uses the embedded model, a relative path, a different working directory and default settings."""
    sets = ["dataset=data/words.json", "name=mine", "max_new_tokens=3", "batch_size=6"]
    arguments = [argument for s in sets for argument in ("--set", s)]
    out, err = wait_for_exit(core("train", *arguments, "--format", "json"))
    [row] = json.loads(out)
    assert (row["name"], row["status"], row["base_model"]) == ("mine", "finished", "gpt2-nano")
    assert "validation" in err
    run = RunDirectory(workdir / "runs" / "mine")
    assert run.config().dataset == str(workdir / "data" / "words.json")
    index = sync.read_index(workdir / "runs")
    assert len(queries.answers(index.cursor(), ["mine"])) == 2
    index.close()
    [answer] = call(
        "generate", "mine", "--prompt", "Say red.", "--format", "json", "--max-new-tokens", 3
    ).json
    assert (answer["run"], answer["prompt"]) == ("mine", "Say red.")


def test_base_model_download_failure_is_reported_before_a_run_is_created(
    core: Start, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(workdir / "cache"))
    sets = ["--set", "dataset=data/words.json", "--set", "base_model=gpt2", "--set", "batch_size=1"]
    _, err = wait_for_exit(core("train", *sets), 2)
    assert "base_model = 'gpt2': could not download openai-community/gpt2 from the hub" in err
    assert not (workdir / "runs").exists()


def test_ctrl_c_stops_with_a_checkpoint_and_resume_finishes(train: Start, workdir: Path) -> None:
    process = train("--format", "json")
    run = wait_for_first_step(workdir)
    process.send_signal(signal.SIGINT)
    out, err = wait_for_exit(process, status=1)
    assert json.loads(out)[0]["status"] == run.status() == "stopped"
    assert "Stopping after the current step" in err
    assert err.splitlines()[-1].startswith("error: long was stopped")
    assert "Resume it with `python -m core resume long`." in err
    last_step = steps(run)[-1]
    assert 0 < last_step < STEPS
    assert list(run.path.glob(f"checkpoint/step-*{last_step}/manifest.json"))
    resumed = call("resume", "long", "--executor", "thread", "--format", "json")
    assert resumed.json[0]["status"] == "finished"
    assert "step 0:" not in resumed.err  # events before the resume are not repeated
    assert steps(run) == list(range(1, STEPS + 1))


def test_running_run_cannot_be_deleted_until_another_process_stops_it(
    train: Start, workdir: Path
) -> None:
    process = train("--set", "epochs=1000", "--set", "batch_size=1")  # 17,000 steps
    run = wait_for_first_step(workdir)
    delete_result = call("delete", "long")
    assert (delete_result.status, delete_result.err) == (
        2,
        "error: long is being trained; stop it first\n",
    )
    stopped = call("stop", "long")
    assert (stopped.status, stopped.out) == (0, "long: stopped\n")
    wait_for_exit(process, status=1)
    assert 0 < steps(run)[-1] < 17_000


@pytest.mark.long
def test_killed_trainer_is_reported_and_its_run_resumes(train: Start, workdir: Path) -> None:
    process = train("--set", "checkpoint_every=20")
    run = wait_for_first_step(workdir)
    while not list(run.path.glob("checkpoint/step-*[0-9]/manifest.json")):
        time.sleep(0.02)
    os.kill(run.statuses()[-1]["pid"], signal.SIGKILL)
    out, err = wait_for_exit(process, status=1)
    assert out == ""
    assert "error: long was interrupted: the trainer exited unexpectedly (signal 9)" in err
    assert call("resume", "long", "--executor", "thread").status == 0
    assert run.status() == "finished"
    assert steps(run) == list(range(1, STEPS + 1))


def test_commands_work_while_a_dashboard_is_open(
    start: Start, core: Start, base: Path, workdir: Path
) -> None:
    """A Lab in another process keeps the index open and must show the finished run within two seconds."""
    code = """
import sys, time
from pathlib import Path
from core.tracking import queries
from core.lab import Lab
lab = Lab(Path("runs"))
print("open", flush=True)
while lab.runs()["status"].tolist() != ["finished"]:
    time.sleep(0.05)
print("seen", flush=True)
sys.stdin.readline()
lab.close()
"""
    dashboard = start("-c", code)
    assert dashboard.stdout is not None
    assert dashboard.stdout.readline() == "open\n"
    values = {"name": "mine", "base_model": base, "dataset": "data/words.json", "max_new_tokens": 2}
    sets = [argument for k, v in values.items() for argument in ("--set", f"{k}={v}")]
    out, _ = wait_for_exit(core("train", *sets, "--format", "json"))
    assert json.loads(out)[0]["status"] == "finished"
    assert dashboard.stdout.readline() == "seen\n"
    assert [row["name"] for row in call("runs", "--format", "json").json] == ["mine"]
    options = ("--prompt", "Say red.", "--format", "json", "--max-new-tokens", 2)
    assert call("generate", "mine", *options).json[0]["run"] == "mine"
    rebuild = call("reindex")
    refusal = f"error: runs/lab.duckdb is in use by process {dashboard.pid}, probably a dashboard"
    assert (rebuild.status, rebuild.err.startswith(refusal)) == (2, True)
    dashboard.communicate("close\n", timeout=60)


def test_closed_output_pipe_does_not_print_an_error(core: Start) -> None:
    """For example, `python -m core settings | head -1`."""
    process = core("settings")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == ""
