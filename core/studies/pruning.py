"""Pruning: stop runs of a study early if they are worse than others at the same point of training.

Uses Optuna's asynchronous successive halving (Li et al. 2020): at 20, 40 and 80% of the planned steps, a run continues
only if its loss on the validation subset is in the better half of the runs that got there before. Only runs with the
same seed are compared, because runs with different seeds are repeats and differ by noise.

Reads event files, so that commands and the Lab's threads can use it without an index.
"""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError
from core.run.directory import ENDED_STATUSES, RunDirectory
from core.studies.study import Study

if TYPE_CHECKING:
    import optuna

PRUNED = "pruned"
"""Start of the reason of a pruned run, whose status is `stopped`."""
FIRST_SHARE = 20
"""Share of the planned steps at which runs are first compared, in percent. It doubles for each later comparison."""
REDUCTION_FACTOR = 2
MIN_OTHERS = 3
"""Number of other runs that must have reached the same point before a run is pruned."""
Curve = Sequence[tuple[int, float]]
"""Shares of the planned steps, in percent, and the losses there."""


def is_pruned(status: object, reason: object) -> bool:
    """Return whether a run with this status and reason, which may be missing, was pruned."""
    return status == "stopped" and isinstance(reason, str) and reason.startswith(PRUNED)


def pruned_at(curve: Curve, others: Sequence[Curve]) -> int | None:
    """Return the share of the planned steps at which a run is worse than most others, or None.

    Args:
        curve: the curve of the run.
        others: the curves of the runs that it is compared with.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.SuccessiveHalvingPruner(FIRST_SHARE, REDUCTION_FACTOR),
    )
    for other in others:
        _replay(study, other)
    for share in _replay(study, curve):
        if sum(bool(other) and other[-1][0] >= share for other in others) >= MIN_OTHERS:
            return share
    return None


def _replay(study: "optuna.Study", curve: Curve) -> list[int]:
    """Report the losses of a run to Optuna and return the shares at which it would be pruned."""
    trial, shares = study.ask(), []
    for share, loss in _compared(curve):
        trial.report(loss, share)
        if trial.should_prune():
            shares.append(share)
    return shares


def _compared(curve: Curve) -> list[tuple[int, float]]:
    """Return the first point at or after each share at which runs are compared. Other points have no effect."""
    points, target = [], FIRST_SHARE
    for share, loss in curve:
        if target <= share < 100:
            points.append((share, loss))
            while target <= share:
                target *= REDUCTION_FACTOR
    return points


class Pruner:
    """Asks running members of studies to stop. Keeps the losses of ended runs in memory.

    Args:
        runs_dir: the folder with the run directories.
    """

    def __init__(self, runs_dir: Path) -> None:
        self._runs_dir = runs_dir
        self._ended: dict[tuple[str, int], Curve] = {}
        self._checked: dict[str, Curve] = {}

    def check(self, study: Study, name: str) -> bool:
        """Prune a running member of a study if it is worse than most others. Returns whether it was pruned.

        A run that the user resumed after it was pruned is left alone, and so is one that reuses the name of a deleted
        member.
        """
        run = RunDirectory(self._runs_dir / name)
        with contextlib.suppress(UserError):  # deleted, or its events cannot be read
            if not study.sweep.prune or run.stop_request() is not None:
                return False
            curve = _read(run)
            if not curve or curve == self._checked.get(name):
                return False
            self._checked[name] = curve
            was_pruned = any(is_pruned(e["status"], e.get("reason")) for e in run.statuses())
            if was_pruned or run.config().study != study.name:
                return False
            seed = next(member.seed for member in study.members if member.name == name)
            names = [m.name for m in study.members if m.seed == seed and m.name != name]
            others = [self._curve(other) for other in names]
            if (share := pruned_at(curve, others)) is not None:
                reason = f"after {share}% of the steps: worse than most other runs with seed {seed}"
                run.request_stop(reason=f"{PRUNED} {reason}")
                return True
        return False

    def _curve(self, name: str) -> Curve:
        """Return the losses of another member; empty if it does not exist."""
        run = RunDirectory(self._runs_dir / name)
        try:
            key = name, run.events_path.stat().st_size
            if key not in self._ended:
                curve = _read(run)
                if run.status() not in ENDED_STATUSES:
                    return curve
                self._ended[key] = curve
            return self._ended[key]
        except (OSError, UserError):
            return []


def _read(run: RunDirectory) -> Curve:
    """Return the losses of a run after step 0, without those that are not finite. Raises UserError."""
    steps = 0
    losses: dict[int, float] = {}
    for event in run.events("plan", "eval", "rewind"):
        step, loss = event.get("step"), event.get("subset_loss")
        if event["event"] == "plan" and type(event.get("steps")) is int:
            steps = event["steps"]
        elif event["event"] == "rewind" and type(step) is int:
            losses = {s: value for s, value in losses.items() if s <= step}
        elif type(step) is int and step > 0 and type(loss) is float and math.isfinite(loss):
            losses[step] = loss
    return (
        sorted({100 * s // steps: value for s, value in losses.items()}.items())
        if steps > 0
        else []
    )
