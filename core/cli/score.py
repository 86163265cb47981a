"""`python -m core score`: score runs' test-set answers with a judge and print the leaderboard."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from core import operations
from core.cli.options import DEFAULT_RUNS_DIR, AsFormat, RunsDir, errors
from core.errors import UserError
from core.judging.order import (
    HOSTED_IN_FLIGHT,
    HOSTED_TIMEOUT_S,
    KEY_VARIABLES,
    LOOPBACK_IN_FLIGHT,
    LOOPBACK_TIMEOUT_S,
    JudgeSettings,
    Kind,
    Limits,
    Order,
)
from core.views.tables import render

if TYPE_CHECKING:  # importing these at runtime takes seconds
    from core.judging.answers import JudgedAnswers
    from core.judging.job import Job
    from core.judging.scoring import Scoring


def _temperature(value: str | float) -> float | None:
    """Parse a number or `none`. Typer also passes the default through this parser, hence the float."""
    return None if str(value).strip().lower() == "none" else float(value)


def score(
    run: Annotated[list[str], typer.Argument(metavar="RUN ...", help="Runs to score.")],
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            help=f"reference, gemini or openai. Default: gemini if {KEY_VARIABLES['gemini']} is set, otherwise "
            "reference.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="Judge model. For the reference judge, the metric: chrf, rouge-l or exact.",
        ),
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
        int, typer.Option("--repeats", min=1, max=100, help="Number of verdicts per answer.")
    ] = 1,
    base_url: Annotated[
        str,
        typer.Option("--base-url", help="Base URL of an OpenAI-compatible service or a proxy."),
    ] = "",
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            "--prompt-file",
            exists=True,
            dir_okay=False,
            help="File with a prompt template for the judge. Default: the built-in prompt.",
        ),
    ] = None,
    base: Annotated[
        bool, typer.Option("--base/--no-base", help="Also score the pretrained base model.")
    ] = True,
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="Compare every pair of runs, in both orders.")
    ] = False,
    retry_unscored: Annotated[
        bool, typer.Option("--again", help="Retry verdicts that have no score.")
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
        int | None,
        typer.Option(
            "--requests-per-minute", min=1, help="Maximum requests per minute. Default: no limit."
        ),
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(
            "--tokens-per-minute", min=1, help="Maximum tokens per minute. Default: no limit."
        ),
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """Score runs' test-set answers with a judge. Cached verdicts are reused."""
    template = prompt_file.read_text(encoding="utf-8") if prompt_file else ""
    if judge is None:
        judge = "gemini" if os.environ.get(KEY_VARIABLES["gemini"]) else "reference"
    settings = JudgeSettings(judge, model, temperature, template, base_url, timeout=timeout)
    names = tuple(dict.fromkeys(run))
    with operations.open_scoring(runs_dir, names) as scoring:
        limits = Limits(
            in_flight or scoring.request_defaults(settings).in_flight,
            requests_per_minute,
            tokens_per_minute,
        )
        kind: Kind = "pair" if pairwise else "score"
        order = Order(settings, kind, repeats, base, retry_unscored, limits)
        judged = scoring.answers(names)
        for name in names:
            if not (judged.answers["run"] == name).any():
                raise UserError(
                    f"run = {name!r}: no answers yet; a run answers its test set when training finishes"
                )
        job = scoring.prepare(order, judged)
    _follow(job)
    with operations.open_scoring(runs_dir, names) as scoring:
        rows, notes = (_pair_rows if pairwise else _rows)(scoring, job)
    progress = job.progress
    has_scores = progress.nothing_scored is None and any(row["scored"] for row in rows)
    if job.error and not has_scores and not (progress.done or progress.given_up):
        raise UserError(job.error)  # failed before the first verdict
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
    if progress.failures:
        errors.print(progress.failures)


def _nothing_scored(job: "Job") -> str:
    """Return a message that explains why there are no scores."""
    if job.phase == "stopped":
        return "Stopped before the first score."
    if reason := job.progress.nothing_scored:
        return f"Nothing was scored: {reason}."
    return "Nothing was scored: no two of these runs answered the same test example."


def _rows(scoring: "Scoring", job: "Job") -> tuple[list[dict[str, Any]], list[str | None]]:
    """Return the leaderboard for this job's judge, and notes about its verdicts."""
    judged = _judged(scoring, job)
    verdicts = scoring.verdicts(judged)
    verdicts = verdicts[verdicts["id"] == job.id]
    rows = scoring.leaderboard(judged, verdicts, job.order.judge.judge, partial=True)
    return judged.with_titles(rows), list(scoring.notes(verdicts))


def _pair_rows(scoring: "Scoring", job: "Job") -> tuple[list[dict[str, Any]], list[str | None]]:
    """Return the win rate of each pair of runs. There are no notes."""
    judged = _judged(scoring, job)
    verdicts = scoring.pair_verdicts(judged)
    return judged.with_titles(scoring.win_rates(judged, verdicts[verdicts["id"] == job.id])), []


def _judged(scoring: "Scoring", job: "Job") -> "JudgedAnswers":
    """Return the answers that the job scored."""
    judged = scoring.answers(job.judged.runs)
    return judged if job.order.with_base else judged.without_bases()


def _follow(job: "Job") -> None:
    """Run the job and show its progress. Ctrl-C stops it once pending requests have completed."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task("starting", total=None)
        job.start()
        while job.is_running:
            try:
                job.join(0.1)
            except KeyboardInterrupt:
                job.stop()
            p = job.progress
            text = f"{job.phase}: {p.waiting}" if p.waiting else job.phase
            bar.update(
                task, description=text, completed=p.stored + p.done, total=p.requested or None
            )
