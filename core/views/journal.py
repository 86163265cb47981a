"""Results reported in the journal: reference rows for the results table, and comparisons of runs with these results.

The journal's author obtained these results on different hardware. They are shown for reference only and are not
averaged with the user's runs.
"""

import functools
from collections.abc import Mapping
from typing import Any

from core.config import LEARNING_FIELDS, is_relevant
from core.presets import PRESETS, preset

JOURNAL_STATUS = "journal"
"""Status of the reference rows. Runs never have this status."""


def rows() -> list[dict[str, Any]]:
    """Return one row per journal run, using the column names of the results table."""
    result = []
    for name, entry in PRESETS.items():
        if entry.journal is None:
            continue
        journal_result = entry.journal
        result.append({
            **settings(name),
            "name": f"journal {name}",
            "status": JOURNAL_STATUS,
            "val_loss": journal_result.val_loss,
            "val_set": "subset",
            "perplexity": journal_result.perplexity,
            "scores": {} if journal_result.gemini is None else {"gemini": journal_result.gemini},
            "seconds": None if journal_result.minutes is None else round(journal_result.minutes * 60, 1),
            "device": journal_result.hardware,
            "notes": journal_result.remark,
        })  # fmt: skip
    return result


def repeated(run: Mapping[str, Any]) -> str | None:
    """Return the preset of the journal run with the same learning settings as this run, or None.

    Args:
        run: Settings by name. Settings that have no effect are None.
    """
    for name, entry in PRESETS.items():
        if entry.journal and _learning_settings(run) == _learning_settings(settings(name)):
            return name
    return None


def _learning_settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that affect learning. Effective batch size counts; its split into micro-batches does not."""
    values = {key: run.get(key) for key in LEARNING_FIELDS}
    return values | {
        "batch_size": run["batch_size"] * run["grad_accumulation"],
        "grad_accumulation": None,
    }


def difference(run: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a run with the journal run that it repeats.

    The journal's loss was measured on a few examples at its last evaluation, so it is compared with the run's subset
    loss. Runs from older versions did not record a subset loss after the last step. For these, the validation loss is
    used, without a standard error.

    Returns:
        `journal_run`; `loss_to_journal`, the run's loss minus the journal's; and `loss_to_journal_se`, the standard
        error of the run's loss. The journal's own error is unknown, but similar if both used the same number of
        examples. All are None if the run repeats no journal run. The last two are also None until the run is evaluated.
    """
    name = repeated(run)
    journal_result = PRESETS[name].journal if name else None
    error = run.get("subset_se")
    loss = run.get("val_loss") if error is None else run["subset_loss"]
    if journal_result is None or loss is None:
        return {"journal_run": name, "loss_to_journal": None, "loss_to_journal_se": None}
    return {
        "journal_run": name,
        "loss_to_journal": round(loss - journal_result.val_loss, 4),
        "loss_to_journal_se": None if error is None else round(error, 4),
    }


def columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row of the results table to the journal's columns."""
    scores = row.get("scores") or {}
    judges = (score for label, score in scores.items() if label.startswith("gemini"))
    gemini = next(judges, None)  # the first model by name if there are several
    minutes = None if row["seconds"] is None else round(row["seconds"] / 60, 2)
    return {
        "run_name": row["name"],
        "model_sz": row["base_model"],
        "batch_sz": row["batch_size"],
        "n_epochs": row["epochs"],
        "opt": row["optimizer"],
        "lr": row["lr"],
        "min_lr": row["min_lr"],
        "warmup": row["warmup_fraction"],
        "wd": row["weight_decay"],
        "rank": row["lora_rank"],
        "alpha": row["lora_alpha"],
        "loss": None if row["val_loss"] is None else round(row["val_loss"], 3),
        "perplex": None if row["perplexity"] is None else round(row["perplexity"], 3),
        "gemini_eval": gemini["mean"] if isinstance(gemini, dict) else gemini,
        "exact": scores.get("exact"),
        "time (min)": minutes,
        "device": row["device"],
        "notes": row["notes"],
    }


@functools.cache
def settings(name: str) -> dict[str, Any]:
    """Return all settings in a preset in the format of the results table. Settings that have no effect are None."""
    values = preset(name).model_dump(exclude={"tags"})
    return {key: value if is_relevant(key, values) else None for key, value in values.items()}
