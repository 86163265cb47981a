"""Scoring jobs end to end: answers from the pretrained base, its row on the leaderboard, and errors."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig
from core.data.template import Example, Turn, format_prompt
from core.data.tokenizer import END_OF_TEXT, decode, encode
from core.errors import UserError
from core.file_lock import acquire
from core.inference import BASE_PREFIX, Answerer
from core.judging.answers import Base, JudgedAnswers, display_names
from core.judging.job import Job
from core.judging.ledger import Ledger
from core.judging.order import JudgeSettings, Limits, Order
from core.lab import Lab
from core.nn import pretrained
from core.nn.generation import Sampling, generate
from core.nn.gpt2 import GPT2
from core.operations import open_scoring
from core.run.directory import RunDirectory
from core.run.event_files import PRETRAINED_FOLDER, VERDICTS_FOLDER
from core.run.events import EventWriter
from core.training.evaluation import Answer
from tests.judging.server import JudgeServer, openai_reply

EXAMPLES = [("Name a color.", "", "Red."), ("Name it.", "a cat", "Cat."), ("Add.", "1 1", "2")]


class CountingAnswerer(Answerer):
    """An answerer that counts calls to `model`."""

    loads = 0

    def model(self, who: str) -> GPT2:
        self.loads += 1
        return super().model(who)


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> CountingAnswerer:
    """An answerer for the embedded base model, which is loaded once for all tests."""
    return CountingAnswerer(tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def weights(answerer: CountingAnswerer) -> str:
    return answerer.fingerprint(f"{BASE_PREFIX}gpt2-nano")


def add_run(
    runs_dir: Path,
    name: str,
    dataset_indices: list[int],
    weights: str | None = None,
    **settings: Any,
) -> None:
    """Write a finished run with answers to the given examples. `weights` is the hash of its base model's weights."""
    config = RunConfig(name=name, max_new_tokens=4).changed(**settings)
    run = RunDirectory.create(runs_dir, config)
    with run.lock(), contextlib.closing(EventWriter(run.events_path)) as writer:
        if weights:
            writer.append("plan", steps=1, base_hash=weights)
        for dataset_index in dataset_indices:
            fields = dict(
                zip(("instruction", "input", "reference"), EXAMPLES[dataset_index], strict=True)
            )
            writer.append(
                "generation", item=dataset_index, **fields, answer=f"{name} {dataset_index}"
            )
        writer.append("status", status="finished")


def answers_of(runs_dir: Path, *runs: str) -> JudgedAnswers:
    with open_scoring(runs_dir, runs) as scoring:
        return scoring.answers(runs)


def job(runs_dir: Path, answerer: Answerer, *runs: str, **order: Any) -> Job:
    runs = runs or ("one", "two")
    return Job(runs_dir, Order(**order), answers_of(runs_dir, *runs), lambda: answerer)


def board(runs_dir: Path, job: Job) -> list[dict[str, Any]]:
    with open_scoring(runs_dir, job.judged.runs) as scoring:
        judged = scoring.answers(job.judged.runs)
        if not job.order.with_base:
            judged = judged.without_bases()
        verdicts = scoring.verdicts(judged)
        return scoring.leaderboard(judged, verdicts[verdicts["id"] == job.id], "reference", True)


def base_name(runs_dir: Path) -> str:
    """Return the name of the one base model that the runs share."""
    [base] = answers_of(runs_dir, "one", "two").bases
    return base.name


@pytest.fixture
def runs_dir(tmp_path: Path, weights: str) -> Path:
    add_run(tmp_path, "one", [0, 1], weights)
    add_run(tmp_path, "two", [1, 2], weights)
    return tmp_path


def test_bases_are_grouped_by_model_weights_and_length(tmp_path: Path) -> None:
    add_run(tmp_path, "one", [0, 1], "a")
    add_run(tmp_path, "two", [1, 2], "a", lora_rank=4)
    add_run(tmp_path, "longer", [0], "a", max_new_tokens=9)
    add_run(tmp_path, "larger", [0], "a", base_model="gpt2")
    add_run(tmp_path, "other", [2], "b")
    add_run(tmp_path, "unknown", [2])
    names = ("one", "two", "longer", "larger", "other", "unknown")
    judged = answers_of(tmp_path, *names)
    bases = judged.examples_by_base()
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
    assert len(nano) == 3  # the example shared by two runs is answered once
    assert set(judged.bases) == set(bases)
    assert judged.names == [*(base.name for base in judged.bases), *names]
    assert len({base.name for base in bases}) == 4
    assert all(base.name.startswith(f"{PRETRAINED_FOLDER}/{base.model}-") for base in bases)


