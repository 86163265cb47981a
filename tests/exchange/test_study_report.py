"""Study reports: their content, escaping, size and formats."""

import base64
import gzip
import html
import io
import json
import random
import re
import xml.etree.ElementTree as ET
import zipfile
from dataclasses import replace

import pytest

from core import operations
from core.config import RunConfig
from core.errors import UserError
from core.lab import Lab
from core.run.directory import RunDirectory
from core.scheduler.executors import EXECUTORS
from core.studies import study
from core.studies.sweep import Sweep, parse_axis

HOSTILE = "</script><script>window.pwned = 1</script> <img src=x onerror='window.pwned = 2'> & \" {{ 7 * 7 }} [a](b) `c` | # d"
MAX_BYTES = 5_000_000
LOSSES = {(4, 1e-4): 2.0, (4, 1e-3): 1.5, (16, 1e-4): 1.0, (16, 1e-3): 9.0}
"""Validation loss by rank and learning rate. The last one diverges: it is above that of the base model."""


@pytest.fixture(autouse=True)
def idle_executor(monkeypatch):
    monkeypatch.setitem(EXECUTORS, "idle", lambda run: None)


def write_study(runs_dir, name="ranks", seeds=(1, 2, 3), answers=False, **settings):
    """Write a study of two ranks and two learning rates, with a loss that hardly depends on the seed."""
    axes = (parse_axis("lora_rank=lora_alpha=4,16"), parse_axis("lr=1e-4,1e-3"))
    planned = study.plan(runs_dir, name, Sweep(RunConfig(**settings), axes, seeds), "Which rank?")
    study.create_runs(runs_dir, planned)
    for member in planned.members:
        loss = LOSSES[member.values["lora_rank"], member.values["lr"]] + 0.01 * (member.seed % 3)
        finish(RunDirectory(runs_dir / member.name), loss, answers)
    return planned


def finish(run, loss, answers=False):
    run.append("plan", steps=4, steps_per_epoch=4, parameters=1000, trainable=10, device="a CPU")
    for step, value in ((0, 4.0), (2, (loss + 4) / 2), (4, loss)):
        position = {"step": step, "epoch": step / 4, "tokens": step, "seconds": float(step)}
        run.append("eval", **position, val_loss=value, subset_loss=value, final=step == 4)
        if step:
            run.append("step", **position, loss=value, lr=1e-3, memory_mb=100.0)
    for item in range(6 if answers else 0):
        texts = {"instruction": f"Question {item}", "input": "", "reference": "yes"}
        run.append("generation", item=item, answer="yes" if item * loss < 5 else "no", **texts)
    run.append("status", status="finished")


def report(runs_dir, name="ranks", format="html"):
    with Lab(runs_dir, "idle") as lab:
        return lab.study_report(name, format)


def page(runs_dir, name="ranks"):
    return report(runs_dir, name).decode()


def files(runs_dir, name="ranks"):
    with zipfile.ZipFile(io.BytesIO(report(runs_dir, name, "md"))) as archive:
        return {file: archive.read(file).decode() for file in archive.namelist()}


def visible_text(page):
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def figures(page):
    block = re.search(r'id="figure-data">([^<]*)</script>', page)
    assert block
    return json.loads(gzip.decompress(base64.b64decode(block[1])))["figures"]


CONTENT = (
    "Which rank?",
    "Rank = alpha = 16 instead of 4 lowers the validation loss by 1.00 (95% interval 0.99 to 1.01, 3 seeds) with learning rate 1e-4.",
    "All 3 runs with rank = alpha = 16 and learning rate 0.001 diverged.",
    "12 planned runs · 12 finished · 3 diverged · 3 seeds",
    "Seeds: 1, 2, 3.",
    "varied: 4, 16",
    "Standard deviation of the validation loss between seeds",
    "paired t-test",
    "ranks-12",
)


def test_html_has_summary_effects_groups_settings_runs_and_command(tmp_path):
    write_study(tmp_path)
    content = page(tmp_path)
    text = visible_text(content)
    for part in CONTENT:
        assert part in text, part
    for row in ("4 1e-4 3", "Rank = Alpha 4 → 16 learning rate 1e-4 -1.00", "batch_size", "better"):
        assert row in text, row
    assert "python -m core sweep \\ --study ranks" in text
    charts = figures(content)
    assert set(charts) == {"curves", "effects-0"}
    titles = [title["text"] for title in charts["curves"]["layout"]["annotations"]]
    assert titles == ["Learning rate 1e-4", "Learning rate 0.001"]
    assert charts["effects-0"]["layout"]["yaxis"]["ticktext"][-1] == "Rank = Alpha 4 → 16 (1e-4)"


def test_markdown_has_the_same_content_and_pictures(tmp_path):
    write_study(tmp_path)
    content = files(tmp_path)
    assert set(content) == {"report.md", "pictures/curves.svg", "pictures/effects-1.svg"}
    text = content["report.md"].replace("\\", "")
    for part in CONTENT:
        assert part in text, part
    for link in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text):
        assert link in content
    assert "| Rank = Alpha 4 → 16 | learning rate 1e-4 | -1.00 |" in text
    for name in ("pictures/curves.svg", "pictures/effects-1.svg"):
        drawing = ET.fromstring(content[name])
        assert drawing.tag.endswith("svg")
    curves = ET.fromstring(content["pictures/curves.svg"])
    assert len(curves.findall("{*}polyline")) == 4


