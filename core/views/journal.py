"""The journal's own results beside one's own: reference rows, and how far a run is from the one it repeats.

Its author measured them on other machines; they are shown as the journal's and enter no average.
"""

import functools
from collections.abc import Mapping
from typing import Any

from core.config import RunConfig, is_relevant, metadata
from core.presets import PRESETS, preset

JOURNAL_STATUS = "journal"
"""The status of a reference row: no run has it."""
LEARNING_FIELDS = tuple(
    name
    for name, field in RunConfig.model_fields.items()
    if metadata(field)["group"] in ("model", "data", "method", "optimisation")
)
"""The settings that decide what is learned; the others say where, how often and what is shown."""


def rows() -> list[dict[str, Any]]:
    """One row a run of the journal, with the names of the results table's columns."""
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
            "perplexity": journal_result.perplexity,
            "scores": {} if journal_result.gemini is None else {"gemini": journal_result.gemini},
            "seconds": None if journal_result.minutes is None else round(journal_result.minutes * 60, 1),
            "device": journal_result.hardware,
            "notes": journal_result.remark,
        })  # fmt: skip
    return result


def repeated(run: Mapping[str, Any]) -> str | None:
    """The preset whose journal run a run repeats: all that decides what is learned is the same.

    Args:
        run: its settings by name, None where one has no effect.
    """
    for name, entry in PRESETS.items():
        if entry.journal and _learning_settings(run) == _learning_settings(settings(name)):
            return name
    return None


def _learning_settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """What decides what is learned. A step's examples count, not how many of them are computed together."""
    values = {key: run.get(key) for key in LEARNING_FIELDS}
    return values | {
        "batch_size": run["batch_size"] * run["grad_accumulation"],
        "grad_accumulation": None,
    }


def difference(run: Mapping[str, Any]) -> dict[str, Any]:
    """`journal_run`, and a run's validation loss less the journal's; None where it repeats none."""
    name = repeated(run)
    journal_result = PRESETS[name].journal if name else None
    loss = run.get("val_loss")
    loss_difference = (
        None if journal_result is None or loss is None else round(loss - journal_result.val_loss, 4)
    )
    return {"journal_run": name, "loss_to_journal": loss_difference}


def columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the results table under the journal's own headings."""
    scores = row.get("scores") or {}
    judges = (score for label, score in scores.items() if label.startswith("gemini"))
    gemini = next(judges, None)  # the first model by name, where several were asked
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
    """All settings of a preset as the results table has them: None where one has no effect."""
    values = preset(name).model_dump(exclude={"tags"})
    return {key: value if is_relevant(key, values) else None for key, value in values.items()}
