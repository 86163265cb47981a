"""The launch form: a widget for each setting, hidden if the setting has no effect."""

import pytest

from core.config import RunConfig, choices, metadata
from core.presets import PRESETS, preset
from pages.launch_form import increment

FIELDS = RunConfig.model_fields
WIDGETS = ("text_input", "number_input", "selectbox", "checkbox", "text_area")
LORA = {name for name, field in FIELDS.items() if metadata(field)["when"] == "lora"}


def form_widgets(page):
    """Return the form's widgets by setting name."""
    prefix = f"setting:{page.session_state['draft_generation']}:"
    widgets = [w for kind in WIDGETS for w in page.get(kind) if (w.key or "").startswith(prefix)]
    return {widget.key.removeprefix(prefix): widget for widget in widgets}


def test_every_setting_has_a_documented_widget(page):
    page.choose("source", "run_12")  # LoRA with a warm-up
    form_widgets(page)["optimizer"].set_value("muon").run()
    form_widgets(page)["schedule"].set_value("wsd").run()
    widgets = form_widgets(page)
    form_widgets(page)["method"].set_value("full").run()
    form_widgets(page)["trained_weights"].set_value("last_layers").run()
    widgets |= form_widgets(page)
    assert (widgets.pop("lora_alpha:locked").label, widgets.pop("alpha_lock").type) == ("Alpha", "toggle")
    assert FIELDS.keys() - widgets.keys() == {"parent", "color", "archived"}, "set elsewhere"
    for name, widget in widgets.items():
        assert widget.label == FIELDS[name].title
        assert widget.help == f"`{name}`: {FIELDS[name].description}"
        if choices(FIELDS[name]):
            assert widget.options == list(choices(FIELDS[name]))


def test_every_preset_fills_the_form(page):
    for name in [*PRESETS][::-1]:
        page.choose("source", name)
        expected = {**preset(name).model_dump(), "tags": ""}
        widgets = form_widgets(page)
        assert {field: widget.value for field, widget in widgets.items()} == {
            field: expected[field] for field in widgets
        }
        draft = page.session_state["draft"]
        assert all(draft[field] == expected[field] for field in expected.keys() - widgets.keys())


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
    form_widgets(page)[name].set_value(3).run()
    widget = form_widgets(page)[name]
    assert widget.value == 3
    assert not widget.proto.HasField("default"), "the browser would restore the default"
    widget.set_value(None).run()
    assert form_widgets(page)[name].value is None
    assert page.session_state["draft"][name] is None


def test_data_set_path_can_be_typed(page, dataset):
    page.choose(form_widgets(page)["dataset"].key, str(dataset))
    page.choose(form_widgets(page)["epochs"].key, 3).choose(form_widgets(page)["batch_size"].key, 8)
    assert form_widgets(page)["dataset"].value == str(dataset)
    assert {m.label: m.value for m in page.metric}["Steps"] == "6"


def test_error_expands_its_collapsed_group(page):
    expanders = {expander.label: expander for expander in page.expander}
    assert not expanders["Evaluation and checkpoints"].proto.expanded
    form_widgets(page)["eval_every"].set_value(0).run()
    expanders = {expander.label: expander for expander in page.expander}
    assert expanders["Evaluation and checkpoints"].proto.expanded
    assert not expanders["Hardware"].proto.expanded


@pytest.mark.parametrize(
    ("value", "step"), [(5e-5, 1e-5), (0.85, 0.1), (16.0, 10.0), (1e-3, 1e-3), (0.0, 0.1), (None, 0.1)]
)  # fmt: skip
def test_step_size_follows_the_magnitude_of_the_value(value, step):
    assert increment(value) == pytest.approx(step)
