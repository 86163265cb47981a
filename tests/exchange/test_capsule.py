"""Run capsules: their content, escaping and size."""

import base64
import contextlib
import gzip
import html
import json
import random
import re
import string

import pytest

from core.config import RunConfig
from core.errors import UserError
from core.exchange import capsule, run_record
from core.judging.order import JudgeSettings, Order
from core.lab import Lab
from core.run.directory import RunDirectory
from core.tracking.sync import read_index

HOSTILE = "</script><script>window.pwned = 1</script> <img src=x onerror='window.pwned = 2'> & \" {{ 7 * 7 }} <!--"
LOSSES = {0: 2.5, 2: 1.5, 4: 1.25, 6: 1.5}


def write_run(runs_dir, name="mine", answers=(), **settings):
    """Write a finished run of six steps. `answers` are pairs of an answer and a reference."""
    run = RunDirectory.create(runs_dir, RunConfig.parse({"name": name, **settings}))
    run.append("plan", steps=6, steps_per_epoch=6, parameters=1000, trainable=10, device="a CPU")
    for step, loss in LOSSES.items():
        position = {"step": step, "epoch": step / 6, "tokens": 10 * step, "seconds": float(step)}
        losses = {"val_loss": loss, "subset_loss": loss, "train_loss": loss - 0.1}
        run.append("eval", **position, **losses, final=step == 6)
    for step in range(1, 7):
        position = {"step": step, "epoch": step / 6, "tokens": 10 * step, "seconds": float(step)}
        values = {"lr": 1e-3, "loss": 2 / step, "grad_norm": 0.5, "tokens_per_s": 10.0}
        run.append("step", **position, **values, memory_mb=100.0)
    run.append("sample", step=3, prompt="Say hello.", text="hello there")
    for i, (answer, reference) in enumerate(answers):
        texts = {"instruction": f"Question {i}", "input": "", "reference": reference}
        run.append("generation", item=i, answer=answer, **texts)
    run.append("status", status="finished")
    return run


def collect(runs_dir, name="mine"):
    with contextlib.closing(read_index(runs_dir)) as index:
        return run_record.collect(
            runs_dir, name, lambda query, *args, **options: query(index.cursor(), *args, **options)
        )


def render(runs_dir, name="mine"):
    return capsule.render(collect(runs_dir, name)).decode()


def unpacked(page, id):
    """Return the JSON in one of the compressed blocks."""
    block = re.search(rf'id="{id}">([^<]*)</script>', page)
    assert block
    return json.loads(gzip.decompress(base64.b64decode(block[1])))


