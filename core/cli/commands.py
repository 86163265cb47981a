"""Train, score and compare fine-tuning runs from the command line.

Exit status: 0 on success, 2 for a user error, 1 for any other failure. Errors are printed to standard error.
"""

import json
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn, cast

import typer

from core import operations
from core.cli.options import (
    DEFAULT_RUNS_DIR,
    AsFormat,
    ExecutorName,
    PresetName,
    RunName,
    RunsDir,
    Sets,
    errors,
    parse_config,
)
from core.cli.score import score
from core.cli.studies import effects, studies, sweep
from core.config import RunConfig
from core.errors import ConfigError, UserError
from core.presets import DEMO, DEMO_LORA, PRESETS
from core.views import report
from core.views.tables import Format, render

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None
)
STOP_WAIT_S = 90.0
"""How long `stop` waits for a trainer to finish its step and write a checkpoint."""


@app.command()
def models(format: AsFormat = "table") -> None:
    """List the GPT-2 models. Shows their parameters, fp32 memory and LoRA parameters by rank."""
    print(render(report.models(format), format))


@app.command()
def settings(format: AsFormat = "table") -> None:
    """List all run settings. Shows their defaults, choices and descriptions."""
    print(render(report.settings(format), format))


@app.command()
def presets(format: AsFormat = "table") -> None:
    """List the presets and their settings."""
    rows = [
        {"preset": name, "title": p.title, "settings": p.settings} for name, p in PRESETS.items()
    ]
    print(render(rows, format))


@app.command()
def check(
    preset: PresetName = None,
    set: Sets = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure time and memory on a few training steps in a separate process. Downloads the model and "
            "data if needed.",
        ),
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """Check settings without training. Shows steps, tokens, parameters, memory, disk space, time and all problems."""
    config = parse_config(preset, set, runs_dir)
    plan = operations.check(config, runs_dir)
    cost = None
    if measure and not plan.problems:
        cost, problems = operations.measure(config)
        plan.problems.extend(problems)
    row = report.plan(plan, cost)
    if format == "json":
        print(json.dumps(row, indent=2, ensure_ascii=False))
    else:
        row["skipped_records"] = len(plan.skipped_records)  # the note lists them
        print(render([{"": key, "value": value} for key, value in row.items()], format))
    if plan.problems:
        raise ConfigError(plan.problems)