def test_edited_summary_replaces_the_generated_one(tmp_path):
    write_study(tmp_path)
    with Lab(tmp_path, "idle") as lab:
        generated = lab.study_conclusions("ranks")
        lab.edit_study(
            "ranks", summary="Use rank 16.\n\nNever rank 4.", notes="First line\nSecond line"
        )
    text = visible_text(page(tmp_path))
    assert "Use rank 16. Never rank 4." in text
    assert generated[0] not in text
    assert "First line Second line" in text
    markdown = files(tmp_path)["report.md"]
    assert "- Use rank 16.\n- Never rank 4.\n" in markdown
    assert "First line  \nSecond line" in markdown


def test_exact_answers_are_a_second_metric(tmp_path):
    write_study(tmp_path, answers=True)
    text = visible_text(page(tmp_path))
    assert "Exact answers" in text
    assert "Differences within 2 points count as equivalent." in text


def test_texts_are_escaped(tmp_path):
    write_study(tmp_path, dataset=HOSTILE)
    with Lab(tmp_path, "idle") as lab:
        lab.edit_study("ranks", question=HOSTILE, notes=HOSTILE, summary=HOSTILE)
    content = page(tmp_path)
    assert content.count("<script") == content.count("</script>") == 3
    assert "<img" not in content
    assert visible_text(content).count("{{ 7 * 7 }}") >= 4
    text = files(tmp_path)["report.md"]
    outside_code = re.sub(r"```sh\n.*?\n```", "", text, flags=re.S)
    assert "<script" not in outside_code.replace("\\<", "")
    assert "[a](b)" not in outside_code.replace("\\[", "")


def test_report_contains_no_url_and_allows_no_request(tmp_path):
    write_study(tmp_path)
    content = page(tmp_path)
    assert "http:" not in content
    assert "https:" not in content
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', content)
    assert policy
    assert html.unescape(policy[1]).startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy[1]


def test_report_contains_no_key_and_no_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "SECRETkeyInTheEnvironment")
    monkeypatch.setenv("HOME", "/home/ada")
    axes = (parse_axis("dataset=/home/ada/a.json,/home/ada/b.json"),)
    planned = study.plan(
        tmp_path, "data", Sweep(RunConfig(), axes, (1, 2)), "SECRETkeyInTheEnvironment?"
    )
    study.create_runs(tmp_path, planned)
    for i, member in enumerate(planned.members):
        finish(RunDirectory(tmp_path / member.name), 1 + i / 10)
    content = page(tmp_path, "data")
    everything = content + json.dumps(figures(content)) + "".join(files(tmp_path, "data").values())
    assert "SECRET" not in everything
    assert "/home/ada" not in everything
    assert "~/a.json" in everything


def test_large_study_stays_below_the_size_limit(tmp_path):
    ranks = ",".join(map(str, range(1, 26)))
    axes = (parse_axis(f"lora_rank={ranks}"), parse_axis("lr=1e-5,1e-4,1e-3,1e-2"))
    planned = study.plan(tmp_path, "large", Sweep(RunConfig(), axes, (1,)), HOSTILE)
    study.create_runs(tmp_path, planned)
    rng = random.Random(0)
    for member in planned.members:
        finish(RunDirectory(tmp_path / member.name), 1 + rng.random())
    content = report(tmp_path, "large")
    assert len(content) < MAX_BYTES
    assert "more effects are not listed" in visible_text(content.decode())
    assert "100 planned runs" in visible_text(content.decode())


def test_one_seed_supports_no_verdict(tmp_path):
    write_study(tmp_path, seeds=(1,), answers=True)
    text = visible_text(page(tmp_path))
    assert "One seed supports no verdict" in text
    assert "have only one seed, which supports no conclusion." in text
    assert "better" not in re.sub(r"Green: better", "", text)


def test_study_without_finished_runs_has_a_report(tmp_path):
    axes = (parse_axis("lr=1e-4,1e-3"),)
    study.create_runs(tmp_path, study.plan(tmp_path, "new", Sweep(RunConfig(), axes, (1,))))
    text = visible_text(page(tmp_path, "new"))
    assert "No comparison of the validation loss is possible yet." in text
    assert "No two combinations differ by exactly one change." in text
    assert set(files(tmp_path, "new")) == {"report.md"}


def test_extended_study_is_marked_as_exploratory(tmp_path):
    planned = write_study(tmp_path)
    study.write(tmp_path, replace(planned, first_seeds=2, is_complete=True))
    assert "planned with 2 and extended to 3 seeds" in visible_text(page(tmp_path))


def test_the_same_study_gives_the_same_file(tmp_path):
    write_study(tmp_path)
    with Lab(tmp_path, "idle") as lab:
        for format in ("html", "md"):
            assert lab.study_report("ranks", format) == lab.study_report("ranks", format)


def test_export_chooses_the_format_by_the_name_of_the_file(tmp_path):
    runs_dir = tmp_path / "runs"
    write_study(runs_dir)
    for name, start in (("a.html", b"<!doctype html>"), ("a.ZIP", b"PK")):
        size = operations.export(runs_dir, "ranks", tmp_path / name, "report")
        content = (tmp_path / name).read_bytes()
        assert len(content) == size
        assert content.startswith(start)
    with pytest.raises(UserError, match=r"must end in \.html, or in \.zip"):
        operations.export(runs_dir, "ranks", tmp_path / "a.pdf", "report")
    with pytest.raises(UserError, match="unknown study"):
        operations.export(runs_dir, "other", tmp_path / "b.html", "report")
