"""The launch form: a widget for each setting, hidden if the setting has no effect."""

import pytest

from core.config import RunConfig, choices, metadata
from core.presets import PRESETS, preset
from pages.launch_form import NUMBER_TEXT_FIELDS, increment

FIELDS = RunConfig.model_fields
WIDGETS = ("text_input", "number_input", "selectbox", "checkbox", "text_area")
LORA = {name for name, field in FIELDS.items() if metadata(field)["when"] == "lora"}


def form_widgets(page):
    """Return the form's widgets by setting name."""
    widgets = [w for kind in WIDGETS for w in page.get(kind)]
    keys = [(w.key or "").split(":") for w in widgets]  # setting:<generation>:<name>:...
    return {key[2]: w for key, w in zip(keys, widgets, strict=True) if key[0] == "setting"}


def test_every_setting_has_a_documented_widget(page):
    page.choose("source", "run_12")  # LoRA with a warm-up
    form_widgets(page)["optimizer"].set_value("muon").run()
    form_widgets(page)["schedule"].set_value("wsd").run()
    form_widgets(page)["early_stopping_patience"].set_value(3).run()
    form_widgets(page)["early_stopping_patience"].set_value(3).run()
    widgets = form_widgets(page)
    form_widgets(page)["method"].set_value("full").run()
    form_widgets(page)["trained_weights"].set_value("last_layers").run()
    widgets |= form_widgets(page)
    assert FIELDS.keys() - widgets.keys() == {"parent", "study", "color", "archived"}, (
        "set elsewhere"
    )
    for name, widget in widgets.items():
        assert widget.label == FIELDS[name].title
        assert widget.help == f"`{name}`: {FIELDS[name].description}"
        if choices(FIELDS[name]):
            assert widget.options == list(choices(FIELDS[name]))


def test_every_preset_fills_the_form(page):
    for name in [*PRESETS][::-1]:
        page.choose("source", name)
        expected = {**preset(name).model_dump(), "tags": ""}
        assert page.session_state["draft"] == {**expected, "tags": ()}
        for field, widget in form_widgets(page).items():
            if field in NUMBER_TEXT_FIELDS:
                assert (float(widget.value) if widget.value else None) == expected[field]
            else:
                assert widget.value == expected[field]


@pytest.mark.parametrize(
    ("typed", "shown"),
    [("0.00005", "5e-5"), ("2.5E-05", "2.5e-5"), (" 0.10 ", "0.1"), ("fast", "fast"), ("", "")],
)
def test_typed_number_is_reformatted(page, typed, shown):
    form_widgets(page)["lr"].set_value(typed).run()
    assert form_widgets(page)["lr"].value == shown
    form_widgets(page)["epochs"].set_value(3).run()
    assert form_widgets(page)["lr"].value == shown
    [problem] = [e.value for e in page.error if "Fix" not in e.value] or ["none"]
    is_number = shown not in ("fast", "")
    message = "none" if is_number else "Must be a number, such as 0.1 or 5e-5"
    assert problem.replace("\\", "") == message


def test_alpha_follows_the_rank_while_locked(page):
    page.choose("source", "run_14")  # rank and alpha are 32
    assert form_widgets(page)["lora_alpha"].disabled
    form_widgets(page)["lora_rank"].set_value(8).run()
    assert form_widgets(page)["lora_alpha"].value == 8
    assert page.session_state["draft"]["lora_alpha"] == 8
    page.widget("Alpha = rank").set_value(False).run()
    form_widgets(page)["lora_alpha"].set_value(20).run()
    form_widgets(page)["lora_rank"].set_value(4).run()
    assert form_widgets(page)["lora_alpha"].value == 20
    page.go("results").go("launch")
    assert not page.widget("Alpha = rank").value
    page.widget("Alpha = rank").set_value(True).run()
    assert form_widgets(page)["lora_alpha"].value == 4
    page.press("Reset")
    assert form_widgets(page)["lora_alpha"].value == 32