@app.command()
def find_lr(
    preset: PresetName = None,
    set: Sets = None,
    steps: Annotated[
        int, typer.Option("--steps", min=10, max=1000, help="Maximum number of training steps.")
    ] = 100,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """Suggest a learning rate. Trains for a few steps at increasing rates until the loss diverges. Saves nothing."""
    curve = operations.find_lr(parse_config(preset, set, runs_dir), steps)
    rows = report.lr_curve(curve)
    if format == "json":
        print(json.dumps({"suggestion": curve.suggestion, "steps": rows}, indent=2))
        return
    print(render(rows, format))
    if curve.suggestion is None:
        errors.print("No suggestion: the loss never decreased.")
    else:
        errors.print(f"Suggested learning rate: {curve.suggestion:g}")


@app.command()
def train(
    preset: PresetName = None,
    set: Sets = None,
    executor: ExecutorName = "process",
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """Train a new run and show its progress. Ctrl-C saves a checkpoint and stops the run."""
    config = parse_config(preset, set, runs_dir)
    name = _report_name(*operations.create_checked(runs_dir, config))
    _train_and_report(runs_dir, name, executor, format)


@app.command()
def resume(
    run: RunName,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Restart from step 0 with the current settings. Deletes the run's checkpoints and weights.",
        ),
    ] = False,
    executor: ExecutorName = "process",
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """Resume an unfinished run from its newest checkpoint."""
    operations.requeue(runs_dir, run, restart)
    _train_and_report(runs_dir, run, executor, format)


@app.command()
def stop(run: RunName, runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Stop a run and wait for it to end. A running run saves a checkpoint first."""
    operations.stop(runs_dir, run)
    status = operations.wait_until_ended(runs_dir, run, STOP_WAIT_S)
    if status is None:
        _fail(
            f"Run {run!r} did not stop within {STOP_WAIT_S:g} s. It will stop after its current step. "
            "To kill it now, run this command again.",
            1,
        )
    print(f"{run}: {status}")


@app.command()
def delete(run: RunName, runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Permanently delete a run with its weights, metrics and answers."""
    operations.delete(runs_dir, run)


@app.command()
def runs(
    format: AsFormat = "table",
    journal: Annotated[
        bool,
        typer.Option(
            "--journal",
            help="Also show the journal's reported results, which the presets run_1 to run_19 reproduce.",
        ),
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """List all runs, newest first."""
    missing = "" if runs_dir.exists() else ": the directory does not exist"
    frame, judged = operations.read_runs(runs_dir)
    note = f"No runs in {runs_dir} yet{missing}." if frame.empty else report.incomparable(frame)
    if note:
        errors.print(note)
    print(render(report.runs(frame, format, journal, judged), format))


@app.command()
def generate(
    model_names: Annotated[
        list[str],
        typer.Argument(metavar="RUN|base:NAME|base:DIR ...", help="Runs and base models."),
    ],
    prompt: Annotated[str, typer.Option("--prompt", help="Instruction to answer.")],
    input: Annotated[str, typer.Option("--input", help="Input for the instruction.")] = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="Use the prompt as is, without the instruction template.")
    ] = False,
    max_new_tokens: Annotated[
        int,
        typer.Option("--max-new-tokens", min=1, max=1024, help="Maximum length in tokens."),
    ] = 128,
    temperature: Annotated[
        float,
        typer.Option("--temperature", min=0, max=10, help="Sampling temperature. 0 is greedy."),
    ] = 0.0,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", min=1, help="Sample only from the k most likely tokens."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**63 - 1, help="Random seed for sampling.")
    ] = 123,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """Answer a prompt with several runs and base models, side by side."""
    sampling = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "seed": seed
    }  # fmt: skip
    answers = operations.generate(runs_dir, model_names, prompt, input, raw, **sampling)
    rows = []
    for name, answer in zip(model_names, answers, strict=True):
        rows.append({"run": name, "prompt": prompt, "answer": answer.text, "tokens": answer.tokens})
        if answer.prompt_cut:
            errors.print(
                f"{name}: the prompt exceeds the context length, so its beginning was cut off"
            )
    print(render(rows, format))


for command in (score, sweep, studies, effects):
    app.command()(command)


@app.command()
def export(
    name: Annotated[
        str, typer.Argument(metavar="RUN|STUDY", help="Name of the run, or of the study.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")],
    format: Annotated[
        operations.ExportFormat,
        typer.Option(
            "--format",
            help="`capsule`: a run as one HTML file with charts, answers, scores, settings and log. `report`: a "
            "study with its effects, curves and settings; HTML if FILE ends in .html, Markdown with pictures if it ends "
            "in .zip. HTML files work offline.",
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """Export a run or a study to a file."""
    size = operations.export(runs_dir, name, file, format, force)
    print(f"{file}: {size / 1e6:.1f} MB" if size >= 1e5 else f"{file}: {size / 1e3:.0f} KB")


@app.command()
def reindex(runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Rebuild the index from the run directories."""
    print(f"{operations.reindex(runs_dir)} runs indexed")


@app.command()
def demo(executor: ExecutorName = "process", runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Train, score and compare three demo runs. They use full fine-tuning and LoRA with ranks 16 and 4."""
    names = []
    for name, changes in {
        "demo-full": DEMO,
        "demo-lora-16": {**DEMO_LORA, "lora_rank": 16, "lora_alpha": 16},
        "demo-lora-4": {**DEMO_LORA, "lora_rank": 4, "lora_alpha": 4},
    }.items():
        config = RunConfig.parse({**changes, "name": name})
        names.append(_report_name(*operations.create(runs_dir, config)))
        _train_and_report(runs_dir, names[-1], executor, None)
    score(names, "reference", runs_dir=runs_dir)
    frame, judged = operations.read_runs(runs_dir)
    rows = report.runs(frame[frame["name"].isin(names)], "table", scores=judged)
    print(render(rows, "table"))
    answers = operations.read_answers(runs_dir, names)
    print(render(report.side_by_side(answers, 3), "table"))


def main() -> None:
    """Run a command. User errors are printed in one line and exit with status 2."""
    cast(TextIOWrapper, sys.stdout).reconfigure(errors="replace")  # for terminals without Unicode
    try:
        status = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error), 2)
    except typer.TyperException as error:
        _fail(" ".join(error.format_message().split()), 2)  # Typer puts choices on separate lines
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", 1)
    except BrokenPipeError:
        # The reader, such as `head`, has exited. Without this, Python prints an error when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status or 0)


def _fail(message: str, status: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def _report_name(name: str, origin: str | None) -> str:
    """Return the name of a new run. Print it if it differs from the requested one."""
    if origin:
        errors.print(f"Run name: {name} ({origin})")
    return name


def _train_and_report(runs_dir: Path, name: str, executor: str, format: Format | None) -> None:
    """Train a run, show its progress and print its row. Exit with status 1 if it does not finish."""
    status, reason = operations.train(runs_dir, name, executor, errors)
    if format and status in ("finished", "stopped"):
        frame, _ = operations.read_runs(runs_dir)
        print(render(report.runs(frame[frame["name"] == name], format), format))
    if status != "finished":
        was = "" if status == "failed" else "was "
        message = f"{name} {was}{status}" + (f": {reason}" if reason else "")
        _fail(f"{message.rstrip('.')}. Resume it with `python -m core resume {name}`.", 1)
