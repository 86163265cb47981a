"""Mistakes a user can make and mend. Each carries one sentence: what, which value, what would be right.

Pages show the sentence, the command line prints it and exits with status 2. Anything else that is
raised is a defect of ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class UserError(Exception):
    """A mistake of the user's, told in one sentence that says how to mend it."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one field of a RunConfig."""

    field: str
    value: object
    message: str
    conflicting_field: str | None = None
    """The field that this one disagrees with, where each is right on its own."""

    def __str__(self) -> str:
        value = repr(self.value)
        short_value = value if len(value) <= 80 else value[:77] + "..."
        return f"{self.field} = {short_value}: {self.message}"


class ConfigError(UserError):
    """All that is wrong with a RunConfig, collected and raised once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


class TrainingError(UserError):
    """A run that cannot go on for a reason that the user can act on."""