def test_alpha_starts_unlocked_if_it_differs_from_the_rank(page):
    page.choose("source", "run_13")  # rank 16, alpha 32
    assert not page.widget("Alpha = rank").value
    form_widgets(page)["lora_rank"].set_value(8).run()
    assert form_widgets(page)["lora_alpha"].value == 32


def test_adapter_settings_are_shown_only_for_lora_and_keep_their_values(page):
    assert not LORA & form_widgets(page).keys(), "the demo trains all weights"
    form_widgets(page)["method"].set_value("lora").run()
    assert form_widgets(page).keys() >= LORA
    form_widgets(page)["lora_rank"].set_value(5).run()
    form_widgets(page)["lora_targets"].set_value("mlp").run()
    form_widgets(page)["method"].set_value("full").run()
    assert not LORA & form_widgets(page).keys()
    form_widgets(page)["epochs"].set_value(2).run()
    form_widgets(page)["method"].set_value("lora").run()
    assert form_widgets(page)["lora_rank"].value == 5
    assert form_widgets(page)["lora_targets"].value == "mlp"


def test_warm_up_is_available_without_a_minimum_learning_rate(page):
    assert form_widgets(page)["warmup_fraction"].value == 0.1
    form_widgets(page)["min_lr"].set_value(None).run()
    form_widgets(page)["warmup_fraction"].set_value(0.3).run()
    assert form_widgets(page)["warmup_fraction"].value == 0.3


@pytest.mark.parametrize("name", ["min_lr", "grad_clip", "max_examples", "lora_last_layers"])
def test_optional_settings_can_be_cleared(page, name):
    page.choose("source", "run_12")
    is_text = name in NUMBER_TEXT_FIELDS
    form_widgets(page)[name].set_value("3" if is_text else 3).run()
    widget = form_widgets(page)[name]
    assert float(widget.value) == 3
    assert is_text or not widget.proto.HasField("default"), "the browser would restore the default"
    widget.set_value("" if is_text else None).run()
    assert form_widgets(page)[name].value == ("" if is_text else None)
    assert page.session_state["draft"][name] is None


def test_data_set_path_can_be_typed(page, dataset):
    page.choose(form_widgets(page)["dataset"].key, str(dataset))
    page.choose(form_widgets(page)["epochs"].key, 3).choose(form_widgets(page)["batch_size"].key, 8)
    assert form_widgets(page)["dataset"].value == str(dataset)
    assert {m.label: m.value for m in page.metric}["Steps"] == "6"


def advanced(page):
    [expander] = [expander for expander in page.expander if expander.label == "Advanced"]
    return expander


def test_advanced_settings_open_on_a_problem_until_the_form_is_reset(page):
    assert not advanced(page).proto.expanded
    form_widgets(page)["eval_every"].set_value(0).run()
    assert advanced(page).proto.expanded
    form_widgets(page)["eval_every"].set_value(5).run()
    assert advanced(page).proto.expanded, "it would close under the user's hands"
    assert not advanced(page.press("Reset")).proto.expanded


def test_changed_advanced_settings_are_listed(page):
    label = "Changed advanced settings: "
    assert page.says(f"{label}Evaluate every 25, Checkpoint every 100, Sample every 50")
    form_widgets(page)["beta2"].set_value(0.95).run()
    assert page.says(f"{label}Beta 2 0.95, Evaluate every 25")
    form_widgets(page)["optimizer"].set_value("sgd").run()  # which has no beta 2
    assert page.says(f"{label}Evaluate every 25")


@pytest.mark.parametrize(
    ("value", "step"), [(5e-5, 1e-5), (0.85, 0.1), (16.0, 10.0), (1e-3, 1e-3), (0.0, 0.1), (None, 0.1)]
)  # fmt: skip
def test_step_size_follows_the_magnitude_of_the_value(value, step):
    assert increment(value) == pytest.approx(step)
