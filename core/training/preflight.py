"""What a launch would do, before it does it: steps, tokens, parameters, memory, time, and every problem.

All by arithmetic on the data set and the model's shapes; no model is loaded.
"""

import contextlib
import functools
from dataclasses import dataclass, field

import torch

from core.config import RunConfig
from core.data import dataset, hub
from core.data.batches import Encoded, Schedule, encode_all
from core.errors import Problem, UserError
from core.nn import pretrained
from core.nn.architecture import HEAD, Architecture
from core.training import hardware
from core.training.optimiser import learning_rate

RUNTIME_MB = 420
"""Python, torch and the tokenizer before any weight is there; measured on Linux with torch 2.13."""
ACTIVATIONS = 17
"""Floats kept for the backward pass a token and block, in units of n_embd: norms, q, k, v, MLP."""
LOGIT_COPIES = 3
"""Logits, their softmax and their gradient."""
EFFICIENCY = 0.6
"""Share of the matrix-product rate that a whole step reaches, roughly."""
CURVE_POINTS = 200


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
    memory_mb: float | None = None
    available_mb: float | None = None
    seconds: float | None = None
    """Of the training steps; evaluation and answering come on top."""
    device: str | None = None
    note: str | None = None
    """Why figures are missing where nothing is wrong."""
    learning_rates: list[tuple[int, float]] = field(default_factory=list)
    """(step, rate) at up to 200 steps."""


@dataclass(frozen=True)
class Corpus:
    """The training examples as tokens, and the sizes of the other parts."""

    train: list[Encoded]
    test_examples: int
    validation_examples: int
    cut_examples: int


def read_corpus(config: RunConfig, context: int) -> Corpus:
    """Load, split and encode a run's data set. Raises UserError."""
    parts = dataset.split(dataset.load(config.dataset, config.max_examples, download=False), config)
    length = min(config.max_length or context, context)
    whole = encode_all(parts.train, 10**9, config.mask_prompt)
    cut = sum(len(example.ids) > length for example in whole)
    train = encode_all(parts.train, length, config.mask_prompt) if cut else whole
    if not train:
        message = f"max_length = {length}: no training example keeps any of its response; it should be larger"
        raise UserError(message)
    return Corpus(train, len(parts.test), len(parts.validation), cut)


def check(config: RunConfig) -> Plan:
    """Everything that can be known about a run before its launch. Raises nothing: problems are listed."""
    problems: list[Problem] = []
    arch = _attempt(
        problems, "base_model", config, lambda: pretrained.architecture(config.base_model)
    )
    device = _attempt(problems, "device", config, lambda: hardware.resolve_device(config.device))
    if device is not None:
        _attempt(
            problems,
            "precision",
            config,
            lambda: hardware.resolve_precision(config.precision, device),
        )
    if arch is None:
        with contextlib.suppress(hub.NotDownloadedError):
            _attempt(problems, "dataset", config, lambda: read_corpus(config, 1024))
        return Plan(problems)
    if config.max_length is not None and config.max_length > arch.context:
        message = f"it should be at most {arch.context}, the context of {config.base_model}"
        problems.append(Problem("max_length", config.max_length, message))
    layers = config.lora_last_layers
    if config.method == "lora" and layers is not None and layers > arch.n_layer:
        message = f"it should be at most {arch.n_layer}, the blocks of {config.base_model}"
        problems.append(Problem("lora_last_layers", layers, message))
    try:
        corpus = _attempt(problems, "dataset", config, lambda: read_corpus(config, arch.context))
    except hub.NotDownloadedError:
        parameters, trainable = _parameters(config, arch)
        note = f"{config.dataset} will be downloaded at the launch; steps and time are known then"
        return Plan(problems, parameters=parameters, trainable=trainable, note=note)
    if corpus is None or device is None:
        return Plan(problems, parameters=_parameters(config, arch)[0])
    return _plan(config, arch, corpus, device, problems)


def memory_mb(config: RunConfig, arch: Architecture, longest: int) -> float:
    """Peak memory of training in fp32, MiB: weights, gradients, optimiser, activations, logits."""
    parameters, trainable = _parameters(config, arch)
    moments = 2 if config.optimizer == "adamw" else 0
    state = parameters + trainable * (1 + moments)
    positions = config.batch_size * longest
    per_position = ACTIVATIONS * arch.n_embd * (1 if config.grad_checkpointing else arch.n_layer)
    logits = LOGIT_COPIES * arch.vocabulary
    return RUNTIME_MB + 4 * (state + positions * (per_position + logits)) / hardware.MIB