def visible_text(page):
    """Return the text of a page without its scripts, style and compressed blocks."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def test_capsule_shows_results_settings_samples_and_log(tmp_path):
    run = write_run(tmp_path, lr=2e-4, notes="looks good", tags="first, good")
    run.log_path.write_text("step 6: validation loss 1.5\n")
    text = visible_text(render(tmp_path))
    for part in (
        "mine finished",
        "1.2500 at step 4",
        "1.5000 whole set",
        "+0.1000 at step 6",
        "looks good",
        "first good",
        "Learning rate lr 2e-4 5e-5",
        "3 Say hello. hello there",
        "step 6: validation loss 1.5",
    ):
        assert part in text


def test_charts_have_all_curves_the_best_step_and_the_clipping_threshold(tmp_path):
    write_run(tmp_path, grad_clip=0.25)
    figure = unpacked(render(tmp_path), "figure-data")["figure"]
    names = [trace["name"] for trace in figure["data"]]
    assert names == [
        *("Validation loss", "Training loss"),
        *("Training loss per step", "Training loss per step, smoothed", "Learning rate"),
        *("Gradient norm", "Tokens per second", "Peak memory so far (MB)"),
    ]
    assert figure["data"][0]["y"] == [*LOSSES.values()]
    best, clip = figure["layout"]["shapes"]
    assert (best["x0"], best["yref"]) == (4, "y domain")
    assert (clip["y0"], clip["yref"]) == (0.25, "y4")


def test_changes_from_the_parent_are_marked(tmp_path):
    write_run(tmp_path, "first", lr=1e-3)
    write_run(tmp_path, "second", lr=2e-3, parent="first")
    page = render(tmp_path, "second")
    [row] = re.findall(r"<tr data-default data-parent.*?</tr>", page, re.S)
    assert "<code>lr</code>" in row
    assert "<mark>0.001</mark>" in row
    assert "Cloned from first" in page


def test_capsule_marks_a_deleted_parent_as_not_available(tmp_path):
    write_run(tmp_path, parent="gone")
    assert "Cloned from gone (settings not available)" in visible_text(render(tmp_path))


def test_answers_have_exact_matches_and_scores_with_intervals(tmp_path):
    write_run(tmp_path, answers=[("Yes.", "yes"), ("No", "yes"), ("yes", "yes")])
    with Lab(tmp_path) as lab:
        order = Order(JudgeSettings("reference"), with_base=False)
        lab.start_scoring(order, lab.scoring.answers(["mine"]).without_bases())
        lab.scoring.job.join(60)
        lab.refresh()
        page = lab.capsule("mine").decode()
    data = unpacked(page, "answer-data")
    assert [row["exact"] for row in data["rows"]] == [True, False, True]
    assert [row["scores"] for row in data["rows"]] == [[100], [data["rows"][1]["scores"][0]], [100]]
    assert data["rows"][1]["scores"][0] < 50
    assert data["judges"][0].endswith("(reference)")
    assert re.search(r"95% interval \d+\.\d to 100\.0", visible_text(page))
    assert "66.7% of 3 test answers" in visible_text(page)


def test_capsule_of_a_run_without_events_has_only_settings(tmp_path):
    RunDirectory.create(tmp_path, RunConfig(name="mine"))
    page = render(tmp_path)
    assert "queued" in visible_text(page)
    for id in ("charts", "scores", "answers", "samples", "warnings", "log"):
        assert f'<section id="{id}">' not in page


def test_texts_are_escaped(tmp_path):
    run = write_run(
        tmp_path,
        answers=[(HOSTILE, HOSTILE)],
        notes=HOSTILE,
        tags=HOSTILE.replace(",", ""),
        sample_prompt=HOSTILE,
        dataset=HOSTILE,
    )
    run.append("sample", step=4, prompt=HOSTILE, text=HOSTILE)
    run.append("warning", step=4, about=HOSTILE, message=HOSTILE)
    run.append("status", status="failed", reason=HOSTILE)
    run.log_path.write_text(HOSTILE)
    page = render(tmp_path)
    assert page.count("<script") == page.count("</script>") == 4
    assert "<img" not in page
    assert visible_text(page).count("{{ 7 * 7 }}") >= 8
    assert unpacked(page, "answer-data")["rows"][0]["answer"] == HOSTILE


def test_capsule_contains_no_url_and_allows_no_request(tmp_path):
    write_run(tmp_path, answers=[("Yes", "yes")])
    page = render(tmp_path)
    assert "http:" not in page
    assert "https:" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert html.unescape(policy[1]).startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy[1]


def test_capsule_contains_no_key_and_no_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "SECRETkeyInTheEnvironment")
    monkeypatch.setenv("HOME", "/home/ada")
    leak = "SECRETkeyInTheEnvironment sk-abcdefghijklmnopqrstuvwxyz"
    run = write_run(
        tmp_path,
        answers=[(leak, leak)],
        notes=leak,
        sample_prompt=leak,
        dataset="/home/ada/data.json",
    )
    run.log_path.write_text(f"/home/ada/data.json: {leak}")
    run.append("warning", step=1, about="data", message=f"/home/ada/data.json: {leak}")
    page = render(tmp_path)
    data = json.dumps(unpacked(page, "answer-data")) + page
    assert "SECRET" not in data
    assert "sk-abc" not in data
    assert "/home/ada" not in data
    assert "~/data.json: [key] [key]" in visible_text(page)


def test_incomplete_events_are_shown_without_their_missing_values(tmp_path):
    run = write_run(tmp_path)
    run.append("sample", prompt=3)
    run.append("warning", message="cannot read the file")
    run.append("generation", item=0)
    page = render(tmp_path)
    assert "cannot read the file" in visible_text(page)
    assert unpacked(page, "answer-data")["rows"] == []


def test_answers_that_do_not_fit_are_left_out_and_counted(tmp_path):
    rng = random.Random(0)
    texts = ["".join(rng.choices(string.printable, k=9_000)) for _ in range(350)]
    write_run(tmp_path, answers=[(text, "x") for text in texts])
    content = capsule.render(collect(tmp_path))
    assert 0.9 * capsule.MAX_BYTES < len(content) <= capsule.MAX_BYTES
    shown = len(unpacked(content.decode(), "answer-data")["rows"])
    assert 100 < shown < 350
    assert f"The first {shown} of 350 answers." in visible_text(content.decode())


def test_long_texts_are_truncated(tmp_path):
    write_run(tmp_path, answers=[("a" * (capsule.MAX_TEXT_CHARS + 5), "x")])
    [row] = unpacked(render(tmp_path), "answer-data")["rows"]
    assert row["answer"].endswith("a … (5 more characters)")


def test_the_same_run_gives_the_same_file(tmp_path):
    write_run(tmp_path, answers=[("Yes", "yes")])
    assert render(tmp_path) == render(tmp_path)


def test_unknown_run_raises_user_error(tmp_path):
    with Lab(tmp_path) as lab, pytest.raises(UserError, match="nobody"):
        lab.capsule("nobody")
