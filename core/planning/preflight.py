"""Check a run before it starts: steps, tokens, parameters, memory, time, disk space, and all problems.

Computes everything from the data set and the model's shapes, without loading a model.
"""

import contextlib
import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch

from core.config import EmptyOutputs, RunConfig
from core.data import dataset, hub
from core.data.batches import Schedule, encode_example
from core.data.dataset import Records, SkippedRecord
from core.errors import ConfigError, Problem, UserError
from core.metrics import MIB
from core.nn import pretrained
from core.nn.architecture import VOCABULARY, Architecture
from core.planning import adapter_scale, estimate
from core.planning.estimate import Extent, device_memory_mb, too_large
from core.training import hardware
from core.training.evaluation_plan import TokenCounts, evaluation_plan
from core.training.schedules import learning_rate

CURVE_POINTS = 200
"""Approximate maximum number of points in a plan's learning rate curve."""
SMALLEST_DATASET = Extent(train_examples=1, longest=2, test_examples=1, longest_prompt=1)
"""Stand-in for a data set that has not been downloaded yet. A run that does not fit with this one never fits."""
CORPUS_FIELDS = (
    *("dataset", "max_examples", "empty_outputs", "columns", "train_fraction", "test_fraction"),
    *("max_length", "mask_prompt", "eval_examples", "probe_examples", "epochs"),
)
"""Settings that determine a run's Corpus."""
RETRY_MEMORY_SHARE = 0.95
"""Maximum memory estimate for settings suggested after a run ran out of memory, relative to that run's estimate."""
Result = TypeVar("Result")
Params = ParamSpec("Params")


class Size(NamedTuple):
    """Token counts and target positions of an example, before truncation."""

    tokens: int
    prompt: int
    """Number of tokens before the last response."""
    first_target: int
    first_masked_target: int
    """Position of the first target if prompts are masked."""


@dataclass(frozen=True)
class Plan:
    """The outcome of a check. Figures that cannot be computed because of a problem are None."""

    problems: list[Problem] = field(default_factory=list)
    train_examples: int | None = None
    test_examples: int | None = None
    validation_examples: int | None = None
    steps: int | None = None
    steps_per_epoch: int | None = None
    tokens: int | None = None
    """Tokens trained on over all epochs, excluding padding."""
    longest: int | None = None
    """Number of tokens in the longest training example after truncation."""
    cut_examples: int | None = None
    """Training examples that `max_length` truncates."""
    parameters: int | None = None
    trainable: int | None = None
    base_parameters: int | None = None
    """Number of parameters in the base model, without adapters."""
    base_mb: float | None = None
    """Size of the base model in fp32, in MiB."""
    adapter_scale: str | None = None
    """Description of the adapter scale and the equivalent learning rate."""
    memory_mb: float | None = None
    """Estimated peak memory, in MiB."""
    available_mb: float | None = None
    """Free memory, in MiB."""
    disk_peak_mb: float | None = None
    """Peak disk space used by checkpoints and weights, in MiB."""
    disk_mb: float | None = None
    """Disk space used after the run has finished, in MiB."""
    free_disk_mb: float | None = None
    """Free disk space, in MiB."""
    seconds: float | None = None
    """Estimated time of the training steps, without evaluations and answers."""
    evaluation_seconds: float | None = None
    """Estimated time of all evaluations, including the whole validation set at the end."""
    eval_every: int | None = None
    """Steps between evaluations, whether set or automatic."""
    evaluations: int | None = None
    """Number of evaluations after step 0."""
    device: str | None = None
    note: str | None = None
    """Remarks that are not problems: why figures are missing, what is skipped or ignored."""
    columns: str | None = None
    """The column mapping, such as `instruction ← question, output ← answer (detected)`."""
    skipped_records: list[SkippedRecord] = field(default_factory=list)
    """Records in the data set that are skipped because they are unusable."""
    unused_keys: dict[str, int] = field(default_factory=dict)
    """Record keys that training ignores, with the number of records that have a value for each."""
    learning_rates: list[tuple[int, float]] = field(default_factory=list)
    """(step, learning rate) at up to about CURVE_POINTS steps."""


