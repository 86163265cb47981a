"""RunConfig: all settings of a run in one frozen object.

The form, command line, presets and config.json are derived from these fields. Independent of models, data and
hardware: `core.planning.preflight` has the checks that depend on them (file exists, batch fits in memory).
"""

import difflib
import operator
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
    "optimisation": "Optimization",
    "hardware": "Hardware",
    "cadence": "Evaluation and checkpoints",
}


def _setting(
    default: Any, group: str, title: str, description: str, when: str | None = None, **bounds: Any
) -> Any:
    """Return a documented field. `when` is a key of CONDITIONS: the condition under which the field has an effect."""
    extra: dict[str, Any] = {"group": group, "when": when}
    return Field(default, title=title, description=description, json_schema_extra=extra, **bounds)


REPLACED_SETTINGS = {"eval_batches": "eval_examples, which counts examples instead of batches"}
"""Settings from older versions and their replacements."""
EARLIER_EVAL_EVERY = 25
"""Default of `eval_every` in older versions, where it could not be empty."""
PATTERN_MEANINGS = {"device": "auto, cpu, mps, cuda or cuda:1", "color": "a color such as #3b7dd8"}
"""Descriptions of field patterns for error messages. The default is a single line of text."""
EmptyOutputs = Literal["drop", "keep"]
LoRAScaling = Literal["alpha/rank", "alpha/sqrt(rank)", "alpha"]
LoRAInit = Literal["kaiming", "kaiming-rank", "gaussian", "pissa"]
Color = Annotated[str, Field(pattern=r"^(#[0-9a-f]{6})?$")]
Line = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f]*$")]


IDENTITY_FIELDS = ("name", "parent", "tags", "notes", "study", "color", "archived")
"""Settings that identify or label a run. They do not affect training."""
EDITABLE_FIELDS = ("tags", "notes", "color", "archived")
"""Settings that can be changed after a run has been created."""


