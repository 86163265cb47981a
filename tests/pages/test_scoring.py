"""The Scoring page: cost, scoring in the background, and the result views."""

import json
import re
import threading
from itertools import count

import pytest

from core import lab as lab_module
from core.nn import pretrained
from core.tracking.index import Index
from pages.ui import runtime
from tests.judging.server import JudgeServer

WORDS = ["red", "blue", "green", "one"]
KEY = "AIza-test-key-1234567890"
HOSTILE = "<script>alert(1)</script> **bold** $x$ ![](http://x)"
MARKUP = ("<script", "**bold", "$x", "](http")


@pytest.fixture
def write_answers(write_run, answer):
    """Return a function that writes a run with these answers to `Say red.`, `Say blue.` and so on."""
    base_hash = pretrained.fingerprint(pretrained.load("gpt2-nano"))

    def write(name, *texts, **fields):
        pairs = enumerate(zip(WORDS, texts, strict=False), 10)
        answer_events = [
            answer(item, f"Say {color}.", color, str(text)) for item, (color, text) in pairs
        ]
        fields = {"answers": answer_events, "base_hash": base_hash, "max_new_tokens": 2, **fields}
        return write_run(name, **fields)

    return write


@pytest.fixture
def gemini(monkeypatch):
    """A local server in place of the Gemini API. A numeric answer gets its own value as its score; others get 70."""

    def verdict(prompt):
        match = re.search(r"to grade:\n(\d+)", prompt)
        return json.dumps({"score": int(match[1]) if match else 70, "reason": "close"})

    with JudgeServer(verdict) as server:
        monkeypatch.setenv("GEMINI_API_ENDPOINT", server.gemini_endpoint)
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        yield server


@pytest.fixture
def score(wait):
    """Return a function that presses Score, waits for scoring to end, and syncs the index."""

    def press(page, base=False, button="Score"):
        page.choose("Also score the pretrained base model", base).press(button)
        wait(lambda: not runtime.lab().scoring.job.is_running, 60)
        runtime.lab().refresh()
        return page.run()

    return press


def table_elements(page):
    return [table for table in page.dataframe if table.editing_mode == "read_only"]


def tables(page):
    return [table.value for table in table_elements(page)]


def board(page):
    return tables(page)[0].set_index("run")


def sent_elements(page):
    """Return every element sent to the browser, except password fields."""
    protos = [node.proto for node in page._tree if getattr(node, "proto", None) is not None]
    return "\n".join(str(p) for p in protos if getattr(p, "label", "") != "API key")


def error_text(page):
    [element] = page.error
    return element.value.replace("\\", "")


def test_page_without_answers_shows_a_hint(write_answers, open_page, write_run):
    page = open_page("scoring")
    assert page.says("No answers yet")
    assert page.get("page_link")[0].label == "Launch"
    write_run("one", "running", planned=9)
    assert open_page("scoring").says("No answers yet")
    write_answers("two", "red")
    runtime.lab().refresh()
    assert open_page("scoring").choose("scoring_run", []).says("Choose at least one run")


def test_cost_is_shown_before_scoring(write_answers, open_page, gemini, score):
    write_answers("one", "red", "blue", "blau")
    write_answers("two", "red", "azure", "vert")  # one answer is shared, so it is judged only once
    page = open_page("scoring").choose("Judge", "reference")
    assert page.says(
        "5 verdicts: 5 to compute, at no cost. The 6 answers include duplicates, which share a verdict. "
        "Not included: the pretrained base model must answer 3 examples first."
    )
    page.choose("Judge", "gemini").choose("Also score the pretrained base model", False)
    assert page.says("5 verdicts: 5 requests, about ")
    assert page.choose("Repeats", 3).says("15 verdicts: 15 requests, about ")
    page.choose("Repeats", 1).choose("scoring_run", ["one"])
    assert score(page).says("Already scored: 3 verdicts cached.")
    page.choose("scoring_run", ["one", "two"])
    assert page.says("5 verdicts (3 cached): 2 requests")


def test_leaderboard_shows_all_runs_with_the_pretrained_base_first(write_answers, open_page, score):
    write_answers("one", "red", "blew", "grey")
    write_answers("two", "red", "blue", "grey")
    page = score(open_page("scoring"), base=True)
    assert board(page).index.tolist() == ["pretrained", "two", "one"]
    assert board(page)["scored"].tolist() == [3, 3, 3]
    assert board(page)["mean"]["two"] > board(page)["mean"]["one"] > board(page)["mean"].iloc[0]
    assert [point["y"][0] for point in page.figure("Score with")["data"]] == [
        "one",
        "two",
        "pretrained",
    ]
    assert page.says("Already scored: 9 answers share 7 cached verdicts.")


