"""The read-only part of the Lab.

Tables come from the index; settings and logs come from the run directories.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pandas as pd

from core import operations
from core.config import RunConfig
from core.errors import UserError
from core.run.directory import RunDirectory
from core.studies import study as studies_on_disk
from core.studies.study import Study
from core.studies.sweep import Sweep
from core.tracking import queries

if TYPE_CHECKING:  # imports PyTorch and SciPy, which takes seconds
    from core.studies.noise import Noise
    from core.studies.planning import SweepPlan

Result = TypeVar("Result")
Curves = dict[str, pd.DataFrame]


class Reader(ABC):
    """Read access to the runs in a folder.

    Args:
        runs_dir: the folder with the run directories.
    """

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir

    @abstractmethod
    def _read(self, query: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """Run a query from `core.tracking.queries` on the index."""

    @abstractmethod
    def _read_cached(self, query: Callable[..., Result]) -> Result:
        """Return the result of a query without arguments. It is cached until the index changes."""

    def runs(self) -> pd.DataFrame:
        """Return all runs with their settings and results; see `queries.results`."""
        return self._read_cached(queries.results).copy(deep=False)

    def colors(self, names: Sequence[str]) -> dict[str, str]:
        """Return the colors of some runs, such as `#3b7dd8`. Runs that do not exist are omitted."""
        colors = self.runs().set_index("name")["color"]
        return {name: str(colors[name]) for name in names if name in colors}

    def states(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the status and progress of some runs; see `queries.states`."""
        return self._read(queries.states, names)

    def curves(self, names: Sequence[str], metrics: Sequence[str], **options: Any) -> Curves:
        """Return downsampled curves; see `queries.curves`."""
        return self._read(queries.curves, names, metrics, **options)

    def evaluations(self, names: Sequence[str], x: str = "step") -> pd.DataFrame:
        """Return the losses of each evaluation; see `queries.evaluations`."""
        return self._read(queries.evaluations, names, x)

    def step(self, name: str, step: int) -> dict[str, Any] | None:
        """Return the metrics and the batch of one step; see `queries.step`."""
        return self._read(queries.step, name, step)

    def updates(self, names: Sequence[str]) -> pd.DataFrame:
        """Return the relative update of each module at each measured step: run, step, module, relative_update."""
        return self._read(queries.updates, names)

    def example_losses(self, names: Sequence[str], step: int | None = None) -> pd.DataFrame:
        """Return the loss of each example at each evaluation, or at one step; see `queries.example_losses`."""
        return self._read(queries.example_losses, names, step)

    def samples(self, names: Sequence[str]) -> pd.DataFrame:
        """Return the answers to the sample prompt, newest first: run, step, prompt, text."""
        return self._read(queries.samples, names)

    def warnings(self, names: Sequence[str]) -> pd.DataFrame:
        """Return the trainers' warnings: run, step, about, message."""
        return self._read(queries.warnings, names)

    def answers(self, names: Sequence[str]) -> pd.DataFrame:
        """Return runs' answers to their test examples; see `queries.answers`."""
        return self._read(queries.answers, names)

    def scores(self) -> pd.DataFrame:
        """Return mean scores by run, test example and judge; see `queries.scores`."""
        return self._read_cached(queries.scores).copy(deep=False)

    def scores_by_run(self) -> dict[str, dict[str, Any]]:
        """Return each run's score from each judge; see `core.judging.scores.by_run`."""
        from core.judging import scores  # imports SciPy

        return scores.by_run(self.scores())

    def config(self, name: str) -> RunConfig:
        """Return a run's settings. Raises UserError if the run does not exist or its file is damaged."""
        return RunDirectory.find(self.runs_dir, name).config()

    def log(self, name: str) -> str:
        """Return the end of a run's log. Raises UserError if the run does not exist."""
        return RunDirectory.find(self.runs_dir, name).log_tail()

    def files(self, name: str) -> list[tuple[str, int]]:
        """Return the path and size in bytes of each file of a run. Raises UserError if the run does not exist."""
        return RunDirectory.find(self.runs_dir, name).files()

    def capsule(self, name: str) -> bytes:
        """Return a run as one HTML file that works offline; see `core.exchange.capsule`. Raises UserError."""
        from core.exchange import capsule, run_record  # imports Plotly and SciPy

        return capsule.render(run_record.collect(self.runs_dir, name, self._read))

    def seconds_since_stop_request(self, name: str) -> float | None:
        """Return the number of seconds since a run was asked to stop, or None if it has not been asked."""
        return RunDirectory(self.runs_dir / name).seconds_since_stop_request()

    def checkpoint_step(self, name: str) -> int | None:
        """Return the step of a run's newest checkpoint, or None if it has none."""
        return RunDirectory(self.runs_dir / name).checkpoint_step()

    def studies(self) -> list[dict[str, Any]]:
        """Return one row per study; see `operations.studies`."""
        return operations.studies(self.runs_dir, self.runs())

    def study(self, name: str) -> Study:
        """Return a study. Raises UserError if it does not exist or its file is damaged."""
        return studies_on_disk.find(self.runs_dir, name)

    def plan_sweep(self, sweep: Sweep, study: str = "", reuse: bool = False) -> "SweepPlan":
        """Plan a study without launching it; see `core.studies.planning`. Problems are listed in the plan.

        Args:
            study: name of the study; by default, an unused name with the varied settings.
            reuse: use finished runs with the same settings, if they belong to no study, instead of training them again.
        """
        from core.studies.planning import plan_sweep  # imports PyTorch

        return plan_sweep(self.runs_dir, sweep, study, self.runs() if reuse else None)

    def effects(
        self, metric: str = "val_loss", study: str | None = None, margin: float | None = None
    ) -> pd.DataFrame:
        """Return the effects of single changes, in a study or in all runs; see `core.studies.effects`.

        Args:
            metric: `val_loss`, `best_val_loss`, `exact`, `seconds` or another key of EFFECT_METRICS, or a judge.
            margin: differences below this count as equivalent.

        Raises:
            UserError: the study or the metric does not exist, or the margin is not positive.
        """
        from core.studies.analysis import study_effects  # imports SciPy

        return study_effects(self._read, metric, self.study(study) if study else None, margin)

    def seed_noise(self, metric: str = "val_loss") -> pd.DataFrame:
        """Return the seed-to-seed standard deviation of a metric: method, base_model, dataset, sd, low, high, df.

        Deviations of losses and of time are relative. For the limit below which a difference between two runs is
        within the noise, see `core.statistics.comparisons.noise_limit`.

        Raises:
            UserError: the metric is unknown.
        """
        return self.noise([metric])[metric].table()

    def noise(self, metrics: Sequence[str], runs: pd.DataFrame | None = None) -> "dict[str, Noise]":
        """Return the noise floors of some metrics; see `core.studies.noise`.

        Args:
            metrics: as in `effects`.
            runs: the result of `runs()`, to avoid reading it again.

        Raises:
            UserError: a metric is unknown.
        """
        from core.studies.analysis import seed_noise  # imports SciPy

        return seed_noise(self._read, metrics, runs)

    def study_summary(
        self, name: str, metric: str = "val_loss", margin: float | None = None
    ) -> pd.DataFrame:
        """Return one row per combination of a study's settings; see `core.studies.summary`.

        If the study's file is damaged, the settings that differ between its runs count as varied.

        Raises:
            UserError: the metric does not exist, or the margin is not positive.
        """
        from core.studies.analysis import study_summary  # imports SciPy

        return study_summary(self._read, name, self._readable_study(name), metric, margin)

    def best_combinations(self, metric: str = "val_loss") -> dict[str, dict[str, Any]]:
        """Return the row of `study_summary` with the best mean, for each study that has finished runs."""
        from core.studies.analysis import best_combinations  # imports SciPy

        names = studies_on_disk.study_names(self.runs_dir)
        found = [study for name in names if (study := self._readable_study(name))]
        return best_combinations(self._read, found, metric)

    def double_changes(self, study: str, metric: str = "val_loss") -> pd.DataFrame:
        """Return the pairs of a study's groups that differ by exactly two changes; see `core.studies.effects`.

        Raises:
            UserError: the study or the metric does not exist.
        """
        from core.studies.analysis import study_double_changes  # imports SciPy

        return study_double_changes(self._read, self.study(study), metric)

    def seeds_needed(
        self, study: str, metric: str = "val_loss", margin: float | None = None
    ) -> tuple[int, int, int] | None:
        """Return how many seeds are needed to detect a difference of `margin` in a study: low, estimate, high.

        None if the noise between seeds is unknown; see `core.studies.analysis.seeds_needed`.
        """
        from core.studies.analysis import seeds_needed  # imports SciPy

        return seeds_needed(self._read, study, metric, margin)

    def study_runs(self, study: str, metric: str = "val_loss") -> pd.DataFrame:
        """Return the runs of a study with the columns `value` and `diverged`; see `core.studies.analysis.study_runs`.

        Raises:
            UserError: the study or the metric does not exist.
        """
        from core.studies.analysis import study_runs  # imports SciPy

        return study_runs(self._read, self.study(study), metric)

    def study_means(self, study: str, metric: str = "val_loss") -> pd.DataFrame:
        """Return one row per combination of a study's settings, as in `study_summary`, but without verdicts.

        Faster than `study_summary`. The metric can also be `relative_update`.

        Raises:
            UserError: the study or the metric does not exist.
        """
        from core.studies.analysis import means  # imports SciPy

        return means(self._read, self.study(study), metric)

    def importance(self, study: str, metric: str = "val_loss") -> pd.DataFrame:
        """Return the importance of each varied setting of a study; see `core.studies.importance`.

        Raises:
            UserError: the study or the metric does not exist, or there are too few runs.
        """
        from core.studies.analysis import field_importance  # imports SciPy and Optuna

        return field_importance(self._read, self.study(study), metric)

    def study_report(self, name: str, format: Literal["html", "md"] = "html") -> bytes:
        """Return the report on a study; see `core.exchange.study_report`. Raises UserError.

        Args:
            format: `html` for a file that works offline, `md` for a ZIP archive with Markdown and pictures.
        """
        from core.exchange import study_record, study_report  # imports Plotly and SciPy

        return study_report.render(study_record.collect(self._read, self.study(name)), format)

    def study_conclusions(self, name: str) -> list[str]:
        """Return the generated summary of a study, one sentence per effect. Raises UserError."""
        from core.exchange import study_record  # imports SciPy

        return study_record.conclusions(self._read, self.study(name))

    def _readable_study(self, name: str) -> Study | None:
        """Return a study, or None if its file is damaged or does not exist."""
        with contextlib.suppress(UserError):
            return self.study(name)
        return None
