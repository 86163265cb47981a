"""Rows for tables of models, settings, plans and runs, and for side-by-side answers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from core.config import GROUPS, IDENTITY_FIELDS, RunConfig, choices, is_relevant, metadata
from core.metrics import MIB
from core.nn.architecture import FAMILY, RANKS
from core.views import journal
from core.views.formats import setting_text, value_text
from core.views.tables import Format, cell, records

if TYPE_CHECKING:  # these modules import torch or scipy, which tables do not need
    from core.judging.scores import Score
    from core.planning.measurement import Cost
    from core.planning.preflight import Plan
    from core.training.lr_finder import LRCurve

RUN_COLUMNS = (
    "name", "status", "base_model", "method", "lora_rank", "lora_alpha", "batch_size", "epochs",
    "optimizer", "lr", "min_lr", "warmup_fraction", "weight_decay", "val_loss", "val_set", "perplexity",
    "best_val_loss", "best_step", "scores", "seconds", "peak_memory_mb", "disk_mb", "device", "parent", "notes",
)  # fmt: skip
"""Columns of the results table, in order."""
TEST_SET_FIELDS = (
    "dataset", "columns", "max_examples", "empty_outputs", "train_fraction", "test_fraction",
)  # fmt: skip
"""Settings that determine a run's test examples."""
LOSS_FIELDS = (*TEST_SET_FIELDS, "max_length", "mask_prompt")
"""Settings that determine the tokens over which the loss is averaged."""
Scores = Mapping[str, Mapping[str, "Score"]]
"""Scores by run and judge."""


def models(format: Format) -> list[dict[str, Any]]:
    """Return one row per model: name, parameters, memory in MiB, and LoRA parameters by rank."""
    rows = []
    for name, arch in FAMILY.items():
        parameters = arch.parameters()
        lora = {str(rank): arch.lora_parameters(rank) for rank in RANKS}
        row = {"name": name, "parameters": parameters, "memory_mb": round(parameters * 4 / MIB, 2)}
        rows.append({**row, "lora": lora} if format == "json" else _flat_row(row, lora))
    return rows


def _flat_row(row: dict[str, Any], lora: dict[str, int]) -> dict[str, Any]:
    memory = {"memory_mb": f"{row['memory_mb']:.2f}"}
    return {**row, **memory, **{f"LoRA r={rank}": n for rank, n in lora.items()}}


def settings(format: Format) -> list[dict[str, Any]]:
    """Return one row per field in RunConfig. In JSON, groups have their keys instead of their titles."""
    return [
        {
            "group": group if format == "json" else GROUPS[group],
            "setting": name,
            "default": "none" if field.default is None else field.default,
            "choices": ", ".join(choices(field)),
            "description": field.description,
        }
        for name, field in RunConfig.model_fields.items()
        for group in (metadata(field)["group"],)
    ]


def plan(launch_plan: "Plan", cost: "Cost | None" = None) -> dict[str, Any]:
    """Return a plan as a single row: the estimate, the measurement if available, and the problems."""
    row = {k: v for k, v in asdict(launch_plan).items() if k not in ("problems", "learning_rates")}
    row["skipped_records"] = [
        {"place": record.source_row, "reason": record.reason}
        for record in launch_plan.skipped_records
    ]
    measured = {f"measured_{name}": value for name, value in asdict(cost).items()} if cost else {}
    return {**row, **measured, "problems": [str(problem) for problem in launch_plan.problems]}


def runs(
    frame: pd.DataFrame, format: Format, with_journal: bool = False, scores: Scores | None = None
) -> list[dict[str, Any]]:
    """Return the rows of the results table.

    JSON includes all columns. Other formats drop empty columns and, unless the journal is included, add every setting
    that differs.

    Args:
        with_journal: Append the journal's rows, and add to each run the journal run it repeats and the difference in
            loss. Markdown uses the journal's columns.
        scores: Scores by run and judge.
    """
    rows = records(with_journal_rows(frame, scores) if with_journal else run_frame(frame, scores))
    if with_journal and format == "md":
        return [journal.columns(row) for row in rows]
    if format == "json" or not rows:
        return rows
    if not with_journal:  # journal rows lack these columns
        extra_columns = [name for name in differing(frame) if name not in RUN_COLUMNS]
        rows = [row | extra for row, extra in zip(rows, records(frame[extra_columns]), strict=True)]
    shown_columns = [c for c in rows[0] if any(row[c] not in (None, "", {}) for row in rows)]
    formatted = [
        {**row, "scores": {k: score_text(v) for k, v in row["scores"].items()}} for row in rows
    ]
    return [{column: row[column] for column in shown_columns} for row in formatted]


