"""RunConfig: all errors are reported at once, and valid settings survive a JSON round trip."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core import config as settings
from core.config import RunConfig, is_relevant, metadata, upgraded
from core.errors import ConfigError

FIELDS = RunConfig.model_fields

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(
        ["none", "", " None ", "lora", "full", "sgd", "auto", "cpu", "1e-4", "7", "on"]
    )
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
mappings = st.dictionaries(
    st.sampled_from(sorted(FIELDS)) | st.text(max_size=12), anything, max_size=8
)


def plausible(name: str) -> st.SearchStrategy[Any]:
    """Return a strategy for values that a field usually accepts."""
    field = FIELDS[name]
    if allowed_values := settings.choices(field):
        return st.sampled_from(allowed_values)
    if name == "device":
        return st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "mps"])
    if name == "color":
        return st.sampled_from(["", "#3b7dd8", "#000000"])
    of_type: dict[type, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(8, 1000),
        float: st.floats(0.001, 0.999),
        str: st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60),
        tuple: st.lists(st.sampled_from(["a", "b c", "ünï"]), max_size=5),
    }
    strategy = of_type[settings.base_type(field)]
    return strategy | st.none() if settings.is_optional(field) else strategy


valid_mappings = st.fixed_dictionaries({}, optional={name: plausible(name) for name in FIELDS})


def parse(values: dict[str, Any]) -> RunConfig | ConfigError:
    try:
        return RunConfig.parse(values)
    except ConfigError as error:
        return error


@given(mappings)
def test_any_mapping_yields_a_config_or_a_config_error(values: dict[str, Any]) -> None:
    config = parse(values)
    if isinstance(config, ConfigError):
        assert config.problems
        assert str(config).encode()  # printable
        assert all(problem.message for problem in config.problems)
        return
    assert set(values) <= set(FIELDS)
    assert RunConfig.parse(config.model_dump()) == config
    assert RunConfig.parse(json.loads(config.model_dump_json())) == config


@given(valid_mappings)
def test_valid_settings_round_trip_through_json(values: dict[str, Any]) -> None:
    config = parse(values)
    if isinstance(config, ConfigError):  # valid fields may contradict each other
        fields = {"test_fraction", "min_lr", "warmup_start", "decay_fraction", "optimizer"}
        assert {problem.field for problem in config.problems} <= fields
        return
    text = config.model_dump_json()
    parsed = RunConfig.parse(json.loads(text))
    assert parsed == config
    assert parsed.model_dump_json() == text
    for name, value in values.items():
        assert getattr(config, name) == (tuple(value) if name == "tags" else value) or (
            settings.is_optional(FIELDS[name]) and str(value).strip().lower() == "none"
        )


@given(mappings, st.sampled_from(["rank", "learning_rate", "\ud800", "", "Lr"]))
def test_unknown_settings_are_always_reported(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({**values, name: 1})
    unknown = [p for p in caught.value.problems if "unknown setting" in p.message]
    assert len(unknown) == 1 + sum(key not in FIELDS and key != name for key in values)


def test_defaults_are_valid() -> None:
    assert RunConfig.parse({}) == RunConfig()
    assert RunConfig.parse(RunConfig().model_dump()) == RunConfig()


def test_every_problem_is_reported_at_once_with_its_value() -> None:
    values = {
        "epochs": 0,
        "lora_rnk": 8,
        "dropout": "much",
        "optimizer": "adam",
        "train_fraction": 0.9,
        "test_fraction": 0.2,
        "lr": 1e-5,
        "min_lr": "1e-4",
    }
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(values)
    problems_by_field = {problem.field: problem for problem in caught.value.problems}
    assert set(problems_by_field) == {
        "epochs", "lora_rnk", "dropout", "optimizer", "test_fraction", "min_lr",
    }  # fmt: skip
    assert problems_by_field["dropout"].value == "much"
    assert "did you mean lora_rank?" in problems_by_field["lora_rnk"].message
    assert problems_by_field["test_fraction"].message.endswith("1 minus the train split (0.9)")
    assert "lr = 1e-05" in problems_by_field["min_lr"].message
    assert len(caught.value.problems) == len(problems_by_field)
    assert "epochs = 0: must be at least 1" in str(caught.value)


def test_contradictions_ignore_invalid_fields() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({"lr": "fast", "min_lr": 1.0, "train_fraction": 7, "test_fraction": 0.5})
    assert {problem.field for problem in caught.value.problems} == {"lr", "train_fraction"}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"train_fraction": 0.9, "test_fraction": 0.1}, "test_fraction"),
        ({"test_fraction": 0.2}, "test_fraction"),
        ({"min_lr": 1e-4}, "min_lr"),
    ],
)
def test_constructor_finds_contradictions(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(values)
    assert [problem.field for problem in caught.value.problems] == [field]
    with pytest.raises(ValidationError, match=field):
        RunConfig(**values)


@pytest.mark.parametrize("field", [n for n, f in FIELDS.items() if settings.is_optional(f)])
@pytest.mark.parametrize("text", ["none", "None", " NONE ", "", "  "])
def test_none_or_empty_text_clears_an_optional_field(field: str, text: str) -> None:
    assert getattr(RunConfig.parse({field: text}), field) is None


def test_none_is_ordinary_text_in_a_required_field() -> None:
    config = RunConfig.parse({"name": "none", "dataset": "none", "sample_prompt": ""})
    assert (config.name, config.dataset, config.sample_prompt) == ("none", "none", "")
    with pytest.raises(ConfigError, match="epochs"):
        RunConfig.parse({"epochs": "none"})


@pytest.mark.parametrize(
    ("given_tags", "tags"),
    [
        ("a,b", ("a", "b")),
        (" first try , , second,", ("first try", "second")),
        ("", ()),
        (["x", "y"], ("x", "y")),
    ],
)
def test_tags_are_separated_by_commas(given_tags: object, tags: tuple[str, ...]) -> None:
    assert RunConfig.parse({"tags": given_tags}).tags == tags


def test_command_line_text_is_converted() -> None:
    config = RunConfig.parse({"lr": "1e-4", "epochs": "3", "tie_weights": "true", "min_lr": "0"})
    assert (config.lr, config.epochs, config.tie_weights, config.min_lr) == (1e-4, 3, True, 0.0)


@pytest.mark.parametrize(
    "device", ["cuda:1000", "cuda:\u0661", "gpu", "cpu\n", "cuda:-1", "cuda:", ""]
)
def test_invalid_devices_are_rejected(device: str) -> None:
    # torch 2.13 parses cuda:1000 as cuda:-24
    with pytest.raises(ConfigError, match="device"):
        RunConfig.parse({"device": device})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", "inf", 1e400])
@pytest.mark.parametrize("field", ["lr", "weight_decay", "lora_alpha", "grad_clip"])
def test_numbers_are_finite(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        RunConfig.parse({field: value})


def test_changed_validates_and_keeps_the_original() -> None:
    config = RunConfig.parse({"min_lr": 1e-5})
    assert config.changed(lr=1e-4).lr == 1e-4
    assert config.lr == 5e-5
    with pytest.raises(ConfigError, match="min_lr"):
        config.changed(lr=1e-6)
    with pytest.raises(ValidationError, match="frozen"):
        config.lr = 1.0  # type: ignore[misc]


LORA_FIELDS = {n for n in FIELDS if n.startswith("lora_")}
EVERY_METHOD = {"method": "full", "trained_weights": "last_layers", "schedule": "wsd",
                "warmup_fraction": 0.1, "optimizer": "muon", "early_stopping_patience": 3}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "irrelevant"),
    [
        ({}, LORA_FIELDS),
        ({"method": "lora"}, {"trained_weights", "trained_layers", "decay_scope"}),
        ({"method": "lora", "lora_dora": True}, {"trained_weights", "trained_layers"}),
        ({"trained_weights": "all"}, LORA_FIELDS | {"trained_layers"}),
        ({"schedule": "constant"}, LORA_FIELDS | {"min_lr", "decay_fraction"}),
        ({"schedule": "linear"}, LORA_FIELDS | {"decay_fraction"}),
        ({"warmup_fraction": 0.0}, LORA_FIELDS | {"warmup_start"}),
        ({"optimizer": "sgd"}, LORA_FIELDS | {"beta1", "beta2", "epsilon"}),
        ({"optimizer": "adamw"}, LORA_FIELDS | {"momentum"}),
        ({"weight_decay": 0.0}, LORA_FIELDS | {"decay_scope"}),
        ({"early_stopping_patience": None}, LORA_FIELDS | {"early_stopping_min_delta"}),
    ],
    ids=lambda value: ", ".join(sorted(value)) or "defaults",
)
def test_settings_without_effect_are_irrelevant(
    changes: dict[str, Any], irrelevant: set[str]
) -> None:
    values = RunConfig.parse(EVERY_METHOD | changes).model_dump()
    assert {n for n in FIELDS if not is_relevant(n, values)} == irrelevant | {
        "parent",
        "study",
        "color",
        "archived",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 1e-3, "warmup_fraction": 0.1, "warmup_start": 1e-2}, "must be at most lr = 0.001"),
        (
            {"schedule": "wsd", "warmup_fraction": 0.5, "decay_fraction": 0.6},
            "warmup_fraction (0.5) and decay_fraction must add up to at most 1",
        ),
        (
            {"optimizer": "muon", "method": "full", "trained_weights": "head"},
            "muon trains only matrices of transformer blocks",
        ),
    ],
)
def test_conflicting_settings_are_rejected_only_if_they_have_an_effect(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(values)
    assert message in str(caught.value)
    without_effect = {"schedule": "constant", "warmup_fraction": 0.0, "method": "lora"}
    assert RunConfig.parse({**values, **without_effect})


def test_every_field_is_documented_and_grouped() -> None:
    for name, field in FIELDS.items():
        assert field.title, name
        assert field.description, name
        assert metadata(field)["group"] in settings.GROUPS, name
        assert metadata(field)["when"] in settings.CONDITIONS, name
    assert {metadata(f)["group"] for f in FIELDS.values()} == set(settings.GROUPS)


def test_types_choices_and_optional_fields_are_detected() -> None:
    types = {n: settings.base_type(f) for n, f in FIELDS.items()}
    assert set(types.values()) == {bool, int, float, str, tuple}
    assert types["parent"] is str
    assert types["min_lr"] is float
    assert types["max_examples"] is int
    assert types["tags"] is tuple
    assert settings.choices(FIELDS["method"]) == ("full", "lora")
    assert settings.choices(FIELDS["lr"]) == ()
    assert settings.is_optional(FIELDS["grad_clip"])
    assert not settings.is_optional(FIELDS["lr"])


def test_pattern_errors_do_not_show_the_regex():
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({"device": "abacus", "name": "two\nlines"})
    messages = {problem.field: problem.message for problem in caught.value.problems}
    assert messages["device"] == "must be auto, cpu, mps, cuda or cuda:1"
    assert messages["name"] == "must be a single line of text"


def test_settings_from_an_older_version_keep_their_evaluation_examples() -> None:
    earlier = {"batch_size": 4, "eval_batches": 5, "eval_every": 10, "lr": 1e-3}
    config = RunConfig.parse(upgraded(earlier))
    assert (config.eval_every, config.eval_examples, config.probe_examples) == (10, 20, 20)
    assert RunConfig.parse(upgraded({"batch_size": 4, "eval_batches": 5})).eval_every == 25
    assert upgraded(config.model_dump()) == config.model_dump()


@pytest.mark.parametrize("eval_batches", ["5", None, 2.0, True])
def test_invalid_settings_from_an_older_version_are_reported(eval_batches: object) -> None:
    with pytest.raises(ConfigError, match="eval_batches"):
        RunConfig.parse(upgraded({"batch_size": 4, "eval_batches": eval_batches}))


def test_error_about_a_replaced_setting_names_the_replacement() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({"eval_batches": "5"})
    assert "eval_batches" in str(caught.value)
    assert "was replaced by eval_examples" in str(caught.value)