def test_base_answers_are_cached_and_shown_in_the_first_row(
    runs_dir: Path, answerer: CountingAnswerer
) -> None:
    loads_before = answerer.loads
    first = job(runs_dir, answerer)
    first.work()
    assert (first.phase, first.progress.done) == ("done", 3 + 4)
    loaded = answerer.loads
    assert loaded > loads_before
    base, *run_rows = board(runs_dir, first)
    assert (base["run"], base["scored"], base["missing"]) == (base_name(runs_dir), 3, 0)
    assert display_names([base["run"], "one", "two"]) == {base["run"]: "pretrained"}
    assert {row["run"] for row in run_rows} == {"one", "two"}

    path = runs_dir / f"{base['run']}.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(e["item"] for e in events) == [0, 1, 2]
    model = answerer.model(f"{BASE_PREFIX}gpt2-nano")
    for event in events:  # the same as calling the model directly
        prompt = encode(format_prompt(event["instruction"], event["input"]))
        [ids] = generate(model, [prompt], Sampling(4), END_OF_TEXT)
        assert event["answer"] == decode(ids)

    loaded, written = answerer.loads, path.read_bytes()
    second_job = job(runs_dir, answerer)
    second_job.work()
    assert (second_job.progress.stored, second_job.progress.requests_sent) == (7, 0)
    assert (answerer.loads, path.read_bytes()) == (loaded, written)
    assert board(runs_dir, second_job) == [base, *run_rows]


