"""The commands `sweep`, `studies` and `effects`."""

from typing import Annotated

import typer

from core import operations
from core.cli.options import (
    DEFAULT_RUNS_DIR,
    AsFormat,
    ExecutorName,
    PresetName,
    RunsDir,
    Sets,
    errors,
    parse_config,
)
from core.errors import UserError
from core.studies.sweep import MAX_RUNS, SEARCH_METRICS, Mode, Sweep, parse_axis
from core.views import report
from core.views.study_text import PRUNING_BIAS
from core.views.tables import render


def sweep(
    study: Annotated[str, typer.Option("--study", help="Name of the study.")],
    axis: Annotated[
        list[str],
        typer.Option(
            "--axis",
            help="Setting to vary: field=v1,v2,... or field=log LOW..HIGH x N. To give several settings the same values, use "
            "lora_rank=lora_alpha=4,16. Repeatable.",
        ),
    ],
    preset: PresetName = None,
    set: Sets = None,
    seeds: Annotated[
        int,
        typer.Option("--seeds", min=1, max=MAX_RUNS, help="Number of seeds for each combination."),
    ] = 1,
    mode: Annotated[
        Mode,
        typer.Option(
            "--mode",
            help="grid: all combinations. random: a random subset. search: combinations that are likely to improve on the "
            "previous ones (TPE), starting with random ones.",
        ),
    ] = "grid",
    max_runs: Annotated[
        int | None,
        typer.Option("--max-runs", min=1, help="Number of runs in a random subset or a search."),
    ] = None,
    metric: Annotated[
        str,
        typer.Option("--metric", help=f"What a search improves: {', '.join(SEARCH_METRICS)}."),
    ] = "val_loss",
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Stop a run at 20, 40 or 80% of its steps if its loss is not in the better half of the study's runs with "
            "the same seed. Effects exclude these runs.",
        ),
    ] = False,
    question: Annotated[
        str, typer.Option("--question", help="Question to answer; shown by `studies`.")
    ] = "",
    executor: ExecutorName = "process",
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """Train every combination of the given settings, with several seeds.

    Ctrl-C saves a checkpoint and stops. Run the same command again to continue.
    """
    base = parse_config(preset, set, runs_dir)
    axes = tuple(parse_axis(text) for text in axis)
    if max_runs is not None and mode == "grid":
        raise UserError("max_runs: only has an effect with --mode random or --mode search")
    seed_values = tuple(range(base.seed, base.seed + seeds))
    planned = Sweep(base, axes, seed_values, mode, max_runs, metric, prune)
    names, done = operations.sweep(runs_dir, study, planned, question), 0
    names = names or operations.extend_search(runs_dir, study)
    while done < len(names):
        errors.print(f"Run {done + 1} of {max_runs if mode == 'search' else len(names)}")
        if operations.train_member(runs_dir, names[done], executor, errors) == "stopped":
            raise typer.Exit(1)
        done += 1
        if done == len(names):
            names += operations.extend_search(runs_dir, study)
    frame, judged = operations.read_runs(runs_dir)
    print(render(report.runs(frame[frame["name"].isin(names)], format, scores=judged), format))


def studies(
    pause: Annotated[
        str | None, typer.Option("--pause", help="Remove this study's runs from the queue.")
    ] = None,
    continue_: Annotated[
        str | None, typer.Option("--continue", help="Re-queue the runs that --pause removed.")
    ] = None,
    extend: Annotated[
        str | None,
        typer.Option(
            "--extend", help="Add seeds to this study, or runs to a search; see --seeds and --runs."
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option("--seeds", min=0, max=MAX_RUNS, help="Number of seeds that --extend adds."),
    ] = 0,
    runs: Annotated[
        int, typer.Option("--runs", min=0, help="Number of runs that --extend adds to a search.")
    ] = 0,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """List all studies. The options first pause, continue or extend one. Queued runs start with the next dashboard."""
    if pause:
        operations.pause_study(runs_dir, pause)
    if continue_:
        operations.continue_study(runs_dir, continue_)
    if extend:
        operations.extend_study(runs_dir, extend, seeds, runs=runs)
    frame, _ = operations.read_runs(runs_dir)
    print(render(operations.studies(runs_dir, frame), format))


def effects(
    study: Annotated[
        str | None, typer.Option("--study", help="Use only the runs of this study.")
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            "--metric", help="val_loss, best_val_loss, exact, seconds, peak_memory_mb, or a judge."
        ),
    ] = "val_loss",
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            help="Largest difference that counts as equivalent: relative for losses (default: 0.01), time and memory "
            "(0.05), absolute for exact answers (0.02) and judges (2 points).",
        ),
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """Estimate the effect of each single change across seeds. Verdicts are corrected for multiple comparisons."""
    frame = operations.effects(runs_dir, metric, study, margin)
    if frame.empty:
        errors.print("No runs differ by exactly one change.")
    elif frame["exploratory"].any():
        errors.print(
            "Seeds were added after this study was planned, so its verdicts are exploratory."
        )
    if any(sum(counts) for counts in frame["pruned"]):
        errors.print(f"{PRUNING_BIAS} See `pruned` in JSON.")
    print(render(report.effects(frame, format), format))
