"""The examples in CONTRIBUTING.md, executed against the code."""

import re
import shutil
import threading
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest, app_test

from core.cli import reference
from core.data import formats
from core.errors import UserError
from core.judging import judges, scorer
from core.judging.judge import Item
from core.judging.ledger import Ledger
from core.judging.order import JudgeSettings, Limits
from core.scheduler.executors import EXECUTORS
from core.tracking import queries
from pages.ui import runtime

ROOT = Path(__file__).parent.parent


def example(heading: str) -> list[str]:
    """Return the Python blocks in a section, and the lines added by its diff blocks."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```(python|diff)\n(.*?)```", section, re.DOTALL)
    return [
        re.sub(r"^\+", "", text, flags=re.M) if kind == "diff" else text for kind, text in blocks
    ]


def changed_module(path: str, anchor: str, inserted: str, appended: str = "") -> Any:
    """Execute a module with lines inserted before the only line that starts with `anchor`."""
    lines = (ROOT / path).read_text().splitlines(keepends=True)
    [position] = [i for i, line in enumerate(lines) if line.startswith(anchor)]
    lines.insert(position, inserted)
    name = path.removesuffix(".py").replace("/", ".")
    module = types.ModuleType(name)
    module.__file__ = str(ROOT / path)
    exec(compile("".join(lines) + appended, path, "exec"), vars(module))
    return module


def test_setting_example_adds_a_field_and_its_documentation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [line] = example("Add a setting")
    config = changed_module("core/config.py", "    mask_prompt:", line)
    assert config.RunConfig.parse({}).shuffle is True
    assert config.RunConfig.parse({"shuffle": "false"}).shuffle is False
    monkeypatch.setattr(reference, "RunConfig", config.RunConfig)
    assert "| `shuffle` | Shuffle | `true` |" in reference.reference()


def test_metric_example_is_recorded_charted_and_a_result() -> None:
    [line] = example("Add a metric")
    metrics = changed_module("core/metrics.py", '    Metric("steps"', line)
    assert metrics.recorded_fields("step")["update_ratio"] == "DOUBLE"
    assert metrics.CURVES["update_ratio"].chart
    result = metrics.RESULTS["update_ratio"].result
    assert queries.SOURCE.fullmatch(result)


def test_judge_example_scores_each_answer_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges, "JUDGES", dict(judges.JUDGES))
    namespace: dict[str, Any] = {"JUDGES": judges.JUDGES}
    exec("\n".join(example("Add a judge")), namespace)
    judge = judges.build(JudgeSettings("length"))
    items = [Item("Say red.", "", "red", "red"), Item("Say red.", "", "red", "crimson")]
    assert [judge.judge(item).score for item in items] == [100, pytest.approx(42.9, abs=0.1)]
    sent = []
    for _ in range(2):
        progress = scorer.ScoringProgress()
        tasks = scorer.plan(judge, items, 1)
        with Ledger(tmp_path, judge.spec) as ledger:
            scorer.score(judge, tasks, ledger, Limits(), threading.Event(), progress)
        sent.append((progress.requests_sent, progress.scored))
    assert sent == [(2, 2), (0, 2)]
    pair = judges.build(JudgeSettings("length"), "pair")
    assert pair.judge(Item("Say red.", "", "red", "red", "crimson")).score == 100


def test_page_example_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, line = example("Add a page")
    shutil.copytree(ROOT / "pages", tmp_path / "pages")
    (tmp_path / "pages" / "notes.py").write_text(page)
    source = (ROOT / "app.py").read_text()
    before = '    st.Page("pages/data.py"'
    assert source.count(before) == 1
    (tmp_path / "app.py").write_text(source.replace(before, line + before))
    # Without this, AppTest mistakes `pages/` for an older kind of app and runs pages without `app.py`.
    monkeypatch.setattr(PagesManager, "uses_pages_directory", False)
    monkeypatch.setattr(app_test, "PagesManager", type("Settled", (PagesManager,), {}))
    monkeypatch.setitem(EXECUTORS, "idle", lambda run: None)
    monkeypatch.setenv("EXECUTOR", "idle")
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    app = AppTest.from_file(str(tmp_path / "app.py"), default_timeout=60)
    try:
        app.switch_page("pages/notes.py").run()
    finally:
        runtime.release()
    assert not app.exception
    assert app.title[0].value == "Notes"
    assert list(app.dataframe[0].value) == ["name", "notes"]


def test_data_format_example_reads_arrow_files(tmp_path: Path) -> None:
    branch, function = example("Add a data format")
    files = changed_module(
        "core/data/files.py", '    if suffix == ".parquet":', branch, f"\n\n{function}"
    )
    records = [{"instruction": "Say red.", "output": "red"}, {"instruction": "Say.", "output": ""}]
    path = tmp_path / "data.arrow"
    feather.write_feather(pa.Table.from_pylist(records), path)
    numbered = [("record 1", records[0]), ("record 2", records[1])]
    assert list(files.read_records(path, "data.arrow", formats.is_record)) == numbered
    path.write_bytes(b"no table")
    with pytest.raises(UserError, match="cannot be read as Arrow"):
        list(files.read_records(path, "data.arrow", formats.is_record))
