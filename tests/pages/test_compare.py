"""The Compare page: search and display of stored answers, and live answers from small real models."""

import html
import re

import pytest

from core.config import RunConfig
from core.nn import pretrained
from core.run.directory import RunDirectory
from core.scheduler.trainer_process import main
from core.views.comparison import DATASET_ORDER
from pages.ui import runtime

QUESTIONS = {
    "Give a synonym for 'sad'.": "A synonym for 'sad' is 'unhappy'.",
    "What is the capital of France?": "The capital of France is Paris.",
    "Provide a synonym for 'happy'.": "A synonym for 'happy' is 'joyful'.",
    "Suggest an alternate word for 'happy'.": "An alternate word for 'happy' is 'cheerful'.",
    "Name an antonym of 'happy'.": "An antonym of 'happy' is 'sad'.",
}


@pytest.fixture
def write_answers(write_run, answer):
    """Return a function that writes a run with answers to all questions except those excluded.

    An answer is the text with the last word of the reference, unless `texts` has one for the question.
    """

    def write(name, text="It is {}.", excluded_questions=(), texts=None, **fields):
        texts = texts or {}
        answers = [
            answer(
                item,
                question,
                reference,
                texts.get(question, text.format(reference.split()[-1].strip("'."))),
                **fields,
            )
            for item, (question, reference) in enumerate(QUESTIONS.items(), 10)
            if question not in excluded_questions
        ]
        return write_run(name, answers=answers)

    return write


def plain(text):
    """Return Markdown or HTML as the user sees it."""
    return html.unescape(re.sub(r"<[^>]+>", "", text)).replace("\\", "").replace("\u2060", "")


def buttons(page):
    """Return the buttons of the rows, in order."""
    return [button for button in page.button if (button.key or "").startswith("open-")]


def instructions(page):
    """Return the instructions of the rows, in order."""
    return [plain(button.label) for button in buttons(page)]


def cells(page, row=0):
    """Return the cells of a row as (run, score, answer, notes)."""
    rows = [e.value for e in page.get("html") if e.value.startswith('<div class="compare-cells')]
    result = []
    for cell in re.split('<div class="compare-cell"', rows[row])[1:]:
        notes = re.findall(r'"compare-note">(.*?)</span>', cell)
        score = re.findall(r'"compare-score[^>]*>(.*?)</span>', cell)
        answer = re.findall(r'<div dir="auto"[^>]*>(.*?)</div>', cell, re.DOTALL)
        run = re.search('aria-label="(.*?)"', cell)[1]
        result.append((run, "".join(score), plain("".join(answer)), notes))
    return result


def prompt_text(page, row=0):
    """Return the input and the reference of a row."""
    rows = [e.value for e in page.get("html") if e.value.startswith('<div class="compare-prompt')]
    return plain(rows[row])


def current(page):
    """Return the instruction of the current prompt, or None."""
    id = page.query_params.get("prompt")
    found = [plain(button.label) for button in buttons(page) if button.key == f"open-{id}"]
    return found[0] if found else None


def answer_boxes(page):
    """Return the columns with live answers as (heading, text, captions)."""
    result = []
    for column in page.columns:
        texts = [e.value for e in column.get("html") if not e.value.startswith("<style>")]
        links = [link.label for link in column.get("page_link")]
        headings = [plain(h).strip("*") for h in [*links, *(m.value for m in column.markdown)]]
        if headings:
            captions = [c.value for c in column.caption]
            result.append((headings[0], plain("".join(texts)), captions))
    return result


def click_disabled(page, label):
    """Click a disabled button, as if the browser had sent the click just before it was disabled."""
    button = page.widget(label)
    assert button.disabled
    button.proto.disabled = False
    button.click().run()


def highlighted_words(page, run, row=0):
    """Return the highlighted words of a run's answer."""
    rows = [e.value for e in page.get("html") if e.value.startswith('<div class="compare-cells')]
    cell = rows[row].split(f'aria-label="{run}"')[1].split('<div class="compare-cell"')[0]
    return [plain(word).strip() for word in re.findall(r"<mark[^>]*>(.*?)</mark>", cell)]


def test_page_without_answers_shows_a_hint(open_page, write_run):
    assert open_page("compare").says("No answers yet")
    write_run("one", "running", planned=9)
    page = open_page("compare")
    assert page.says("No answers yet")


def test_live_view_without_runs_shows_a_hint(open_page):
    assert open_page("compare").choose("Answers", "Live").says("No runs with weights yet")


