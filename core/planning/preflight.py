"""Check a run before it starts: steps, tokens, parameters, memory, time, disk space, and all problems.

All by arithmetic on the data set and the model's shapes; no model is loaded.
"""

import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from core.config import EmptyOutputs, RunConfig
from core.data import dataset, hub
from core.data.batches import Schedule, encode_example
from core.data.dataset import Records, SkippedRecord
from core.errors import ConfigError, Problem, UserError
from core.nn import pretrained
from core.nn.architecture import VOCABULARY, Architecture
from core.planning import estimate
from core.planning.estimate import Extent, device_memory_mb, too_large
from core.training import hardware
from core.training.optimizers import learning_rate

CURVE_POINTS = 200
SMALLEST_DATASET = Extent(train_examples=1, longest=2, test_examples=1, longest_prompt=1)
"""Any data set: what does not fit with this one fits with none."""
RETRY_MEMORY_SHARE = 0.95
"""Share of the estimate for a run that ran out of memory which the settings offered instead may take."""
Sizes = list[tuple[int, int]]
Result = TypeVar("Result")
Params = ParamSpec("Params")


@dataclass(frozen=True)
class Plan:
    """What a run would do. Figures are None where a problem keeps them from being known."""

    problems: list[Problem] = field(default_factory=list)
    train_examples: int | None = None
    test_examples: int | None = None
    validation_examples: int | None = None
    steps: int | None = None
    steps_per_epoch: int | None = None
    tokens: int | None = None
    """Tokens trained on, over all epochs, padding not counted."""
    longest: int | None = None
    """Tokens of the longest training example after cutting."""
    cut_examples: int | None = None
    """Training examples that max_length cuts."""
    parameters: int | None = None
    trainable: int | None = None
    base_parameters: int | None = None
    """Of these, what the base model has."""
    base_mb: float | None = None
    """What they take in fp32, MiB."""
    memory_mb: float | None = None
    available_mb: float | None = None
    disk_peak_mb: float | None = None
    """Disk space during the run, MiB: checkpoints and weights."""
    disk_mb: float | None = None
    """Disk space after it has finished."""
    free_disk_mb: float | None = None
    seconds: float | None = None
    """Of the training steps; evaluation and answering come on top."""
    device: str | None = None
    note: str | None = None
    """Remarks that are not problems: why figures are missing, what is skipped or ignored."""
    skipped_records: list[SkippedRecord] = field(default_factory=list)
    """Records of the data set that are skipped because they cannot be learned from."""
    unused_keys: dict[str, int] = field(default_factory=dict)
    """Record keys that training ignores, and the number of records that have a value for each."""
    learning_rates: list[tuple[int, float]] = field(default_factory=list)
    """(step, rate) at up to 200 steps."""


@dataclass(frozen=True)
class Corpus:
    """What a run learns from: the tokens of each training example after cutting, and sizes."""

    lengths: list[int]
    extent: Extent
    validation_examples: int
    cut_examples: int
    lost_examples: int
    """Of training and validation: those of whose response nothing is left."""
    records: Records


def read_corpus(config: RunConfig, context: int) -> Corpus:
    """Load, split and measure a run's data set. The data set is cached until its file changes.

    Raises:
        UserError: there is no such data set, it is damaged, or a part of it is or becomes empty.
    """
    stamps = dataset.stamps(config.dataset)
    source = config.dataset, config.max_examples, config.empty_outputs
    records, sizes = _measured(*source, stamps)
    parts = dataset.split(records.examples, config)
    limit = min(config.max_length or context, context)
    train = sizes[: len(parts.train)]
    train_lengths = _kept(train, limit, config.mask_prompt)
    validation = _kept(sizes[-len(parts.validation) :], limit, config.mask_prompt)
    if not train_lengths or not validation:
        part = "validation" if train_lengths else "training"
        message = f"max_length = {limit}: no {part} example keeps any of its response; it should be larger"
        raise UserError(message)
    cut = sum(length > limit for length, _ in train)
    lost_count = len(train) + len(parts.validation) - len(train_lengths) - len(validation)
    prompts = [prompt for _, prompt in sizes[len(train) : len(train) + len(parts.test)]]
    extent = Extent(len(train_lengths), max(train_lengths), len(prompts), max(prompts))
    return Corpus(train_lengths, extent, len(validation), cut, lost_count, records)


def fetch(config: RunConfig) -> None:
    """Download what a run needs and this machine lacks. Raises UserError where it cannot be had."""
    pretrained.fetch(config.base_model)
    dataset.load(config.dataset, config.max_examples, config.empty_outputs)


