"""The journal's first run on Alpaca-like rows, from the download to the answered test set."""

import contextlib
import io
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.run.directory import RunDirectory
from core.tracking import queries, sync
from tests.cli.test_commands import call
from tests.hub_server import Hub

TOPICS = ["rivers", "budgets", "planets", "recipes", "verbs", "cities", "poems", "engines"]
TASKS = ["Describe", "Compare", "List three facts about", "Write a headline about", "Explain"]
LONG = ("base_model=gpt2-nano", "eval_every=200", "max_new_tokens=8")
"""Changes to run_1 for 14,200 rows: none that affects training but the base model."""
QUICK = (*LONG, "batch_size=16", "mask_prompt=true")
"""Changes to run_1 that make 400 rows take seconds."""
EMPTY_EVERY = 500
"""One record in this many (0.2 %) has an empty output; the real Alpaca has fewer."""


def alpaca_like(count: int) -> tuple[bytes, int]:
    """Return a Parquet file with Alpaca's columns, and its number of empty outputs."""
    draw = random.Random(count)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        topic = draw.choice(TOPICS)
        rows.append(
            {
                "instruction": f"{draw.choice(TASKS)} {topic}, number {i}.",
                "input": " ".join(draw.choices(TOPICS, k=4)) if draw.random() < 0.4 else "",
                "output": " ".join(
                    draw.choices([topic, "are", "and", "the"], k=draw.randint(1, 15))
                ),
                "text": "Below is an instruction that describes a task.",
            }
        )
        if i % EMPTY_EVERY == 285:
            rows[-1]["output"] = draw.choice(["", " \n"])
    body = io.BytesIO()
    pd.DataFrame(rows).to_parquet(body)
    return body.getvalue(), sum(not row["output"].strip() for row in rows)


@pytest.mark.parametrize(
    ("count", "changes"), [(400, QUICK), pytest.param(14_200, LONG, marks=pytest.mark.long)]
)
@pytest.mark.timeout(7200)
def test_run_1_trains_on_alpaca_like_rows_and_answers_its_test_set(
    hub: Hub, tmp_path: Path, count: int, changes: tuple[str, ...]
) -> None:
    body, empty = alpaca_like(count)
    hub.datasets["tatsu-lab/alpaca"] = {"data/train-00000-of-00001.parquet": body}
    arguments = ["--preset", "run_1"]
    for change in changes:
        arguments += ["--set", change]
    result = call("train", *arguments, "--runs-dir", tmp_path / "runs", "--format", "json")
    [row] = result.json
    assert row["status"] == "finished"

    usable = min(14_100, count - empty)
    run = RunDirectory.find(tmp_path / "runs", row["name"])
    events = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    [plan] = [event for event in events if event["event"] == "plan"]
    assert plan["train_examples"] == int(usable * 0.85)
    [warning] = [event for event in events if event["event"] == "warning"]
    assert warning["about"] == "data"
    assert "records are skipped: empty output (record 286" in warning["message"]

    with contextlib.closing(sync.read_index(tmp_path / "runs")) as index:
        answers = queries.answers(index.cursor(), [run.name])
    first = int(usable * 0.85)
    assert sorted(answers["item"]) == list(range(first, first + int(usable * 0.10)))
    assert answers["reference"].str.strip().all()

    plan_json = call("check", *arguments, "--format", "json").json
    assert plan_json["train_examples"] == plan["train_examples"]
    assert plan_json["steps"] == plan["steps"]
    assert plan_json["problems"] == []
    assert set(plan_json["unused_keys"]) == {"text"}