@dataclass(frozen=True)
class Corpus:
    """Sizes and records of a run's data set."""

    lengths: list[int]
    """Number of tokens in each training example after truncation."""
    extent: Extent
    validation_examples: int
    tokens: TokenCounts
    cut_examples: int
    lost_examples: int
    """Training and validation examples whose entire response is cut off."""
    records: Records


def read_corpus(config: RunConfig, context: int) -> Corpus:
    """Load and split a run's data set and return its sizes. The data set is cached until its file changes.

    Raises:
        UserError: the data set does not exist or is damaged, or a part of it is empty, possibly after truncation.
    """
    relevant = {name: getattr(config, name) for name in CORPUS_FIELDS}
    settings = RunConfig().model_copy(update=relevant)
    return _read_corpus(settings, context, dataset.stamps(config.dataset))


@functools.lru_cache(maxsize=8)
def _read_corpus(config: RunConfig, context: int, stamps: object) -> Corpus:
    """Implement `read_corpus`. `stamps` is only part of the cache keys."""
    source = config.dataset, config.max_examples, config.empty_outputs, config.columns
    records, sizes = _read_sizes(*source, stamps)
    parts = dataset.split(records.examples, config)
    limit = min(config.max_length or context, context)
    train = sizes[: len(parts.train)]
    train_lengths = _truncated_lengths(train, limit, config.mask_prompt)
    validation_sizes = sizes[-len(parts.validation) :]
    validation = _truncated_lengths(validation_sizes, limit, config.mask_prompt)
    if not train_lengths or not validation:
        part = "validation" if train_lengths else "training"
        message = f"max_length = {limit}: every {part} response would be cut off entirely; use a larger value"
        raise UserError(message)
    cut = sum(size.tokens > limit for size in train)
    lost_count = len(train) + len(parts.validation) - len(train_lengths) - len(validation)
    prompts = [size.prompt for size in sizes[len(train) : len(train) + len(parts.test)]]
    extent = Extent(len(train_lengths), max(train_lengths), len(prompts), max(prompts))
    subset = _truncated_lengths(validation_sizes[: config.eval_examples], limit, config.mask_prompt)
    probe = _truncated_lengths(train[: config.probe_examples], limit, config.mask_prompt)
    training, *others = (
        sum(lengths) - len(lengths) for lengths in (train_lengths, subset, validation, probe)
    )
    tokens = TokenCounts(config.epochs * training, *others)
    return Corpus(train_lengths, extent, len(validation), tokens, cut, lost_count, records)


def fetch(config: RunConfig) -> None:
    """Download the base model and the data set if needed. Raises UserError if that fails."""
    pretrained.fetch(config.base_model)
    dataset.load(config.dataset, config.max_examples, config.empty_outputs, columns=config.columns)


def all_problems(values: Mapping[str, Any], runs_dir: Path | None = None) -> list[Problem]:
    """Return all problems in unvalidated settings: invalid values, and what `check` reports for the valid ones."""
    problems: list[Problem] = []
    remaining = dict(values)
    while True:  # ends because every invalid value is removed before the next pass
        try:
            new_problems = check(RunConfig.parse(remaining), runs_dir).problems
            return problems + [p for p in new_problems if not problems or p.field in remaining]
        except ConfigError as error:
            # Later passes may report defaults that conflict with given values, which is not the user's mistake.
            problems = problems or error.problems
            involved_fields = {
                name for p in error.problems for name in (p.field, p.conflicting_field)
            }
            remaining = {
                name: value for name, value in remaining.items() if name not in involved_fields
            }


