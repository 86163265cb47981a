"""Fault injection: scoring with the real client, random faults and repeated kills of the scoring process."""

import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig
from core.judging.judge import Item
from core.run.directory import RunDirectory
from core.run.event_files import VERDICTS_FOLDER
from core.run.events import EventWriter
from tests.judging import server as server_module
from tests.judging.server import JudgeServer

ROOT = Path(__file__).parents[2]
KEY = "SECRET-5c0e1d7a-KEY-that-must-not-be-stored"
MISSING = {"safety": 5, "empty": 5, "garbage": 5, "out_of_range": 5}
"""Faults that cause a missing verdict, and their rates as a percentage of all requests."""
BUSY = {"500": 2, "503": 2, "drop": 2, "html": 2, "429_minute": 2}
"""Faults that are retried, and their rates in percent. The rates are lower because each retry adds a delay."""


def score_of(number: int) -> int:
    """Return the model's score for the answer with this number."""
    return number * 37 % 101


def number_in(prompt: str) -> int:
    match = re.search(r"answer number (\d+) of", prompt)
    assert match
    return int(match[1])


def model(prompt: str) -> str:
    """Return a reply in one of several formats. Some contain the key, as if a proxy had leaked it."""
    number = number_in(prompt)
    as_json = json.dumps({"score": score_of(number), "reason": f"asked with {KEY}"})
    plain_text, prose_text = (
        f"Score: {score_of(number)}/100",
        f"My verdict:\n```json\n{as_json}\n```\nDone.",
    )
    return [as_json, prose_text, as_json, plain_text][number % 4]


class Faults:
    """Draws a random fault or None for each request, and records it with the answer's number."""

    def __init__(self) -> None:
        self.random = random.Random(7)
        self.drawn: list[tuple[int, str | None]] = []
        self.rate = 1.0

    def __call__(self, number: int, prompt: str) -> str | None:
        kinds = MISSING | BUSY
        fault = None
        if self.random.uniform(0, 100) < sum(kinds.values()) * self.rate:
            [fault] = self.random.choices(list(kinds), list(kinds.values()))
        self.drawn.append((number_in(prompt), fault))
        return fault


class ScoreCommand:
    """The `score` command in a subprocess, and the ledger that it writes."""

    def __init__(self, home: Path, endpoint: str) -> None:
        self.home, self.runs_dir, self.printed = home, home / "runs", ""
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "GEMINI_API_KEY": KEY,
            "GEMINI_API_ENDPOINT": endpoint,
        }

    def start(self, *options: str) -> subprocess.Popen[str]:
        arguments = [
            "score",
            "mine",
            "--judge=gemini",
            "--no-base",
            "--in-flight=16",
            "--format=json",
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "core", *arguments, *options],
            cwd=self.home,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str], status: int = 0) -> str:
        """Wait for the process to exit, check its exit status and return its standard output."""
        out, err = process.communicate(timeout=60)
        self.printed += out + err
        assert process.returncode == status, err
        return out

    def row(self, *options: str) -> dict[str, Any]:
        """Run the command to completion and return its leaderboard row."""
        [row] = json.loads(self.end(self.start(*options)))
        assert isinstance(row, dict)
        return row

    def verdicts(self) -> list[dict[str, Any]]:
        """Return all verdict events in the ledger. Only the last line may be torn."""
        data = b"".join(
            path.read_bytes() for path in self.runs_dir.glob(f"{VERDICTS_FOLDER}/*.jsonl")
        )
        events = [json.loads(line) for line in data.split(b"\n")[:-1]]
        return [event for event in events if event["event"] == "verdict"]


def make_run(runs_dir: Path, count: int) -> dict[str, int]:
    """Write a finished run with numbered answers. Return the numbers by subject hash."""
    run = RunDirectory.create(runs_dir, RunConfig(name="mine"))
    subjects = {}
    writer = EventWriter(run.events_path)
    for n in range(count):
        item = Item(f"Do {n}.", "", f"Done {n}.", f"This is answer number {n} of many.")
        subjects[item.subject] = n
        writer.append("generation", item=n, instruction=item.instruction, input=item.input,
                      reference=item.reference, answer=item.answer, tokens=9, cut=False, prompt_cut=False)  # fmt: skip
    writer.append("status", status="finished")
    writer.close()
    return subjects


