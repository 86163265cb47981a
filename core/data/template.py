"""The prompt template, shared by training, generation and judging.

Source: Stanford Alpaca (Taori et al. 2023), which has one wording for instructions with an input and one for
instructions without.
"""

from dataclasses import dataclass

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Example:
    """One record of an Alpaca-format data set."""

    instruction: str
    input: str
    output: str


def format_prompt(instruction: str, input: str = "") -> str:
    """Return the prompt for an instruction. The response follows it directly."""
    if input:
        return f"{WITH_INPUT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
    return f"{WITHOUT_INPUT}\n\n### Instruction:\n{instruction}\n\n### Response:\n"
