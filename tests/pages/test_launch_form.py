"""The form: a widget for every setting, shown where it matters, its value kept where it does not."""

import pytest

from core.config import RunConfig, choices, metadata
from core.presets import PRESETS, preset
from pages.launch_form import _step

FIELDS = RunConfig.model_fields
WIDGETS = ("text_input", "number_input", "selectbox", "checkbox", "text_area")
LORA = {name for name, field in FIELDS.items() if metadata(field)["when"] == "lora"}


def shown(page):
    """The widgets of the form by the names of their settings."""
    prefix = f"setting:{page.session_state['draft_generation']}:"
    widgets = [w for kind in WIDGETS for w in page.get(kind) if (w.key or "").startswith(prefix)]
    return {widget.key.removeprefix(prefix): widget for widget in widgets}


def test_every_setting_has_a_widget_that_is_documented(page):
    page.choose("source", "run_12")  # LoRA with a schedule: everything matters
    widgets = shown(page)
    assert FIELDS.keys() - widgets.keys() == {"parent"}, "set by cloning alone"
    for name, widget in widgets.items():
        assert widget.label == FIELDS[name].title
        assert widget.help == f"`{name}`: {FIELDS[name].description}"
        if choices(FIELDS[name]):
            assert widget.options == list(choices(FIELDS[name]))


def test_every_preset_fills_the_form(page):
    for name in [*PRESETS][::-1]:
        page.choose("source", name)
        wanted = {**preset(name).model_dump(), "tags": ""}
        widgets = shown(page)
        assert {field: widget.value for field, widget in widgets.items()} == {
            field: wanted[field] for field in widgets
        }
        draft = page.session_state["draft"]
        assert all(draft[field] == wanted[field] for field in wanted.keys() - widgets.keys())


def test_adapters_are_asked_about_only_with_lora_and_keep_their_values(page):
    assert not LORA & shown(page).keys(), "the demo trains every weight"
    shown(page)["method"].set_value("lora").run()
    assert shown(page).keys() >= LORA
    shown(page)["lora_rank"].set_value(5).run()
    shown(page)["lora_targets"].set_value("mlp").run()
    shown(page)["method"].set_value("full").run()
    assert not LORA & shown(page).keys()
    shown(page)["epochs"].set_value(2).run()
    shown(page)["method"].set_value("lora").run()
    assert shown(page)["lora_rank"].value == 5
    assert shown(page)["lora_targets"].value == "mlp"


def test_warm_up_is_offered_without_a_minimum_learning_rate(page):
    assert shown(page)["warmup_fraction"].value == 0.1
    shown(page)["min_lr"].set_value(None).run()
    shown(page)["warmup_fraction"].set_value(0.3).run()
    assert shown(page)["warmup_fraction"].value == 0.3


@pytest.mark.parametrize("name", ["min_lr", "grad_clip", "max_examples", "lora_last_layers"])
def test_what_may_be_absent_can_be_emptied(page, name):
    page.choose("source", "run_12")
    shown(page)[name].set_value(3).run()
    widget = shown(page)[name]
    assert widget.value == 3
    assert not widget.proto.HasField("default"), "the browser would put the default back"
    widget.set_value(None).run()
    assert shown(page)[name].value is None
    assert page.session_state["draft"][name] is None


def test_a_data_set_of_ones_own_can_be_typed(page, dataset):
    page.choose(shown(page)["dataset"].key, str(dataset))
    page.choose(shown(page)["epochs"].key, 3).choose(shown(page)["batch_size"].key, 8)
    assert shown(page)["dataset"].value == str(dataset)
    assert {m.label: m.value for m in page.metric}["Steps"] == "6"


def test_a_problem_opens_its_folded_group(page):
    folded = {expander.label: expander for expander in page.expander}
    assert not folded["Cadence"].proto.expanded
    shown(page)["eval_every"].set_value(0).run()
    folded = {expander.label: expander for expander in page.expander}
    assert folded["Cadence"].proto.expanded
    assert not folded["Hardware"].proto.expanded


@pytest.mark.parametrize(
    ("value", "step"), [(5e-5, 1e-5), (0.85, 0.1), (16.0, 10.0), (1e-3, 1e-3), (0.0, 0.1), (None, 0.1)]
)  # fmt: skip
def test_a_stepper_moves_by_the_size_of_its_value(value, step):
    assert _step(value) == pytest.approx(step)