def check(config: RunConfig, runs_dir: Path | None = None, freed_mb: float = 0.0) -> Plan:
    """Plan a run without starting it, using only local and cached files.

    Problems that would make the run fail at startup are listed in the plan rather than raised.

    Args:
        runs_dir: where the run would be stored. Without it, free disk space is not checked.
        freed_mb: disk space that restarting the run frees, in MiB.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    corpus: Corpus | None = None
    arch = _checked(problems, config, "base_model", pretrained.architecture, config.base_model)
    if arch:
        source = config.base_model, config.tie_weights
        notes += _checked(problems, config, "base_model", pretrained.inspect, *source) or []
    device = _checked(problems, config, "device", hardware.resolve_device, config.device)
    if device is not None:
        _checked(
            problems, config, "precision", hardware.resolve_precision, config.precision, device
        )
    problems += _model_problems(config, arch) if arch else []
    if size := pretrained.to_download(config.base_model):
        notes.append(
            f"{config.base_model} (about {size / 1e6:,.0f} MB) will be downloaded at launch"
        )
    context = arch.context if arch else 1024
    if arch and config.method == "lora":
        patterns = config.lora_targets, config.lora_last_layers
        if not _checked(problems, config, "lora_targets", arch.lora_targets, *patterns):
            arch = None  # the number of adapter weights is unknown
    try:
        corpus = _checked(problems, config, "dataset", read_corpus, config, context)
    except hub.NotDownloadedError:
        notes.append(
            f"{config.dataset} will be downloaded at launch; steps and time are unknown until then"
        )
        if arch and device is not None:
            problems += _estimate_problems(config, arch, SMALLEST_DATASET, device)
    if corpus:
        notes += _dataset_notes(corpus)
    note = "; ".join(notes) or None
    plan = Plan(problems, **(_parameter_counts(config, arch) if arch else {}))
    if arch and corpus and device is not None:
        plan = _plan(config, arch, corpus, device, problems)
    if corpus:
        skipped, unused = corpus.records.skipped, corpus.records.unused_keys
        columns = str(corpus.records.columns)
        plan = replace(plan, columns=columns, skipped_records=skipped, unused_keys=unused)
    if arch:
        plan = replace(plan, **_disk_fields(config, arch, plan.steps, runs_dir, freed_mb, problems))
    return replace(plan, note=note)


def _disk_fields(
    config: RunConfig,
    arch: Architecture,
    steps: int | None,
    runs_dir: Path | None,
    freed_mb: float,
    problems: list[Problem],
) -> dict[str, Any]:
    """Return the disk space fields for a plan. Add a problem if the run does not fit."""
    peak, after = estimate.disk_mb(config, arch, steps)
    free = None if runs_dir is None else _free_disk_mb(runs_dir)
    if free is not None:
        free += freed_mb
    if free is not None and peak > free:
        message = f"the run needs about {peak:,.0f} MB of disk space, but only {free:,.0f} MB is free in {runs_dir}"
        remedy = "delete files or use a smaller model"
        # With method = full, the patterns of lora_targets may match no layer.
        with contextlib.suppress(UserError):
            lora_mb, _ = estimate.disk_mb(config.model_copy(update={"method": "lora"}), arch, steps)
            if config.method == "full" and lora_mb <= free:
                remedy = f"delete files or use method = lora, which needs about {lora_mb:,.0f} MB"
        problems.append(Problem("keep_weights", config.keep_weights, f"{message}; {remedy}"))
    return {
        "disk_peak_mb": round(peak, 1),
        "disk_mb": round(after, 1),
        "free_disk_mb": None if free is None else round(free, 1),
    }


def check_disk(configs: Sequence[RunConfig], runs: int, runs_dir: Path) -> None:
    """Raise UserError if the disk is too small for all runs of a sweep, which are trained one after the other.

    Counts their weights and a checkpoint of one run. Does nothing if the base model is unknown.

    Args:
        configs: the settings of some of the runs; the mean of their needs applies to all.
    """
    free = _free_disk_mb(runs_dir)
    needs = []
    for config in configs:
        with contextlib.suppress(UserError):  # reported when the run starts
            arch = pretrained.architecture(config.base_model)
            needs.append(estimate.disk_mb(config, arch, steps=1))
    if free is None or not needs:
        return
    kept = runs * sum(after for _, after in needs) / len(needs)
    needed = kept + max(peak - after for peak, after in needs)
    if needed > free:
        raise UserError(
            f"{runs:,} runs need about {needed:,.0f} MB of disk space, but only {free:,.0f} MB is free in {runs_dir}; "
            "use fewer runs or keep_weights = none"
        )


def _free_disk_mb(directory: Path) -> float | None:
    """Return the free disk space in MiB for a directory that may not exist yet, or None if it is unknown."""
    candidates = [directory.absolute(), *directory.absolute().parents]
    try:
        existing = next(path for path in candidates if path.exists())
        return shutil.disk_usage(existing).free / MIB
    except OSError:
        return None


def _dataset_notes(corpus: Corpus) -> list[str]:
    """Return messages about skipped records, unused keys and examples without a response."""
    notes = [dataset.skipped_summary(corpus.records), dataset.unused_summary(corpus.records)]
    if corpus.lost_examples:
        message = f"{corpus.lost_examples:,} examples will be skipped"
        notes.append(f"{message}: max_length cuts off their entire response")
    return [note for note in notes if note]


def _model_problems(config: RunConfig, arch: Architecture) -> list[Problem]:
    """Return a problem for each setting that exceeds the base model's limits, and for an unsupported vocabulary."""
    problems = []
    if config.max_length is not None and config.max_length > arch.context:
        message = f"must be at most {arch.context}, the context length of {config.base_model}"
        problems.append(Problem("max_length", config.max_length, message))
    layers = config.lora_last_layers
    if config.method == "lora" and layers is not None and layers > arch.n_layer:
        message = f"must be at most {arch.n_layer}, the number of blocks in {config.base_model}"
        problems.append(Problem("lora_last_layers", layers, message))
    trains_layers = config.method == "full" and config.trained_weights == "last_layers"
    if trains_layers and config.trained_layers > arch.n_layer:
        message = f"must be at most {arch.n_layer}, the number of blocks in {config.base_model}"
        problems.append(Problem("trained_layers", config.trained_layers, message))
    if arch.vocabulary != VOCABULARY:
        message = (
            f"its vocabulary has {arch.vocabulary:,} tokens; it must have GPT-2's {VOCABULARY:,}"
        )
        problems.append(Problem("base_model", config.base_model, message))
    return problems