def all_problems(values: Mapping[str, Any], runs_dir: Path | None = None) -> list[Problem]:
    """All that is wrong with untrusted values: with each of them, and with what the right ones would meet."""
    problems: list[Problem] = []
    remaining = dict(values)
    while True:  # each turn leaves something out: what is wrong involves a value that was given
        try:
            new_problems = check(RunConfig.parse(remaining), runs_dir).problems
            return problems + [p for p in new_problems if not problems or p.field in remaining]
        except ConfigError as error:
            # Later turns may find a default at odds with the rest: no mistake of the user's.
            problems = problems or error.problems
            involved_fields = {
                name for p in error.problems for name in (p.field, p.conflicting_field)
            }
            remaining = {
                name: value for name, value in remaining.items() if name not in involved_fields
            }


def check(config: RunConfig, runs_dir: Path | None = None, freed_mb: float = 0.0) -> Plan:
    """Plan a run without starting it, from local and cached files only.

    Everything that would make the run fail at the start is listed in the plan, not raised.

    Args:
        runs_dir: where the run would be stored. Without it, free disk space is not checked.
        freed_mb: disk space that a restart of the run would free, MiB.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    corpus: Corpus | None = None
    arch = _attempt(problems, config, "base_model", pretrained.architecture, config.base_model)
    if arch:
        source = config.base_model, config.tie_weights
        notes += _attempt(problems, config, "base_model", pretrained.inspect, *source) or []
    device = _attempt(problems, config, "device", hardware.resolve_device, config.device)
    if device is not None:
        _attempt(
            problems, config, "precision", hardware.resolve_precision, config.precision, device
        )
    problems += _beyond(config, arch) if arch else []
    if size := pretrained.to_download(config.base_model):
        notes.append(
            f"about {size / 1e6:,.0f} MB of {config.base_model} will be downloaded at the launch"
        )
    try:
        context = arch.context if arch else 1024
        corpus = _attempt(problems, config, "dataset", read_corpus, config, context)
    except hub.NotDownloadedError:
        notes.append(
            f"{config.dataset} will be downloaded at the launch; steps and time are known then"
        )
        if arch and device is not None:
            problems += _lacking(config, arch, SMALLEST_DATASET, device)
    if corpus:
        notes += _data_notes(corpus)
    note = "; ".join(notes) or None
    plan = Plan(problems, **(_counts(config, arch) if arch else {}))
    if arch and corpus and device is not None:
        plan = _plan(config, arch, corpus, device, problems)
    if corpus:
        skipped, unused = corpus.records.skipped, corpus.records.unused_keys
        plan = replace(plan, skipped_records=skipped, unused_keys=unused)
    if arch:
        plan = replace(plan, **_disk(config, arch, plan.steps, runs_dir, freed_mb, problems))
    return replace(plan, note=note)


def _disk(
    config: RunConfig,
    arch: Architecture,
    steps: int | None,
    runs_dir: Path | None,
    freed_mb: float,
    problems: list[Problem],
) -> dict[str, Any]:
    """Return the fields of a plan about disk space. Add a problem if the run does not fit."""
    peak, after = estimate.disk_mb(config, arch, steps)
    free = None if runs_dir is None else _free_disk_mb(runs_dir)
    if free is not None:
        free += freed_mb
    if free is not None and peak > free:
        message = f"the run would need about {peak:,.0f} MB of disk space and {free:,.0f} MB are free in {runs_dir}"
        remedy = "delete files or use a smaller model"
        lora_mb, _ = estimate.disk_mb(config.model_copy(update={"method": "lora"}), arch, steps)
        if config.method == "full" and lora_mb <= free:
            remedy = f"delete files or use method = lora, which needs about {lora_mb:,.0f} MB"
        problems.append(Problem("keep_weights", config.keep_weights, f"{message}; {remedy}"))
    return {
        "disk_peak_mb": round(peak, 1),
        "disk_mb": round(after, 1),
        "free_disk_mb": None if free is None else round(free, 1),
    }


def _free_disk_mb(directory: Path) -> float | None:
    """Return the free disk space at a directory that need not exist yet, in MiB; None if it cannot be determined."""
    candidates = [directory.absolute(), *directory.absolute().parents]
    try:
        existing = next(path for path in candidates if path.exists())
        return shutil.disk_usage(existing).free / estimate.MIB
    except OSError:
        return None


def _data_notes(corpus: Corpus) -> list[str]:
    """Return messages about skipped records, unused keys and examples without a response."""
    notes = [dataset.skipped_summary(corpus.records), dataset.unused_summary(corpus.records)]
    if corpus.lost_examples:
        message = f"{corpus.lost_examples:,} examples will be left out"
        notes.append(f"{message}: max_length leaves nothing of their response")
    return [note for note in notes if note]


def _beyond(config: RunConfig, arch: Architecture) -> list[Problem]:
    """Settings that go beyond what the base model has."""
    problems = []
    if config.max_length is not None and config.max_length > arch.context:
        message = f"it should be at most {arch.context}, the context of {config.base_model}"
        problems.append(Problem("max_length", config.max_length, message))
    layers = config.lora_last_layers
    if config.method == "lora" and layers is not None and layers > arch.n_layer:
        message = f"it should be at most {arch.n_layer}, the blocks of {config.base_model}"
        problems.append(Problem("lora_last_layers", layers, message))
    if arch.vocabulary != VOCABULARY:
        message = f"it has {arch.vocabulary:,} tokens; it should have GPT-2's {VOCABULARY:,}"
        problems.append(Problem("base_model", config.base_model, message))
    return problems


def _counts(config: RunConfig, arch: Architecture) -> dict[str, Any]:
    """The fields of a plan that count weights."""
    parameters, trainable = estimate.parameters(config, arch)
    base = arch.parameters(config.tie_weights)
    mb = round(4 * base / estimate.MIB, 2)
    return {
        "parameters": parameters,
        "trainable": trainable,
        "base_parameters": base,
        "base_mb": mb,
    }


def _lacking(
    config: RunConfig, arch: Architecture, extent: Extent, device: torch.device
) -> list[Problem]:
    """That a run does not fit, if it does not."""
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
    tokens = config.epochs * sum(length - 1 for length in lengths)
    problems += _lacking(config, arch, corpus.extent, device)
    work = estimate.flops(config, arch, tokens)
    passes = schedule.steps * config.grad_accumulation
    rate = hardware.product_rate(config.precision, device)
    stride = max(1, schedule.steps // CURVE_POINTS)
    curve_steps = sorted({*range(1, schedule.steps + 1, stride), schedule.steps})
    return Plan(
        problems=problems,
        train_examples=len(lengths),
        test_examples=corpus.extent.test_examples,
        validation_examples=corpus.validation_examples,
        steps=schedule.steps,
        steps_per_epoch=schedule.steps_per_epoch,
        tokens=tokens,
        longest=corpus.extent.longest,
        cut_examples=corpus.cut_examples,
        **_counts(config, arch),
        memory_mb=round(device_memory_mb(config, arch, corpus.extent, device), 1),
        available_mb=round(hardware.available_memory_mb(device), 1),
        seconds=round(estimate.seconds(work, passes, rate, gpu=device.type == "cuda"), 1),
        device=hardware.describe(device),
        learning_rates=[
            (step, learning_rate(config, step, schedule.steps)) for step in curve_steps
        ],
    )


def memory_advice(config: RunConfig) -> str:
    """The nearest settings that need less than these, which ran out of memory, in words. Raises UserError."""
    arch = pretrained.architecture(config.base_model)
    device = hardware.resolve_device(config.device)
    extent = read_corpus(config, arch.context).extent
    needed = device_memory_mb(config, arch, extent, device)
    limit_mb = min(hardware.available_memory_mb(device), RETRY_MEMORY_SHARE * needed)
    fit = estimate.describe_nearest_fit(
        config, limit_mb, lambda changed: device_memory_mb(changed, arch, extent, device), device
    )
    return f"by the estimate, {fit}"


def memory_problems(config: RunConfig, measured: float) -> list[Problem]:
    """A problem where a run that was measured to need so many MiB does not fit; it passed `check` before."""
    arch = pretrained.architecture(config.base_model)
    device = hardware.resolve_device(config.device)
    available = hardware.available_memory_mb(device)
    if measured <= available:
        return []
    extent = read_corpus(config, arch.context).extent
    return [too_large(config, arch, extent, device, measured, available)]


def _attempt(
    problems: list[Problem],
    config: RunConfig,
    name: str,
    compute: Callable[Params, Result],
    *args: Params.args,
    **kwargs: Params.kwargs,
) -> Result | None:
    """The result, or None and a problem about the field."""
    try:
        return compute(*args, **kwargs)
    except hub.NotDownloadedError:
        raise
    except UserError as error:
        named_field = str(error).partition(" = ")[
            0
        ]  # max_length may be what keeps a data set from teaching
        name = named_field if named_field in RunConfig.model_fields else name
        sentence = str(error).removeprefix(f"{name} = {getattr(config, name)!r}: ")
        problems.append(Problem(name, getattr(config, name), sentence))
        return None


@functools.lru_cache(maxsize=4)
def _measured(
    name: str, max_examples: int | None, empty_outputs: EmptyOutputs, stamps: object
) -> tuple[Records, Sizes]:
    """Return the data set and the (tokens, prompt tokens) of each example. `stamps` is part of the cache key."""
    records = dataset.read(name, max_examples, empty_outputs, download=False)
    encoded = (encode_example(example, 0, 10**9) for example in records.examples)
    return records, [(len(e.ids), e.prompt_length) for e in encoded]


def _kept(sizes: list[tuple[int, int]], limit: int, mask_prompt: bool) -> list[int]:
    """Tokens of the examples that still have a target after cutting: `encode_all` in numbers."""
    cut = ((min(length, limit), prompt if mask_prompt else 1) for length, prompt in sizes)
    return [length for length, first_target in cut if length > first_target]
