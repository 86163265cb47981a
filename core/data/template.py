"""The prompt template, shared by training, generation and judging.

Source: Stanford Alpaca (Taori et al. 2023), which has one wording for instructions with an input and one for
instructions without. Later turns of a conversation use its headings without the introduction.
"""

import json
from dataclasses import dataclass
from typing import Literal

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
RESPONSE_MARKER = "### Response:\n"
"""End of every prompt."""


@dataclass(frozen=True)
class Turn:
    """A prompt, including any template headings, and its response."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Example:
    """One record of a data set.

    Conversations and texts have `turns`. Pages, search and judges use only the other fields.
    """

    instruction: str
    input: str
    output: str
    turns: tuple[Turn, ...] = ()
    """Prompts and responses. Empty if the template builds the only prompt from the instruction and the input."""
    learned: Literal["setting", "responses", "all"] = "setting"
    """Which tokens are targets. With `setting`, `mask_prompt` decides."""

    @classmethod
    def restored(cls, texts: tuple[str, str, str], turns: object) -> "Example":
        """Restore an example from its `texts` and `turns_text` for generation. Ignores invalid turns."""
        try:
            pairs = json.loads(turns) if isinstance(turns, str) else []
            restored = tuple(Turn(str(prompt), str(response)) for prompt, response in pairs)
        except (ValueError, TypeError, RecursionError):
            restored = ()
        return cls(*texts, restored)

    @property
    def texts(self) -> tuple[str, str, str]:
        """Instruction, input and output."""
        return self.instruction, self.input, self.output

    def record(self) -> dict[str, str]:
        """Return instruction, input and output as a record in Alpaca format."""
        return dict(zip(("instruction", "input", "output"), self.texts, strict=True))

    @property
    def turns_text(self) -> str | None:
        """The turns as JSON, without the last response; None if there are none."""
        if not self.turns:
            return None
        earlier = [[turn.prompt, turn.response] for turn in self.turns[:-1]]
        return json.dumps([*earlier, [self.turns[-1].prompt, ""]])

    def all_turns(self) -> tuple[Turn, ...]:
        """Return `turns` or, if empty, the single turn that the template builds."""
        return self.turns or (Turn(format_prompt(self.instruction, self.input), self.output),)


def format_prompt(instruction: str, input: str = "") -> str:
    """Return the prompt for an instruction. The response follows it directly."""
    if input:
        return f"{WITH_INPUT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n{RESPONSE_MARKER}"
    return f"{WITHOUT_INPUT}{format_next_prompt(instruction)}"


def format_next_prompt(instruction: str) -> str:
    """Return the prompt of a later turn, which follows the end-of-text of the previous response."""
    return f"\n\n### Instruction:\n{instruction}\n\n{RESPONSE_MARKER}"