def with_journal_rows(frame: pd.DataFrame, scores: Scores | None = None) -> pd.DataFrame:
    """Return the results followed by the journal's rows, and compare each run with the journal run that it repeats."""
    results = run_frame(frame, scores)
    rows = [journal.difference(row) for row in records(frame)]
    differences = pd.DataFrame(
        rows, index=results.index, columns=["journal_run", "loss_to_journal", "loss_to_journal_se"]
    )
    journal_rows = (
        pd.DataFrame(journal.rows())
        .reindex(columns=results.columns)
        .astype(results.dtypes.to_dict())
    )
    return pd.concat([results.join(differences), journal_rows], ignore_index=True)


def run_frame(frame: pd.DataFrame, scores: Scores | None = None) -> pd.DataFrame:
    """Return the results with the columns listed in RUN_COLUMNS.

    `device` is the hardware that the run used, or the requested device if it has not started. `scores` is a dict with
    the share of exact answers as a number and, for each judge, a dict with mean, low, high, scored and missing.
    """
    scores_by_run = scores or {}
    judged = [
        ({} if pd.isna(exact) else {"exact": round(float(exact), 4)})
        | {
            judge: {k: round(v, 4) for k, v in asdict(score).items()}
            for judge, score in scores_by_run.get(str(name), {}).items()
        }
        for name, exact in zip(frame["name"], frame["exact"], strict=True)
    ]
    result = frame.assign(
        device=frame["device_name"].where(frame["device_name"].notna(), frame["device"]),
        scores=pd.Series(judged, index=frame.index, dtype=object),
    )
    return result[list(RUN_COLUMNS)]


def lr_curve(curve: "LRCurve") -> list[dict[str, Any]]:
    """Return one row per step of a learning rate test: step, lr, loss, smoothed."""
    points = zip(curve.lr, curve.loss, curve.smoothed, strict=True)
    return [
        {"step": step, "lr": lr, "loss": loss, "smoothed": smoothed}
        for step, (lr, loss, smoothed) in enumerate(points, 1)
    ]


def effects(frame: pd.DataFrame, format: Format) -> list[dict[str, Any]]:
    """Return the rows of `core.studies.effects`. Formats other than JSON have fewer columns, formatted as text."""
    rows = records(frame)
    if format == "json":
        return rows
    return [
        {
            "change": f"{row['field']}: {setting_text(row['from'])} → {setting_text(row['to'])}",
            "context": ", ".join(f"{k} {setting_text(v)}" for k, v in row["context"].items()),
            "metric": row["metric"],
            "difference": row["difference"],
            "95% interval": None
            if row["low"] is None
            else f"{cell(row['low'])} to {cell(row['high'])}",
            "seeds": row["seeds"],
            "q": row["q"],
            "verdict": row["verdict"],
        }
        for row in rows
    ]


def differing(frame: pd.DataFrame) -> list[str]:
    """Return the settings that differ between the runs in which they have an effect."""
    names = [name for name in RunConfig.model_fields if name not in IDENTITY_FIELDS]
    varied = [name for name in names if frame[name].nunique(dropna=False) > 1]
    rows = records(frame[names])
    return [
        name for name in varied if len({row[name] for row in rows if is_relevant(name, row)}) > 1
    ]


def incomparable(frame: pd.DataFrame) -> str | None:
    """Return a warning if the losses or scores of these runs may not be comparable, else None."""
    return incomparable_settings(differing(frame[frame["dataset"].notna()]))


def incomparable_settings(varied: Collection[str]) -> str | None:
    """Return a warning if runs that differ in these settings may not be comparable, else None."""
    names = [name for name in varied if name in LOSS_FIELDS]
    titles = ", ".join(str(RunConfig.model_fields[name].title) for name in names)
    if not names:
        if "eval_examples" not in varied:
            return None
        return "Subset losses and best validation losses were measured on different numbers of examples (Evaluation examples). They are comparable only between runs that used the same number."
    if set(names) & set(TEST_SET_FIELDS):
        return f"These runs may have been trained and tested on different examples ({titles}). Losses and scores are comparable only between runs that used the same examples."
    return f"These losses may be averaged over different tokens ({titles}). They are comparable only between runs that used the same tokens."


