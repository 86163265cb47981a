"""The interface of the judging package: load answers and verdicts, estimate costs, prepare jobs, summarize verdicts.

Reads the index only through the function passed to `Scoring`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from core.errors import UserError
from core.judging import job, judges, pairs, scorer, scores
from core.judging.answers import ANSWER_COLUMNS, Base, JudgedAnswers
from core.judging.judge import judge_id
from core.judging.ledger import known_verdicts
from core.judging.order import GEMINI_MODEL, JudgeSettings, Order
from core.judging.prices import Estimate, estimate, load_prices, save_prices
from core.run.directory import RunDirectory
from core.statistics import agreement, intervals
from core.tracking import queries

if TYPE_CHECKING:  # imports torch, which is needed only for base-model answers
    from core.inference import Answerer


class Notes(NamedTuple):
    """Sentences about a judge's verdicts; None if there is nothing to report."""

    missing: str | None
    scale: str | None
    noise: str | None


class Scoring:
    """Answers, judges and verdicts.

    Args:
        runs_dir: folder that contains the run directories, the ledgers and the price file.
        read: runs a query from `core.tracking.queries` on the index, with the given arguments.
        answerer: returns the object that loads base models, some of which it may already hold in memory; see `job.Job`.
    """

    MIN_JUDGED_SHARE = queries.MIN_JUDGED_SHARE
    """Share of a run's answers that must be judged before `leaderboard` shows the run's score."""

    def __init__(
        self,
        runs_dir: Path,
        read: Callable[..., Any],
        answerer: "Callable[[], Answerer] | None" = None,
    ) -> None:
        self.job: job.Job | None = None
        """The current or most recent scoring job, set by `Lab.start_scoring`."""
        self._runs_dir, self._read, self._answerer = runs_dir, read, answerer

    def answers(self, runs: Sequence[str]) -> JudgedAnswers:
        """Load the answers from the given runs and their base models."""
        base_by_run = self._base_by_run(runs)
        base_names = {base.name for base in base_by_run.values()}
        answers = self._read(queries.judged_answers, [*base_names, *runs])
        return JudgedAnswers.of(runs, base_by_run, answers)

    def verdicts(self, judged: JudgedAnswers) -> pd.DataFrame:
        """Return verdicts on individual answers, one row per answer, judge and repeat.

        Columns: run, item, ANSWER_COLUMNS, id, judge, model, repeat, score, reason, missing. Identical answers share a
        verdict, but each has its own row.
        """
        answers = judged.answers[["run", "item", *ANSWER_COLUMNS, "subject"]]
        frame = answers.merge(self._read(queries.verdicts, judged.names), on="subject")
        order = ["run", "item", "id", "repeat", "subject"]
        return frame.sort_values(order, kind="stable", ignore_index=True).drop(columns="subject")

    def pair_verdicts(self, judged: JudgedAnswers) -> pd.DataFrame:
        """Return verdicts on pairs of answers; see `queries.pair_verdicts`."""
        verdicts: pd.DataFrame = self._read(
            queries.pair_verdicts, pairs.answer_pairs(judged.answers)
        )
        return verdicts

    def describe_judge(self, id: str) -> str:
        """Return a judge's settings as text."""
        frame = self._read(queries.judges).astype(object)
        [row] = frame.where(frame.notna(), None).query("id == @id").to_dict("records")
        return scores.judge_description(row)

    def request_defaults(self, settings: JudgeSettings) -> judges.RequestDefaults:
        """Return the default number of concurrent requests and the default timeout for a judge's server."""
        return judges.request_defaults(settings)

    def cost(self, order: Order, judged: JudgedAnswers) -> Estimate:
        """Estimate the cost of a scoring job. Raises UserError if the judge's settings are invalid."""
        judge = judges.build(order.judge, order.kind, check_key=False)
        unanswered = 0
        if order.with_base:
            base_answer_count = len(judged.answers) - len(judged.run_answers)
            unanswered = sum(map(len, judged.examples_by_base().values())) - base_answer_count
        answers = judged.answers if order.with_base else judged.run_answers
        tasks = job.plan(judge, order, answers)
        scores_by_key = known_verdicts(self._runs_dir, judge.spec)
        cost = estimate(
            tasks,
            scorer.open_tasks(tasks, scores_by_key, order.retry_missing),
            order.judge.model or GEMINI_MODEL,
            load_prices(self._runs_dir),
            self._read(queries.reply_tokens, judge_id(judge.spec)),
        )
        is_shared = order.kind == "score" and cost.requested < len(answers) * order.repeats
        return replace(cost, unanswered=unanswered, shared=len(answers) if is_shared else 0)

    def prices(self) -> dict[str, tuple[float, float]]:
        """Return prices in US dollars per million input and output tokens, by model."""
        return load_prices(self._runs_dir)

    def save_prices(self, prices: dict[str, tuple[float, float]]) -> None:
        """Save prices. Raises UserError."""
        save_prices(self._runs_dir, prices)

    def prepare(self, order: Order, judged: JudgedAnswers) -> job.Job:
        """Create a scoring job without starting it. Raises UserError if the judge's settings are invalid."""
        return job.Job(self._runs_dir, order, judged, self._answerer)

    def leaderboard(
        self, judged: JudgedAnswers, verdicts: pd.DataFrame, judge: str, partial: bool = False
    ) -> list[dict[str, Any]]:
        """Return each run's score from one judge; see `scores.leaderboard`. Runs are named as in the index."""
        return scores.leaderboard(verdicts, judged.answers, judge, partial)

    def notes(self, verdicts: pd.DataFrame) -> Notes:
        """Return notes on one judge's missing verdicts, scale and noise."""
        return Notes(
            scores.missing_sentence(verdicts),
            scores.scale_sentence(verdicts),
            scores.noise_sentence(verdicts),
        )

    def example_scores(self, verdicts: pd.DataFrame) -> pd.DataFrame:
        """Return each run's mean score on each example; see `scores.by_example`."""
        return scores.by_example(verdicts)

    def default_pair(self, example_scores: pd.DataFrame, runs: Sequence[str]) -> tuple[str, str]:
        """Return the last two runs that have scores on a common example; see `scores.last_pair`."""
        return scores.last_pair(example_scores, runs)

    def difference(self, a: pd.Series, b: pd.Series) -> intervals.Difference:
        """Return the mean difference between two runs' scores on the same examples, with its confidence interval."""
        return intervals.paired(a, b)

    def win_rates(self, judged: JudgedAnswers, verdicts: pd.DataFrame) -> list[dict[str, Any]]:
        """Return the win rate of each pair of runs; see `pairs.win_rates`."""
        return pairs.win_rates(verdicts, judged.names)

    def tournament(self, judged: JudgedAnswers, verdicts: pd.DataFrame) -> list[dict[str, Any]]:
        """Return Bradley-Terry ratings; see `pairs.tournament`."""
        return pairs.tournament(verdicts, judged.names)

    def judge_agreement(
        self, verdicts: pd.DataFrame, first: str, second: str
    ) -> tuple[agreement.Agreement, pd.DataFrame]:
        """Return the agreement between two judges, and the answers they rank differently, largest difference first."""
        a, b = (
            verdicts[verdicts["id"] == id].groupby(ANSWER_COLUMNS)["score"].mean().dropna()
            for id in (first, second)
        )
        return agreement.agreement(a, b), agreement.disagreements(a, b, top=len(a)).reset_index()

    def inconsistent_scores(self, verdicts: pd.DataFrame) -> pd.DataFrame:
        """Return identical answers that a judge scored differently; see `agreement.inconsistent`."""
        by = ["id", *ANSWER_COLUMNS]
        scored = verdicts.dropna(subset=["score"]).drop_duplicates([*by, "repeat"])
        return agreement.inconsistent(scored, by)

    def _base_by_run(self, runs: Sequence[str]) -> dict[str, Base]:
        """Return the base model of each run whose settings are valid and whose base weights have a recorded hash."""
        hashes: dict[str, str] = self._read(queries.base_hashes, runs)
        base_by_run = {}
        for run in runs:
            if run not in hashes:
                continue
            try:
                config = RunDirectory(self._runs_dir / run).config()
            except UserError:  # damaged or just deleted, but its answers can still be scored
                continue
            base_by_run[run] = Base(config.base_model, hashes[run], config.max_new_tokens)
        return base_by_run
