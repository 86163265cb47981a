"""The read-only part of the Lab.

Tables come from the index, settings and logs from the run directories.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from core import operations
from core.config import RunConfig
from core.run.directory import RunDirectory
from core.studies import study as studies_on_disk
from core.studies.study import Study
from core.tracking import queries

if TYPE_CHECKING:  # imports SciPy
    from core.studies.noise import Noise

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
        """Run a query of `core.tracking.queries` on the index."""

    def runs(self) -> pd.DataFrame:
        """Return all runs with their settings and results; see `queries.results`."""
        return self._read(queries.results)

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
        return self._read(queries.scores)

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
