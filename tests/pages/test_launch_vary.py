"""Launching a study: varied settings, options, the plan, problems, and state that survives navigation and reloads."""

import shutil
from types import SimpleNamespace

import pytest

from core.config import CONDITIONS
from core.run.directory import list_runs
from core.studies.sweep import Axis
from pages import launch_vary
from pages.ui import runtime, varied_values

VARY = "Vary a setting"
RATES = "Values for Learning rate"


def vary(page, name, values=None):
    """Vary a setting and enter values for it."""
    page.choose(VARY, name)
    return page if values is None else page.choose(f"vary:{name}", values)


def study_names():
    return [study["name"] for study in runtime.open_lab().studies()]


def test_varied_settings_are_launched_as_a_study(page, runs_dir):
    vary(page, "lr", "1e-4, 3e-4, 1e-3")
    assert page.widget("launch").label == "Launch 9 runs"
    metrics = {metric.label: metric.value for metric in page.metric}
    assert metrics["Runs"] == "9"
    assert metrics["Steps"] == f"{9 * 252:,}"
    page.choose("Question", "Which rate?")
    page.press("launch")
    assert page.says("Launched 9 runs")
    links = [link.proto.label for link in page.get("page_link")]
    assert "Study lr" in links or page.says("Study lr")
    found = runtime.open_lab().study("lr")
    assert found.question == "Which rate?"
    assert {member.values["lr"] for member in found.members} == {1e-4, 3e-4, 1e-3}
    assert {member.seed for member in found.members} == {123, 124, 125}
    assert len(list_runs(runs_dir)) == 9


def test_same_study_is_launched_only_once(page):
    vary(page, "lr", "1e-4, 3e-4").press("launch")
    assert page.widget("launch").disabled
    assert page.says("Change something to launch another study.")
    page.choose("Seeds", 1).press("launch")
    assert study_names() == ["lr", "lr-2"]


def test_name_and_question_belong_to_one_study(page):
    vary(page, "lr", "1e-4, 3e-4").choose("Study name", "rates").choose("Question", "Which?")
    page.press("launch")
    assert study_names() == ["rates"]
    assert not page.error
    assert (page.widget("Study name").value, page.widget("Question").value) == ("", "")


def test_varied_field_shows_its_values_instead_of_an_input(page):
    vary(page, "lr", "1e-4, 3e-4")
    field = page.widget("varied:lr")
    assert (field.value, field.disabled) == ("1e-4, 3e-4", True)
    assert not page.widgets("Learning rate")
    page.press("vary:remove:lr")
    assert page.widget("Learning rate").value == "1e-4"
    assert page.widget("launch").label == "Launch"


def test_alpha_is_varied_with_the_rank_while_locked(page):
    page.choose("Method", "lora")
    vary(page, "lora_rank", "4, 8")
    assert page.says("Rank = Alpha")
    page.press("launch")
    [study] = study_names()
    values = [dict(member.values) for member in runtime.open_lab().study(study).members]
    assert {"lora_rank": 4, "lora_alpha": 4} in values


def test_settings_can_be_tied_and_untied(page):
    vary(page, "lr", "1e-4, 3e-4")
    page.choose("vary:tie:lr", ["min_lr"])
    assert page.says("Learning rate = Min learning rate")
    page.choose("vary:tie:lr", [])
    assert not page.says("Learning rate = Min learning rate")


def test_options_and_switches_are_chosen_not_typed(page):
    vary(page, "schedule", ["linear", "wsd"])
    vary(page, "mask_prompt")  # both values by default
    page.press("launch")
    members = runtime.open_lab().study("schedule-mask_prompt").members
    combinations = {(m.values["schedule"], m.values["mask_prompt"]) for m in members}
    assert combinations == {(s, m) for s in ("linear", "wsd") for m in (False, True)}