def test_new_scores_appear_before_the_next_sync(write_answers, open_page, wait, monkeypatch):
    # The background thread does not sync during the test.
    monkeypatch.setattr(lab_module, "SYNC_INTERVAL_S", 3600.0)
    write_answers("one", "red", "blew")
    page = open_page("scoring").choose("Also score the pretrained base model", False).press("Score")
    wait(lambda: not runtime.lab().scoring.job.is_running)
    assert board(page.run())["scored"].tolist() == [2]
    with monkeypatch.context() as patch:
        patch.setattr(lab_module.Lab, "refresh", lambda lab: pytest.fail("synced again"))
        assert board(page.run())["scored"].tolist() == [2]


class CountingCursor:
    """A cursor that records its statements."""

    def __init__(self, cursor, statements):
        self.cursor, self.statements = cursor, statements
        # This class adds a stack frame between DuckDB and the DataFrames that a query uses.
        cursor.execute("set python_scan_all_frames = true")

    def execute(self, statement, *parameters):
        self.statements.append(statement)
        return self.cursor.execute(statement, *parameters)


@pytest.mark.parametrize(
    "view",
    [
        "Two runs",
        *(
            pytest.param(view, marks=pytest.mark.long)
            for view in ("Scores", "Answers", "Distribution", "Head-to-head", "Agreement")
        ),
    ],
)
def test_answers_are_loaded_once_per_rerun(write_answers, open_page, score, monkeypatch, view):
    write_answers("one", "red", "blew")
    write_answers("two", "rod", "blue")
    page = score(open_page("scoring"), base=True)
    page = score(page.choose("Mode", "Head-to-head"), base=True).open_tab(view)
    statements, cursor = [], Index.cursor
    monkeypatch.setattr(Index, "cursor", lambda index: CountingCursor(cursor(index), statements))
    page.run()
    read_answers = [s for s in statements if "generation" in s and re.search(r"\banswer\b", s)]
    assert len(read_answers) == 1


def test_different_base_models_have_separate_rows(write_answers, open_page, score):
    write_answers("one", "red")
    write_answers("two", "rod", max_new_tokens=3)
    page = score(open_page("scoring"), base=True)
    assert len(set(board(page).index)) == 4
    write_answers("late", "red", base_hash="cd" * 32)
    runtime.lab().refresh()
    page = score(page.run().choose("scoring_run", ["late"]), base=True)
    assert "the weights have changed since training" in error_text(page)


def test_damaged_and_deleted_runs_do_not_break_the_page(write_answers, open_page, monkeypatch):
    write_answers("sound", "red")
    write_answers("damaged", "rod").config_path.write_text("{]")
    deleted_run = write_answers("gone", "x")
    page = open_page("scoring").choose("scoring_run", ["sound", "damaged", "gone"])
    monkeypatch.setattr(lab_module.Lab, "refresh", lambda lab: None)
    deleted_run.delete()
    assert page.run().widget("Score")


def test_scoring_continues_after_its_tab_closes(write_answers, open_page, gemini, wait):
    write_answers("one", *range(10, 14))
    write_answers("two", *range(20, 24))
    answered = threading.Event()
    gemini.fault = lambda number, prompt: None if number <= 3 or answered.wait(20) else "500"
    first, second = open_page("scoring"), open_page("scoring")
    first.choose("Also score the pretrained base model", False).press("Score")
    job = runtime.lab().scoring.job
    wait(lambda: job.progress.done == 3)
    runtime.lab().refresh()
    second.widget("Score").click().run()  # sent before the button was disabled
    assert runtime.lab().scoring.job is job, "only one scoring job runs at a time"
    reloaded = open_page("scoring")
    [progress_text] = [bar.proto.text for bar in reloaded.get("progress")]
    # Model names are escaped.
    assert progress_text == r"gemini\-2\.5\-flash, scoring: 3 of 8"
    assert reloaded.widget("Score").disabled
    assert board(reloaded)["scored"].sum() == 3
    answered.set()
    wait(lambda: not job.is_running)
    runtime.lab().refresh()
    for page in (reloaded.run(), open_page("scoring")):
        assert not [*page.error, *page.get("progress")]
        assert board(page)["scored"].tolist() == [4, 4]
    assert len(gemini.requests) == 8


