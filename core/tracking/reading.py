"""From the run directories to the index, once: for a command, and what a laboratory does again and again."""

from collections.abc import Collection
from pathlib import Path

from core.errors import UserError
from core.tracking.index import INDEX, Index
from core.tracking.ingest import Ingester, Source
from core.tracking.rundir import RunDirectory, all_runs
from core.tracking.sources import event_files


def sources(runs_dir: Path, only: Collection[str] | None = None) -> list[Source]:
    """All that the index is made from, or of the runs only some."""
    runs = (run for run in all_runs(runs_dir) if only is None or run.name in only)
    return [*runs, *event_files(runs_dir)]


def settle_dead(runs_dir: Path, index: Index) -> bool:
    """Mark runs `interrupted` that the index has as running and no trainer holds. Whether there were any."""
    query = "select run from status group by run having arg_max(status, seq) = 'running'"
    names = [name for (name,) in index.cursor().execute(query).fetchall()]
    dead = [run for name in names if not (run := RunDirectory(runs_dir / name)).is_alive()]
    for run in dead:  # one that was resumed meanwhile is queued, and stays so
        run.settle("the trainer died", of=("running",))
    return bool(dead)


def read_index(runs_dir: Path, only: Collection[str] | None = None) -> Index:
    """The index as it stands now, for a command: the file, or one in memory where that is a dashboard's or read-only.

    Args:
        only: the runs that matter. One in memory holds no others, which takes less time to make.
    """
    try:
        index = Index(runs_dir / INDEX) if runs_dir.is_dir() else Index(None)
    except UserError:
        index = Index(None)
    wanted = only if index.path is None else None
    ingester = Ingester(index.new_cursor())
    ingester.poll(sources(runs_dir, wanted))
    if settle_dead(runs_dir, index):
        ingester.poll(sources(runs_dir, wanted))
    return index


def rebuild_index(runs_dir: Path) -> int:
    """Delete the index and make it anew from the directories; the number of runs.

    Raises UserError where it is held or cannot be written to.
    """
    path = runs_dir / INDEX
    Index(path).close()
    path.unlink(missing_ok=True)
    index = read_index(runs_dir)
    index.close()
    return len(all_runs(runs_dir))