def same_test_set(frame: pd.DataFrame) -> list[str]:
    """Return the runs tested on the same examples as the first run."""
    test_sets = [tuple(row.values()) for row in records(frame[list(TEST_SET_FIELDS)])]
    return [str(n) for n, key in zip(frame["name"], test_sets, strict=True) if key == test_sets[0]]


def settings_of(rows: Sequence[Mapping[str, Any]], every: bool = False) -> pd.DataFrame:
    """Tabulate the settings that differ between runs or, for a single run, from the defaults.

    Args:
        rows: Name and settings of each run. A setting that has no effect counts as the default.
        every: Include settings that do not differ.

    Returns:
        One row per setting, indexed by title, and one column per run. For a single run, a second column holds the
        defaults. Values are strings, which are empty if the setting has no effect.
    """
    table = {}
    for name, field in RunConfig.model_fields.items():
        relevant = [is_relevant(name, row) for row in rows]
        values = [row[name] if r else field.default for row, r in zip(rows, relevant, strict=True)]
        default_only = [field.default] if len(rows) == 1 else []
        if name not in IDENTITY_FIELDS and (every or len({*values, *default_only}) > 1):
            texts = [
                value_text(name, v) if r else "" for v, r in zip(values, relevant, strict=True)
            ]
            defaults = [value_text(name, value) for value in default_only]
            table[str(field.title)] = [*texts, *defaults]
    columns = [*(str(row["name"]) for row in rows), *(["Default value"] if len(rows) == 1 else [])]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).rename_axis("Setting")


def run_settings(
    run: Mapping[str, Any], parent: Mapping[str, Any] | None, every: bool = False
) -> pd.DataFrame:
    """Tabulate one run's settings next to its parent's and the defaults: Setting, Value, Parent, Default.

    Args:
        every: Include settings that equal both the default and the parent's value.
    """
    rows = []
    for name, field in RunConfig.model_fields.items():
        if name in IDENTITY_FIELDS:
            continue
        values = [row[name] if is_relevant(name, row) else None for row in (run, parent) if row]
        has_effect = [is_relevant(name, row) for row in (run, parent) if row]
        default = setting_text(field.default)
        texts = [
            value_text(name, value) if relevant else ""
            for value, relevant in zip(values, has_effect, strict=True)
        ]
        if every or any(text not in ("", default) for text in texts) or len({*texts}) > 1:
            own, *others = texts
            parents = {"Parent": others[0]} if others else {}
            rows.append({"Setting": field.title, "Value": own, **parents, "Default": default})
    columns = ["Setting", "Value", *(["Parent"] if parent else []), "Default"]
    return pd.DataFrame(rows, columns=columns)


def score_text(score: Any) -> Any:
    """Format a score for display, such as `94.1 (91.7 to 96.3, n = 108)`."""
    if not isinstance(score, dict):
        return score
    interval = interval_text(score)
    return f"{score['mean']:.1f} ({interval})" if interval else f"{score['mean']:.1f}"


def interval_text(score: Mapping[str, Any]) -> str:
    """Format the interval and answer counts of a score for display, such as `91.7 to 96.3, n = 108, 2 missing`."""
    parts = [] if pd.isna(score["low"]) else [f"{score['low']:.1f} to {score['high']:.1f}"]
    if score["scored"]:
        parts.append(f"n = {score['scored']:,}")
    missing = [f"{score['missing']:,} missing"] if score["missing"] else []
    return ", ".join(parts + missing)


def side_by_side(answers: pd.DataFrame, max_prompts: int) -> list[dict[str, Any]]:
    """Return the first test prompts with the reference and each run's answer."""
    table = answers.pivot_table(
        index=["item", "instruction", "input", "reference"],
        columns="run",
        values="answer",
        aggfunc="first",
    )
    rows = records(table.reset_index().drop(columns="item").head(max_prompts))
    return [{k: v.strip() if isinstance(v, str) else v for k, v in row.items()} for row in rows]
