"""The prompt template matches Alpaca's wording."""

from core.data.template import format_prompt


def test_prompt_without_an_input_has_no_input_section() -> None:
    assert format_prompt("Name a color.") == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nName a color.\n\n### Response:\n"
    )
    assert format_prompt("Name a color.", "") == format_prompt("Name a color.")


def test_prompt_with_an_input_has_an_input_section() -> None:
    assert format_prompt("Translate.", "Guten Tag") == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nTranslate.\n\n### Input:\nGuten Tag\n\n### Response:\n"
    )