def test_text_values_may_contain_commas(page):
    page.choose("Method", "lora")
    vary(page, "lora_targets", ["attention", "h.*.attn.q, lm_head"])
    page.choose("Seeds", 1).press("launch")
    members = runtime.open_lab().study("lora_targets").members
    assert [m.values["lora_targets"] for m in members] == ["attention", "h.*.attn.q, lm_head"]


def test_settings_that_matter_for_one_varied_value_stay_in_the_form(page):
    vary(page, "method", ["full", "lora"])
    assert page.widgets("Rank")
    assert page.widgets("Trained weights")


def test_random_mode_limits_the_number_of_runs(page):
    vary(page, "lr", "log 1e-5..1e-3 x 9")
    assert not page.widgets("Max runs")
    page.choose("Mode", "random")
    assert page.widget("launch").label == "Launch 18 runs", "20, rounded down to three seeds each"
    page.choose("Max runs", 10)
    assert page.widget("launch").label == "Launch 9 runs"


def test_values_are_checked_with_the_settings_in_the_form(page):
    page.choose("source", "demo_lora")  # a learning rate of 5e-3
    vary(page, "min_lr", "1e-4, 2e-4")
    assert page.widget("launch").label == "Launch 6 runs"
    assert not page.error


def test_table_lists_every_planned_run(page):
    vary(page, "lr", "1e-4, 3e-4").press("Show all runs")
    table = page.dataframe[0].value
    assert table["Run"].tolist() == [f"lr-{i}" for i in range(1, 7)]
    assert table["Learning rate"].tolist() == ["1e-4", "3e-4"] * 3
    assert table["Seed"].tolist() == [123, 123, 124, 124, 125, 125]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("fast", "lr = 'fast': must be a number"),
        ("1e-4, -1", "must be greater than 0"),
        ("1e-4, 1e-4", "lr = 1e-4: this value is listed twice"),
        ("0, 0", "lr = '0': must be greater than 0"),
        ("", "enter at least one value"),
        ("log 0..1 x 3", "must go from a smaller to a larger value"),
        ("log 1e-5..1e-1 x 700", "2,100 runs: a sweep can have at most 2,000"),
    ],
)
def test_bad_values_are_reported_and_kept(page, typed, message):
    vary(page, "weight_decay", "0, 0.1")
    vary(page, "lr", "1e-4")
    page.choose("vary:lr", typed)
    if "runs" in message:
        page.press("vary:remove:weight_decay")
    assert page.says(message)
    assert page.widget("launch").disabled
    assert page.widget("vary:lr").value == typed


def test_zero_listed_twice_is_reported(page):
    vary(page, "weight_decay", "0, 0.0")
    assert page.says("weight_decay = 0: this value is listed twice")


def test_axis_without_effect_is_reported(page):
    page.choose("Method", "lora")
    vary(page, "lora_rank", "4, 8").choose("Method", "full")
    assert page.says("this setting has no effect")
    assert page.widget("launch").disabled
    assert page.widget("vary:lora_rank").value == "4, 8"


def test_invalid_combinations_are_named_and_skipped_only_on_request(page):
    vary(page, "lr", "1e-6, 1e-4")  # the demo's min_lr is larger than the first
    assert page.says("1 combination is invalid: min_lr = 2e-05: must be at most lr = 1e-06")
    assert page.widget("launch").disabled
    page.choose("Skip invalid combinations", True).press("launch")
    members = runtime.open_lab().study("lr").members
    assert {member.values["lr"] for member in members} == {1e-4}


def test_problems_of_fixed_settings_are_shown_next_to_their_fields(page):
    vary(page, "lr", "1e-4, 3e-4").choose("Data set", "missing.json")
    assert page.says("Fix before launching")
    assert page.widget("launch").disabled
    assert [e.value for e in page.error if "not found" in e.value or "missing" in e.value]


def test_too_many_runs_for_the_disk_are_refused(page, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=600 * 2**20))
    vary(page, "lr", "1e-4, 3e-4")
    assert page.says("runs = 6: they need about")
    assert page.widget("launch").disabled


