"""The preset run_1 on Alpaca-like data, from downloading the data to answering the test examples."""

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
"""Changes to run_1 for 14,200 rows. Of these, only the base model affects training."""
QUICK = (*LONG, "batch_size=16", "mask_prompt=true")
"""Changes to run_1 for 320 rows, so that training takes seconds."""
EMPTY_EVERY, FIRST_EMPTY = 500, 285
"""One in this many records has an empty output (0.2%). Alpaca has fewer empty outputs."""


def alpaca_like(count: int) -> bytes:
    """Return the bytes of a Parquet file with Alpaca's columns."""
    rng = random.Random(count)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        topic = rng.choice(TOPICS)
        rows.append(
            {
                "instruction": f"{rng.choice(TASKS)} {topic}, number {i}.",
                "input": " ".join(rng.choices(TOPICS, k=4)) if rng.random() < 0.4 else "",
                "output": " ".join(rng.choices([topic, "are", "and", "the"], k=rng.randint(1, 15))),
                "text": "Below is an instruction that describes a task.",
            }
        )
        if i % EMPTY_EVERY == FIRST_EMPTY:
            rows[-1]["output"] = rng.choice(["", " \n"])
    body = io.BytesIO()
    pd.DataFrame(rows).to_parquet(body)
    return body.getvalue()


@pytest.mark.parametrize(
    ("count", "changes"), [(320, QUICK), pytest.param(14_200, LONG, marks=pytest.mark.long)]
)
@pytest.mark.timeout(7200)
def test_run_1_trains_on_alpaca_like_data_and_answers_the_test_set(
    hub: Hub, tmp_path: Path, count: int, changes: tuple[str, ...]
) -> None:
    body = alpaca_like(count)
    hub.datasets["tatsu-lab/alpaca"] = {"data/train-00000-of-00001.parquet": body}
    arguments = ["--preset", "run_1"]
    for change in changes:
        arguments += ["--set", change]
    result = call("train", *arguments, "--runs-dir", tmp_path / "runs", "--format", "json")
    [row] = result.json
    assert row["status"] == "finished"

    usable = min(14_100, count)  # the preset keeps empty outputs
    run = RunDirectory.find(tmp_path / "runs", row["name"])
    events = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    [plan] = [event for event in events if event["event"] == "plan"]
    assert plan["train_examples"] == int(usable * 0.85)
    assert not [event for event in events if event["event"] == "warning"]

    with contextlib.closing(sync.read_index(tmp_path / "runs")) as index:
        answers = queries.answers(index.cursor(), [run.name])
    items = range(first := int(usable * 0.85), first + int(usable * 0.10))
    assert sorted(answers["item"]) == list(items)
    empty = answers.loc[~answers["reference"].str.strip().astype(bool), "item"]
    assert sorted(empty) == [i for i in items if i % EMPTY_EVERY == FIRST_EMPTY]

    plan_json = call("check", *arguments, "--format", "json").json
    assert plan_json["train_examples"] == plan["train_examples"]
    assert plan_json["steps"] == plan["steps"]
    assert plan_json["problems"] == []
    assert set(plan_json["unused_keys"]) == {"text"}
