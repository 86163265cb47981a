"""Keys lie in the environment and nowhere else, whatever fails; and nothing foreign is ever executed or unpickled."""

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
TELLTALES = (b"SECRETgemini", b"SECRETopenai", b"SECREThub", b"SECRETpassword",
             base64.b64encode(f"user:{PASSWORD}".encode())[:20])  # fmt: skip
SMALL = ["--set", "max_examples=60", "--set", "max_new_tokens=2", "--set", "sample_prompt="]
GEMINI = ["score", "scored", "--judge", "gemini", "--no-base"]
OPENAI = ["score", "scored", "--judge", "openai", "--model", "m", "--no-base"]


@dataclass
class FinishedCommand:
    """A command that ended, and the home that it had, where it printed and made its runs."""

    status: int
    home: Path

    @property
    def printed(self) -> str:
        return (self.home / "printed").read_text()

    @property
    def runs_dir(self) -> Path:
        return self.home / "runs"


def commands(refusing: str, quoting: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    """By what fails: the words of a command, and more of its environment.

    Args:
        refusing: where a service listens that accepts no key.
        quoting: where one listens that repeats in its verdicts what it should not know.
    """
    openai_key = KEYS["OPENAI_API_KEY"]
    return {
        "a wrong key of gemini": (GEMINI, {"GEMINI_API_ENDPOINT": f"http://{refusing}"}),
        "a wrong key of openai": (OPENAI, {"OPENAI_BASE_URL": f"http://{refusing}/v1"}),
        "a reply that quotes the key": (GEMINI, {"GEMINI_API_ENDPOINT": f"http://{quoting}"}),
        "an address with a password": (OPENAI, {"OPENAI_BASE_URL": f"http://user:{PASSWORD}@{refusing}/v1"}),
        "an address that is none": (OPENAI, {"OPENAI_BASE_URL": f"{openai_key}:x"}),
        "no such data set": (["train", "--set", "dataset=nowhere.json"], {}),
        "a base that cannot be had": (["train", *SMALL, "--set", "base_model=gpt2"], {}),
        "a trainer that crashes": (["resume", "crash"], {}),
    }  # fmt: skip


NAMES = list(commands("", ""))


def prepare(home: Path) -> None:
    """Two runs: one with an answer to score, one whose trainer must crash."""
    scored_run = RunDirectory.create(home / "runs", RunConfig(name="scored"))
    answer_fields = {"instruction": "Say it.", "input": "", "reference": "it", "answer": "that"}
    scored_run.append("generation", item=0, **answer_fields)
    scored_run.append("status", status="finished")
    small = {"max_examples": 60, "max_new_tokens": 2, "sample_prompt": "", "checkpoint_every": 1}
    crash = RunDirectory.create(home / "runs", RunConfig.parse({"name": "crash", **small}))
    (crash.path / "checkpoint").write_text("in the way")


def quote(prompt: str) -> str:
    """A verdict that repeats the key, as a proxy that logs too much might."""
    return json.dumps({"score": 70, "reason": f"asked with {KEYS['GEMINI_API_KEY']}"})


COMMANDS = """
import json, os, sys
import core.inference, core.cli.commands, core.planning.preflight
for home, words, more in json.load(sys.stdin):
    if os.fork() == 0:
        os.chdir(home)
        os.environ.update(more, HOME=home)
        printed = os.open(os.path.join(home, "printed"), os.O_CREAT | os.O_WRONLY)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        sys.argv = ["core", *words]
        core.cli.commands.main()
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
"""Runs commands, each in a process and a home of its own; what takes seconds to import is imported once."""


@pytest.fixture(scope="module")
def finished_commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FinishedCommand]:
    """Every command after its end. The one that trains is started anew, as a person would."""
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    inherited |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **KEYS}
    inherited |= {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
    }
    homes = {name: tmp_path_factory.mktemp("home") for name in NAMES}
    for home in homes.values():
        prepare(home)
    crash = homes["a trainer that crashes"]
    with (
        JudgeServer(fault=lambda number, prompt: "403") as refusing,
        JudgeServer(answer=quote) as quoting,
        (crash / "printed").open("wb") as printed,
    ):
        addresses = (f"127.0.0.1:{server.port}" for server in (refusing, quoting))
        commands_by_name = commands(*addresses)
        arguments, _ = commands_by_name.pop("a trainer that crashes")
        training = subprocess.Popen(
            [sys.executable, "-m", "core", *arguments],
            cwd=crash, env={**inherited, "HOME": str(crash)}, stdout=printed, stderr=printed,
        )  # fmt: skip
        completed = subprocess.run(
            [sys.executable, "-c", COMMANDS], env=inherited, capture_output=True, text=True,
            input=json.dumps([(str(homes[name]), *command_and_env) for name, command_and_env in commands_by_name.items()]),
        )  # fmt: skip
        statuses = dict(zip(commands_by_name, map(int, completed.stdout.split()), strict=True))
        statuses["a trainer that crashes"] = training.wait(120)
        request_counts = len(refusing.requests), len(quoting.requests)
    assert min(request_counts) > 0, completed.stderr
    return {name: FinishedCommand(statuses[name], homes[name]) for name in NAMES}


EXPECTED = {
    "a wrong key of gemini": (2, "HTTP 403: Key [key] was reported as leaked"),
    "a wrong key of openai": (2, "HTTP 403: Key [key] may not use it"),
    "a reply that quotes the key": (0, "70"),
    "an address with a password": (2, "HTTP 403"),
    "an address that is none": (2, "must be a full URL"),
    "no such data set": (2, "file not found"),
    "a base that cannot be had": (2, "could not download openai-community/gpt2 from the hub"),
    "a trainer that crashes": (1, "crash failed: "),
}


def test_every_command_fails_as_expected() -> None:
    assert list(EXPECTED) == NAMES


def holds_a_key(data: bytes) -> list[bytes]:
    return [telltale for telltale in TELLTALES if telltale in data]


def dump(runs_dir: Path) -> str:
    """Every row of the index: its file keeps texts compressed."""
    index = read_index(runs_dir)
    try:
        tables = index.cursor().execute("select table_name from duckdb_tables()").fetchall()
        rows = [index.cursor().execute(f'select * from "{t}"').fetchall() for (t,) in tables]
    finally:
        index.close()
    return repr(rows)


@pytest.mark.parametrize("name", NAMES)
def test_no_failure_writes_an_api_key(
    finished_commands: dict[str, FinishedCommand], name: str
) -> None:
    finished = finished_commands[name]
    status, sentence = EXPECTED[name]
    assert (finished.status, sentence in finished.printed) == (status, True), finished.printed
    assert not holds_a_key(finished.printed.encode())
    files = [path for path in finished.home.rglob("*") if path.is_file()]
    assert files
    leaks = {path: telltale for path in files if (telltale := holds_a_key(path.read_bytes()))}
    assert not leaks
    leaking_paths = {
        path: telltale
        for path in finished.home.rglob("*")
        if (telltale := holds_a_key(bytes(path)))
    }
    assert not leaking_paths
    assert not holds_a_key(dump(finished.runs_dir).encode())
    assert not holds_a_key((finished.runs_dir / INDEX_FILE).read_bytes())


def test_crash_log_has_a_traceback_without_the_environment(
    finished_commands: dict[str, FinishedCommand],
) -> None:
    log = (
        finished_commands["a trainer that crashes"].runs_dir / "crash" / "trainer.log"
    ).read_text()
    assert "Traceback" in log or "cannot be written" in log
    assert "GEMINI_API_KEY" not in log
    assert "environ" not in log