class RunConfig(BaseModel):
    """Settings of a fine-tuning run.

    Use `RunConfig.parse` for untrusted values: it reports all problems at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # fmt: off
    name: Line = _setting("", "identity", "Name", "Name of the run and its directory. Letters and digits of any script are kept; other characters become hyphens. If empty, the name is derived from the base model and method.")
    parent: Line | None = _setting(None, "identity", "Parent", "Run that this one was cloned from.", "never")
    tags: tuple[Line, ...] = _setting((), "identity", "Tags", "Comma-separated labels for grouping runs.", max_length=20)
    seed: int = _setting(123, "identity", "Seed", "Random seed for example order, LoRA initialization and dropout.", ge=0, lt=2**31)
    notes: str = _setting("", "identity", "Notes", "Free-form notes, editable at any time.", max_length=20_000)
    study: Line | None = _setting(None, "identity", "Study", "Study that this run belongs to.", "never")
    color: Color = _setting("", "identity", "Color", "Color of the run in tables and charts, such as `#3b7dd8`. If empty, a color is assigned when the run is created.", "never")
    archived: bool = _setting(False, "identity", "Archived", "Hide the run from Results unless archived runs are shown.", "never")

    base_model: Line = _setting("gpt2-nano", "model", "Base model", "gpt2-nano, gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a directory in Hugging Face format.", min_length=1)
    tie_weights: bool = _setting(False, "model", "Tie weights", "Share weights between the output head and the token embedding. If off, the head starts as a copy and is trained separately.")
    dropout: float = _setting(0.0, "model", "Dropout", "Probability of zeroing an activation during training.", ge=0, lt=1)

    dataset: Line = _setting("primer", "data", "Data set", "primer, alpaca, owner/name on the Hugging Face Hub, or a JSON, JSONL, CSV, TSV or Parquet file, plain or gzipped.", min_length=1)
    columns: Line = _setting("", "data", "Columns", "Column mapping, such as instruction=question, output=answer. input=... is optional. Use messages=... for conversations or text=... for plain text. If empty, the columns are detected by name.")
    max_examples: int | None = _setting(None, "data", "Max examples", "Use only the first n usable records. Skipped records do not count. If empty, all are used.", ge=1)
    empty_outputs: EmptyOutputs = _setting("drop", "data", "Empty outputs", "How to handle records with an empty output. drop skips them. keep trains on them, which teaches the model to return an empty answer (end-of-text only).")
    train_fraction: float = _setting(0.85, "data", "Train split", "Fraction of the examples to train on, from the start of the file.", gt=0, lt=1)
    test_fraction: float = _setting(0.10, "data", "Test split", "Fraction of the examples to answer after training, following the train split. The remaining examples are used for validation.", gt=0, lt=1)
    max_length: int | None = _setting(None, "data", "Max length", "Truncate examples to this many tokens. If empty, the model's context length is used.", ge=8)
    mask_prompt: bool = _setting(False, "data", "Mask prompt", "Compute the loss on responses only, not on prompts.")

    method: Literal["full", "lora"] = _setting("lora", "method", "Method", "full trains all weights. lora freezes them and trains low-rank adapters (Hu et al. 2021).")
    trained_weights: Literal["all", "last_layers", "head", "no_embeddings"] = _setting("all", "method", "Trained weights", "all, last_layers (the last n transformer blocks), head (the output head) or no_embeddings (all but the token and position embeddings). The other weights are frozen. With tie_weights, the head and the token embedding are one matrix: head trains it, no_embeddings freezes it.", "method=full")
    trained_layers: int = _setting(2, "method", "Trained layers", "Number of transformer blocks to train, counted from the last.", "trained_weights=last_layers", ge=1)
    lora_rank: int = _setting(16, "method", "Rank", "Rank of the adapters.", "lora", ge=1, le=1024)
    lora_alpha: float = _setting(16, "method", "Alpha", "Scales the adapter outputs; see Scaling.", "lora", gt=0, le=4096)
    lora_scaling: LoRAScaling = _setting("alpha/rank", "method", "Scaling", "Scale of the adapter outputs: alpha/rank (Hu et al. 2021), alpha/sqrt(rank) (rsLoRA, Kalajdzievski 2023), or alpha (the journal's code).", "lora")
    lora_init: LoRAInit = _setting("kaiming", "method", "Adapter initialization", "Initial values of A; B starts at zero. kaiming: uniform within ±1/sqrt(inputs), as in PEFT. kaiming-rank: uniform within ±1/sqrt(rank), as in the journal's code. gaussian: normal with standard deviation 1/rank. pissa (Meng et al. 2024): A and B start as the principal components of the weights, and only the residual is frozen.", "lora")
    lora_dora: bool = _setting(False, "method", "DoRA", "Also train the magnitude of each row of the adapted weights (Liu et al. 2024). Slower and uses more memory.", "lora")
    lora_plus_ratio: float | None = _setting(None, "method", "LoRA+ ratio", "Ratio of B's learning rate to A's (LoRA+, Hayou et al. 2024). If empty, both are the same.", "lora", gt=0, le=1000)
    lora_dropout: float = _setting(0.0, "method", "Adapter dropout", "Probability of zeroing an adapter input during training.", "lora", ge=0, lt=1)
    lora_targets: Line = _setting("all", "method", "Target layers", "Linear layers that get adapters: all (including the output head), attention, mlp, or comma-separated patterns of layer names such as `h.*.attn.q`, `h.1?.mlp.*` and `lm_head`.", "lora", min_length=1)
    lora_last_layers: int | None = _setting(None, "method", "Last layers", "Adapt only the last n transformer blocks. If empty, all are adapted.", "lora", ge=1)

    epochs: int = _setting(1, "optimisation", "Epochs", "Passes over the training examples.", ge=1, le=1000)
    batch_size: int = _setting(4, "optimisation", "Batch size", "Examples per forward and backward pass.", ge=1, le=4096)
    grad_accumulation: int = _setting(1, "optimisation", "Gradient accumulation", "Batches per optimizer step.", ge=1, le=4096)
    optimizer: Literal["adamw", "sgd", "muon"] = _setting("adamw", "optimisation", "Optimizer", "adamw (Loshchilov & Hutter 2019), sgd, or muon (Jordan et al. 2024): Muon for the matrices of the transformer blocks, including adapters, and AdamW for all other weights. Muon's updates are scaled to the size of AdamW's, so the same learning rate works for both.")
    lr: float = _setting(5e-5, "optimisation", "Learning rate", "Peak learning rate.", gt=0, le=10)
    schedule: Literal["auto", "constant", "linear", "cosine", "wsd"] = _setting("auto", "optimisation", "Schedule", "Learning rate schedule after the warm-up. linear and cosine decay until the last step. wsd stays at the peak, then decays linearly at the end (Hu et al. 2024). auto: cosine if a min learning rate is set, otherwise constant.")
    min_lr: float | None = _setting(None, "optimisation", "Min learning rate", "Learning rate at the last step, and at the start of the warm-up unless Warm-up start is set. If empty, the rate decays to 0, or not at all if the schedule is auto.", "schedule!=constant", ge=0, le=10)
    decay_fraction: float = _setting(0.2, "optimisation", "Decay fraction", "Fraction of steps over which the learning rate decays at the end of the run.", "schedule=wsd", gt=0, le=1)
    warmup_fraction: float = _setting(0.0, "optimisation", "Warm-up fraction", "Fraction of steps over which the learning rate rises linearly to its peak. Works with every schedule.", ge=0, lt=1)
    warmup_start: float | None = _setting(None, "optimisation", "Warm-up start", "Learning rate at the first step of the warm-up. If empty, the min learning rate, or 0 if there is none.", "warmup_fraction!=0", ge=0, le=10)
    beta1: float = _setting(0.9, "optimisation", "Beta 1", "Decay rate of AdamW's running mean of the gradient.", "optimizer!=sgd", ge=0, lt=1)
    beta2: float = _setting(0.999, "optimisation", "Beta 2", "Decay rate of AdamW's running mean of the squared gradient.", "optimizer!=sgd", ge=0, lt=1)
    epsilon: float = _setting(1e-8, "optimisation", "Epsilon", "Added to the denominator of AdamW's update, for numerical stability.", "optimizer!=sgd", gt=0, le=1)
    momentum: float | None = _setting(None, "optimisation", "Momentum", "Momentum of sgd, or Nesterov momentum of muon. If empty, 0 for sgd and 0.95 for muon.", "optimizer!=adamw", ge=0, lt=1)
    weight_decay: float = _setting(0.1, "optimisation", "Weight decay", "Decay of the trained weights: L2 with sgd, decoupled otherwise.", ge=0, le=10)
    decay_scope: Literal["all", "matrices"] = _setting("all", "optimisation", "Decay scope", "Trained weights that decay: all, as in the journal, or only matrices (no biases, norms or DoRA magnitudes).", "method=full or lora_dora, weight_decay!=0")
    grad_clip: float | None = _setting(1.0, "optimisation", "Gradient clipping", "Maximum gradient norm. If empty, gradients are not clipped.", gt=0, le=1e6)
    nonfinite: Literal["stop", "skip"] = _setting("stop", "optimisation", "Non-finite steps", "What to do if the loss or gradient is not finite: stop the run, or skip the step. Ten such steps in a row always stop it.")
    group_by_length: bool = _setting(True, "optimisation", "Group by length", "Batch examples of similar length to reduce padding. The order of the batches stays random.")

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,2})?)$")] = _setting("auto", "hardware", "Device", "auto, cpu, cuda, cuda:1, ... or mps.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _setting("auto", "hardware", "Precision", "Data type for matrix multiplication. auto uses bf16 on hardware where it is fast.")
    grad_checkpointing: bool = _setting(False, "hardware", "Gradient checkpointing", "Recompute activations in the backward pass. Saves memory, but training takes about a third longer.")
    compile: bool = _setting(False, "hardware", "Compile", "Compile the model with torch.compile. Only worthwhile on a GPU.")

    eval_every: int | None = _setting(None, "cadence", "Evaluate every", "Steps between evaluations. If empty, the interval is automatic: 8 to 40 evaluations, which take at most 8% of the training time if possible.", ge=1)
    eval_examples: int = _setting(128, "cadence", "Evaluation examples", "Validation examples per evaluation, taken from the start of the split. The last evaluation also uses the whole validation set.", ge=1)
    probe_examples: int = _setting(64, "cadence", "Probe examples", "Training examples whose loss is measured at every third evaluation, taken from the start of the file. 0 turns this off.", ge=0)
    early_stopping_patience: int | None = _setting(None, "cadence", "Early stopping patience", "Finish the run after this many evaluations in a row without a lower loss on the evaluation examples. If empty, it never stops early.", ge=1)
    early_stopping_min_delta: float = _setting(0.0, "cadence", "Early stopping min delta", "A lower loss counts as an improvement only if it is lower by more than this.", "early_stopping_patience", ge=0, le=100)
    checkpoint_every: int = _setting(500, "cadence", "Checkpoint every", "Steps between checkpoints to resume from.", ge=1)
    keep_weights: Literal["none", "best", "last"] = _setting("last", "cadence", "Keep weights", "Weights to keep when the run finishes. last: from the last step. best: from the evaluation with the lowest validation loss; these also answer the test examples. none: saves disk space. Checkpoints are deleted when the run finishes. In Results, the validation loss is always that of the last step.")
    sample_every: int = _setting(100, "cadence", "Sample every", "Steps between answers to the sample prompt.", ge=1)
    sample_prompt: str = _setting("Suggest an alternate word for 'happy'.", "cadence", "Sample prompt", "Instruction to answer during training. If empty, no samples are generated.", max_length=2000)
    max_new_tokens: int = _setting(128, "cadence", "Max new tokens", "Maximum number of tokens in an answer to a test example or the sample prompt.", ge=1, le=1024)
    # fmt: on

    @model_validator(mode="before")
    @classmethod
    def _convert_text(cls, values: Any) -> Any:
        """Convert typed text: `none` or an empty string to None, and comma-separated tags to a tuple."""
        return _parse_text(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _reject_contradictions(self) -> Self:
        if problems := self.contradictions():
            raise ValueError("; ".join(str(problem) for problem in problems))
        return self

    def contradictions(self, unknown: Collection[str] = ()) -> list[Problem]:
        """Return conflicts between fields that are each valid. Fields in `unknown` are not checked."""
        problems = []
        if (
            not {"train_fraction", "test_fraction"} & set(unknown)
            and self.train_fraction + self.test_fraction >= 1
        ):
            message = f"leaves no examples for validation; must be less than 1 minus the train split ({self.train_fraction:g})"
            problems.append(Problem("test_fraction", self.test_fraction, message, "train_fraction"))
        if (
            not {"lr", "min_lr"} & set(unknown)
            and self.schedule != "constant"
            and self.min_lr is not None
            and self.min_lr > self.lr
        ):
            message = f"must be at most lr = {self.lr:g}"
            problems.append(Problem("min_lr", self.min_lr, message, "lr"))
        return problems + self._schedule_contradictions(unknown)

    def _schedule_contradictions(self, unknown: Collection[str]) -> list[Problem]:
        """Return conflicts between schedule settings, and between Muon and `trained_weights`."""
        problems = []
        if (
            not {"lr", "warmup_start"} & set(unknown)
            and self.warmup_fraction
            and self.warmup_start is not None
            and self.warmup_start > self.lr
        ):
            message = f"must be at most lr = {self.lr:g}"
            problems.append(Problem("warmup_start", self.warmup_start, message, "lr"))
        if (
            not {"schedule", "warmup_fraction", "decay_fraction"} & set(unknown)
            and self.schedule == "wsd"
            and self.warmup_fraction + self.decay_fraction > 1 + 1e-9
        ):
            message = f"warmup_fraction ({self.warmup_fraction}) and decay_fraction must add up to at most 1"
            problems.append(
                Problem("decay_fraction", self.decay_fraction, message, "warmup_fraction")
            )
        if not {"optimizer", "method", "trained_weights"} & set(unknown) and (
            self.optimizer,
            self.method,
            self.trained_weights,
        ) == ("muon", "full", "head"):
            message = "muon trains only matrices of transformer blocks, but trained_weights = head freezes them; use adamw"
            problems.append(Problem("optimizer", self.optimizer, message, "trained_weights"))
        return problems

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Return a RunConfig from untrusted values.

        Raises:
            ConfigError: The values are invalid. Lists every invalid field and every contradiction.
        """
        recognized = {name: value for name, value in values.items() if name in cls.model_fields}
        problems = [
            _unknown_setting(name, value)
            for name, value in values.items()
            if name not in recognized
        ]
        try:
            config = cls.model_validate(recognized)
        except ValidationError as error:
            problems += [_problem(detail) for detail in error.errors() if detail["loc"]]
        else:
            if not problems:
                return config
        invalid = {problem.field for problem in problems}
        parsed = _parse_text({k: v for k, v in recognized.items() if k not in invalid})
        valid_settings = cls.model_construct(
            **{
                name: TypeAdapter[Any](
                    typing.cast(Any, cls.model_fields[name].annotation)
                ).validate_python(value)
                for name, value in parsed.items()
            }
        )
        raise ConfigError(problems + valid_settings.contradictions(unknown=invalid))

    def changed(self, **values: Any) -> Self:
        """Return a validated copy with some fields replaced. Raises ConfigError."""
        return type(self).parse({**self.model_dump(), **values})