def test_rows_are_prompts_and_columns_are_runs(write_answers, open_page):
    write_answers("one", "I say {}.")
    write_answers("two", "{}")
    page = (
        open_page("compare")
        .choose("compare_run", ["two", "one"])
        .choose("compare_sort", DATASET_ORDER)
    )
    assert instructions(page) == list(QUESTIONS)
    assert [plain(link.label) for link in page.get("page_link")][-2:] == ["two", "one"]
    assert prompt_text(page) == "ReferenceA synonym for 'sad' is 'unhappy'."
    assert cells(page) == [
        ("two", "Wrong", "unhappy", []),
        ("one", "Wrong", "I say unhappy.", []),
    ]


def test_score_is_an_exact_match_or_a_judge_score(write_answers, open_page, wait):
    write_answers("one", "It is {}.")
    question = "What is the capital of France?"
    write_answers("two", "It is {}.", texts={question: QUESTIONS[question]})
    page = open_page("scoring", run=["one", "two"])
    page.choose("Also score the pretrained base model", False).press("Score")
    wait(lambda: not runtime.lab().scoring.job.is_running, 60)
    runtime.lab().refresh()
    page = page.go("compare", run=["one", "two"], search="capital of France")
    assert [cell[1] for cell in cells(page)] == ["Wrong", "Right"]
    assert page.says("one wins 0, loses 1 and ties 4 against two on 5 prompts (exact match).")
    [judge] = [
        option for option in page.widget("compare_score").options if option.startswith("chrF")
    ]
    page.choose("compare_score", judge)
    assert float(cells(page)[0][1]) < float(cells(page)[1][1]) == 100
    assert page.says(f"on 5 prompts ({judge}).")
    assert page.says("mean score ")
    fresh = open_page("compare", **page.query_params)
    assert cells(fresh) == cells(page)


def test_first_two_runs_are_compared_in_one_sentence(write_answers, open_page):
    write_answers("one", texts={question: QUESTIONS[question] for question in list(QUESTIONS)[:3]})
    write_answers("two", texts={question: QUESTIONS[question] for question in list(QUESTIONS)[2:4]})
    page = open_page("compare", run=["one", "two"])
    assert page.says("one wins 2, loses 1 and ties 2 against two on 5 prompts (exact match).")
    [link] = [link for link in page.get("page_link") if link.label == "Is the difference clear?"]
    assert link.proto.query_string == "run=one&run=two"


def test_filter_shows_prompts_that_only_one_run_answered_correctly(write_answers, open_page):
    questions = list(QUESTIONS)
    write_answers("one", texts={question: QUESTIONS[question] for question in questions[:3]})
    write_answers("two", texts={question: QUESTIONS[question] for question in questions[2:4]})
    page = open_page("compare", run=["one", "two"]).choose("compare_sort", DATASET_ORDER)
    page.choose("compare_filter", "A right, B wrong")
    assert instructions(page) == questions[:2]
    assert page.says("1 to 2 · 2 of 5 prompts")
    page.choose("compare_a", "two")
    assert page.widget("compare_b").value == "one"
    assert instructions(page) == questions[3:4]
    page.choose("Find a prompt", "capital")
    assert page.says("No prompts match this filter.")


def test_most_different_prompts_come_first(write_answers, open_page):
    questions = list(QUESTIONS)
    write_answers("one", "It is {}.", texts={questions[3]: "Nobody knows the answer to this."})
    write_answers("two", "It is {}.", texts={questions[1]: "It is Rome."})
    page = open_page("compare", run=["one", "two"])
    assert instructions(page)[:2] == [questions[3], questions[1]]
    assert instructions(page.choose("compare_sort", DATASET_ORDER)) == questions


def test_search_finds_synonyms(write_answers, open_page):
    write_answers("one")
    page = open_page("compare").choose("Find a prompt", "synonym for happy")
    happy = ["Suggest an alternate word for 'happy'.", "Provide a synonym for 'happy'."]
    assert set(instructions(page)[:2]) == set(happy)
    assert page.widget("compare_sort").value == "Best match"
    assert not any("capital" in text for text in instructions(page))


def test_search_without_matches_shows_a_message(write_answers, open_page):
    write_answers("one")
    page = open_page("compare").choose("Find a prompt", "xylophone")
    assert page.says("No prompts match this search")
    page.choose("Find a prompt", "")
    assert len(instructions(page)) == len(QUESTIONS)
    assert page.widget("compare_sort").value == "Most different"


