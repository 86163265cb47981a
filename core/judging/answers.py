"""The answers to judge: the answers of some runs, and those of their base models to the same examples. Values only.

Loaded once by `core.judging.scoring.Scoring.answers`; everything that needs answers gets this object.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from core.data.template import Example
from core.judging.judge import digest
from core.run.event_files import PRETRAINED_FOLDER
from core.run.names import slug

EXAMPLE_COLUMNS = ["instruction", "input", "reference"]
"""What identifies a test example. Its index in the data set does not."""
ANSWER_COLUMNS = [*EXAMPLE_COLUMNS, "answer"]


@dataclass(frozen=True)
class Base:
    """A pretrained model and how it answers.

    Args:
        model: as in a run's settings.
        weights: their SHA-256, from the run's `plan`.
        max_new_tokens: maximum length of an answer.
    """

    model: str
    weights: str
    max_new_tokens: int

    @property
    def name(self) -> str:
        """The name of its answers in the index, in place of a run's name."""
        key = digest([self.model, self.weights, self.max_new_tokens])[:8]
        return f"{PRETRAINED_FOLDER}/{slug(Path(self.model).name)}-{key}"


@dataclass(frozen=True, eq=False)
class JudgedAnswers:
    """Runs, their bases and their answers.

    Args:
        runs: names of runs.
        base_by_run: the base of each run that has one.
        answers: as `queries.judged_answers` returns them, for the runs and the bases.
    """

    runs: tuple[str, ...]
    base_by_run: Mapping[str, Base]
    answers: pd.DataFrame

    @classmethod
    def of(
        cls, runs: Sequence[str], base_by_run: Mapping[str, Base], answers: pd.DataFrame
    ) -> "JudgedAnswers":
        """Create from all answers of the runs and the bases. Drops a base's answers to examples that no run has."""
        examples = answers.loc[answers["run"].isin(runs), "example"]
        return cls(tuple(runs), base_by_run, answers[answers["example"].isin(examples)])

    @property
    def bases(self) -> list[Base]:
        """The different bases."""
        return list(dict.fromkeys(self.base_by_run.values()))

    @property
    def names(self) -> list[str]:
        """Names of the bases and the runs, as in the `run` column."""
        return [*(base.name for base in self.bases), *self.runs]

    @property
    def run_answers(self) -> pd.DataFrame:
        """The answers without those of the bases."""
        return self.answers[self.answers["run"].isin(self.runs)]

    @property
    def same_test(self) -> bool:
        """Whether all runs answered the same test examples."""
        examples = self.run_answers.groupby("run")["example"].agg(frozenset)
        return examples.nunique() <= 1

    def examples_by_base(self) -> dict[Base, list[tuple[int, Example]]]:
        """Return the test examples of each base's runs, with their indices in the data set."""
        examples_by_base: dict[Base, dict[Example, int]] = {}
        columns = ["run", "item", *EXAMPLE_COLUMNS]
        for run, dataset_index, *texts in self.run_answers[columns].itertuples(index=False):
            if base := self.base_by_run.get(run):
                examples = examples_by_base.setdefault(base, {})
                examples.setdefault(Example(*texts), int(dataset_index))
        return {
            base: [(dataset_index, example) for example, dataset_index in examples.items()]
            for base, examples in examples_by_base.items()
        }

    def without_bases(self) -> "JudgedAnswers":
        """Return the runs and their answers only."""
        return replace(self, base_by_run={}, answers=self.run_answers)

    def title(self, run: Hashable) -> str:
        """Return a run's name for display; see `display_names`."""
        return display_names(self.names).get(str(run), str(run))

    def with_titles(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Replace the names in the `run` and `other` fields of rows by titles."""
        return [
            {k: self.title(v) if k in ("run", "other") else v for k, v in row.items()}
            for row in rows
        ]


def is_base(run: str) -> bool:
    """Whether a name is that of a pretrained base model."""
    return run.startswith(PRETRAINED_FOLDER + "/")


def display_names(runs: Sequence[str]) -> dict[str, str]:
    """Return names for display of the bases: `pretrained`, or `pretrained gpt2` if there are several."""
    bases = [run for run in runs if is_base(run)]
    if len(bases) == 1:
        return {bases[0]: PRETRAINED_FOLDER}
    short = [run.removeprefix(PRETRAINED_FOLDER + "/") for run in bases]
    models = [name.rpartition("-")[0] for name in short]
    return {  # with the hash if one model answers in two ways
        run: f"{PRETRAINED_FOLDER} {model if models.count(model) == 1 else name}"
        for run, model, name in zip(bases, models, short, strict=True)
    }