def _parameter_counts(config: RunConfig, arch: Architecture) -> dict[str, Any]:
    """Return the parameter counts for a plan."""
    parameters, trainable = estimate.parameters(config, arch)
    is_lora = config.method == "lora"
    base = arch.parameters(config.tie_weights)
    mb = round(4 * base / MIB, 2)
    return {
        "parameters": parameters,
        "trainable": trainable,
        "base_parameters": base,
        "base_mb": mb,
        "adapter_scale": adapter_scale.describe(config, arch) if is_lora else None,
    }


def _estimate_problems(
    config: RunConfig, arch: Architecture, extent: Extent, device: torch.device
) -> list[Problem]:
    """Return a problem if the run is estimated to need more memory than is free."""
    needed = device_memory_mb(config, arch, extent, device)
    available = hardware.available_memory_mb(device)
    fits = needed <= available
    return [] if fits else [too_large(config, arch, extent, device, needed, available)]


def _plan(
    config: RunConfig,
    arch: Architecture,
    corpus: Corpus,
    device: torch.device,
    problems: list[Problem],
) -> Plan:
    lengths = corpus.lengths
    schedule = Schedule(
        lengths,
        config.batch_size,
        config.grad_accumulation,
        config.epochs,
        config.seed,
        config.group_by_length,
    )
    evaluations = evaluation_plan(config, schedule.steps, corpus.tokens)
    problems += _estimate_problems(config, arch, corpus.extent, device)
    work = estimate.flops(config, arch, corpus.tokens.training)
    work += schedule.steps * estimate.optimizer_flops(config, arch)
    passes = schedule.steps * config.grad_accumulation
    rate = hardware.product_rate(config.precision, device)
    seconds = estimate.seconds(work, passes, rate, gpu=device.type == "cuda")
    stride = max(1, schedule.steps // CURVE_POINTS)
    curve_steps = sorted({*range(1, schedule.steps + 1, stride), schedule.steps})
    return Plan(
        problems=problems,
        train_examples=len(lengths),
        test_examples=corpus.extent.test_examples,
        validation_examples=corpus.validation_examples,
        steps=schedule.steps,
        steps_per_epoch=schedule.steps_per_epoch,
        tokens=corpus.tokens.training,
        longest=corpus.extent.longest,
        cut_examples=corpus.cut_examples,
        **_parameter_counts(config, arch),
        memory_mb=round(device_memory_mb(config, arch, corpus.extent, device), 1),
        available_mb=round(hardware.available_memory_mb(device), 1),
        seconds=round(seconds, 1),
        evaluation_seconds=round(
            estimate.evaluation_seconds(config, seconds, evaluations, corpus.tokens), 1
        ),
        eval_every=evaluations.interval,
        evaluations=evaluations.count,
        device=hardware.describe(device),
        learning_rates=[
            (step, learning_rate(config, step, schedule.steps)) for step in curve_steps
        ],
    )


def memory_advice(config: RunConfig) -> str:
    """Return a clause that suggests the nearest settings with lower memory use, for a run that ran out of memory.

    Raises UserError if the base model, the data set or the device is not available.
    """
    arch = pretrained.architecture(config.base_model)
    device = hardware.resolve_device(config.device)
    extent = read_corpus(config, arch.context).extent
    needed = device_memory_mb(config, arch, extent, device)
    limit_mb = min(hardware.available_memory_mb(device), RETRY_MEMORY_SHARE * needed)
    fit = estimate.describe_nearest_fit(
        config, limit_mb, lambda changed: device_memory_mb(changed, arch, extent, device), device
    )
    return f"according to the estimate, {fit}"


def memory_problems(config: RunConfig, measured: float) -> list[Problem]:
    """Return a problem if a run that passed `check` does not fit, given its measured peak memory in MiB."""
    arch = pretrained.architecture(config.base_model)
    device = hardware.resolve_device(config.device)
    available = hardware.available_memory_mb(device)
    if measured <= available:
        return []
    extent = read_corpus(config, arch.context).extent
    return [too_large(config, arch, extent, device, measured, available)]


def _checked(
    problems: list[Problem],
    config: RunConfig,
    name: str,
    compute: Callable[Params, Result],
    *args: Params.args,
    **kwargs: Params.kwargs,
) -> Result | None:
    """Return the function's result. If it raises UserError, add a problem for the setting and return None.

    Args:
        name: the setting to report, unless the message names another one.
    """
    try:
        return compute(*args, **kwargs)
    except hub.NotDownloadedError:
        raise
    except UserError as error:
        # Reading a data set may fail because of max_length.
        named_field = str(error).partition(" = ")[0]
        name = named_field if named_field in RunConfig.model_fields else name
        message = str(error).removeprefix(f"{name} = {getattr(config, name)!r}: ")
        problems.append(Problem(name, getattr(config, name), message))
        return None


@functools.lru_cache(maxsize=4)
def _read_sizes(
    name: str, max_examples: int | None, empty_outputs: EmptyOutputs, columns: str, stamps: object
) -> tuple[Records, list[Size]]:
    """Read a data set and return its records and sizes. `stamps` is only part of the cache key."""
    records = dataset.read(name, max_examples, empty_outputs, download=False, columns=columns)
    encoded = (encode_example(example, 0, 10**9) for example in records.examples)
    return records, [
        Size(len(e.ids), e.prompt_length, e.first_target(False), e.first_target(True))
        for e in encoded
    ]


def _truncated_lengths(sizes: list[Size], limit: int, mask_prompt: bool) -> list[int]:
    """Return the truncated lengths of all examples that still have a target, the same as after `encode_all`."""
    cut = (
        (min(size.tokens, limit), size.first_masked_target if mask_prompt else size.first_target)
        for size in sizes
    )
    return [length for length, first_target in cut if length > first_target]