def step_flops(config: RunConfig, arch: Architecture, tokens: int) -> float:
    """Multiply-adds x 2 of training on so many tokens: the forward pass, and the gradients.

    A frozen layer has a gradient of its input only, so LoRA costs about two thirds of full tuning.
    """
    shapes = arch.linear_shapes()
    weights = sum(i * o for i, o in shapes.values())
    passes = 2 if config.method == "lora" else 3
    _, trainable = _parameters(config, arch)
    adapters = 3 * trainable if config.method == "lora" else 0
    head = shapes[HEAD][0] * shapes[HEAD][1] if config.mask_prompt else 0
    saved = passes * head * 0.6  # the head skips the prompt, roughly that share of an example
    return 2.0 * tokens * (passes * weights + adapters - saved)


def _plan(
    config: RunConfig,
    arch: Architecture,
    corpus: Corpus,
    device: torch.device,
    problems: list[Problem],
) -> Plan:
    lengths = [len(example.ids) for example in corpus.train]
    schedule = Schedule(
        lengths,
        config.batch_size,
        config.grad_accumulation,
        config.epochs,
        config.seed,
        config.group_by_length,
    )
    tokens = config.epochs * sum(length - 1 for length in lengths)
    parameters, trainable = _parameters(config, arch)
    needed, available = memory_mb(config, arch, max(lengths)), hardware.available_memory_mb(device)
    if needed > available:
        problems.append(_too_large(config, arch, max(lengths), needed, available))
    stride = max(1, schedule.steps // CURVE_POINTS)
    shown = sorted({*range(1, schedule.steps + 1, stride), schedule.steps})
    return Plan(
        problems=problems,
        train_examples=len(corpus.train),
        test_examples=corpus.test_examples,
        validation_examples=corpus.validation_examples,
        steps=schedule.steps,
        steps_per_epoch=schedule.steps_per_epoch,
        tokens=tokens,
        longest=max(lengths),
        cut_examples=corpus.cut_examples,
        parameters=parameters,
        trainable=trainable,
        memory_mb=round(needed, 1),
        available_mb=round(available, 1),
        seconds=round(step_flops(config, arch, tokens) / (_rate(device) * EFFICIENCY), 1),
        device=hardware.describe(device),
        learning_rates=[(step, learning_rate(config, step, schedule.steps)) for step in shown],
    )


def _parameters(config: RunConfig, arch: Architecture) -> tuple[int, int]:
    """(all, trainable) weights, adapters included in both."""
    total = arch.parameters(config.tie_weights)
    if config.method == "full":
        return total, total
    adapters = arch.lora_parameters(config.lora_rank, config.lora_targets, config.lora_last_layers)
    return total + adapters, adapters


def _too_large(
    config: RunConfig, arch: Architecture, longest: int, needed: float, available: float
) -> Problem:
    smaller = config
    while smaller.batch_size > 1 and memory_mb(smaller, arch, longest) > available:
        smaller = smaller.model_copy(
            update={
                "batch_size": smaller.batch_size // 2,
                "grad_accumulation": smaller.grad_accumulation * 2,
            }
        )
    message = f"the run would need about {needed:,.0f} MB and {available:,.0f} MB are free; "
    if memory_mb(smaller, arch, longest) <= available:
        message += f"batch_size = {smaller.batch_size} with grad_accumulation = {smaller.grad_accumulation} fits"
    else:
        message += "not even batch_size = 1 fits; use LoRA, a shorter max_length or a smaller model"
    return Problem("batch_size", config.batch_size, message)


def _attempt(problems, name, config, compute):  # type: ignore[no-untyped-def]
    """The result, or None and a problem about the field."""
    try:
        return compute()
    except hub.NotDownloadedError:
        raise
    except UserError as error:
        sentence = str(error).removeprefix(f"{name} = {getattr(config, name)!r}: ")
        problems.append(Problem(name, getattr(config, name), sentence))
        return None


@functools.cache
def _rate(device: torch.device) -> float:
    return hardware.gemm_flops(device)
