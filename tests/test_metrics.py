"""Adding a metric takes one line in core/metrics.py. Tables, queries, charts and filters are derived from it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.metrics import AXES, CURVES, METRICS, RESULTS
from core.tracking.schema import EVENT_TABLES, SCHEMA_VERSION

ROOT = Path(__file__).parent.parent
NEW_LINES = '    Metric("entropy", "Entropy", "Mean entropy.", "step", unit="nats", format="%.2f", result="last(step.entropy)", chart=True),\n    Metric("accuracy", "Accuracy", "Mean accuracy.", "eval", format="percent", result="last(eval.accuracy)"),\n'
NEW_METRIC_TEST = """
from core.tracking import schema
from core.views.tables import records
from pages import results_columns
from pages.ui import runtime

def test_new_metric_appears_everywhere(write_run, open_page, line):
    run = write_run("one")
    for step in (7, 8):
        run.append("step", step=step, epoch=1.0, tokens=9, seconds=1.0, entropy=step / 4)
    losses = {"train_loss": 1.0, "val_loss": 1.0}
    run.append("eval", step=8, epoch=1.0, tokens=9, seconds=1.0, **losses, accuracy=0.5, final=True)
    write_run("two")
    page = open_page("live", run="one")
    lab = runtime.lab()
    assert schema.EVENT_TABLES["step"]["entropy"] == "DOUBLE"
    assert schema.SCHEMA_VERSION != OLD_SCHEMA_VERSION
    assert lab.curves(["one"], ["entropy"])["entropy"]["y"].dropna().tolist() == [1.75, 2.0]
    assert line(page.figure("Entropy (nats)"))[-2:] == [(7, 1.75), (8, 2.0)]
    assert [row["entropy"] for row in records(lab.runs()) if row["name"] == "one"] == [2.0]

    assert lab.evaluations(["one"])["accuracy"].dropna().tolist() == [0.5]
    assert [row["accuracy"] for row in records(lab.runs())] == [None, 0.5]

    page.go("results").choose("Columns", ["entropy", "accuracy"])
    table = page.dataframe[0].value
    assert {"entropy", "accuracy"} <= {*table}
    assert "exact" not in table
    assert results_columns.column("accuracy", table["accuracy"])["label"] == "Accuracy"
    config = results_columns.column("entropy", table["entropy"])
    assert (config["label"], config["help"]) == ("Entropy", "Mean entropy.")
    assert results_columns.text("entropy", 2.0) == "2.00 nats"
    for query, names in {"entropy (nats) > 1.9": ["one"], "entropy>2": [], "entropy=none": ["two"], "accuracy >= 50%": ["one"]}.items():
        page.choose("Filter", query)
        assert page.dataframe[0].value["name"].tolist() == names, query
"""


@pytest.fixture
def project_with_new_metric(tmp_path: Path) -> Path:
    """A copy of the project with two new metrics: one recorded at every step, one at every evaluation."""
    for folder in ("core", "pages", ".streamlit"):
        ignored = shutil.ignore_patterns("__pycache__", "assets")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "app.py", tmp_path)
    (tmp_path / "tests" / "pages").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "pages" / "conftest.py", tmp_path / "tests" / "pages")
    metrics = tmp_path / "core" / "metrics.py"
    text = metrics.read_text()
    assert text.count("\nMETRICS = (\n") == 1
    metrics.write_text(text.replace("\nMETRICS = (\n", f"\nMETRICS = (\n{NEW_LINES}"))
    return tmp_path


def test_one_line_adds_a_metric_everywhere(project_with_new_metric: Path) -> None:
    folder = project_with_new_metric
    test = NEW_METRIC_TEST.replace("OLD_SCHEMA_VERSION", str(SCHEMA_VERSION))
    (folder / "tests" / "pages" / "test_new_metric.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "tests/pages"]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert "1 passed" in result.stdout, result.stdout + result.stderr


def test_result_expressions_use_existing_columns() -> None:
    for name, metric in RESULTS.items():
        sources = re.findall(r"(\w+)\.(\w+)", str(metric.result))
        assert sources, name
        for table, column in sources:
            assert column in {**EVENT_TABLES, "disk": {"bytes"}}[table], name


def test_metric_names_and_titles_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert len({metric.label for metric in METRICS}) == len(METRICS)
    assert not AXES.keys() & CURVES.keys()
