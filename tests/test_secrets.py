"""API keys and passwords stay in the environment. Failing commands do not print them or write them to disk."""

import base64
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.config import RunConfig
from core.run.directory import RunDirectory
from core.tracking.index import INDEX_FILE
from core.tracking.sync import read_index
from tests.judging.server import JudgeServer
from tests.test_layout import ROOT

KEYS = {
    "GEMINI_API_KEY": "SECRETgemini5c0e1d7aWrittenNowhere",
    "OPENAI_API_KEY": "sk-SECRETopenai5c0e1d7aWrittenNowhere",
    "HF_TOKEN": "hf_SECREThub5c0e1d7aWrittenNowhere",
}
PASSWORD = "SECRETpassword5c0e1d7aWrittenNowhere"
SECRET_MARKERS = (b"SECRETgemini", b"SECRETopenai", b"SECREThub", b"SECRETpassword",
                  base64.b64encode(f"user:{PASSWORD}".encode())[:20])  # fmt: skip
SHORT_RUN = ["--set", "max_examples=60", "--set", "max_new_tokens=2", "--set", "sample_prompt="]
GEMINI_ARGUMENTS = ["score", "scored", "--judge", "gemini", "--no-base"]
OPENAI_ARGUMENTS = ["score", "scored", "--judge", "openai", "--model", "m", "--no-base"]


@dataclass
class FinishedCommand:
    """Exit status and home directory of a finished command. The home directory contains its output and its runs."""

    status: int
    home: Path

    @property
    def output(self) -> str:
        return (self.home / "output").read_text()

    @property
    def runs_dir(self) -> Path:
        return self.home / "runs"


