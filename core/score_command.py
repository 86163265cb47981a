"""`python -m core score`: verdicts of a judge on what runs answered to their test sets, and the leaderboard."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from core.errors import UserError
from core.judging import pairs, scores
from core.judging.job import Job, Order
from core.judging.judge import Kind
from core.judging.judges import (
    HOSTED_IN_FLIGHT,
    HOSTED_TIMEOUT_S,
    LOOPBACK_IN_FLIGHT,
    LOOPBACK_TIMEOUT_S,
    JudgeSettings,
    default_in_flight,
    default_judge,
)
from core.judging.limits import Limits
from core.judging.scorer import summary
from core.options import RUNS, AsFormat, RunsDir, errors
from core.tables import render
from core.tracking import queries, sync, verdict_queries
from core.tracking.index import Index
from core.tracking.rundir import RunDirectory

if TYPE_CHECKING:  # it brings torch
    from core.answering import Answerer


def _temperature(value: str | float) -> float | None:
    """Parse a number or `none`. Typer also passes the default value through this parser."""
    return None if str(value).strip().lower() == "none" else float(value)


def score(
    run: Annotated[list[str], typer.Argument(metavar="RUN ...", help="Names of runs.")],
    judge: Annotated[
        str | None, typer.Option("--judge", help="reference, gemini or openai.")
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", help="Of gemini or openai. Of reference: chrf, rouge-l or exact."),
    ] = "",
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            parser=_temperature,
            metavar="FLOAT|none",
            help="Judge temperature. 0 is greedy; none omits the parameter.",
        ),
    ] = 0.0,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, max=100, help="Verdicts on each answer.")
    ] = 1,
    base_url: Annotated[
        str, typer.Option("--base-url", help="Of an OpenAI-compatible service, or of a proxy.")
    ] = "",
    prompt_file: Annotated[
        Path | None,
        typer.Option("--prompt-file", exists=True, dir_okay=False, help="What the judge reads."),
    ] = None,
    base: Annotated[
        bool, typer.Option("--base/--no-base", help="Score the pretrained base model too.")
    ] = True,
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="Every two runs against each other, in both orders.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Ask again where a verdict has no score.")
    ] = False,
    in_flight: Annotated[
        int | None,
        typer.Option(
            "--in-flight",
            min=1,
            max=64,
            help=f"Concurrent requests. Default: {LOOPBACK_IN_FLIGHT} for a local server, otherwise "
            f"{HOSTED_IN_FLIGHT}.",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            help=f"Reply timeout in seconds. Default: {LOOPBACK_TIMEOUT_S:g} for a local server, otherwise "
            f"{HOSTED_TIMEOUT_S:g}.",
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", min=1, help="At most; else no limit.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option("--tokens-per-minute", min=1, help="At most; else no limit.")
    ] = None,
    runs_dir: RunsDir = RUNS,
    format: AsFormat = "table",
) -> None:
    """Score what runs answered to their test sets. A verdict that is there already is not asked for again."""
    for name in run:
        RunDirectory.find(runs_dir, name)
    template = prompt_file.read_text(encoding="utf-8") if prompt_file else ""
    settings = JudgeSettings(
        judge or default_judge(), model, temperature, template, base_url, timeout=timeout
    )
    limits = Limits(
        in_flight or default_in_flight(settings), requests_per_minute, tokens_per_minute
    )
    kind: Kind = "pair" if pairwise else "score"
    names = tuple(dict.fromkeys(run))
    order = Order(names, settings, kind, repeats, base, again, limits)
    with contextlib.closing(sync.read_index(runs_dir, order.runs)) as index:
        answers = queries.answers(index.cursor(), order.runs)
        found = queries.results(index.cursor())
    for name in order.runs:
        if not (answers["run"] == name).any():
            raise UserError(f"run = {name!r}: it has no answers yet; they come when it is finished")
    hashes = dict(zip(found["name"], found["base_hash"], strict=True))

    def answerer() -> "Answerer":
        from core.answering import Answerer

        return Answerer(runs_dir, keep=1)

    job = Job(runs_dir, order, answers, hashes, answerer)
    _follow(job)
    with contextlib.closing(sync.read_index(runs_dir, order.runs)) as index:
        rows, notes = (_pair_rows if pairwise else _rows)(index, job)
    progress = job.progress
    has_scores = progress.nothing_scored is None and any(row["scored"] for row in rows)
    if job.error and not has_scores and not (progress.done or progress.given_up):
        raise UserError(job.error)  # refused before the first verdict
    if rows or format == "json":
        print(render(rows, format))
    for note in filter(None, notes):
        errors.print(note)
    if not has_scores:
        errors.print(f"error: {job.error or _nothing_scored(job)}")
        reasons = progress.nothing_scored
        if job.error and reasons and reasons not in job.error:
            errors.print(f"Nothing was scored: {reasons}.")
        raise typer.Exit(1)
    if job.error:
        raise UserError(job.error)
    if progress.given_up:
        count, reasons = len(progress.given_up), summary(progress.given_up)
        errors.print(f"{count:,} verdicts failed ({reasons}). Score again to retry them.")


def _nothing_scored(job: Job) -> str:
    """Return a message that explains why there are no scores."""
    if job.phase == "stopped":
        return "Stopped before the first score."
    if reason := job.progress.nothing_scored:
        return f"Nothing was scored: {reason}."
    return "Nothing was scored: no two of these runs answered the same test example."


def _rows(index: Index, job: Job) -> tuple[list[dict[str, Any]], list[str | None]]:
    """The leaderboard of the judge that just scored, and what there is to say of it."""
    own = queries.answers(index.cursor(), job.order.runs)
    verdicts = scores.of_runs(verdict_queries.verdicts(index.cursor(), job.names), own)
    answers = scores.of_runs(queries.answers(index.cursor(), job.names), own)
    verdicts = verdicts[verdicts["id"] == job.id]
    rows = scores.leaderboard(verdicts, answers, job.order.judge.judge)
    notes = [
        scores.missing_sentence(verdicts),
        scores.scale_sentence(verdicts),
        scores.noise_sentence(verdicts),
    ]
    return scores.named(rows, job.names), notes


def _pair_rows(index: Index, job: Job) -> tuple[list[dict[str, Any]], list[str | None]]:
    """How often each run wins against each other."""
    verdicts = verdict_queries.pair_verdicts(index.cursor(), job.names)
    rows = pairs.win_rates(verdicts[verdicts["id"] == job.id], job.names)
    return scores.named(rows, job.names), []


def _follow(job: Job) -> None:
    """Score with a progress bar. Ctrl-C ends it after the requests on their way."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task("starting", total=None)
        job.start()
        while job.going:
            try:
                job.join(0.1)
            except KeyboardInterrupt:
                job.stop()
            p = job.progress
            text = f"{job.phase}: {p.waiting}" if p.waiting else job.phase
            bar.update(task, description=text, completed=p.stored + p.done, total=p.wanted or None)
