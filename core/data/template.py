"""The one prompt template, for training, generation and judging alike.

Source: the format of Stanford Alpaca (Taori et al. 2023), which has one wording for instructions
with an input and one for those without.
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
    """What the model reads before it answers; the response follows directly."""
    if input:
        return f"{WITH_INPUT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
    return f"{WITHOUT_INPUT}\n\n### Instruction:\n{instruction}\n\n### Response:\n"