def test_scoring_uses_models_that_the_lab_has_loaded(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> GPT2:
        raise UserError(f"{name} is loaded twice")

    with Lab(runs_dir) as lab:
        lab.base_hash(f"{BASE_PREFIX}gpt2-nano")
        monkeypatch.setattr(pretrained, "load", fail)
        lab.start_scoring(Order(), lab.scoring.answers(["one", "two"]))
        assert lab.scoring.job
        lab.scoring.job.join(60)
        assert (lab.scoring.job.error, lab.scoring.job.phase) == (None, "done")


def test_missing_base_answers_are_generated(runs_dir: Path, answerer: CountingAnswerer) -> None:
    job(runs_dir, answerer, "one").work()
    path = runs_dir / f"{base_name(runs_dir)}.jsonl"
    cached_bytes = path.read_bytes()
    assert cached_bytes.count(b"\n") == 2
    path.write_bytes(cached_bytes + b'{"seq":3,"event":"gener')  # a line torn by a kill
    second_job = job(runs_dir, answerer)
    second_job.work()
    assert path.read_bytes().startswith(cached_bytes + b'{"seq":3,')
    assert path.read_bytes().count(b"\n") == 3
    assert board(runs_dir, second_job)[0]["scored"] == 3


def test_base_answers_to_examples_from_other_runs_are_excluded(
    runs_dir: Path, answerer: CountingAnswerer
) -> None:
    job(runs_dir, answerer).work()
    judged = answers_of(runs_dir, "one")
    assert len(judged.answers) == 2 + 2
    assert len(judged.run_answers) == len(judged.without_bases().answers) == 2
    base, _ = board(runs_dir, job(runs_dir, answerer, "one"))
    assert (base["scored"], base["missing"]) == (2, 0)


def test_disabled_base_has_no_row(runs_dir: Path, answerer: CountingAnswerer) -> None:
    finished_job = job(runs_dir, answerer, with_base=False)
    finished_job.work()
    assert {row["run"] for row in board(runs_dir, finished_job)} == {"one", "two"}
    assert not (runs_dir / PRETRAINED_FOLDER).exists()


def test_base_with_changed_weights_is_reported_and_not_cached(
    tmp_path: Path, answerer: CountingAnswerer
) -> None:
    add_run(tmp_path, "one", [0, 1], "0" * 64)
    add_run(tmp_path, "two", [1, 2], "0" * 64)
    broken = job(tmp_path, answerer)
    expected_message = "base_model = 'gpt2-nano': the weights have changed since training; score without the base model"
    with pytest.raises(UserError, match=expected_message):
        broken.work()
    assert (tmp_path / f"{base_name(tmp_path)}.jsonl").read_bytes() == b""
    started = job(tmp_path, answerer)
    started.start()
    started.join(30)
    assert (started.error, started.phase, started.is_running) == (expected_message, "failed", False)


def test_base_locked_by_another_process_is_reported(
    runs_dir: Path, answerer: CountingAnswerer
) -> None:
    waiting = job(runs_dir, answerer)
    lock = runs_dir / f"{base_name(runs_dir)}.lock"
    lock.parent.mkdir()
    handle = acquire(lock)
    assert handle is not None
    with open(handle, "rb"), pytest.raises(UserError, match="Another process is generating"):
        waiting.work()
    waiting.work()
    assert waiting.phase == "done"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_internal_error_in_a_thread_is_reported(runs_dir: Path) -> None:
    class Broken(Answerer):
        def model(self, who: str) -> GPT2:
            raise ZeroDivisionError

    started = job(runs_dir, Broken(runs_dir))
    started.start()
    started.join(30)
    assert not started.is_running
    assert (started.error, started.phase) == ("Internal error: ZeroDivisionError", "failed")
    with Ledger(runs_dir, started.judge.spec):  # the ledger is unlocked
        pass


def test_second_scoring_job_with_the_same_judge_is_refused(
    runs_dir: Path, answerer: CountingAnswerer
) -> None:
    second = job(runs_dir, answerer)
    with Ledger(runs_dir, second.judge.spec):
        second.start()
        second.join(30)
    assert second.phase == "failed"
    assert "Another scoring job is using the judge reference-" in (second.error or "")


def test_stopped_job_sends_no_more_requests(runs_dir: Path, answerer: CountingAnswerer) -> None:
    stopped = job(runs_dir, answerer)
    stopped.stop()
    stopped.work()
    assert (stopped.phase, stopped.progress.requests_sent, stopped.error) == ("stopped", 0, None)


def test_invalid_judge_is_reported_before_anything_is_written(
    runs_dir: Path, answerer: CountingAnswerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    with pytest.raises(UserError, match="no API key"):
        job(runs_dir, answerer, judge=JudgeSettings("gemini"))
    assert not (runs_dir / VERDICTS_FOLDER).exists()


def local_job(runs_dir: Path, answerer: Answerer, server: JudgeServer, **settings: Any) -> Job:
    """Return a job that scores each answer once on a loopback server, without the base model."""
    judge = JudgeSettings("openai", "m", base_url=server.openai_base_url, **settings)
    limits = Limits(in_flight=4, attempts=1)
    return job(runs_dir, answerer, judge=judge, with_base=False, limits=limits)


def test_timeout_setting_is_used(runs_dir: Path, answerer: CountingAnswerer) -> None:
    with JudgeServer(delay=30) as server:
        slow = local_job(runs_dir, answerer, server, timeout=0.2)
        slow.work()
    assert len(slow.progress.given_up) == 4
    assert (slow.progress.nothing_scored or "").startswith("no reply within 0.2 s")


def test_error_in_a_200_response_is_not_stored(runs_dir: Path, answerer: CountingAnswerer) -> None:
    with JudgeServer(respond=lambda body: (200, {"error": "model is loading"})) as server:
        broken = local_job(runs_dir, answerer, server)
        broken.work()
        assert (broken.progress.done, broken.progress.scored) == (0, 0)
        assert "model is loading (4)" in (broken.progress.nothing_scored or "")
        server.respond = lambda body: (200, openai_reply('{"score": 85}', ""))
        repaired = local_job(runs_dir, answerer, server)
        repaired.work()
    assert (repaired.progress.scored, repaired.progress.nothing_scored) == (4, None)


def test_base_model_answers_the_same_conversation_prompt_as_the_run(
    tmp_path: Path, weights: str, answerer: CountingAnswerer
) -> None:
    turns = (Turn(format_prompt("Name a color."), "Red."), Turn("\n\nAnother?\n", "Blue."))
    example = Example("Another?", "User: Name a color.\n\nAssistant: Red.", "Blue.", turns)
    answer = Answer(0, "Green.", 2, False, False)
    for name in ("one", "two"):
        add_run(tmp_path, name, [], weights)
        run = RunDirectory(tmp_path / name)
        run.append("generation", **answer.event(example, 7))
    job(tmp_path, answerer).work()
    [base] = answers_of(tmp_path, "one", "two").bases
    prompt = [
        *encode(turns[0].prompt), *encode("Red."), END_OF_TEXT, *encode(turns[1].prompt),
    ]  # fmt: skip
    model = answerer.model(f"{BASE_PREFIX}gpt2-nano")
    [ids] = generate(model, [prompt], Sampling(4), END_OF_TEXT)
    judged = answers_of(tmp_path, "one", "two")
    [text] = judged.answers.loc[judged.answers["run"] == base.name, "answer"]
    assert text == decode(ids)
    loads = answerer.loads
    job(tmp_path, answerer).work()
    assert answerer.loads == loads  # the stored answer is found again