def test_next_and_previous_move_through_the_prompts(write_answers, open_page):
    write_answers("one")
    page = open_page("compare").choose("compare_sort", DATASET_ORDER)
    assert (page.widget("Next").proto.shortcut, page.widget("Previous").proto.shortcut) == (
        "j",
        "k",
    )
    assert page.widget("Previous").disabled
    visited = []
    while not page.widget("Next").disabled:
        visited.append(current(page.press("Next")))
    assert visited == list(QUESTIONS)
    assert page.says("Prompt 5 · 5 prompts")
    click_disabled(page, "Next")
    assert current(page) == visited[-1]
    while not page.widget("Previous").disabled:
        page.press("Previous")
    click_disabled(page, "Previous")
    assert current(page) == visited[0]


def test_pressing_an_instruction_opens_and_closes_the_prompt(write_answers, open_page):
    write_answers("one")
    page = open_page("compare").choose("compare_sort", DATASET_ORDER)
    buttons(page)[3].click().run()
    assert current(page) == list(QUESTIONS)[3]
    page.press("Next")
    assert current(page) == list(QUESTIONS)[4]
    buttons(page)[4].click().run()
    assert current(page) is None
    buttons(page)[0].click().run()
    page.choose("Find a prompt", "capital")
    assert current(page) is None


@pytest.fixture
def write_many(write_run, answer):
    """Return a function that writes a run with 45 answers."""

    def write(name):
        answers = [answer(n, f"Count to {n}.", f"{n}", f"{name} {n}") for n in range(45)]
        return write_run(name, answers=answers)

    return write


def test_prompts_are_shown_in_pages(write_many, open_page):
    write_many("one")
    page = open_page("compare").choose("compare_sort", DATASET_ORDER)
    assert len(instructions(page)) == 20
    assert page.says("1 to 20 · 45 prompts")
    page.press("Next page").press("Next page")
    assert instructions(page) == [f"Count to {n}." for n in range(40, 45)]
    assert page.widget("Next page").disabled
    assert page.query_params["page"] == "3"
    page.press("Next")
    assert current(page) == "Count to 40."
    page.press("Previous")
    assert current(page) == "Count to 39."
    assert page.says("Page 2 of 3")
    assert instructions(page.choose("Find a prompt", "count"))[0] == "Count to 0."


def test_link_restores_the_page_in_a_new_session(write_many, write_answers, open_page):
    write_many("one")
    write_many("two")
    write_many("three")
    page = open_page("compare").choose("compare_run", ["three", "one", "two"])
    page.choose("compare_b", "two").choose("compare_filter", "Both wrong").choose(
        "compare_sort", DATASET_ORDER
    )
    page.choose("Find a prompt", "count").choose("compare_sort", DATASET_ORDER)
    page.press("Next page").press("Next")
    fresh = open_page("compare", **page.query_params)
    for key in ("run", "search", "filter", "a", "b", "sort"):
        assert fresh.widget(f"compare_{key}").value == page.widget(f"compare_{key}").value
    assert instructions(fresh) == instructions(page)
    assert current(fresh) == current(page) == "Count to 20."
    assert not fresh.warning


def test_link_can_refer_to_a_prompt_by_index(write_many, open_page):
    write_many("one")
    page = open_page("compare", prompt="33", sort=DATASET_ORDER)
    assert current(page) == "Count to 33."
    assert page.says("Page 2 of 3")


def test_unknown_names_in_a_link_are_reported(write_many, open_page):
    write_many("one")
    write_many("two")
    page = open_page("compare", run=["one", "ghost", "two"], b="absent", sort="odd", prompt="99")
    warnings = [plain(warning.value) for warning in page.warning]
    assert warnings == [
        "Unknown run: ghost.",
        "Not among the selected runs: absent.",
        "Unknown sort: odd.",
        "Unknown prompt: 99.",
    ]
    assert page.widget("compare_run").value == ["one", "two"]
    page.choose("compare_run", ["two", "one"])
    assert not page.says("Unknown run")


def test_link_replaces_the_selection_of_the_session(write_many, open_page):
    for name in ("one", "two", "three"):
        write_many(name)
    page = open_page("compare").choose("compare_run", ["one"])
    page.go("compare", run=["three", "two"])
    assert page.widget("compare_run").value == ["three", "two"]
    assert page.go("results").go("compare").widget("compare_run").value == ["three", "two"]


def test_page_renders_after_returning_from_another_page(write_answers, open_page):
    write_answers("one")
    page = open_page("compare").press("Next").go("results").go("compare")
    assert current(page) in QUESTIONS