def test_verdicts_before_a_stop_are_kept(write_answers, open_page, gemini, score, wait):
    gemini.delay = 0.1
    for n in range(6):
        write_answers(f"run-{n}", *range(10 * n, 10 * n + 4))
    page = open_page("scoring").choose("Requests in flight", 2)
    page.choose("Also score the pretrained base model", False).press("Score")
    wait(lambda: runtime.lab().scoring.job.progress.done >= 2)
    page.run().press("Stop scoring")
    wait(lambda: not runtime.lab().scoring.job.is_running, 10)
    runtime.lab().refresh()
    assert page.run().says("Stopped. Verdicts from gemini-2.5-flash are kept")
    done_count = runtime.lab().scoring.job.progress.done
    assert 2 <= done_count < 24
    assert board(page)["scored"].sum() == done_count
    gemini.delay = 0.0
    assert board(score(page))["scored"].tolist() == [4] * 6
    assert len(gemini.requests) == 24


def test_rejected_key_is_reported_and_verdicts_are_kept(write_answers, open_page, gemini, score):
    write_answers("one", *range(10, 14))
    write_answers("two", *range(20, 24))
    gemini.fault = lambda number, prompt: "wrong_key" if number > 4 else None
    page = score(open_page("scoring"))
    assert error_text(page).startswith("Gemini does not accept the API key: copy it again")
    assert board(page)["scored"].sum() == 4
    gemini.fault = lambda number, prompt: None
    assert board(score(page))["scored"].sum() == 8


