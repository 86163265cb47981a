"""`python -m core score`, called in this process: the table, the requests to judges and the error messages."""

import contextlib
import csv
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.cli import commands
from core.config import RunConfig
from core.judging.order import GEMINI_MODEL
from core.lab import Lab
from core.nn import pretrained
from core.run.directory import RunDirectory
from core.run.event_files import VERDICTS_FOLDER
from core.run.events import EventWriter
from tests.cli import test_commands
from tests.judging.server import Fault, JudgeServer, no_fault

ROOT = Path(__file__).parents[2]
KEY = "SECRET-5c0e1d7a-KEY"
KEYS = ["run", "judge", "mean", "low", "high", "scored", "missing"]
EXAMPLES = [("Name a color.", "", "Red."), ("Name it.", "a cat", "Cat."), ("Add.", "1 1", "2")]


class Result(test_commands.Result):
    @property
    def sentence(self) -> str:
        """The error message, which is the last line, after the progress bar."""
        assert self.status == 2, self.err
        assert "Traceback" not in self.err
        assert self.err.count("error: ") == 1
        assert self.err.endswith("\n")
        last = self.err.splitlines()[-1]
        assert last.startswith("error: ")
        return last.removeprefix("error: ")


def call(*arguments: object) -> Result:
    """Run a command as `python -m core` does."""
    written = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(stream, "utf-8", newline="") for stream in written)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["core", "score", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            commands.main()
    out.flush()
    err.flush()
    assert isinstance(exit_info.value.code, int)
    result = Result(exit_info.value.code, *(stream.getvalue().decode() for stream in written))
    assert KEY not in result.out + result.err
    return result


@pytest.fixture(autouse=True)
def no_api_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "GEMINI_API_ENDPOINT", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def nano_hash() -> str:
    return pretrained.fingerprint(pretrained.load("gpt2-nano"))


def add_run(runs_dir: Path, name: str, answers: list[str], base_hash: str | None = None) -> None:
    """Create a finished run with the embedded model and these answers."""
    run = RunDirectory.create(runs_dir, RunConfig(name=name, max_new_tokens=3))
    with run.lock(), contextlib.closing(EventWriter(run.events_path)) as writer:
        if base_hash:
            writer.append("plan", steps=1, base_hash=base_hash)
        for i, (answer, example) in enumerate(zip(answers, EXAMPLES, strict=False)):
            fields = dict(zip(("instruction", "input", "reference"), example, strict=True))
            writer.append("generation", item=i, **fields, answer=answer)
        writer.append("status", status="finished")


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    add_run(tmp_path / "runs", "good", ["red", "Cat.", "2!"])
    add_run(tmp_path / "runs", "poor", ["a banana", "Cat.", "seven"])
    add_run(tmp_path / "runs", "empty", [])
    return tmp_path / "runs"


@contextlib.contextmanager
def gemini(monkeypatch: pytest.MonkeyPatch, fault: Fault = no_fault) -> Iterator[JudgeServer]:
    """Start a fake Gemini server on loopback that prefers short answers, and point the environment to it."""

    def answer(prompt: str) -> str:
        graded = prompt.split("The answer to grade:\n")[1].split("\n\n")[0]
        return json.dumps({"score": 100 - 10 * len(graded), "reason": f"with {KEY}"})

    with JudgeServer(answer=answer, fault=fault) as server:
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        monkeypatch.setenv("GEMINI_API_ENDPOINT", server.gemini_endpoint)
        yield server


def test_reference_judge_does_not_need_an_api_key(runs_dir: Path) -> None:
    result = call("good", "poor", "--runs-dir", runs_dir, "--format", "json")
    good_row, poor_row = result.json
    assert list(good_row) == list(poor_row) == KEYS
    assert (good_row["run"], poor_row["run"], good_row["judge"]) == ("good", "poor", "reference")
    assert (good_row["mean"], good_row["high"], good_row["scored"]) == (100, 100, 3)
    assert pytest.approx(good_row["low"]) == 100 * 0.025 ** (1 / 3), "exact bound for 3 of 3"
    assert 0 <= poor_row["low"] < poor_row["mean"] < poor_row["high"] <= 100
    assert (poor_row["scored"], poor_row["missing"]) == (3, 0)
    assert call("good", "good", "--runs-dir", runs_dir, "--format", "json").json == [good_row]


def test_importing_the_score_command_does_not_import_torch() -> None:
    code = "import sys; from core.cli import commands, score; print('torch' in sys.modules)"
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert completed.stdout == "False\n", completed.stderr


def test_every_format_shows_the_same_rows(runs_dir: Path) -> None:
    arguments = ("good", "poor", "--runs-dir", runs_dir, "--format")
    assert [row["run"] for row in csv.DictReader(io.StringIO(call(*arguments, "csv").out))] == ["good", "poor"]  # fmt: skip
    assert len(call(*arguments, "md").out.splitlines()) == 4
    assert all(text in call(*arguments, "table").out for text in ["good", "poor", *KEYS])


def test_first_row_is_the_pretrained_base(runs_dir: Path, nano_hash: str) -> None:
    add_run(runs_dir, "tuned", ["red", "Cat.", "2!"], nano_hash)
    add_run(runs_dir, "worse", ["a banana", "Cat.", "seven"], nano_hash)
    arguments = ("worse", "tuned", "--runs-dir", runs_dir, "--format", "json")
    base, *run_rows = call(*arguments).json
    assert list(base) == KEYS
    assert (base["run"], base["scored"], base["missing"]) == ("pretrained", 3, 0)
    assert base["mean"] < 100
    assert [row["run"] for row in run_rows] == ["tuned", "worse"]
    assert call(*arguments).json == [base, *run_rows]
    assert call(*arguments, "--no-base").json == run_rows


def test_changed_base_weights_are_reported(runs_dir: Path) -> None:
    add_run(runs_dir, "tuned", ["red", "Cat.", "2!"], "0" * 64)
    arguments = ("tuned", "--runs-dir", runs_dir, "--format", "json")
    expected_message = "base_model = 'gpt2-nano': the weights have changed since training; score without the base model"
    assert call(*arguments).sentence == expected_message
    assert [row["run"] for row in call(*arguments, "--no-base").json] == ["tuned"]


def test_gemini_verdicts_are_cached(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("good", "poor", "--runs-dir", runs_dir, "--format", "json")
    with gemini(monkeypatch) as server:
        rows = call(*arguments).json
        # Both runs answered the second example with "Cat.", so six answers need only five verdicts.
        assert len(server.requests) == 5
        assert f"/{GEMINI_MODEL}:" in server.requests[0]["path"]
        assert server.requests[0]["body"]["generationConfig"]["temperature"] == 0
        assert [row["mean"] for row in rows] == pytest.approx([70, 130 / 3])
        assert {row["judge"] for row in rows} == {"gemini"}
        assert call(*arguments).json == rows
        assert len(server.requests) == 5
        assert call(*arguments, "--repeats", 3).json == rows
        assert len(server.requests) == 15
        call(*arguments, "--model", "gemini-x", "--temperature", "0.5")
        assert len(server.requests) == 20
        assert "/gemini-x:" in server.requests[-1]["path"]
    files = [path for path in runs_dir.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_missing_verdicts_are_counted_and_retried_on_request(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("good", "--runs-dir", runs_dir, "--format", "json")
    with gemini(monkeypatch, lambda n, prompt: "safety" if n == 1 else None) as server:
        [row] = call(*arguments, "--in-flight", 1).json
        assert (row["scored"], row["missing"], row["mean"]) == (2, 1, pytest.approx(70))
        assert call(*arguments).json == [row]
        assert len(server.requests) == 3
        [row] = call(*arguments, "--again").json
        assert (row["scored"], row["missing"], len(server.requests)) == (3, 0, 4)


def test_mean_is_null_if_every_verdict_is_missing(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gemini(monkeypatch, lambda n, prompt: "garbage"):
        result = call("good", "--runs-dir", runs_dir, "--format", "json")
    [row] = json.loads(result.out)
    assert result.status == 1
    assert "error: Nothing was scored: unreadable reply (3)." in result.err
    assert row == dict(zip(KEYS, ["good", "gemini", None, None, None, 0, 3], strict=True))


def test_refused_request_after_missing_verdicts_exits_with_status_1_and_the_reasons(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gemini(monkeypatch, lambda n, prompt: "garbage" if n < 3 else "429_day"):
        result = call("good", "--runs-dir", runs_dir, "--format", "json", "--in-flight", 1)
    err = " ".join(result.err.split())
    assert result.status == 1
    assert "error: Gemini's quota for 'gemini-2.5-flash' is used up for today" in err
    assert "Nothing was scored: unreadable reply (2)." in err
    assert [(row["scored"], row["missing"]) for row in json.loads(result.out)] == [(0, 3)]


@pytest.mark.parametrize("fault", ["wrong_key", "403", "404", "429_day"])
def test_refused_request_is_reported_in_one_sentence(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    with gemini(monkeypatch, lambda n, prompt: fault):
        result = call("good", "--runs-dir", runs_dir, "--format", "json")
    expected_messages = {"wrong_key": "Gemini does not accept the API key", "403": "Gemini does not allow", "404": "Gemini has no model", "429_day": "used up for today"}  # fmt: skip
    assert expected_messages[fault] in result.sentence
    assert result.out == ""


def test_exhausted_quota_keeps_stored_verdicts(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gemini(monkeypatch, lambda n, prompt: "429_day" if n == 3 else None) as server:
        arguments = ("good", "--runs-dir", runs_dir, "--format", "json", "--in-flight", 1)
        result = call(*arguments)
        assert "used up for today" in result.sentence
        [row] = json.loads(result.out)
        assert (row["scored"], row["missing"]) == (2, 1)
        [row] = call(*arguments).json
        assert (row["scored"], row["missing"], len(server.requests)) == (3, 0, 4)


def test_openai_base_url_is_read_from_the_environment(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    template = tmp_path / "prompt.txt"
    template.write_text("Only {answer}\n")
    arguments = (
        "good",
        "--runs-dir",
        runs_dir,
        "--format",
        "json",
        "--judge",
        "openai",
        "--model",
        "m",
    )
    with JudgeServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_base_url)
        [row] = call(*arguments).json  # a local server does not need a key
        assert (row["judge"], row["mean"], row["scored"]) == ("openai", 70, 3)
        assert {r["path"] for r in server.requests} == {"/v1/chat/completions"}
        assert {r["body"]["model"] for r in server.requests} == {"m"}
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        call(*arguments, "--prompt-file", template)
        new_requests = server.requests[3:]
    assert sorted(r["prompt"] for r in new_requests) == ["Only 2!", "Only Cat.", "Only red"]
    assert {r["headers"]["authorization"] for r in new_requests} == {f"Bearer {KEY}"}


MISTAKES: list[tuple[list[str], str]] = [
    (["none"], "run = 'none': there is no such run"),
    ([".."], "run = '..': there is no such run"),
    (["good", "empty"], "run = 'empty': no answers yet; a run answers its test set"),
    (["good", "--judge", "claude"], "judge = 'claude': must be one of reference, gemini, openai"),
    (["good", "--judge", "gemini"], "judge = 'gemini': no API key; set GEMINI_API_KEY"),
    (["good", "--judge", "openai", "--model", "m"], "no API key and no base URL"),
    (["good", "--judge", "openai", "--base-url", "http://127.0.0.1:9/v1"], "needs a model name"),
    (["good", "--judge", "openai", "--model", "m", "--base-url", "nowhere"], "must be a full URL"),
    (["good", "--temperature", "3"], "temperature = 3: must be between 0 and 2"),
    (["good", "--temperature", "hot"], "'--temperature'"),
    (["good", "--timeout", "0"], "timeout = 0: must be greater than 0"),
    (["good", "--repeats", "0"], "'--repeats'"),
    (["good", "--in-flight", "0"], "'--in-flight'"),
    (["good", "--prompt-file", "none.txt"], "'--prompt-file'"),
    (["good", "--format", "xml"], "'--format'"),
    ([], "Missing argument 'RUN ...'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected_message"),
    MISTAKES,
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_invalid_arguments_are_reported_in_one_sentence(
    runs_dir: Path, arguments: list[str], expected_message: str
) -> None:
    result = call(*arguments, "--runs-dir", runs_dir)
    assert expected_message in result.sentence
    assert result.out == ""


def test_invalid_prompt_template_is_reported(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "prompt.txt"
    template.write_text("How good is {anwser}?")
    with gemini(monkeypatch) as server:
        result = call("good", "--runs-dir", runs_dir, "--prompt-file", template)
        assert "prompt: unknown placeholder {anwser}" in result.sentence
        assert not server.requests
    assert not (runs_dir / VERDICTS_FOLDER).exists()


def test_scoring_works_while_a_dashboard_is_open(runs_dir: Path) -> None:
    with contextlib.closing(Lab(runs_dir, "thread")):
        [row] = call("good", "--runs-dir", runs_dir, "--format", "json").json
    assert (row["run"], row["mean"]) == ("good", 100)


def test_scores_on_a_different_scale_cause_a_warning_and_are_not_rescaled(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JudgeServer(answer=lambda prompt: '{"score": 8, "reason": "close"}') as server:
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        monkeypatch.setenv("GEMINI_API_ENDPOINT", server.gemini_endpoint)
        result = call("good", "--no-base", "--runs-dir", runs_dir, "--format", "json")
    assert result.status == 0
    assert [row["mean"] for row in json.loads(result.out)] == [8.0]
    assert "All 3 scores are at most 10." in " ".join(result.err.split())


OPENAI = ("--judge", "openai", "--model", "m", "--format", "json", "--no-base")


def test_key_from_the_environment_is_not_sent_to_a_custom_base_url(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with JudgeServer() as server:
        arguments = ("good", "--runs-dir", runs_dir, *OPENAI, "--base-url", server.openai_base_url)
        assert call(*arguments).status == 0
        assert {r["headers"]["authorization"] for r in server.requests} == {"Bearer none"}
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_base_url)
        call(*arguments, "--repeats", 2)
        assert server.requests[-1]["headers"]["authorization"] == f"Bearer {KEY}"


def test_gemini_key_is_not_sent_to_a_custom_base_url(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with JudgeServer() as server:
        arguments = ("good", "--runs-dir", runs_dir, "--judge", "gemini", "--no-base")
        result = call(*arguments, "--base-url", server.gemini_endpoint)
        assert "sent only to the address in GEMINI_API_ENDPOINT" in result.sentence
        assert not server.requests


def test_temperature_none_is_omitted(runs_dir: Path) -> None:
    with JudgeServer() as server:
        arguments = ("good", "--runs-dir", runs_dir, *OPENAI, "--base-url", server.openai_base_url)
        assert call(*arguments, "--temperature", "none").status == 0
        assert not [r for r in server.requests if "temperature" in r["body"]]
        assert call(*arguments).status == 0
        assert server.requests[-1]["body"]["temperature"] == 0


def test_local_server_gets_one_request_at_a_time(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    active, max_active, lock = 0, 0, threading.Lock()

    def answer(prompt: str) -> str:
        nonlocal active, max_active
        with lock:
            active += 1
            max_active = max(max_active, active)
        time.sleep(0.05)
        with lock:
            active -= 1
        return '{"score": 70, "reason": "close"}'

    with JudgeServer(answer) as server:
        arguments = ("good", "--runs-dir", runs_dir, *OPENAI, "--base-url", server.openai_base_url)
        call(*arguments)
        assert max_active == 1
        call(*arguments, "--repeats", 4, "--in-flight", 4)
        assert max_active > 1


@pytest.mark.long
def test_slow_server_fails_after_the_timeout(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(runs_dir, "single", ["red"])
    with JudgeServer(delay=30) as server:
        arguments = (
            "single",
            "--runs-dir",
            runs_dir,
            *OPENAI,
            "--base-url",
            server.openai_base_url,
        )
        result = call(*arguments, "--timeout", 0.05)
    assert result.status == 1
    assert "Nothing was scored: no reply within 0.05 s" in result.err


@pytest.mark.parametrize("fault", ["garbage", "safety"])
def test_unscored_pairs_exit_with_status_1_and_the_reasons(runs_dir: Path, fault: str) -> None:
    add_run(runs_dir, "left", ["red"])
    add_run(runs_dir, "right", ["blue"])
    with JudgeServer(fault=lambda n, prompt: fault) as server:
        arguments = ("left", "right", "--pairwise", "--runs-dir", runs_dir, *OPENAI)
        result = call(*arguments, "--base-url", server.openai_base_url, "--in-flight", 2)
        assert result.status == 1
        reasons = {"garbage": "unreadable reply (2)", "safety": "blocked (content_filter) (2)"}
        assert "error: Nothing was scored: " in result.err
        assert reasons[fault] in result.err
        json.loads(result.out)
        again = call(*arguments, "--base-url", server.openai_base_url)
        assert (again.status, "none of the 2 cached verdicts has a score" in again.err) == (1, True)


def test_pairs_without_a_common_example_exit_with_status_1(runs_dir: Path) -> None:
    result = call("good", "--pairwise", "--runs-dir", runs_dir, "--format", "table", "--no-base")
    assert (result.status, result.out) == (1, "")
    assert "no two of these runs answered the same test example" in result.err


@pytest.mark.long
def test_unreachable_service_exits_with_status_1(runs_dir: Path) -> None:
    with JudgeServer() as server:
        url = server.openai_base_url
    arguments = ("good", "--runs-dir", runs_dir, *OPENAI, "--base-url", url, "--in-flight", 3)
    result = call(*arguments)
    assert result.status == 1
    assert "no connection to 127.0.0.1" in result.err
    assert json.loads(result.out)[0]["mean"] is None