def test_missing_answer_shows_a_message(write_answers, open_page):
    question = "What is the capital of France?"
    write_answers("one")
    write_answers("two", excluded_questions=[question])
    page = open_page("compare").choose("compare_run", ["one", "two"])
    page.choose("Find a prompt", "capital")
    assert cells(page) == [
        ("one", "Wrong", "It is Paris.", []),
        ("two", "", "", ["This run has no answer to this prompt."]),
    ]


def test_truncated_answers_and_prompts_are_labeled(write_answers, open_page):
    write_answers("one", cut=True)
    write_answers("two", prompt_cut=True)
    page = open_page("compare")
    notes = {run: notes for run, _, _, notes in cells(page)}
    assert notes["one"] == ["Cut off at 7 tokens."]
    assert notes["two"] == ["The prompt exceeded the context length, so its beginning was cut off."]


def test_empty_answer_is_labeled(write_answers, open_page):
    write_answers("one", "")
    assert cells(open_page("compare")) == [("one", "Wrong", "", ["(empty)"])]


def test_words_not_in_the_reference_are_highlighted(write_answers, open_page):
    write_answers("one", "The synonym of 'sad' is {}")
    page = open_page("compare").choose("compare_sort", DATASET_ORDER)
    assert highlighted_words(page, "one") == ["The", "of"]


def test_answers_are_escaped(write_run, open_page, answer):
    markup = "<script>alert(1)</script> **bold**"
    write_run("one", answers=[answer(10, f"ask {markup}", f"ref {markup}", f"say {markup}")])
    page = open_page("compare")
    html_texts = [e.value for e in page.get("html") if "compare-" in e.value]
    assert not any("<script" in text for text in html_texts)
    assert cells(page)[0][2] == f"say {markup}"
    assert "**bold" not in buttons(page)[0].label


def test_prompt_input_is_shown(write_run, open_page, answer):
    answer_event = answer(10, "Translate.", "Bonjour", "Bon", input="Good day\nto you")
    write_run("one", answers=[answer_event])
    assert prompt_text(open_page("compare")) == "Good day\nto youReferenceBonjour"


def test_empty_selection_shows_a_hint(write_answers, open_page):
    write_answers("one")
    assert open_page("compare").choose("compare_run", []).says("Choose at least one run")


def test_number_of_compared_runs_is_limited(write_answers, open_page):
    names = [f"run-{i}" for i in range(8)]
    for name in names:
        write_answers(name)
    page = open_page("results")
    page.tick(*range(8)).press("Compare")
    assert len(page.widget("compare_run").value) == 6


@pytest.fixture
def train(runs_dir, dataset):
    """Return a function that trains a run for two steps in this process."""

    def run(name, **settings):
        small = {"dataset": str(dataset), "batch_size": 5, "max_new_tokens": 2, "sample_prompt": ""}
        run = RunDirectory.create(runs_dir, RunConfig.parse({"name": name, **small, **settings}))
        main(run)
        assert run.status() == "finished"
        return run

    return run


def test_live_view_shows_answers_from_runs_and_their_base(train, open_page):
    train("tuned", method="full", lr=0.01)
    adapted = train("adapted", method="lora", lora_rank=2, lr=0.01)
    page = open_page("compare").choose("Answers", "Live")
    page.choose("compare_run", ["tuned", "adapted"])
    page.widget("Instruction").set_value("Say red.")
    page.widget("Max new tokens").set_value(3)
    page.press("Generate")
    assert not page.error
    assert not page.warning
    base, tuned, lora = answer_boxes(page)
    assert [base[0], tuned[0], lora[0]] == ["base:gpt2-nano", "tuned", "adapted"]
    assert tuned[1] != base[1], "a tenfold learning rate must change the answer"
    hash = pretrained.fingerprint(pretrained.load("gpt2-nano"))
    [plan] = [row for row in adapted.events_path.read_text().splitlines() if '"plan"' in row]
    assert hash in plan
    assert base[2][-1] == f"Weights: {hash[:16]}"
    assert tuned[2][-1] == lora[2][-1] == f"Base weights: {hash[:16]}"
    answer_texts = [text for _, text, _ in answer_boxes(page)]
    page.press("Generate")
    assert [text for _, text, _ in answer_boxes(page)] == answer_texts, (
        "greedy decoding is deterministic"
    )


