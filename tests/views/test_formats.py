"""Formats of quantities: settings, durations, memory, counts and metrics."""

import pytest

from core.views import formats
from core.views.formats import count, duration, file_size


@pytest.mark.parametrize(
    ("value", "text"),
    [(5e-5, "5e-5"), (1e-4, "1e-4"), (0.123456789, "0.123456789"), (0.1, "0.1"), (16.0, "16"), (0.0, "0"),
     (14_100, "14,100"), (True, "on"), (False, "off"), (None, "none"), ("", "none"), ((), "none"),
     (("a", "b"), "a, b")],
)  # fmt: skip
def test_settings_are_shown_with_all_digits(value: object, text: str) -> None:
    assert formats.setting_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h"), (None, "—"),
     (float("nan"), "—")],
)  # fmt: skip
def test_duration_is_formatted(seconds, expected):
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0"), (950, "950"), (12_600, "12.6 k"), (406_286_336, "406.3 M"), (2e9, "2.0 B"), (None, "—")],
)  # fmt: skip
def test_count_is_formatted(number, expected):
    assert count(number) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("lr", 5e-5, "5e-5"),
        ("min_lr", None, "none"),
        ("method", "lora", "lora"),
        ("val_loss", 1.23456, "1.2346"),
        ("val_loss", float("nan"), formats.DASH),
        ("seconds", 720.0, "12 min"),
        ("peak_memory_mb", 506.4, "506 MB"),
        ("disk_mb", 2458.0, "2.4 GB"),
        ("exact", 0.6923, "69.2%"),
        ("perplexity", 4.6e28, "4.6e+28"),
        ("trainable", 1_318_912, "1,318,912"),
        ("status", "finished", "finished"),
    ],
)
def test_values_are_formatted_by_name(name: str, value: object, expected: str) -> None:
    assert formats.value_text(name, value) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [(0, "0 B"), (1023, "1023 B"), (213_073, "208 KB"), (3 * 2**30, "3.0 GB")]
)
def test_file_size_is_formatted(size: int, expected: str) -> None:
    assert file_size(size) == expected


def test_uploads_are_shown_by_name():
    path = "/srv/runs/uploads/0123456789abcdef/words.json"
    assert formats.value_text("dataset", path) == "words.json (upload 0123)"
    for other in ("primer", "/srv/uploads/words.json", "owner/name"):
        assert formats.value_text("dataset", other) == other


def test_differences_and_titles():
    assert formats.difference_text("val_loss", -0.01234) == "-0.0123"
    assert formats.difference_text("exact", 0.031) == "+3.1 pp"
    assert formats.difference_text("judge", 2.0) == "+2.0"
    assert formats.difference_text("exact", float("nan")) == "—"
    assert formats.axis_title("lora_rank=lora_alpha") == formats.axis_title(
        ("lora_rank", "lora_alpha")
    )
    assert formats.lowered("Rank = LoRA+ ratio") == "rank = LoRA+ ratio"
    assert [formats.plural(count, "run") for count in (1, 1200)] == ["1 run", "1,200 runs"]