LEARNING_FIELDS = tuple(
    name
    for name, field in RunConfig.model_fields.items()
    if typing.cast(dict[str, Any], field.json_schema_extra)["group"]
    in ("model", "data", "method", "optimisation")
    or name in ("early_stopping_patience", "early_stopping_min_delta")
)
"""Settings that affect learning. All other settings concern identity, hardware, evaluation or checkpoints."""
NOISE_FIELDS = ("method", "base_model", "dataset")
"""Settings shared by all runs with the same noise floor."""


def upgraded(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings recorded by an older version. `RunConfig.parse` rejects values of the wrong type.

    Older versions evaluated the first `batch_size * eval_batches` examples of both sets.
    """
    if not isinstance(recorded, Mapping):
        raise TypeError("the settings are not a JSON object")
    values = dict(recorded)
    batch_size, batches = values.get("batch_size"), values.get("eval_batches")
    if type(batch_size) is int and type(batches) is int:
        del values["eval_batches"]
        examples = batch_size * batches
        earlier = {"eval_every": EARLIER_EVAL_EVERY, "eval_examples": examples}
        values = {**earlier, "probe_examples": examples, **values}
    return values


def _parse_text(values: Mapping[str, Any]) -> dict[str, Any]:
    parsed = dict(values)
    for name, value in parsed.items():
        if not isinstance(value, str) or name not in RunConfig.model_fields:
            continue
        if is_optional(RunConfig.model_fields[name]) and value.strip().lower() in ("", "none"):
            parsed[name] = None
        elif name == "tags":
            parsed[name] = tuple(tag.strip() for tag in value.split(",") if tag.strip())
    return parsed


def _unknown_setting(name: object, value: object) -> Problem:
    field = str(name).encode(errors="backslashreplace").decode()  # printable on any terminal
    if field in REPLACED_SETTINGS:
        return Problem(field, value, f"was replaced by {REPLACED_SETTINGS[field]}")
    titles = {
        str(field_info.title).lower(): name for name, field_info in RunConfig.model_fields.items()
    }
    suggestions = difflib.get_close_matches(field, RunConfig.model_fields, n=1) or [
        titles[title]
        for title in difflib.get_close_matches(field.replace("_", " ").lower(), titles, n=1)
    ]
    hint = (
        f"did you mean {suggestions[0]}?"
        if suggestions
        else "run `python -m core settings` to list them"
    )
    return Problem(field, value, f"unknown setting; {hint}")


def _problem(detail: Any) -> Problem:
    field = str(detail["loc"][0])
    if detail["type"] == "string_pattern_mismatch":
        expected = PATTERN_MEANINGS.get(field, "a single line of text")
        return Problem(field, detail["input"], f"must be {expected}")
    if detail["type"] in ("float_parsing", "float_type"):
        return Problem(field, detail["input"], "must be a number, such as 0.1 or 5e-5")
    message = (
        detail["msg"]
        .replace("Input should", "must")
        .replace("String should", "must")
        .replace("Tuple should", "must")
        .replace("greater than or equal to", "at least")
        .replace("less than or equal to", "at most")
    )
    return Problem(field, detail["input"], message[0].lower() + message[1:])


def _is_set(value: Any) -> Any:
    """Whether a value is not None. For a column of a DataFrame, one bool per row."""
    return value.notna() if hasattr(value, "notna") else value is not None


CONDITIONS: dict[str | None, Callable[[Any], Any]] = {
    None: lambda values: True,
    "never": lambda values: False,
    "lora": lambda values: values.get("method") == "lora",
    "method=full": lambda values: values.get("method") == "full",
    "trained_weights=last_layers": lambda values: (
        (values.get("method") == "full") & (values.get("trained_weights") == "last_layers")
    ),
    "schedule!=constant": lambda values: values.get("schedule") != "constant",
    "schedule=wsd": lambda values: values.get("schedule") == "wsd",
    "warmup_fraction!=0": lambda values: values.get("warmup_fraction") != 0,
    "optimizer!=sgd": lambda values: values.get("optimizer") != "sgd",
    "optimizer!=adamw": lambda values: values.get("optimizer") != "adamw",
    "early_stopping_patience": lambda values: _is_set(values.get("early_stopping_patience")),
    "method=full or lora_dora, weight_decay!=0": lambda values: (
        ((values.get("method") == "full") | operator.eq(values.get("lora_dora"), True))
        & (values.get("weight_decay") != 0)
    ),
}
"""Conditions under which a field has an effect. Each takes the settings of one run, or those of many as a DataFrame."""


def is_relevant(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a field has an effect, given the other values. For example, `lora_rank` has none without LoRA."""
    return bool(condition(name)(values))


def condition(name: str) -> Callable[[Any], Any]:
    """Return the condition under which a field has an effect. For a DataFrame of settings, it returns one bool per row."""
    return CONDITIONS[metadata(RunConfig.model_fields[name])["when"]]


def metadata(field: FieldInfo) -> dict[str, Any]:
    """Return the `group` and `when` of a field."""
    return typing.cast(dict[str, Any], field.json_schema_extra)


def is_optional(field: FieldInfo) -> bool:
    """Whether a field may be None."""
    return type(None) in typing.get_args(field.annotation)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the allowed values of a field, or an empty tuple if it is not a choice."""
    return (
        typing.get_args(field.annotation) if typing.get_origin(field.annotation) is Literal else ()
    )


def base_type(field: FieldInfo) -> type:
    """Return the type of a field, ignoring None and bounds: bool, int, float, str or tuple."""
    annotation = field.annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if choices(field):
        return str
    return typing.get_origin(annotation) or typing.cast(type, annotation)