def test_taken_study_name_is_refused(page):
    vary(page, "lr", "1e-4, 3e-4").press("launch")
    page.choose("Study name", "LR")
    assert page.says("a study with this name already exists")
    page.choose("Study name", "?!")
    assert page.says("must contain a letter or a digit")


def test_unwritable_folder_is_reported_at_launch(page, runs_dir):
    vary(page, "lr", "1e-4, 3e-4")
    (runs_dir / "studies").write_text("")
    page.press("launch")
    assert page.error
    assert page.widget("vary:lr").value == "1e-4, 3e-4"


def test_varied_settings_survive_other_pages(page):
    vary(page, "lr", "1e-4, 3e-4").choose("Seeds", 5)
    page.go("live")
    page.go("launch")
    assert page.widget("vary:lr").value == "1e-4, 3e-4"
    assert page.widget("Seeds").value == 5


def test_varied_settings_survive_a_reload(page, open_page):
    page.choose("Method", "lora")
    vary(page, "lora_targets", ["attention", "h.*.attn.q, lm_head"])
    vary(page, "lr", "1e-4, 3e-4").choose("Mode", "random").choose("Max runs", 12)
    page.choose("Study name", "targets").choose("Question", "Which?")
    query = {name: page.query_params[name] for name in page.query_params}
    again = open_page("launch", **query)
    assert again.widget("vary:lr").value == "1e-4, 3e-4"
    assert again.widget("Max runs").value == 12
    assert again.widget("Study name").value == "targets"
    assert again.widget("Question").value == "Which?"
    assert again.session_state["vary"]["axes"] == page.session_state["vary"]["axes"]


def test_unknown_setting_in_the_url_is_reported(open_page):
    page = open_page("launch", vary=["rank=4,8", "lr=1e-4,3e-4"], seeds="x", mode="y")
    assert page.says("Unknown setting: rank=4,8.")
    assert page.widget("vary:lr").value == "1e-4,3e-4"
    assert page.widget("Seeds").value == 3


def test_choosing_another_source_clears_the_varied_settings(page, write_run):
    vary(page, "lr", "1e-4, 3e-4")
    page.go("launch", **{"from": "run_1"})
    assert not page.widgets("vary:lr")


def test_single_runs_can_be_launched_after_a_study(page):
    vary(page, "lr", "1e-4, 3e-4").press("launch")
    page.press("vary:remove:lr").press("launch")
    assert not page.says("Launched 6 runs")
    assert [link.proto.label for link in page.get("page_link")].count("Watch in Live") == 1


def test_switches_include_the_settings_that_conditions_depend_on():
    read = set()

    class Settings(dict):
        def get(self, key, default=None):
            read.add(key)
            return default

    for condition in CONDITIONS.values():
        condition(Settings())
    assert read <= {*launch_vary.SWITCHES}


def test_numbers_in_a_link_are_limited(open_page):
    page = open_page("launch", vary="lr=1e-4,3e-4", seeds="9" * 5000, runs="9" * 20, mode="random")
    assert page.widget("Seeds").value == launch_vary.MAX_SEEDS
    assert page.widget("Max runs").value == 2000


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("lr", (5e-5, 3e-7)), ("grad_clip", (1.0, None)), ("max_examples", (1000, 20000)), ("lora_dora", (False, True)),
        ("lora_targets", ("attention", "h.*.attn.q, lm_head")), ("method", ("full", "lora")),
    ],
)  # fmt: skip
def test_values_survive_the_input_and_a_link(open_page, field, values):
    typed = varied_values.typed_values_of(field, values)
    assert varied_values.parse([field], typed) == Axis((field,), values)
    page = open_page("launch", vary=varied_values.link_text([field], typed))
    assert page.session_state["vary"]["axes"] == [{"fields": [field], "typed": typed}]


def test_first_value_of_a_large_number_has_no_thousands_separator():
    assert varied_values.first_typed("max_examples", 2000) == "2000"