def test_failing_model_does_not_affect_others(write_run, train, open_page, tmp_path):
    train("tuned", method="lora", lora_rank=2).append("plan", steps=2, base_hash="cd" * 32)
    write_run("early", "running", planned=9)
    write_run("lost", base_model=str(tmp_path / "gone"))
    page = open_page("compare").choose("Answers", "Live")
    page.choose("compare_run", ["early", "lost", "tuned"])
    page.widget("Max new tokens").set_value(2)
    page.press("Generate")
    errors = [error.value.replace("\\", "") for error in page.error]
    assert ["unknown model" in errors[0], "unknown model" in errors[2]] == [True, True]
    assert "no weights" in errors[1]
    assert len(errors) == 3
    [warning] = page.warning
    assert warning.value.startswith("The base model's weights have changed since training")
    assert answer_boxes(page)[-1][0] == "tuned"
    assert f"Base weights: {'cd' * 8}" in answer_boxes(page)[-1][2]


def test_live_view_excludes_runs_without_weights(write_run, open_page):
    write_run("kept")
    write_run("dropped", keep_weights="none")
    write_run("active", "running", planned=9, keep_weights="none")
    page = open_page("results").tick(0, 1, 2).press("Compare").choose("Answers", "Live")
    assert sorted(page.widget("compare_run").options) == ["active", "kept"]
    assert sorted(page.widget("compare_run").value) == ["active", "kept"]
    assert page.says("Not shown: dropped. These runs have no weights.")


def test_missing_base_hash_is_shown_without_a_warning(train, open_page):
    run = train("tuned", method="lora", lora_rank=2)
    events = run.events_path.read_text()
    run.events_path.write_text(re.sub(r'"base_hash": *"\w+"', '"base_hash": null', events))
    page = open_page("compare").choose("Answers", "Live")
    page.widget("Max new tokens").set_value(2)
    page.press("Generate")
    assert not page.warning
    assert "Base weights: not recorded" in answer_boxes(page)[-1][2]


def test_empty_prompt_is_not_sent(write_run, open_page):
    write_run("one")
    page = open_page("compare").choose("Answers", "Live")
    page.widget("Instruction").set_value("  ")
    page.press("Generate")
    assert not page.error
    assert not answer_boxes(page)
    assert page.info[0].value == "Enter an instruction."


def test_selection_is_shared_by_both_views(train, open_page):
    for name in ("one", "two", "three"):
        train(name)
    page = open_page("compare")
    page.choose("compare_run", ["one", "three"])
    page.choose("Answers", "Live")
    assert page.widget("compare_run").value == ["one", "three"]
    page.choose("compare_run", ["two"])
    page.choose("Answers", "Stored")
    assert page.widget("compare_run").value == ["two"]


def test_prompts_answered_by_the_most_runs_come_first(write_answers, open_page):
    first, second = list(QUESTIONS)[:2]
    write_answers("one")
    write_answers("two", excluded_questions=[first])
    page = open_page("compare", sort=DATASET_ORDER).choose("compare_run", ["one"])
    assert instructions(page)[0] == first
    page.choose("compare_run", ["one", "two"])
    assert instructions(page)[0] == second
    assert instructions(page)[-1] == first


def test_current_prompt_stays_when_the_runs_change(write_answers, open_page):
    first, second = list(QUESTIONS)[:2]
    write_answers("one")
    write_answers("two", excluded_questions=[first])
    page = open_page("compare", sort=DATASET_ORDER).choose("compare_run", ["one"])
    buttons(page)[1].click().run()
    assert current(page) == second
    page.choose("compare_run", ["one", "two"])
    assert page.says("Prompt 1 · 5 prompts"), "it is now first in the list"
    assert current(page) == second
    page.choose("compare_run", ["one"])
    assert current(page) == second


def test_truncated_selection_shows_run_counts(write_answers, write_run, open_page):
    for number in range(8):
        write_answers(f"run-{number}")
    write_run("unanswered", "stopped", "")
    page = open_page("results").tick(*range(9)).press("Compare")
    assert len(page.widget("compare_run").value) == 6
    assert page.says("Showing 6 of 8 selected runs.")
    assert page.says("Not shown: unanswered. These runs have no answers yet.")
    page.choose("Answers", "Live")
    assert len(page.widget("compare_run").value) == 4
    assert page.says("Showing 4 of 9 selected runs.")
    page.choose("compare_run", ["run-1"])
    assert not page.says("Showing")
    assert not page.choose("Answers", "Stored").says("Not shown")


def test_action_with_an_outdated_url_keeps_later_choices(write_answers, open_page):
    """The browser sends the URL that it shows, which is older if the user is faster than the page."""
    for name in ("one", "two", "three"):
        write_answers(name)
    page = open_page("compare").choose("compare_run", ["one", "two"])
    outdated = dict(page.query_params)
    page.choose("compare_run", ["three"])
    page.query_params = outdated
    page.choose("compare_search", "say")
    assert page.widget("compare_run").value == ["three"]
    assert page.query_params["search"] == "say"
