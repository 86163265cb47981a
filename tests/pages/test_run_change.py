"""Change one thing on the run page: copies of a run that differ in one setting, with the run as one of the values."""

import pytest

from pages.ui import runtime


@pytest.fixture
def change(open_page, write_run):
    """A function that opens the dialog for a run and enters learning rates."""

    def start(typed="3e-4, 1e-3", seeds=3, **settings):
        write_run("demo", **{"lr": 1e-4, "seed": 7, "max_examples": 60, **settings})
        page = open_page("run", name="demo")
        page.press("Change one thing")
        page.choose("change:seeds", seeds)
        return page.choose("change:values:lr", typed)

    return start


def members(name="lr"):
    return runtime.open_lab().study(name).members


def test_run_is_reused_as_one_of_the_values(change):
    page = change()
    assert page.says("8 runs")
    assert page.says("demo is reused and becomes part of the study.")
    page.press("Launch 8 runs")
    assert page.says("Launched 8 runs")
    lab = runtime.open_lab()
    assert [m.name for m in members() if m.values["lr"] == 1e-4 and m.seed == 7] == ["demo"]
    assert {(m.values["lr"], m.seed) for m in members()} == {
        (lr, seed) for lr in (1e-4, 3e-4, 1e-3) for seed in (7, 8, 9)
    }
    assert lab.config("demo").study == "lr"
    assert {lab.config(m.name).parent for m in members() if m.name != "demo"} == {"demo"}


def test_estimate_is_based_on_the_time_of_the_run(change):
    assert change(seeds=1).says("about 6 s")  # the run took 3 s


@pytest.mark.parametrize("settings", [{"study": "other"}, {"status": "stopped"}])
def test_run_that_cannot_be_reused_is_trained_again(change, settings):
    page = change(**settings)
    assert page.says("so its settings are trained again")
    page.press("Launch 9 runs")
    assert "demo" not in {m.name for m in members()}
    assert runtime.open_lab().config("demo").study == settings.get("study")


def test_current_value_is_not_repeated(change):
    change("1e-4, 3e-4").press("Launch 5 runs")
    assert len(members()) == 6


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "Enter at least one other value."),
        ("1e-4", "lr = 1e-4: this is the current value"),
        ("fast", "lr = 'fast': must be a number"),
        ("3e-4, 3e-4", "lr = 3e-4: this value is listed twice"),
        ("1e-6", "1 combination is invalid: min_lr = 1e-05: must be at most lr = 1e-06"),
    ],
)
def test_bad_values_are_reported(change, typed, message):
    page = change(typed, min_lr=1e-5)
    assert page.says(message)
    assert all(button.disabled for button in page.widgets("change:launch"))
    assert runtime.open_lab().studies() == []


def test_seed_out_of_range_is_reported(change):
    page = change(seed=2**31 - 1)
    assert page.says("seed = 2147483648")


def test_alpha_changes_with_the_rank(change):
    page = change()
    page.choose("change:field", "lora_rank").choose("change:values:lora_rank", "4")
    page.press("Launch 5 runs")
    assert {m.values["lora_alpha"] for m in members("lora_rank")} == {4, 16}


def test_options_are_chosen(change):
    page = change()
    page.choose("change:field", "schedule").choose("change:values:schedule", ["linear"])
    page.press("Launch 5 runs")
    assert {m.values["schedule"] for m in members("schedule")} == {"auto", "linear"}
