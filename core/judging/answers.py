"""The answers to judge: the runs' answers, and their base models' answers to the same examples.

`core.judging.scoring.Scoring.answers` loads them once; all other code receives them as an argument.
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
"""Columns that identify a test example. The index alone cannot, because runs may use different data sets."""
ANSWER_COLUMNS = [*EXAMPLE_COLUMNS, "answer"]


@dataclass(frozen=True)
class Base:
    """A pretrained model and the maximum length of its answers.

    Args:
        model: model name; see `RunConfig.base_model`.
        weights: SHA-256 of the weights, from the run's `plan` event.
        max_new_tokens: maximum length of an answer, in tokens.
    """

    model: str
    weights: str
    max_new_tokens: int

    @property
    def name(self) -> str:
        """Name of the base model in the index, used in place of a run name."""
        key = digest([self.model, self.weights, self.max_new_tokens])[:8]
        return f"{PRETRAINED_FOLDER}/{slug(Path(self.model).name)}-{key}"


@dataclass(frozen=True, eq=False)
class JudgedAnswers:
    """Answers by runs and their base models.

    Args:
        runs: names of the runs.
        base_by_run: base models by run name; runs whose base model is unknown are omitted.
        answers: answers from the runs and the base models, from `queries.judged_answers`.
    """

    runs: tuple[str, ...]
    base_by_run: Mapping[str, Base]
    answers: pd.DataFrame

    @classmethod
    def of(
        cls, runs: Sequence[str], base_by_run: Mapping[str, Base], answers: pd.DataFrame
    ) -> "JudgedAnswers":
        """Build from all answers from the runs and their base models.

        Base answers to examples that no run answered are dropped.
        """
        examples = answers.loc[answers["run"].isin(runs), "example"]
        return cls(tuple(runs), base_by_run, answers[answers["example"].isin(examples)])

    @property
    def bases(self) -> list[Base]:
        """The distinct base models."""
        return list(dict.fromkeys(self.base_by_run.values()))

    @property
    def names(self) -> list[str]:
        """Names of the base models, followed by those of the runs, as in the `run` column."""
        return [*(base.name for base in self.bases), *self.runs]

    @property
    def run_answers(self) -> pd.DataFrame:
        """The runs' answers, without those of the base models."""
        return self.answers[self.answers["run"].isin(self.runs)]

    @property
    def same_test(self) -> bool:
        """Whether all runs answered the same test examples."""
        examples = self.run_answers.groupby("run")["example"].agg(frozenset)
        return examples.nunique() <= 1

    def examples_by_base(self) -> dict[Base, list[tuple[int, Example]]]:
        """For each base model, return the test examples that its runs answered, with their data set indices."""
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
        """Return the display name of a run or base model; see `display_names`."""
        return display_names(self.names).get(str(run), str(run))

    def with_titles(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Replace the names in the `run` and `other` fields with display names."""
        return [
            {k: self.title(v) if k in ("run", "other") else v for k, v in row.items()}
            for row in rows
        ]


def is_base(run: str) -> bool:
    """Whether a name in the `run` column belongs to a base model."""
    return run.startswith(PRETRAINED_FOLDER + "/")


def display_names(runs: Sequence[str]) -> dict[str, str]:
    """Return the display names of the base models in `runs`.

    If there is only one, it is called `pretrained`; otherwise, they are called `pretrained gpt2` and so on.
    """
    bases = [run for run in runs if is_base(run)]
    if len(bases) == 1:
        return {bases[0]: PRETRAINED_FOLDER}
    names = [run.removeprefix(PRETRAINED_FOLDER + "/") for run in bases]
    models = [name.rpartition("-")[0] for name in names]
    return {  # the full name, including the hash, if several bases share a model
        run: f"{PRETRAINED_FOLDER} {model if models.count(model) == 1 else name}"
        for run, model, name in zip(bases, models, names, strict=True)
    }
