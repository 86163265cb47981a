"""User errors: exceptions whose messages say what is wrong, which value caused it and how to fix it.

Pages show the message; the command line prints it and exits with status 2. Any other exception is a bug.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class UserError(Exception):
    """An error that the user can fix. The message says how."""


@dataclass(frozen=True)
class Problem:
    """A problem with one field of a RunConfig."""

    field: str
    value: object
    message: str
    conflicting_field: str | None = None
    """Another field that this one conflicts with. Each is valid on its own."""

    def __str__(self) -> str:
        value = repr(self.value)
        short_value = value if len(value) <= 80 else value[:77] + "..."
        return f"{self.field} = {short_value}: {self.message}"


class ConfigError(UserError):
    """All problems with a RunConfig, raised together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


class TrainingError(UserError):
    """An error that ends a run, for a reason that the user can act on."""
