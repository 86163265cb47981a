"""RunConfig: everything that decides a run, in one frozen object.

The browser form, the command line, the presets, config.json and the documentation are all made
from these fields, so none of them can disagree. This file knows no model, no data and no machine:
what depends on those (does the file exist, does the batch fit) is found by `core.planning.preflight`.
"""

import difflib
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from core.errors import ConfigError, Problem

GROUPS = {
    "identity": "Identity",
    "model": "Model",
    "data": "Data",
    "method": "Method",
    "optimisation": "Optimisation",
    "hardware": "Hardware",
    "cadence": "Cadence",
}


def _setting(
    default: Any, group: str, title: str, description: str, when: str | None = None, **bounds: Any
) -> Any:
    """Return one documented field. `when` is the condition under which it matters, a key of CONDITIONS."""
    extra: dict[str, Any] = {"group": group, "when": when}
    return Field(default, title=title, description=description, json_schema_extra=extra, **bounds)


EmptyOutputs = Literal["drop", "keep"]
Line = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f]*$")]


class RunConfig(BaseModel):
    """The settings of one fine-tuning run.

    Build one from untrusted values with `RunConfig.parse`, which reports every problem at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # fmt: off
    name: Line = _setting("", "identity", "Name", "Name of the run and its directory. Letters and digits of any script are kept, and other characters become hyphens. Empty: named after the base model and the method.")
    parent: Line | None = _setting(None, "identity", "Parent", "The run this one was cloned from.", "never")
    tags: tuple[Line, ...] = _setting((), "identity", "Tags", "Words to group runs by, separated by commas.", max_length=20)
    seed: int = _setting(123, "identity", "Seed", "Decides the order of the examples, LoRA's start and dropout.", ge=0, lt=2**31)
    notes: str = _setting("", "identity", "Notes", "Remarks of your own; editable at any time.", max_length=20_000)

    base_model: Line = _setting("gpt2-nano", "model", "Base model", "gpt2-nano, gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a directory in the Hugging Face format.", min_length=1)
    tie_weights: bool = _setting(False, "model", "Tie weights", "Let the output head share the token embedding. Off: the head starts as a copy of it and is trained on its own.")
    dropout: float = _setting(0.0, "model", "Dropout", "Probability of zeroing an activation while training.", ge=0, lt=1)

    dataset: Line = _setting("primer", "data", "Data set", "primer, alpaca, owner/name on the Hugging Face hub, or a JSON, JSONL or Parquet file of records with instruction, input and output.", min_length=1)
    max_examples: int | None = _setting(None, "data", "Max examples", "Use only the first n usable records. Skipped records do not count. Empty: all.", ge=1)
    empty_outputs: EmptyOutputs = _setting("drop", "data", "Empty outputs", "What to do with records whose output is empty. drop skips them. keep trains on them, which teaches the model to return an empty answer (end-of-text only).")
    train_fraction: float = _setting(0.85, "data", "Training share", "Share of the examples, from the top of the file, to train on.", gt=0, lt=1)
    test_fraction: float = _setting(0.10, "data", "Test share", "Share of the examples, after the training examples, to answer when training is done. The rest validates.", gt=0, lt=1)
    max_length: int | None = _setting(None, "data", "Maximum length", "Cut examples to this many tokens. Empty: the model's context.", ge=8)
    mask_prompt: bool = _setting(False, "data", "Mask prompt", "Learn the responses only, not the prompts.")

    method: Literal["full", "lora"] = _setting("lora", "method", "Method", "full trains every weight, lora only low-rank adapters beside the frozen ones (Hu et al. 2021).")
    lora_rank: int = _setting(16, "method", "Rank", "Rank of the adapters.", "lora", ge=1, le=1024)
    lora_alpha: float = _setting(16, "method", "Alpha", "Adapters are scaled by alpha / rank.", "lora", gt=0, le=4096)
    lora_dropout: float = _setting(0.0, "method", "Adapter dropout", "Probability of zeroing an input of an adapter while training.", "lora", ge=0, lt=1)
    lora_targets: Literal["all", "attention", "mlp"] = _setting("all", "method", "Targets", "Which linear layers get adapters; all includes the output head.", "lora")
    lora_last_layers: int | None = _setting(None, "method", "Last layers", "Adapt only the last n transformer blocks. Empty: all.", "lora", ge=1)

    epochs: int = _setting(1, "optimisation", "Epochs", "Passes over the training examples.", ge=1, le=1000)
    batch_size: int = _setting(4, "optimisation", "Batch size", "Examples computed at once.", ge=1, le=4096)
    grad_accumulation: int = _setting(1, "optimisation", "Gradient accumulation", "Batches whose gradients make one optimiser step.", ge=1, le=4096)
    optimizer: Literal["adamw", "sgd"] = _setting("adamw", "optimisation", "Optimiser", "adamw (Loshchilov & Hutter 2019) or plain sgd.")
    lr: float = _setting(5e-5, "optimisation", "Learning rate", "The peak learning rate.", gt=0, le=10)
    min_lr: float | None = _setting(None, "optimisation", "Minimum learning rate", "Learning rate at the start of the warm-up and at the end of the cosine decay. Empty: no decay, and the warm-up starts at 0.", ge=0, le=10)
    warmup_fraction: float = _setting(0.0, "optimisation", "Warm-up", "Fraction of steps over which the learning rate rises linearly to its peak. Works with or without decay.", ge=0, lt=1)
    weight_decay: float = _setting(0.1, "optimisation", "Weight decay", "Decay of every trained weight: decoupled with adamw, L2 with sgd.", ge=0, le=10)
    grad_clip: float | None = _setting(1.0, "optimisation", "Gradient clipping", "Largest norm of the gradient. Empty: no clipping.", gt=0, le=1e6)
    nonfinite: Literal["stop", "skip"] = _setting("stop", "optimisation", "Non-finite step", "What to do with a step whose loss or gradient is not finite: stop the run, or skip the step; ten in a row stop it all the same.")
    group_by_length: bool = _setting(True, "optimisation", "Group by length", "Put examples of like length into a batch, so that little is padding; the order of the batches stays random.")

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,2})?)$")] = _setting("auto", "hardware", "Device", "auto, cpu, cuda, cuda:1, ... or mps.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _setting("auto", "hardware", "Precision", "Number format of the matrix products; auto takes bf16 where the hardware is fast at it.")
    grad_checkpointing: bool = _setting(False, "hardware", "Gradient checkpointing", "Recompute activations in the backward pass: less memory, about a third more time.")
    compile: bool = _setting(False, "hardware", "Compile", "Compile the model with torch.compile; pays off on a GPU only.")

    eval_every: int = _setting(25, "cadence", "Evaluate every", "Steps between two looks at the training and validation loss.", ge=1)
    eval_batches: int = _setting(5, "cadence", "Evaluation batches", "Batches in such a look; the end of the run takes the whole validation set.", ge=1)
    checkpoint_every: int = _setting(500, "cadence", "Checkpoint every", "Steps between two resumable states.", ge=1)
    keep_weights: Literal["none", "best", "last"] = _setting("last", "cadence", "Keep weights", "Weights that a finished run keeps: last, those of the last step; best, those of the evaluation with the lowest validation loss, which then also answer the test set; none, to save disk space. Checkpoints are deleted when the run finishes. In Results, the validation loss is always that of the last step.")
    sample_every: int = _setting(100, "cadence", "Sample every", "Steps between two answers to the sample prompt.", ge=1)
    sample_prompt: str = _setting("Suggest an alternate word for 'happy'.", "cadence", "Sample prompt", "Instruction answered during training. Empty: none.", max_length=2000)
    max_new_tokens: int = _setting(128, "cadence", "Longest answer", "Most tokens in an answer to a test example or the sample prompt.", ge=1, le=1024)
    # fmt: on

    @model_validator(mode="before")
    @classmethod
    def _accept_words(cls, values: Any) -> Any:
        """Read what a person types: `none` or nothing for an absent value, commas between tags."""
        return _read_words(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if problems := self.contradictions():
            raise ValueError("; ".join(str(problem) for problem in problems))
        return self

    def contradictions(self, unknown: Collection[str] = ()) -> list[Problem]:
        """Fields that are right on their own but not together, leaving out fields that are `unknown`."""
        problems = []
        if (
            not {"train_fraction", "test_fraction"} & set(unknown)
            and self.train_fraction + self.test_fraction >= 1
        ):
            message = f"with train_fraction = {self.train_fraction} nothing is left to validate on; together they should stay below 1"
            problems.append(Problem("test_fraction", self.test_fraction, message, "train_fraction"))
        if (
            not {"lr", "min_lr"} & set(unknown)
            and self.min_lr is not None
            and self.min_lr > self.lr
        ):
            message = f"it should be at most lr = {self.lr:g}"
            problems.append(Problem("min_lr", self.min_lr, message, "lr"))
        return problems

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """A RunConfig from untrusted values.

        Raises:
            ConfigError: with every problem found, one per field or contradiction.
        """
        recognized = {name: value for name, value in values.items() if name in cls.model_fields}
        problems = [
            _no_such(name, value) for name, value in values.items() if name not in recognized
        ]
        try:
            config = cls.model_validate(recognized)
        except ValidationError as error:
            problems += [_problem(detail) for detail in error.errors() if detail["loc"]]
        else:
            if not problems:
                return config
        wrong = {problem.field for problem in problems}
        parsed = _read_words({k: v for k, v in recognized.items() if k not in wrong})
        valid_settings = cls.model_construct(
            **{
                name: TypeAdapter[Any](
                    typing.cast(Any, cls.model_fields[name].annotation)
                ).validate_python(value)
                for name, value in parsed.items()
            }
        )
        raise ConfigError(problems + valid_settings.contradictions(unknown=wrong))

    def changed(self, **values: Any) -> Self:
        """A copy with some fields replaced, validated anew. Raises ConfigError."""
        return type(self).parse({**self.model_dump(), **values})


def _read_words(values: Mapping[str, Any]) -> dict[str, Any]:
    parsed = dict(values)
    for name, value in parsed.items():
        if not isinstance(value, str) or name not in RunConfig.model_fields:
            continue
        if is_optional(RunConfig.model_fields[name]) and value.strip().lower() in ("", "none"):
            parsed[name] = None
        elif name == "tags":
            parsed[name] = tuple(tag.strip() for tag in value.split(",") if tag.strip())
    return parsed


def _no_such(name: object, value: object) -> Problem:
    field = str(name).encode(errors="backslashreplace").decode()  # it may be shown anywhere
    titles = {
        str(field_info.title).lower(): name for name, field_info in RunConfig.model_fields.items()
    }
    suggestions = difflib.get_close_matches(field, RunConfig.model_fields, n=1) or [
        titles[title]
        for title in difflib.get_close_matches(field.replace("_", " ").lower(), titles, n=1)
    ]
    hint = (
        f"did you mean {suggestions[0]}?" if suggestions else "`python -m core settings` lists them"
    )
    return Problem(field, value, f"there is no such setting; {hint}")


def _problem(detail: Any) -> Problem:
    field = str(detail["loc"][0])
    if detail["type"] == "string_pattern_mismatch":
        right = "auto, cpu, mps, cuda or cuda:1" if field == "device" else "one line of text"
        return Problem(field, detail["input"], f"it should be {right}")
    message = (
        detail["msg"]
        .replace("Input should be", "it should be")
        .replace("String should", "it should")
    )
    return Problem(field, detail["input"], message[0].lower() + message[1:])


CONDITIONS: dict[str | None, Callable[[Any], Any]] = {
    None: lambda values: True,
    "never": lambda values: False,
    "lora": lambda values: values.get("method") == "lora",
}
"""Conditions under which a field matters, given all settings: of one run, or of many as a DataFrame."""


def is_relevant(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a field has an effect given the other values (a rank has none without LoRA)."""
    return bool(condition(name)(values))


def condition(name: str) -> Callable[[Any], Any]:
    """Return the condition under which a field matters. Given a DataFrame of settings, it returns one bool per row."""
    return CONDITIONS[metadata(RunConfig.model_fields[name])["when"]]


def metadata(field: FieldInfo) -> dict[str, Any]:
    """A field's `group` and `when`."""
    return typing.cast(dict[str, Any], field.json_schema_extra)


def is_optional(field: FieldInfo) -> bool:
    """Whether a field may be None."""
    return type(None) in typing.get_args(field.annotation)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The words a field may take; empty where it is not a choice."""
    return (
        typing.get_args(field.annotation) if typing.get_origin(field.annotation) is Literal else ()
    )


def base_type(field: FieldInfo) -> type:
    """A field's type without None and bounds: bool, int, float, str or tuple."""
    annotation = field.annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if choices(field):
        return str
    return typing.get_origin(annotation) or typing.cast(type, annotation)
