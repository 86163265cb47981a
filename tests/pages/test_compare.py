"""The Compare page: search and display of stored answers, and live answers from small real models."""

import re

import pytest

from core.config import RunConfig
from core.nn import pretrained
from core.run.directory import RunDirectory
from core.scheduler.trainer_process import main

QUESTIONS = {
    "Give a synonym for 'sad'.": "A synonym for 'sad' is 'unhappy'.",
    "What is the capital of France?": "The capital of France is Paris.",
    "Provide a synonym for 'happy'.": "A synonym for 'happy' is 'joyful'.",
    "Suggest an alternate word for 'happy'.": "An alternate word for 'happy' is 'cheerful'.",
    "Name an antonym of 'happy'.": "An antonym of 'happy' is 'sad'.",
}


@pytest.fixture
def write_answers(write_run, answer):
    """Return a function that writes a run with answers to all questions except those excluded."""

    def write(name, text="It is {}.", excluded_questions=(), **fields):
        answers = [
            answer(
                item, question, reference, text.format(reference.split()[-1].strip("'.")), **fields
            )
            for item, (question, reference) in enumerate(QUESTIONS.items(), 10)
            if question not in excluded_questions
        ]
        return write_run(name, answers=answers)

    return write


def current_instruction(page):
    """Return the instruction whose answers are shown."""
    return page.get("html")[0].value.partition(">")[2].removesuffix("</div>").replace("&#x27;", "'")


def answer_boxes(page):
    """Return the bordered columns as (heading, text without highlighting, captions)."""
    result = []
    for column in page.columns:
        headings = [re.sub(r"[*\\\u2060]", "", m.value) for m in column.markdown]
        if headings and column.get("html"):
            text = re.sub(r"<[^>]+>", "", column.get("html")[0].value)
            result.append(
                (headings[0], text.replace("&#x27;", "'"), [c.value for c in column.caption])
            )
        elif headings:
            result.append((headings[0], "", [c.value for c in column.caption]))
    return result


def click_disabled(page, label):
    """Click a disabled button, as if the browser had sent the click just before it was disabled."""
    button = page.widget(label)
    assert button.disabled
    button.proto.disabled = False
    button.click().run()


def highlighted_words(page, box_index):
    """Return the highlighted words in a box."""
    columns = [c for c in page.columns if c.markdown and c.get("html")]
    return re.findall(r"<mark[^>]*>\s*([^<]*?)\s*</mark>", columns[box_index].get("html")[0].value)


def test_page_without_answers_shows_a_hint(open_page, write_run):
    assert open_page("compare").says("No answers yet")
    write_run("one", "running", planned=9)
    page = open_page("compare")
    assert page.says("No answers yet")


def test_live_view_without_runs_shows_a_hint(open_page):
    assert open_page("compare").choose("Answers", "Live").says("No runs with weights yet")


def test_answers_are_shown_next_to_the_reference(write_answers, open_page):
    write_answers("one", "I say {}.")
    write_answers("two", "{}")
    page = open_page("compare").choose("stored_runs", ["two", "one"])
    assert current_instruction(page) == "Give a synonym for 'sad'."
    assert [(heading, text) for heading, text, _ in answer_boxes(page)] == [
        ("Reference", "A synonym for 'sad' is 'unhappy'."),
        ("two", "unhappy"),
        ("one", "I say unhappy."),
    ]


def test_search_finds_synonyms(write_answers, open_page):
    write_answers("one")
    page = open_page("compare").choose("Find a prompt", "synonym for happy")
    listed = page.widget("position").options
    happy = ["Suggest an alternate word for 'happy'.", "Provide a synonym for 'happy'."]
    assert {text.partition(". ")[2] for text in listed[:2]} == set(happy)
    assert current_instruction(page) in happy
    assert not any("capital" in text for text in listed)


def test_search_without_matches_shows_a_message(write_answers, open_page):
    write_answers("one")
    page = open_page("compare").choose("Find a prompt", "xylophone")
    assert page.says("No test prompts match this search")
    page.choose("Find a prompt", "")
    assert len(page.widget("position").options) == len(QUESTIONS)


def test_next_and_previous_are_disabled_at_the_ends(write_answers, open_page):
    write_answers("one")
    page = open_page("compare")
    assert page.widget("Previous").disabled
    instructions = [current_instruction(page)]
    while not page.widget("Next").disabled:
        instructions.append(current_instruction(page.press("Next")))
    assert instructions == list(QUESTIONS)
    click_disabled(page, "Next")
    assert current_instruction(page) == instructions[-1]
    while not page.widget("Previous").disabled:
        page.press("Previous")
    click_disabled(page, "Previous")
    assert current_instruction(page) == instructions[0]


def test_prompt_list_selects_a_prompt_and_new_search_selects_the_best_match(
    write_answers, open_page
):
    write_answers("one")
    page = open_page("compare").choose("position", 3)
    assert current_instruction(page) == list(QUESTIONS)[3]
    page.press("Next")
    assert current_instruction(page) == list(QUESTIONS)[4]
    page.choose("Find a prompt", "capital")
    assert current_instruction(page) == "What is the capital of France?"
    assert page.widget("position").value == 0


