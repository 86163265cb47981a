"""Presets: two demos, and every run in the journal that this project is based on.

Journal presets include the journal's results for reference. Its author measured them on other machines, so they are
never mixed with the results of local runs.
"""

from dataclasses import dataclass
from typing import Any

from core.config import RunConfig
from core.errors import UserError


@dataclass(frozen=True)
class JournalResult:
    """Results of a run as reported by the journal.

    `minutes` is the training time on `hardware`; `gemini` is the judge's mean score, from 0 to 100.
    """

    val_loss: float
    perplexity: float
    gemini: float | None
    minutes: float | None
    hardware: str
    remark: str


@dataclass(frozen=True)
class Preset:
    """A named set of settings. Omitted settings keep their defaults."""

    title: str
    settings: dict[str, Any]
    journal: JournalResult | None = None


DEMO = {
    "base_model": "gpt2-nano",
    "dataset": "primer",
    "mask_prompt": True,
    "method": "full",
    "epochs": 2,
    "batch_size": 16,
    "lr": 1e-4,
    "min_lr": 2e-5,
    "warmup_fraction": 0.1,
    "eval_every": 25,
    "checkpoint_every": 100,
    "sample_every": 50,
    "max_new_tokens": 40,
}
DEMO_LORA = {**DEMO, "method": "lora", "lr": 5e-3, "min_lr": 5e-4}
"""Adapters start at zero, so they need a higher learning rate. Full fine-tuning at this rate would overwrite the
pretrained weights."""

_STUDY = {
    "dataset": "alpaca",
    "max_examples": 14_100,
    "empty_outputs": "keep",
    "group_by_length": False,
    "precision": "fp32",
    "max_new_tokens": 256,
    "batch_size": 2,
    "epochs": 1,
    "lr": 5e-5,
    "weight_decay": 0.1,
}
"""max_examples is inferred: the log of run_1 ends shortly after step 5,975 at batch size 2, which is about 12,000 training
examples, or 85% of 14,100. Settings that the journal does not mention follow the public code it used, from *Build a
Large Language Model (From Scratch)*: plain shuffling, fp32, empty outputs kept, answers of up to 256 tokens. Unlike
this project, that code drops an incomplete last batch and trains on one end-of-text token used as padding."""
_FULL = {**_STUDY, "method": "full"}
_COSINE = {"min_lr": 1e-5, "warmup_fraction": 0.2}
_LORA = {
    **_STUDY,
    **_COSINE,
    "method": "lora",
    "lora_rank": 16,
    "lora_alpha": 16,
    "lora_scaling": "alpha",
    "lora_init": "kaiming-rank",
}
"""Until September 2025, the code of the book's LoRA appendix did not divide alpha by the rank, and initialized A as if
the number of inputs were the rank (rasbt/LLMs-from-scratch #821)."""
_CLIPPING = "The journal does not mention gradient clipping. The book's code clips only with a schedule; this preset always clips."
"""Remark for the runs with a constant learning rate."""
_M, _L, _XL = ({"base_model": f"gpt2-{size}"} for size in ("medium", "large", "xl"))
_RANK_64 = {**_LORA, **_M, "batch_size": 4, "lora_rank": 64, "lora_alpha": 64}


JOURNAL_EVAL_BATCHES = 5
"""The journal's code measured its validation loss on the first five batches of the validation set."""


def _preset(title: str, settings: dict[str, Any], *figures: Any) -> Preset:
    evaluated = {"eval_examples": JOURNAL_EVAL_BATCHES * settings["batch_size"]}
    return Preset(title, {**settings, **evaluated}, JournalResult(*figures))


# fmt: off
PRESETS: dict[str, Preset] = {
    "demo": Preset("Small model and data set, about a minute", DEMO),
    "demo_lora": Preset("Same as demo, with LoRA, rank 16", DEMO_LORA),
    "run_1": _preset("Medium, full, constant learning rate", {**_FULL, **_M}, 1.519, 4.569, 33.39, 12.76, "A100", _CLIPPING),
    "run_2": _preset("Large, full, constant learning rate", {**_FULL, **_L}, 1.591, 4.911, 33.06, 21.19, "A100", f"Overfits after half an epoch. {_CLIPPING}"),
    "run_3": _preset("XL, full, constant learning rate", {**_FULL, **_XL}, 1.602, 4.963, 41.55, 34.16, "A100", f"Overfits after half an epoch. {_CLIPPING}"),
    "run_4": _preset("Large, full, warm-up and cosine", {**_FULL, **_L, **_COSINE}, 1.417, 4.125, 51.80, 22.05, "A100", "No overfitting; translates into French."),
    "run_5": _preset("Medium, full, warm-up and cosine", {**_FULL, **_M, **_COSINE}, 1.448, 4.255, 32.55, 13.37, "A100", "Does not translate."),
    "run_6": _preset("Large, full, cosine, no clipping", {**_FULL, **_L, **_COSINE, "grad_clip": None}, 1.436, 4.203, 41.91, None, "A100", "Slight overfitting; 38.5 of 40 GB used."),
    "run_10": _preset("Medium, LoRA 16", {**_LORA, **_M}, 1.484, 4.411, 28.65, 20.02, "T4", "Answers similar to run_5; 7.9 of 15 GB used."),
    "run_11": _preset("Large, LoRA 16", {**_LORA, **_L}, 1.402, 4.063, 34.53, 39.75, "T4", "Follows the format but misses the content; 10.9 of 15 GB used."),
    "run_12": _preset("Medium, LoRA 16, batch 4", {**_LORA, **_M, "batch_size": 4}, 1.388, 4.007, 32.46, 19.19, "T4", "Spike in the training loss, possibly caused by padding."),
    "run_13": _preset("Medium, LoRA 16, alpha 32", {**_LORA, **_M, "lora_alpha": 32}, 1.509, 4.523, 21.22, 20.48, "T4", "Worse than run_10; loss spike in the middle."),
    "run_14": _preset("Medium, LoRA 32", {**_LORA, **_M, "lora_rank": 32, "lora_alpha": 32}, 1.498, 4.472, 25.27, 20.12, "T4", "Similar to run_10; not converged."),
    "run_15": _preset("Medium, LoRA 64, batch 4", _RANK_64, 1.844, 6.319, 14.80, 20.70, "T4", "Large loss spike at the peak learning rate."),
    "run_16": _preset("Medium, LoRA 64, lower peak learning rate, longer warm-up", {**_RANK_64, "lr": 2.5e-5, "warmup_fraction": 0.3}, 1.470, 4.350, 28.14, 20.70, "T4", "Smaller spike than run_15."),
    "run_17": _preset("Medium, LoRA 64, no warm-up", {**_RANK_64, "lr": 3e-5, "warmup_fraction": 0.0}, 1.560, 4.760, 31.53, 20.70, "T4", "Spike remains."),
    "run_18": _preset("Medium, LoRA 64, high learning rate, no warm-up", {**_RANK_64, "lr": 1e-4, "warmup_fraction": 0.0}, 3.974, 53.202, None, 20.70, "T4", "Training fails."),
    "run_19": _preset("Medium, LoRA 16, batch 4, two epochs", {**_LORA, **_M, "batch_size": 4, "epochs": 2}, 1.378, 3.967, 36.35, 19.19, "T4", "Answers similar to run_12."),
}
# fmt: on


def preset(name: str) -> RunConfig:
    """Return the settings of a preset. Raises UserError if the name is unknown."""
    if name not in PRESETS:
        raise UserError(f"Unknown preset {name!r}. Available: {', '.join(PRESETS)}")
    return RunConfig.parse({"name": name, **PRESETS[name].settings})
