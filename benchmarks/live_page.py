"""Server time for one update of the Live page with a run of 6,000 steps. Prints JSON.

An update queries the run's state, evaluations and curves, builds six figures, and has Streamlit validate and encode
them. It does not include the transfer to the browser or the drawing there.
"""

import gc
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import plotly.io
import plotly.tools

from core.metrics import CURVES
from core.presets import preset
from core.run.directory import RunDirectory, list_runs
from core.run.events import EventWriter
from core.tracking import queries
from core.tracking.index import Index
from core.tracking.sync import Sync
from core.views import charts

STEPS = 6000
UPDATES = 50
METRICS = [name for name, metric in CURVES.items() if metric.chart]


def write_run(runs_dir: Path, steps: int) -> str:
    """Write a run with random step events. Return its name."""
    run = RunDirectory.create(runs_dir, preset("demo"))
    writer = EventWriter(run.events_path)
    writer.append("status", status="running")
    writer.append("plan", steps=steps)
    for step in range(1, steps + 1):
        progress = {"step": step, "epoch": step / 1000, "tokens": step * 300, "seconds": step * 0.1}
        writer.append(
            "step",
            **progress,
            examples=step * 8,
            padding=0.1,
            lr=1e-3,
            loss=3 + random.random(),
            grad_norm=random.random(),
            tokens_per_s=3000 + random.random(),
            memory_mb=900.0,
            batch=list(range(8)),
        )
        if step % 25 == 0:
            writer.append("eval", **progress, train_loss=3.0, val_loss=3.1, final=False)
    writer.close()
    return run.name


def update(index: Index, names: list[str]) -> int:
    """Perform one update. Return the number of bytes it would send."""
    db = index.cursor()
    queries.states(db, names)
    evaluations = queries.evaluations(db, names)
    figures = [charts.loss_curves(evaluations, names, "step", False, p) for p in (False, True)]
    raw = queries.curves(db, names, METRICS)
    figures += [charts.step_curves(raw[m], None, names, m, "step", False) for m in METRICS]
    checked = (plotly.tools.return_figure_from_figure_or_data(f, True) for f in figures)
    return sum(len(plotly.io.to_json(figure, validate=False)) for figure in checked)


def measure(steps: int = STEPS, updates: int = UPDATES) -> dict[str, float]:
    """Return the duration of an update in milliseconds and its size in kilobytes."""
    with tempfile.TemporaryDirectory() as directory:
        names = [write_run(Path(directory), steps)]
        index = Index(Path(directory) / "lab.duckdb")
        Sync(index.new_cursor()).run(list_runs(Path(directory)))
        update(index, names)
        gc.collect()
        gc.freeze()
        times = []
        for _ in range(updates):
            start = time.perf_counter()
            size = update(index, names)
            gc.collect()
            times.append((time.perf_counter() - start) * 1e3)
        gc.unfreeze()
        index.close()
    return {
        "steps": steps,
        "median_ms": round(statistics.median(times), 1),
        "fastest_ms": round(min(times), 1),
        "kilobytes": round(size / 1000, 1),
    }


if __name__ == "__main__":
    random.seed(0)
    print(json.dumps(measure()))