def test_page_renders_after_returning_from_another_page(write_answers, open_page):
    write_answers("one")
    page = open_page("compare").press("Next").go("results").go("compare")
    assert current_instruction(page) in QUESTIONS


def test_missing_answer_shows_a_message(write_answers, open_page):
    question = "What is the capital of France?"
    write_answers("one")
    write_answers("two", excluded_questions=[question])
    page = open_page("compare").choose("stored_runs", ["one", "two"])
    page.choose("Find a prompt", "capital")
    assert answer_boxes(page)[2] == ("two", "", ["This run has no answer to this prompt."])
    assert answer_boxes(page)[1][1] == "It is Paris."


def test_truncated_answers_and_prompts_are_labeled(write_answers, open_page):
    write_answers("one", cut=True)
    write_answers("two", prompt_cut=True)
    page = open_page("compare").choose("stored_runs", ["one", "two"])
    notes = {heading: captions for heading, _, captions in answer_boxes(page)}
    assert notes["one"] == ["Cut off at 7 tokens."]
    assert notes["two"] == ["The prompt exceeded the context length, so its beginning was cut off."]
    assert notes["Reference"] == []


def test_empty_answer_is_labeled(write_answers, open_page):
    write_answers("one", "")
    assert answer_boxes(open_page("compare"))[1] == ("one", "", ["(empty)"])


def test_words_not_in_the_reference_are_highlighted(write_answers, open_page):
    write_answers("one", "The synonym of 'sad' is {}")
    page = open_page("compare")
    assert highlighted_words(page, 0) == []
    assert highlighted_words(page, 1) == ["The", "of"]


def test_prompt_input_is_shown(write_run, open_page, answer):
    answer_event = answer(10, "Translate.", "Bonjour", "Bon", input="Good day\nto you")
    write_run("one", answers=[answer_event])
    page = open_page("compare")
    assert any("Good day\nto you" in element.value for element in page.get("html"))


def test_empty_selection_shows_a_hint(write_answers, open_page):
    write_answers("one")
    assert open_page("compare").choose("stored_runs", []).says("Choose at least one run")


def test_number_of_compared_runs_is_limited(write_answers, open_page):
    names = [f"run-{i}" for i in range(8)]
    for name in names:
        write_answers(name)
    page = open_page("results")
    page.tick(*range(8)).press("Compare")
    assert len(page.widget("stored_runs").value) == 6


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
    page.choose("asked_runs", ["tuned", "adapted"])
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
    page.choose("asked_runs", ["early", "lost", "tuned"])
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
    assert sorted(page.widget("asked_runs").options) == ["active", "kept"]
    assert sorted(page.widget("asked_runs").value) == ["active", "kept"]
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
    page.choose("stored_runs", ["one", "three"])
    page.choose("Answers", "Live")
    assert page.widget("asked_runs").value == ["one", "three"]
    page.choose("asked_runs", ["two"])
    page.choose("Answers", "Stored")
    assert page.widget("stored_runs").value == ["two"]


def test_prompts_answered_by_most_runs_come_first(write_answers, open_page):
    first, second = list(QUESTIONS)[:2]
    write_answers("one")
    write_answers("two", excluded_questions=[first])
    page = open_page("compare").choose("stored_runs", ["one"])
    assert current_instruction(page) == first
    page.choose("stored_runs", ["one", "two"])
    assert current_instruction(page) == second
    assert not page.says("This run has no answer to this prompt.")


def test_current_prompt_stays_when_the_runs_change(write_answers, open_page):
    first, second = list(QUESTIONS)[:2]
    write_answers("one")
    write_answers("two", excluded_questions=[first])
    page = open_page("compare").choose("stored_runs", ["one"])
    assert current_instruction(page.choose("position", 1)) == second
    page.choose("stored_runs", ["one", "two"])
    assert page.widget("position").value == 0, "it is now first in the list"
    assert current_instruction(page) == second
    page.choose("stored_runs", ["one"])
    assert current_instruction(page) == second


def test_truncated_selection_shows_run_counts(write_answers, write_run, open_page):
    for number in range(8):
        write_answers(f"run-{number}")
    write_run("unanswered", "stopped", "")
    page = open_page("results").tick(*range(9)).press("Compare")
    assert len(page.widget("stored_runs").value) == 6
    assert page.says("Showing 6 of 8 selected runs.")
    assert page.says("Not shown: unanswered. These runs have no answers yet.")
    page.choose("Answers", "Live")
    assert len(page.widget("asked_runs").value) == 4
    assert page.says("Showing 4 of 9 selected runs.")
    page.choose("asked_runs", ["run-1"])
    assert not page.says("Showing")
    assert not page.choose("Answers", "Stored").says("Not shown")