def test_api_key_is_never_written_or_shown(
    write_answers, open_page, gemini, score, monkeypatch, runs_dir
):
    write_answers("one", "red", "blue", "grey")
    monkeypatch.delenv("GEMINI_API_KEY")
    gemini.answer = lambda prompt: json.dumps({"score": 50, "reason": f"sent with {KEY}"})
    page = open_page("scoring").choose("Judge", "gemini").press("Score")
    assert "no API key; set GEMINI_API_KEY or enter one in the dashboard" in error_text(page)
    score(page.choose("API key", KEY)).open_tab("Answers")
    assert tables(page)[-1]["Reason"].tolist() == ["sent with [key]"] * 3
    pages = [sent_elements(page), sent_elements(open_page("scoring"))]
    gemini.fault = lambda number, prompt: "403"  # the error message quotes the key
    pages.append(sent_elements(score(page.choose("Repeats", 2))))
    assert "[key] was reported as leaked" in error_text(page)
    assert not [text for text in pages if KEY in text]
    files = [path for path in runs_dir.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_comparison_reports_whether_two_runs_differ(write_answers, open_page, gemini, score):
    write_answers("good", 90, 91, 92, 93)
    write_answers("bad", 10, 14, 13, 11)
    write_answers("input", 92, 89, 93, 93)
    page = open_page("scoring").choose("scoring_run", ["good", "bad", "input"])
    score(page).open_tab("Two runs").choose("B", "bad").choose("A", "good")
    assert page.says("good scores higher than bad by 79.5 (")
    assert tables(page)[0]["A \u2212 B"].tolist()[::3] == [82.0, 77.0], "largest difference first"
    page.choose("B", "input")  # "input" is also a column name
    assert page.says(
        "No clear difference between good and input on 4 examples. About 369 would be needed."
    )
    page.choose("scoring_run", ["good"])
    assert page.says("Choose at least two runs with scores from this judge")


def test_verdict_on_two_runs_comes_first(write_answers, open_page, gemini, score):
    write_answers("good", 90, 91, 92, 93)
    write_answers("bad", 10, 14, 13, 11)
    write_answers("third", 50, 50, 50, 50)
    page = open_page("scoring", run=["bad", "good"])
    texts = [text for text in page.texts() if "no scores" in text]
    assert texts == ["No verdict yet: these runs have no scores."], "once"
    page = score(page, button="Score these runs")
    assert "good scores higher than bad by 79.5" in page.markdown[0].value.replace("\\", "")
    assert page.says("bad \u2212 good in points, with 95% interval: -79.5 (")
    assert page.says("Difference -79.5, 95% interval -8")
    page.choose("scoring_run", ["bad", "good", "third"])
    assert not page.says("scores higher than")
    page.choose("scoring_run", ["bad", "third"])
    assert page.says("No verdict yet: both runs need scores from this judge")


def test_runs_have_their_colors_and_open_their_pages(write_answers, open_page, score):
    write_answers("one", "red", "blew", color="#123456")
    write_answers("two", "rod", "blue", color="#654321")
    page = score(open_page("scoring"), base=True)
    colors = {
        point["y"][0]: point["marker"]["color"] for point in page.figure("Score with")["data"]
    }
    assert colors == {"one": "#123456", "two": "#654321", "pretrained": "#8a919e"}
    dots = board(page)["dot"]
    assert "%23123456" in dots["one"]
    bars = page.open_tab("Distribution").figure("Test answers by score")["data"]
    assert {bar["name"]: bar["marker"]["color"] for bar in bars} == colors
    page.open_tab("Scores")
    page.session_state["open_scores"] = {"row": 0, "label": "pretrained"}
    assert page.run().title[0].value == "Scoring", "a base model has no page"
    assert board(page).index[2] == "two"
    page.session_state["open_scores"] = {"row": 2, "label": "two"}
    assert page.run().title[0].value == "two"


def test_link_restores_the_page_in_a_new_session(write_answers, open_page, score):
    for name in ("one", "two", "three"):
        write_answers(name, "red", "blew")
    page = score(open_page("scoring", run=["three", "one"]).choose("Measure", "chrf"))
    score(page.choose("Measure", "exact"))
    [chrf] = [o for o in page.widget("Show results from").options if o.startswith("chrF")]
    page.choose("Show results from", chrf)
    page.open_tab("Answers")
    fresh = open_page("scoring", **page.query_params)
    assert fresh.widget("scoring_run").value == ["three", "one"]
    assert fresh.widget("scoring_judge").value == page.widget("scoring_judge").value
    assert "Reason" in tables(fresh)[-1]
    assert not fresh.warning


def test_unknown_names_in_a_link_are_reported(write_answers, open_page, score):
    write_answers("one", "red", "blew")
    score(open_page("scoring"))
    page = open_page("scoring", run=["ghost", "one"], judge="nobody")
    assert page.widget("scoring_run").value == ["one"]
    assert page.says("Unknown run: ghost.")
    assert page.says("No results for these runs from this judge: nobody.")
    assert board(page).index.tolist() == ["one"]


def test_default_comparison_has_shared_examples(write_answers, answer, open_page, gemini, score):
    write_answers("first", 90, 91)
    write_answers("second", 10, 14)
    write_answers("elsewhere", answers=[answer(10, "Say tea.", "tea", "50")], max_examples=9)
    page = open_page("scoring")
    assert page.widget("scoring_run").value == ["elsewhere"], (
        "only runs with the same test set as the newest run are selected"
    )
    page.choose("scoring_run", ["first", "second", "elsewhere"])
    score(page).open_tab("Two runs")
    assert (page.widget("A").value, page.widget("B").value) == ("first", "second")


def test_win_rates_count_ties_as_half_a_win(write_answers, open_page, score):
    write_answers("good", "red", "blue", "green", "one")
    write_answers("half", "red", "blue", "x", "y")
    page = open_page("scoring").choose("scoring_run", ["good", "half"])
    page.open_tab("Head-to-head").choose("Mode", "Head-to-head")
    assert page.says("4 verdicts: 4 to compute"), "two pairs have equal answers"
    score(page)
    [row] = tables(page)[0].to_dict("records")
    rows = [row[name] for name in ("run", "other", "rate", "scored", "flips")]
    assert rows == ["good", "half", 75.0, 4, 0]
    assert [point["y"][0] for point in page.figure("Rating")["data"]] == ["half", "good"]
    assert page.open_tab("Scores").says("these runs have no scores")


def test_judges_view_compares_judges(write_answers, open_page, gemini, score):
    write_answers("one", "red", "10", "greed")
    scores = {text: count(start, 5) for text, start in (("red", 10), ("10", 40), ("greed", 70))}

    def grade(prompt):
        [text] = [text for text in scores if f"to grade:\n{text}\n" in prompt]
        return json.dumps({"score": next(scores[text]), "reason": ""})

    gemini.answer = grade
    page = score(open_page("scoring").choose("Repeats", 2)).open_tab("Agreement")
    assert page.says("Score with a second judge")
    assert sorted(tables(page)[0]["Answer"]) == ["10", "greed", "red"]
    score(page.choose("Judge", "reference"))
    assert page.says("over 3 distinct answers")


def test_answers_can_be_ordered_and_filtered(write_answers, open_page, gemini, score):
    write_answers("one", 40, 10, 95)
    write_answers("two", 45, 90, 96)
    gemini.fault = lambda number, prompt: "safety" if "\n95\n" in prompt else None
    page = score(open_page("scoring"))
    assert board(page)["missing"].to_dict() == {"one": 1, "two": 0}
    page.open_tab("Answers")
    assert tables(page)[-1]["Score"].tolist()[:5] == [10, 40, 45, 90, 96]
    page.choose("Answers", "Most disputed")
    assert set(tables(page)[-1]["Instruction"][:2]) == {"Say blue."}
    page.choose("Answers", "Missing")
    assert tables(page)[-1][["Answer", "Reason"]].to_numpy().tolist() == [
        ["95", "blocked (SAFETY)"]
    ]


def test_default_selection_shows_total_run_count(write_answers, open_page):
    for number in range(8):
        write_answers(f"run-{number}", "red")
    page = open_page("scoring")
    assert len(page.widget("scoring_run").value) == 6
    assert page.says("Showing 6 of 8 runs tested on the same examples.")
    page.choose("scoring_run", [f"run-{number}" for number in range(8)])
    assert not page.says("Showing")


def test_truncated_disagreements_show_the_total_count(
    write_answers, answer, open_page, gemini, score
):
    words = [str(number) for number in range(12)]
    answers = [answer(n, f"Say {n}.", str(99 - n), word) for n, word in enumerate(words)]
    write_answers("one", answers=answers)
    page = score(open_page("scoring").choose("Judge", "gemini"))
    gemini.answer = lambda prompt: json.dumps(
        {"score": 99 - int(re.search(r"to grade:\n(\d+)", prompt)[1]), "reason": "far"}
    )
    score(page.choose("Temperature", 0.5)).open_tab("Agreement")
    assert len(tables(page)[0]) == 10
    assert page.says("Showing 10 of 12 answers on which the judges disagree.")


def open_answer(page):
    """Return the answer shown in full below the table."""
    texts = [html.value for html in page.get("html") if not html.value.startswith("<style>")]
    return texts[-2]


def test_selected_answer_stays_open_when_judge_and_order_change(write_answers, open_page, score):
    write_answers("one", "blue", "green", "grey")
    page = score(open_page("scoring").choose("Measure", "chrf"))
    score(page.choose("Measure", "exact")).open_tab("Answers")
    answers = tables(page)[-1]["Answer"].tolist()
    page.select(table_elements(page)[-1], answers.index("grey"))
    assert ">grey<" in open_answer(page)
    [chrf] = [o for o in page.widget("Show results from").options if o.startswith("chrF")]
    page.choose("Show results from", chrf)
    assert tables(page)[-1]["Answer"].tolist() != answers, (
        "the row order differs between the judges"
    )
    assert ">grey<" in open_answer(page)
    for order in ("All", "Missing", "Most disputed"):
        page.choose("Answers", order)
    assert ">grey<" in open_answer(page)


def test_prices_are_saved(write_answers, open_page, gemini, runs_dir):
    write_answers("one", "red")
    page = open_page("scoring")
    edit = {"edited_rows": {0: {"Input": 1e6}}, "added_rows": [], "deleted_rows": []}
    page.selections = {"prices": edit}
    page.run().press("Save prices")
    assert json.loads((runs_dir / "prices.json").read_text())["gemini-2.5-flash"] == [1e6, 2.5]
    assert open_page("scoring").dataframe[0].value["Input"][0] == 1e6


def test_untrusted_text_is_escaped(write_answers, answer, open_page, gemini, score):
    write_answers("two", "x", "y")
    hostile_answer = answer(10, f"ask {HOSTILE}", HOSTILE, f"answer {HOSTILE}", input=HOSTILE)
    run = write_answers("one", answers=[hostile_answer, answer(11, "Say blue.", "blue", "blue")])
    run.path.rename(run.path.with_name("<script>alert(1)< **bold** $x$ ![](http:x)"))
    gemini.answer = lambda prompt: json.dumps({"score": 5, "reason": f"reason {HOSTILE}"})
    page = open_page("scoring")
    pages = [page.texts(), score(page).texts()]
    assert "<script" not in str(page.figure("Score with")["data"])
    page.open_tab("Answers")
    pages.append(page.select(table_elements(page)[-1], 0).texts())
    assert page.says("answer &lt;script")
    for view in ("Two runs", "Head-to-head", "Agreement"):
        pages.append(page.open_tab(view).texts())
    score(page.choose("Model", HOSTILE))
    assert "is not a valid Gemini model name" in error_text(page)
    for text in [text for texts in [*pages, page.texts()] for text in texts]:
        marks = MARKUP[:1] if text.startswith("<div") else MARKUP
        assert not [mark for mark in marks if mark in re.sub(r"\\[^\w\s]", "", text)], text


def test_most_recently_used_judge_stays_selected(write_answers, open_page, score):
    write_answers("one", "red", "blue", "green", "x")
    page = score(open_page("scoring").choose("Measure", "chrf"))
    score(page.choose("Measure", "exact"))
    assert (
        "exact" in page.widget("Show results from").options[page.widget("Show results from").index]
    )
    options = page.widget("Show results from").options
    page.choose("Show results from", options[0])
    selected_judge = page.widget("scoring_judge").value
    page.open_tab("Agreement").open_tab("Scores")
    assert page.widget("scoring_judge").value == selected_judge
    score(page.choose("Measure", "rouge-l"))
    view = page.widget("scoring_judge")
    assert "ROUGE-L" in view.options[view.index], "the judge used last"


def test_win_rates_view_without_verdicts_shows_a_hint(write_answers, open_page, score):
    write_answers("one", "red", "blue")
    write_answers("two", "red", "green")
    page = score(open_page("scoring")).open_tab("Head-to-head")
    assert page.says("These runs have no head-to-head results yet. Choose Head-to-head mode")


def test_scores_on_a_different_scale_show_a_warning(write_answers, gemini, open_page, score):
    write_answers("one", 7, 8, 9)
    page = score(open_page("scoring"))
    assert board(page)["mean"].tolist() == [8.0]
    [warning] = page.warning
    assert "All 3 scores are at most 10." in warning.value.replace("\\", "")


@pytest.fixture
def openai(monkeypatch):
    """A local OpenAI-compatible server, with an OpenAI API key in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with JudgeServer() as server:
        yield server


def local_judge(page, server):
    page = page.choose("Judge", "openai").choose("Model", "m")
    return page.choose("Base URL", server.openai_base_url)


def test_key_from_the_environment_is_not_sent_to_a_custom_base_url(
    write_answers, open_page, openai, score
):
    write_answers("one", "red")
    page = score(local_judge(open_page("scoring"), openai))
    assert openai.requests[0]["headers"]["authorization"] == "Bearer none"
    assert board(page)["scored"].tolist() == [1]


def test_local_server_gets_one_request_at_a_time_and_a_longer_timeout(
    write_answers, open_page, openai
):
    write_answers("one", "red")
    page = open_page("scoring").choose("Judge", "openai")
    shown = [page.widget(name).proto.placeholder for name in ("Requests in flight", "Timeout (s)")]
    assert shown == ["8", "60"]
    local_judge(page, openai)
    shown = [page.widget(name).proto.placeholder for name in ("Requests in flight", "Timeout (s)")]
    assert shown == ["1", "300"]


def test_timeout_and_empty_temperature_are_used(write_answers, open_page, openai, score):
    write_answers("one", "red")
    page = local_judge(open_page("scoring"), openai)
    score(page.choose("Timeout (s)", 7.0).choose("judge_temperature", None))
    assert runtime.lab().scoring.job.order.judge.timeout == 7
    assert "temperature" not in openai.requests[0]["body"]
    assert page.says("default temperature")


@pytest.mark.parametrize("scored", [0, 1, pytest.param(2, marks=pytest.mark.long)])
def test_every_view_renders_with_few_or_no_scores(write_answers, open_page, gemini, score, scored):
    write_answers("one", 10)
    write_answers("two", 20)
    gemini.fault = lambda number, prompt: None if number <= scored else "garbage"
    page = score(open_page("scoring").choose("Requests in flight", 1))
    assert page.says("unreadable reply") == (scored < 2)
    assert page.says("Nothing was scored: unreadable reply (2)") == (not scored)
    page.open_tab("Distribution")
    assert [f for f in page.get("plotly_chart") if "by score" in f.proto.spec] == [] or scored
    page.open_tab("Answers")
    for order in ("Most disputed", "Missing", "All"):
        page.choose("Answers", order)
    gemini.fault = lambda number, prompt: None
    score(page.choose("Judge", "reference"))
    for view in ("Two runs", "Agreement", "Distribution", "Scores"):
        page.open_tab(view)
    gemini.fault = lambda number, prompt: "garbage"
    page.choose("Judge", "gemini").choose("Mode", "Head-to-head")
    score(page).open_tab("Head-to-head")
    assert page.says("Nothing was scored: unreadable reply (2)")
