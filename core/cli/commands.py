"""The command line: the same machine as the dashboard, without a browser.

Exit status: 0 for success, 2 for a mistake of the user's, 1 for anything else. Errors are one sentence
on standard error.
"""

import contextlib
import json
import os
import sys
import time
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import pandas as pd
import typer

from core import lab
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
from core.cli.progress import drive
from core.cli.score import score
from core.config import RunConfig
from core.errors import ConfigError, Problem, UserError
from core.judging import scores
from core.planning import measurement
from core.presets import DEMO, DEMO_LORA, PRESETS, preset
from core.run.directory import ENDED_STATUSES, RunDirectory
from core.run.names import slug
from core.scheduler.executors import EXECUTORS
from core.tracking import queries, sync
from core.views import report
from core.views.tables import Format, render

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None
)
STOP_TIMEOUT_S = 90.0
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
    format: AsFormat = "table",
) -> None:
    """What a launch would do: steps, tokens, parameters, memory, time; and every problem, all at once."""
    from core.planning import preflight

    config = _config(preset, set)
    plan = preflight.check(config)
    cost = None
    if measure and not plan.problems:
        preflight.fetch(config)
        cost = measurement.measure(config)
        plan.problems.extend(preflight.memory_problems(config, cost.memory_mb))
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
    from core.planning import preflight

    config = _config(preset, set)
    if problems := preflight.check(config).problems:
        raise ConfigError(problems)
    preflight.fetch(config)
    _drive(_create(runs_dir, config), executor, format)


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
    run_directory = RunDirectory.find(runs_dir, run)
    lab.requeue(run_directory, restart)
    _drive(run_directory, executor, format)


@app.command()
def stop(run: RunName, runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Ask a run to checkpoint and stop, and wait until it has."""
    run_directory = RunDirectory.find(runs_dir, run)
    lab.stop(run_directory)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while (status := run_directory.status()) not in ENDED_STATUSES:
        if time.monotonic() > deadline:
            _fail(f"{run} is in a long step and will stop after it; asked again, it is killed", 1)
        if not run_directory.is_alive():
            run_directory.mark_ended("the trainer died", from_statuses=("running",))
        time.sleep(0.1)
    print(f"{run}: {status}")


@app.command()
def delete(run: RunName, runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Remove a run and everything it made."""
    RunDirectory.find(runs_dir, run).delete()


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
    frame, judged = _results(runs_dir)
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
    from core.inference import Answerer
    from core.nn.generation import Sampling

    answerer = Answerer(runs_dir, max_models=1)
    sampling = Sampling(max_new_tokens, temperature, top_k, seed)
    rows = []
    for name in model_names:
        *_, answer = answerer.answer(name, prompt, input, sampling, raw)
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
    if not runs_dir.is_dir():
        raise UserError(f"runs_dir = {str(runs_dir)!r}: there is no such directory")
    print(f"{sync.rebuild_index(runs_dir)} runs indexed")


@app.command()
def demo(executor: ExecutorName = "process", runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> None:
    """Three runs on the embedded base model: full, LoRA 16 and LoRA 4; scored, their table, answers compared."""
    names = []
    for name, changes in {
        "demo-full": DEMO,
        "demo-lora-16": {**DEMO_LORA, "lora_rank": 16, "lora_alpha": 16},
        "demo-lora-4": {**DEMO_LORA, "lora_rank": 4, "lora_alpha": 4},
    }.items():
        run = _create(runs_dir, RunConfig.parse({**changes, "name": name}))
        _drive(run, executor, None)
        names.append(run.name)
    score(names, "reference", runs_dir=runs_dir)
    frame, judged = _results(runs_dir)
    rows = report.runs(frame[frame["name"].isin(names)], "table", scores=judged)
    print(render(rows, "table"))
    with contextlib.closing(sync.read_index(runs_dir)) as index:
        answers = queries.answers(index.cursor(), names)
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


def _config(name: str | None, sets: list[str] | None) -> RunConfig:
    """Settings from a preset and field=value words. Raises ConfigError with every problem."""
    from core.planning import preflight

    values: dict[str, Any] = preset(name).model_dump(exclude_defaults=True) if name else {}
    pairs = [word.partition("=") for word in sets or []]
    values |= {field.strip(): value for field, separator, value in pairs if separator}
    hint = "it should be field=value, such as batch_size=2"
    problems = [Problem("--set", word, hint) for word, separator, _ in pairs if not separator]
    with contextlib.suppress(ConfigError):
        config = RunConfig.parse(values)
        if not problems:
            return config
    raise ConfigError(problems + preflight.all_problems(values))


def _create(runs_dir: Path, config: RunConfig) -> RunDirectory:
    """Create a run directory. Print its name to stderr if it differs from the requested one."""
    run = RunDirectory.create(runs_dir, config)
    requested_name = config.name.strip()
    if run.name != requested_name:
        origin = "no name given"
        if requested_name:
            origin = (
                f"from {requested_name!r}"
                if slug(requested_name) == run.name
                else f"{slug(requested_name)!r} is taken"
            )
        errors.print(f"Run name: {run.name} ({origin})")
    return run


def _drive(run: RunDirectory, executor: str, format: Format | None) -> None:
    """Train a run while showing how it goes; print its row; exit 1 where it did not finish."""
    drive(run, EXECUTORS[executor], errors)
    last_event = run.statuses()[-1]
    status, reason = last_event["status"], last_event.get("reason")
    if format and status in ("finished", "stopped"):
        frame, _ = _results(run.path.parent)
        print(render(report.runs(frame[frame["name"] == run.name], format), format))
    if status != "finished":
        was = "" if status == "failed" else "was "
        sentence = f"{run.name} {was}{status}" + (f": {reason}" if reason else "")
        _fail(f"{sentence}; `python -m core resume {run.name}` goes on with it", 1)


def _results(runs_dir: Path) -> tuple[pd.DataFrame, report.Scores]:
    """Every run, and its scores."""
    with contextlib.closing(sync.read_index(runs_dir)) as index:
        db = index.cursor()
        return queries.results(db), scores.by_run(queries.scores(db))
