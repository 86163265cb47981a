"""The answers to judge: those of some runs, and those of their base models to the same examples. Values only.

`core.judging.scoring.Scoring.answers` loads them once and passes them to everything that needs answers.
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
"""Columns that identify a test example. Its index does not, because runs may use different data sets."""
ANSWER_COLUMNS = [*EXAMPLE_COLUMNS, "answer"]


@dataclass(frozen=True)
class Base:
    """A pretrained model with the length limit of its answers.

    Args:
        model: model name, see `RunConfig.base_model`.
        weights: SHA-256 of the weights, from the run's `plan` event.
        max_new_tokens: maximum length of an answer.
    """

    model: str
    weights: str
    max_new_tokens: int

    @property
    def name(self) -> str:
        """Name of the base in the index, in place of a run name."""
        key = digest([self.model, self.weights, self.max_new_tokens])[:8]
        return f"{PRETRAINED_FOLDER}/{slug(Path(self.model).name)}-{key}"


@dataclass(frozen=True, eq=False)
class JudgedAnswers:
    """Answers of runs and of their bases.

    Args:
        runs: names of the runs.
        base_by_run: bases by run name; runs without a known base are omitted.
        answers: answers of the runs and the bases, from `queries.judged_answers`.
    """

    runs: tuple[str, ...]
    base_by_run: Mapping[str, Base]
    answers: pd.DataFrame

    @classmethod
    def of(
        cls, runs: Sequence[str], base_by_run: Mapping[str, Base], answers: pd.DataFrame
    ) -> "JudgedAnswers":
        """Create from all answers of the runs and the bases. Answers of bases to other examples are dropped."""
        examples = answers.loc[answers["run"].isin(runs), "example"]
        return cls(tuple(runs), base_by_run, answers[answers["example"].isin(examples)])

    @property
    def bases(self) -> list[Base]:
        """The distinct bases."""
        return list(dict.fromkeys(self.base_by_run.values()))

    @property
    def names(self) -> list[str]:
        """Names of the bases, then of the runs, as in the `run` column."""
        return [*(base.name for base in self.bases), *self.runs]

    @property
    def run_answers(self) -> pd.DataFrame:
        """The answers of the runs, without those of the bases."""
        return self.answers[self.answers["run"].isin(self.runs)]

    @property
    def same_test(self) -> bool:
        """Whether all runs answered the same test examples."""
        examples = self.run_answers.groupby("run")["example"].agg(frozenset)
        return examples.nunique() <= 1

    def examples_by_base(self) -> dict[Base, list[tuple[int, Example]]]:
        """Return the test examples of the runs of each base, with their indices in the data set."""
        examples_by_base: dict[Base, dict[Example, int]] = {}
        columns = ["run", "item", *EXAMPLE_COLUMNS, "turns"]
        for run, dataset_index, instruction, input, output, turns in self.run_answers[
            columns
        ].itertuples(index=False):
            if base := self.base_by_run.get(run):
                examples = examples_by_base.setdefault(base, {})
                example = Example.restored((instruction, input, output), turns)
                examples.setdefault(example, int(dataset_index))
        return {
            base: [(dataset_index, example) for example, dataset_index in examples.items()]
            for base, examples in examples_by_base.items()
        }

    def without_bases(self) -> "JudgedAnswers":
        """Return a copy with only the runs and their answers."""
        return replace(self, base_by_run={}, answers=self.run_answers)

    def title(self, run: Hashable) -> str:
        """Return the display name of a run or base; see `display_names`."""
        return display_names(self.names).get(str(run), str(run))

    def with_titles(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Replace the names in the `run` and `other` fields with display names."""
        return [
            {k: self.title(v) if k in ("run", "other") else v for k, v in row.items()}
            for row in rows
        ]


def is_base(run: str) -> bool:
    """Whether a name in the `run` column belongs to a base."""
    return run.startswith(PRETRAINED_FOLDER + "/")


def display_names(runs: Sequence[str]) -> dict[str, str]:
    """Return the display names of the bases among `runs`: `pretrained`, or `pretrained gpt2` if there are several."""
    bases = [run for run in runs if is_base(run)]
    if len(bases) == 1:
        return {bases[0]: PRETRAINED_FOLDER}
    names = [run.removeprefix(PRETRAINED_FOLDER + "/") for run in bases]
    models = [name.rpartition("-")[0] for name in names]
    return {  # the full name, with the hash, if several bases have the same model
        run: f"{PRETRAINED_FOLDER} {model if models.count(model) == 1 else name}"
        for run, model, name in zip(bases, models, names, strict=True)
    }
