"""The command line: the same machine as the dashboard, without a browser.

Exit status: 0 for success, 2 for a mistake of the user's, 1 for anything else. Errors are one sentence
on standard error.
"""

import contextlib
import json
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

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
)
from core.cli.score import score
from core.config import RunConfig
from core.errors import ConfigError, Problem, UserError
from core.presets import DEMO, DEMO_LORA, PRESETS, preset
from core.views import report
from core.views.tables import Format, render

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None
)
STOP_WAIT_S = 90.0
"""Seconds that `stop` waits for a trainer to end its step and write its checkpoint."""


@app.command()
def models(format: AsFormat = "table") -> None:
    """The GPT-2 family: parameters, memory in fp32, LoRA parameters by rank."""
    print(render(report.models(format), format))


@app.command()
def settings(format: AsFormat = "table") -> None:
    """Every setting of a run: its default, its choices and what it does."""
    print(render(report.settings(), format))


@app.command()
def presets(format: AsFormat = "table") -> None:
    """Named settings to start from."""
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
            "--measure", help="Take a few steps in a process of their own, for memory and time."
        ),
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """Check a run before it starts: steps, tokens, parameters, memory, disk space, time, and all problems."""
    config = _config(preset, set, runs_dir)
    plan = operations.check(config, runs_dir)
    cost = None
    if measure and not plan.problems:
        cost, problems = operations.measure(config)
        plan.problems.extend(problems)
    row = report.plan(plan, cost)
    if format == "json":
        print(json.dumps(row, indent=2, ensure_ascii=False))
    else:
        row["skipped_records"] = len(plan.skipped_records)  # listed in the note
        print(render([{"": key, "value": value} for key, value in row.items()], format))
    if plan.problems:
        raise ConfigError(plan.problems)


@app.command()
def train(
    preset: PresetName = None,
    set: Sets = None,
    executor: ExecutorName = "process",
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """Train a run to its end, with a progress bar. Ctrl-C checkpoints and stops it."""
    config = _config(preset, set, runs_dir)
    name = _report_name(*operations.create_checked(runs_dir, config))
    _drive(runs_dir, name, executor, format)


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
    _drive(runs_dir, run, executor, format)


@app.command()
def stop(run: RunName, runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Ask a run to checkpoint and stop, and wait until it has."""
    operations.stop(runs_dir, run)
    status = operations.wait_until_ended(runs_dir, run, STOP_WAIT_S)
    if status is None:
        _fail(f"{run} is in a long step and will stop after it; asked again, it is killed", 1)
    print(f"{run}: {status}")


@app.command()
def delete(run: RunName, runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Remove a run and everything it made."""
    operations.delete(runs_dir, run)


@app.command()
def runs(
    format: AsFormat = "table",
    journal: Annotated[
        bool,
        typer.Option(
            "--journal",
            help="Below: what the study reported that the presets run_1 to run_19 come from.",
        ),
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """The table of all runs, newest first."""
    missing = "" if runs_dir.exists() else ": there is no such directory"
    frame, judged = operations.read_runs(runs_dir)
    if (
        remark := f"there are no runs in {runs_dir} yet{missing}"
        if frame.empty
        else report.incomparable(frame)
    ):
        errors.print(remark)
    print(render(report.runs(frame, format, journal, judged), format))


@app.command()
def generate(
    model_names: Annotated[list[str], typer.Argument(metavar="RUN|base:NAME|base:DIR ...")],
    prompt: Annotated[str, typer.Option("--prompt", help="The instruction.")],
    input: Annotated[str, typer.Option("--input", help="The instruction's input.")] = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="Feed the prompt without the template.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, max=1024)] = 128,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=10)] = 0.0,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1)] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1)] = 123,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
    format: AsFormat = "table",
) -> None:
    """Answers of runs and base models to one prompt, side by side."""
    sampling = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "seed": seed
    }  # fmt: skip
    answers = operations.generate(runs_dir, model_names, prompt, input, raw, **sampling)
    rows = []
    for name, answer in zip(model_names, answers, strict=True):
        rows.append({"run": name, "prompt": prompt, "answer": answer.text, "tokens": answer.tokens})
        if answer.prompt_cut:
            errors.print(
                f"{name}: the prompt is longer than the context; its beginning was cut off"
            )
    print(render(rows, format))


app.command()(score)


@app.command()
def reindex(runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Rebuild the index from the run directories."""
    print(f"{operations.reindex(runs_dir)} runs indexed")


@app.command()
def demo(executor: ExecutorName = "process", runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Three runs on the embedded base model: full, LoRA 16 and LoRA 4; scored, their table, answers compared."""
    names = []
    for name, changes in {
        "demo-full": DEMO,
        "demo-lora-16": {**DEMO_LORA, "lora_rank": 16, "lora_alpha": 16},
        "demo-lora-4": {**DEMO_LORA, "lora_rank": 4, "lora_alpha": 4},
    }.items():
        config = RunConfig.parse({**changes, "name": name})
        names.append(_report_name(*operations.create(runs_dir, config)))
        _drive(runs_dir, names[-1], executor, None)
    score(names, "reference", runs_dir=runs_dir)
    frame, judged = operations.read_runs(runs_dir)
    rows = report.runs(frame[frame["name"].isin(names)], "table", scores=judged)
    print(render(rows, "table"))
    answers = operations.read_answers(runs_dir, names)
    print(render(report.side_by_side(answers, 3), "table"))


def main() -> None:
    """Run a command and turn mistakes into one sentence and exit status 2."""
    cast(TextIOWrapper, sys.stdout).reconfigure(errors="replace")  # whatever a terminal can show
    try:
        status = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error), 2)
    except typer.TyperException as error:
        _fail(error.format_message(), 2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", 1)
    except (
        BrokenPipeError
    ):  # such as `| head`: nobody reads on, and Python would complain at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status or 0)


def _fail(sentence: str, status: int) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)


def _config(name: str | None, sets: list[str] | None, runs_dir: Path) -> RunConfig:
    """Return the settings from a preset and field=value words. Raises ConfigError with every problem."""
    values: dict[str, Any] = preset(name).model_dump(exclude_defaults=True) if name else {}
    pairs = [word.partition("=") for word in sets or []]
    values |= {field.strip(): value for field, separator, value in pairs if separator}
    hint = "it should be field=value, such as batch_size=2"
    problems = [Problem("--set", word, hint) for word, separator, _ in pairs if not separator]
    with contextlib.suppress(ConfigError):
        config = RunConfig.parse(values)
        if not problems:
            return config
    raise ConfigError(problems + operations.problems(values, runs_dir))


def _report_name(name: str, origin: str | None) -> str:
    """Return the name of a new run. Print it if it is not the requested one."""
    if origin:
        errors.print(f"Run name: {name} ({origin})")
    return name


def _drive(runs_dir: Path, name: str, executor: str, format: Format | None) -> None:
    """Train a run while showing its progress, and print its row. Exits with status 1 if it did not finish."""
    status, reason = operations.train(runs_dir, name, executor, errors)
    if format and status in ("finished", "stopped"):
        frame, _ = operations.read_runs(runs_dir)
        print(render(report.runs(frame[frame["name"] == name], format), format))
    if status != "finished":
        was = "" if status == "failed" else "was "
        sentence = f"{name} {was}{status}" + (f": {reason}" if reason else "")
        _fail(f"{sentence}; `python -m core resume {name}` goes on with it", 1)