def commands(rejecting: str, quoting: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return the arguments and extra environment variables for each command, keyed by the kind of failure.

    Args:
        rejecting: host and port of a service that rejects every key.
        quoting: host and port of a service that repeats the key in its verdicts.
    """
    openai_key = KEYS["OPENAI_API_KEY"]
    return {
        "wrong Gemini key": (GEMINI_ARGUMENTS, {"GEMINI_API_ENDPOINT": f"http://{rejecting}"}),
        "wrong OpenAI key": (OPENAI_ARGUMENTS, {"OPENAI_BASE_URL": f"http://{rejecting}/v1"}),
        "reply that quotes the key": (GEMINI_ARGUMENTS, {"GEMINI_API_ENDPOINT": f"http://{quoting}"}),
        "URL with a password": (OPENAI_ARGUMENTS, {"OPENAI_BASE_URL": f"http://user:{PASSWORD}@{rejecting}/v1"}),
        "malformed URL": (OPENAI_ARGUMENTS, {"OPENAI_BASE_URL": f"{openai_key}:x"}),
        "missing data set": (["train", "--set", "dataset=nowhere.json"], {}),
        "unavailable base model": (["train", *SHORT_RUN, "--set", "base_model=gpt2"], {}),
        "trainer crash": (["resume", "crash"], {}),
    }  # fmt: skip


NAMES = list(commands("", ""))


def prepare(home: Path) -> None:
    """Create two runs: one with an answer to score and one whose trainer crashes."""
    scored_run = RunDirectory.create(home / "runs", RunConfig(name="scored"))
    answer_fields = {"instruction": "Say it.", "input": "", "reference": "it", "answer": "that"}
    scored_run.append("generation", item=0, **answer_fields)
    scored_run.append("status", status="finished")
    small = {"max_examples": 60, "max_new_tokens": 2, "sample_prompt": "", "checkpoint_every": 1}
    crash = RunDirectory.create(home / "runs", RunConfig.parse({"name": "crash", **small}))
    (crash.path / "checkpoint").write_text("blocks the checkpoint directory")


def verdict_with_key(prompt: str) -> str:
    """Return a verdict that repeats the key, as a misconfigured proxy might."""
    return json.dumps({"score": 70, "reason": f"asked with {KEYS['GEMINI_API_KEY']}"})


COMMAND_RUNNER = """
import json, os, sys
import core.inference, core.cli.commands, core.planning.preflight
for home, arguments, variables in json.load(sys.stdin):
    if os.fork() == 0:
        os.chdir(home)
        os.environ.update(variables, HOME=home)
        output = os.open(os.path.join(home, "output"), os.O_CREAT | os.O_WRONLY)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["core", *arguments]
        core.cli.commands.main()
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
"""Runs each command in a forked process with its own home directory, so that slow imports happen only once."""


@pytest.fixture(scope="module")
def finished_commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FinishedCommand]:
    """Run every command to completion. Training starts in a new interpreter, as it would for a user."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **KEYS}
    environment |= {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
    }
    homes = {name: tmp_path_factory.mktemp("home") for name in NAMES}
    for home in homes.values():
        prepare(home)
    crash = homes["trainer crash"]
    with (
        JudgeServer(fault=lambda number, prompt: "403") as rejecting,
        JudgeServer(answer=verdict_with_key) as quoting,
        (crash / "output").open("wb") as output,
    ):
        addresses = (f"127.0.0.1:{server.port}" for server in (rejecting, quoting))
        commands_by_failure = commands(*addresses)
        arguments, _ = commands_by_failure.pop("trainer crash")
        training = subprocess.Popen(
            [sys.executable, "-m", "core", *arguments],
            cwd=crash, env={**environment, "HOME": str(crash)}, stdout=output, stderr=output,
        )  # fmt: skip
        completed = subprocess.run(
            [sys.executable, "-c", COMMAND_RUNNER], env=environment, capture_output=True, text=True,
            input=json.dumps([(str(homes[name]), *command_and_env) for name, command_and_env in commands_by_failure.items()]),
        )  # fmt: skip
        statuses = dict(zip(commands_by_failure, map(int, completed.stdout.split()), strict=True))
        statuses["trainer crash"] = training.wait(120)
        request_counts = len(rejecting.requests), len(quoting.requests)
    assert min(request_counts) > 0, completed.stderr
    return {name: FinishedCommand(statuses[name], homes[name]) for name in NAMES}


EXPECTED = {
    "wrong Gemini key": (2, "HTTP 403: Key [key] was reported as leaked"),
    "wrong OpenAI key": (2, "HTTP 403: Key [key] may not use it"),
    "reply that quotes the key": (0, "70"),
    "URL with a password": (2, "HTTP 403"),
    "malformed URL": (2, "must be a full URL"),
    "missing data set": (2, "file not found"),
    "unavailable base model": (2, "could not download openai-community/gpt2 from the hub"),
    "trainer crash": (1, "crash failed: "),
}


def test_every_command_has_an_expected_outcome() -> None:
    assert list(EXPECTED) == NAMES


def secrets_in(data: bytes) -> list[bytes]:
    return [marker for marker in SECRET_MARKERS if marker in data]


def dump(runs_dir: Path) -> str:
    """Return all rows in the index as text. Searching the file would not work, because its strings are compressed."""
    index = read_index(runs_dir)
    try:
        tables = index.cursor().execute("select table_name from duckdb_tables()").fetchall()
        rows = [index.cursor().execute(f'select * from "{t}"').fetchall() for (t,) in tables]
    finally:
        index.close()
    return repr(rows)


@pytest.mark.parametrize("name", NAMES)
def test_no_command_leaks_a_secret(
    finished_commands: dict[str, FinishedCommand], name: str
) -> None:
    finished = finished_commands[name]
    status, message = EXPECTED[name]
    assert (finished.status, message in finished.output) == (status, True), finished.output
    assert not secrets_in(finished.output.encode())
    files = [path for path in finished.home.rglob("*") if path.is_file()]
    assert files
    leaking_files = {path: secrets for path in files if (secrets := secrets_in(path.read_bytes()))}
    assert not leaking_files
    leaking_paths = {
        path: secrets for path in finished.home.rglob("*") if (secrets := secrets_in(bytes(path)))
    }
    assert not leaking_paths
    assert not secrets_in(dump(finished.runs_dir).encode())
    assert not secrets_in((finished.runs_dir / INDEX_FILE).read_bytes())


def test_crash_log_shows_the_error_but_not_the_environment(
    finished_commands: dict[str, FinishedCommand],
) -> None:
    log = (finished_commands["trainer crash"].runs_dir / "crash" / "trainer.log").read_text()
    assert "Traceback" in log or "cannot be written" in log
    assert "GEMINI_API_KEY" not in log
    assert "environ" not in log