def start_and_kill(scoring: ScoreCommand, rng: random.Random, count: int) -> None:
    """Start the command, and kill it after it has stored a random number of new verdicts."""
    target_count = len(scoring.verdicts()) + rng.randint(count // 50, count // 9)
    process = scoring.start()
    deadline = time.monotonic() + 60
    while len(scoring.verdicts()) < target_count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "not enough verdicts were stored within 60 s"
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.1))
    process.kill()
    scoring.end(process, -signal.SIGKILL)


def settled_request_count(server: JudgeServer) -> int:
    """Wait for the last requests from a killed process, and return the number of requests received."""
    count = -1
    while count != len(server.requests):
        count = len(server.requests)
        time.sleep(0.15)
    return count


@pytest.mark.parametrize(
    ("count", "kills"), [(100, 2), pytest.param(1000, 5, marks=pytest.mark.long)]
)
def test_verdicts_survive_faults_and_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, kills: int
) -> None:
    quota = server_module.google_quota
    monkeypatch.setattr(server_module, "google_quota", lambda period, _: quota(period, "0.1s"))
    faults, rng = Faults(), random.Random(11)
    subjects = make_run(tmp_path / "runs", count)
    with JudgeServer(answer=model, fault=faults) as server:
        scoring = ScoreCommand(tmp_path, server.gemini_endpoint)
        starts, stored = [0], [set[int]()]
        for _ in range(kills):
            start_and_kill(scoring, rng, count)
            starts.append(settled_request_count(server))
            stored.append({subjects[v["subject"]] for v in scoring.verdicts()})
        row = scoring.row()
        if row["scored"] + row["missing"] > len(scoring.verdicts()):  # some requests failed
            starts.append(len(server.requests))
            stored.append({subjects[v["subject"]] for v in scoring.verdicts()})
            row = scoring.row()
        first = scoring.verdicts()
        request_count = len(faults.drawn)

        # Every verdict is stored exactly once, and no failure is stored as a verdict.
        assert Counter(subjects[v["subject"]] for v in first) == Counter(range(count))
        assert len({v["key"] for v in first}) == count
        score_by_number = {subjects[v["subject"]]: v.get("score") for v in first}
        valid_scores = {n: s for n, s in score_by_number.items() if s is not None}
        assert valid_scores == {n: score_of(n) for n in valid_scores}
        assert all(v.get("missing") for v in first if v.get("score") is None)
        assert (row["scored"], row["missing"]) == (len(valid_scores), count - len(valid_scores))
        assert abs(row["mean"] - statistics.mean(map(score_of, valid_scores))) < 1e-9
        assert 0.14 < row["missing"] / count < 0.32

        # No process requested a stored verdict, or the same verdict twice.
        for i, (start, stored_numbers) in enumerate(zip(starts, stored, strict=True)):
            process_requests = faults.drawn[
                start : starts[i + 1] if i + 1 < len(starts) else request_count
            ]
            assert process_requests
            assert not stored_numbers & {n for n, _ in process_requests}
            reply_counts = Counter(n for n, fault in process_requests if fault not in BUSY)
            assert set(reply_counts.values()) == {1}
        fault_counts = Counter(fault for _, fault in faults.drawn)
        assert set(fault_counts) == {None, *MISSING, *BUSY}
        assert 0.2 < 1 - fault_counts[None] / request_count < 0.4

        # Scoring again does not send any requests. With --again, only the missing verdicts are requested.
        assert scoring.row() == row
        assert len(server.requests) == request_count
        faults.rate = 0.0
        row = scoring.row("--again")
        assert {n for n, _ in faults.drawn[request_count:]} == set(score_by_number) - set(
            valid_scores
        )
        assert len(faults.drawn) - request_count == count - len(valid_scores)
        assert (row["scored"], row["missing"]) == (count, 0)
        assert abs(row["mean"] - statistics.mean(map(score_of, range(count)))) < 1e-9

        # The key was sent, but it was not printed or stored.
        assert {request["headers"]["x-goog-api-key"] for request in server.requests} == {KEY}
    assert KEY not in scoring.printed
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert "asked with [key]" in {v.get("reason") for v in first}
