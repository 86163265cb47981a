"""A scoring from end to end: the answers of the pretrained base, its row, and what happens when something breaks."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig
from core.data.template import Example, format_prompt
from core.data.tokenizer import END_OF_TEXT, decode, encode
from core.errors import UserError
from core.inference import BASE_PREFIX, Answerer
from core.judging import scores
from core.judging.base_answers import Base
from core.judging.job import Job, Order, bases_of
from core.judging.judges import JudgeSettings
from core.judging.ledger import Ledger
from core.judging.limits import Limits
from core.nn.generation import Sampling, generate
from core.nn.gpt2 import GPT2
from core.run.directory import RunDirectory
from core.run.event_files import PRETRAINED_FOLDER, VERDICTS_FOLDER
from core.run.events import EventWriter
from core.run.lock import acquire
from core.tracking import queries, sync, verdict_queries
from tests.judging.server import JudgeServer, openai_reply

EXAMPLES = [("Name a colour.", "", "Red."), ("Name it.", "a cat", "Cat."), ("Add.", "1 1", "2")]


class Counting(Answerer):
    """Counts how often the model is asked for."""

    loads = 0

    def model(self, who: str) -> GPT2:
        self.loads += 1
        return super().model(who)


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Counting:
    """Of the embedded base; the model is loaded once for all tests."""
    return Counting(tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def weights(answerer: Counting) -> str:
    return answerer.fingerprint(f"{BASE_PREFIX}gpt2-nano")


def add_run(runs_dir: Path, name: str, dataset_indices: list[int], **settings: Any) -> None:
    """A finished run that answers these of the examples."""
    config = RunConfig(name=name, max_new_tokens=4).changed(**settings)
    run = RunDirectory.create(runs_dir, config)
    with run.lock(), contextlib.closing(EventWriter(run.events_path)) as writer:
        for dataset_index in dataset_indices:
            fields = dict(
                zip(("instruction", "input", "reference"), EXAMPLES[dataset_index], strict=True)
            )
            writer.append(
                "generation", item=dataset_index, **fields, answer=f"{name} {dataset_index}"
            )
        writer.append("status", status="finished")


def answers_of(runs_dir: Path, *runs: str) -> Any:
    with contextlib.closing(sync.read_index(runs_dir)) as index:
        return queries.answers(index.cursor(), runs)


def job(
    runs_dir: Path, answerer: Answerer, hashes: dict[str, str], *runs: str, **order: Any
) -> Job:
    runs = runs or ("one", "two")
    return Job(
        runs_dir, Order(runs, **order), answers_of(runs_dir, *runs), hashes, lambda: answerer
    )


def board(runs_dir: Path, job: Job) -> list[dict[str, Any]]:
    with contextlib.closing(sync.read_index(runs_dir)) as index:
        verdicts = verdict_queries.verdicts(index.cursor(), job.names)
        answers = queries.answers(index.cursor(), job.names)
    return scores.leaderboard(verdicts[verdicts["id"] == job.id], answers, "reference")


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    add_run(tmp_path, "one", [0, 1])
    add_run(tmp_path, "two", [1, 2])
    return tmp_path


def test_bases_are_grouped_by_model_weights_and_length(tmp_path: Path) -> None:
    add_run(tmp_path, "one", [0, 1])
    add_run(tmp_path, "two", [1, 2], lora_rank=4)
    add_run(tmp_path, "longer", [0], max_new_tokens=9)
    add_run(tmp_path, "larger", [0], base_model="gpt2")
    add_run(tmp_path, "other", [2])
    add_run(tmp_path, "unknown", [2])
    names = ("one", "two", "longer", "larger", "other", "unknown")
    hashes = dict.fromkeys(names[:4], "a") | {"other": "b"}
    bases = bases_of(tmp_path, answers_of(tmp_path, *names), hashes)
    assert {
        base: {dataset_index for dataset_index, _ in examples} for base, examples in bases.items()
    } == {
        Base("gpt2-nano", "a", 4): {0, 1, 2},
        Base("gpt2-nano", "a", 9): {0},
        Base("gpt2", "a", 4): {0},
        Base("gpt2-nano", "b", 4): {2},
    }
    nano = bases[Base("gpt2-nano", "a", 4)]
    assert all(example == Example(*EXAMPLES[dataset_index]) for dataset_index, example in nano)
    assert len(nano) == 3  # the example that two runs share is answered once
    assert len({base.name for base in bases}) == 4
    assert all(base.name.startswith(f"{PRETRAINED_FOLDER}/{base.model}-") for base in bases)


def test_the_base_answers_once_and_is_the_first_row(
    runs_dir: Path, answerer: Counting, weights: str
) -> None:
    hashes = dict.fromkeys(["one", "two"], weights)
    loads_before = answerer.loads
    first = job(runs_dir, answerer, hashes)
    first.work()
    assert (first.phase, first.progress.done) == ("done", 3 + 4)
    loaded = answerer.loads
    assert loaded > loads_before
    base, *run_rows = board(runs_dir, first)
    assert (base["run"], base["scored"], base["missing"]) == (first.names[0], 3, 0)
    assert scores.shown_names(first.names) == {base["run"]: "pretrained"}
    assert {row["run"] for row in run_rows} == {"one", "two"}

    path = runs_dir / f"{base['run']}.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(e["item"] for e in events) == [0, 1, 2]
    model = answerer.model(f"{BASE_PREFIX}gpt2-nano")
    for event in events:  # as the model itself answers
        prompt = encode(format_prompt(event["instruction"], event["input"]))
        [ids] = generate(model, [prompt], Sampling(4), END_OF_TEXT)
        assert event["answer"] == decode(ids)

    loaded, written = answerer.loads, path.read_bytes()
    second_job = job(runs_dir, answerer, hashes)
    second_job._answerer = lambda: pytest.fail("no model is needed where all answers are there")
    second_job.work()
    assert (second_job.progress.stored, second_job.progress.requests_sent) == (7, 0)
    assert (answerer.loads, path.read_bytes()) == (loaded, written)
    assert board(runs_dir, second_job) == [base, *run_rows]


def test_missing_base_answers_are_generated(
    runs_dir: Path, answerer: Counting, weights: str
) -> None:
    first_job = job(runs_dir, answerer, {"one": weights}, "one")
    first_job.work()
    path = runs_dir / f"{first_job.names[0]}.jsonl"
    cached_bytes = path.read_bytes()
    assert cached_bytes.count(b"\n") == 2
    path.write_bytes(cached_bytes + b'{"seq":3,"event":"gener')  # a process that was killed
    second_job = job(runs_dir, answerer, dict.fromkeys(["one", "two"], weights))
    second_job.work()
    assert second_job.names[0] == first_job.names[0]
    assert path.read_bytes().startswith(cached_bytes + b'{"seq":3,')
    assert path.read_bytes().count(b"\n") == 3
    assert board(runs_dir, second_job)[0]["scored"] == 3


def test_disabled_base_has_no_row(runs_dir: Path, answerer: Counting, weights: str) -> None:  # fmt: skip
    finished_job = job(runs_dir, answerer, dict.fromkeys(["one", "two"], weights), with_base=False)
    finished_job.work()
    assert finished_job.names == ["one", "two"]
    assert len(board(runs_dir, finished_job)) == 2
    assert not (runs_dir / PRETRAINED_FOLDER).exists()


def test_base_with_changed_weights_is_reported_and_not_cached(
    runs_dir: Path, answerer: Counting
) -> None:
    broken = job(runs_dir, answerer, dict.fromkeys(["one", "two"], "0" * 64))
    expected_message = "base_model = 'gpt2-nano': its weights are no longer those that were tuned; score without the base"
    with pytest.raises(UserError, match=expected_message):
        broken.work()
    assert (runs_dir / f"{broken.names[0]}.jsonl").read_bytes() == b""
    started = job(runs_dir, answerer, dict.fromkeys(["one", "two"], "0" * 64))
    started.start()
    started.join(30)
    assert (started.error, started.phase, started.going) == (expected_message, "failed", False)


def test_base_locked_by_another_process_is_reported(
    runs_dir: Path, answerer: Counting, weights: str
) -> None:
    waiting = job(runs_dir, answerer, dict.fromkeys(["one", "two"], weights))
    lock = runs_dir / f"{waiting.names[0]}.lock"
    lock.parent.mkdir()
    handle = acquire(lock)
    assert handle is not None
    with open(handle, "rb"), pytest.raises(UserError, match="is being answered by another process"):
        waiting.work()
    waiting.work()
    assert waiting.phase == "done"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_internal_error_in_a_thread_is_reported(runs_dir: Path, weights: str) -> None:
    class Broken(Answerer):
        def model(self, who: str) -> GPT2:
            raise ZeroDivisionError

    started = job(runs_dir, Broken(runs_dir), dict.fromkeys(["one", "two"], weights))
    started.start()
    started.join(30)
    assert not started.going
    assert (started.error, started.phase) == ("a defect of ours: ZeroDivisionError", "failed")
    with Ledger(runs_dir, started.judge.spec):  # and lets go of the ledger
        pass


def test_second_scoring_with_the_same_judge_is_refused(runs_dir: Path, answerer: Counting) -> None:
    second = job(runs_dir, answerer, {})
    with Ledger(runs_dir, second.judge.spec):
        second.start()
        second.join(30)
    assert second.phase == "failed"
    assert "another scoring with reference-" in (second.error or "")


def test_stopped_job_sends_no_more_requests(runs_dir: Path, answerer: Counting) -> None:
    stopped = job(runs_dir, answerer, {})
    stopped.stop()
    stopped.work()
    assert (stopped.phase, stopped.progress.requests_sent, stopped.error) == ("stopped", 0, None)


def test_invalid_judge_is_reported_before_anything_is_written(
    runs_dir: Path, answerer: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    with pytest.raises(UserError, match="no API key"):
        job(runs_dir, answerer, {}, judge=JudgeSettings("gemini"))
    assert not (runs_dir / VERDICTS_FOLDER).exists()


def local_job(runs_dir: Path, answerer: Answerer, server: JudgeServer, **settings: Any) -> Job:
    """Return a job that scores each answer once on a loopback server, without the base model."""
    judge = JudgeSettings("openai", "m", base_url=server.openai_base_url, **settings)
    limits = Limits(in_flight=4, attempts=1)
    return job(runs_dir, answerer, {}, judge=judge, with_base=False, limits=limits)


def test_timeout_setting_is_used(runs_dir: Path, answerer: Counting) -> None:
    with JudgeServer(delay=30) as server:
        slow = local_job(runs_dir, answerer, server, timeout=0.2)
        slow.work()
    assert len(slow.progress.given_up) == 4
    assert (slow.progress.nothing_scored or "").startswith("no reply within 0.2 s")


def test_error_in_a_200_response_is_not_stored(runs_dir: Path, answerer: Counting) -> None:
    with JudgeServer(respond=lambda body: (200, {"error": "model is loading"})) as server:
        broken = local_job(runs_dir, answerer, server)
        broken.work()
        assert (broken.progress.done, broken.progress.scored) == (0, 0)
        assert "model is loading (4)" in (broken.progress.nothing_scored or "")
        server.respond = lambda body: (200, openai_reply('{"score": 85}', ""))
        repaired = local_job(runs_dir, answerer, server)
        repaired.work()
    assert (repaired.progress.scored, repaired.progress.nothing_scored) == (4, None)
