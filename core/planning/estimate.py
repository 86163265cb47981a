"""Estimate a run's memory use, time and disk space from its settings and the model's shapes.

Also finds the nearest settings that fit into memory. No tensors are created. Memory estimates are accurate to within
about 20%, and time estimates to within a factor of two.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from core.config import RunConfig
from core.errors import Problem, UserError
from core.metrics import MIB
from core.nn.architecture import HEAD, Architecture
from core.training import hardware
from core.training.checkpoints import CHECKPOINTS_TO_KEEP
from core.training.evaluation import ANSWER_BATCH_TOKENS
from core.training.evaluation_plan import EvaluationPlan, TokenCounts, training_passes
from core.training.optimizers import NEWTON_SCHULZ_STEPS, momentum

RUNTIME_MB = 290
"""Memory used by Python, PyTorch, the tokenizer and data. Fitted to gpt2-nano and gpt2 with PyTorch 2.13 on Linux."""
CHECKPOINTING_MB = 90
"""Memory used by PyTorch's compiler, which gradient checkpointing imports. Fitted to gpt2-nano."""
BLOCK_FLOATS = 17
"""Activations per token in a block, in multiples of n_embd: norms, q, k, v and MLP."""
SAVED_FLOATS = 10
"""The part of BLOCK_FLOATS that is saved for the backward pass. The rest, the norm and GELU outputs, is recomputed."""
DORA_FLOATS = 2
"""Additional activations that DoRA saves per block and token, in multiples of n_embd: the outputs of two layers."""
CPU_FRAGMENTATION = 1.3
"""Factor by which heap fragmentation increases the memory used by saved activations on a CPU."""
LOGIT_POSITIONS = 256
"""Number of positions whose logits are in memory at once."""
GPU_LOGITS_FACTOR = 12
"""Factor for the memory used by logits on a GPU, including half-precision copies and intermediate results."""
GEMM_EFFICIENCY = 0.6
"""FLOP/s of a whole step relative to that of a square matrix multiplication. Approximate."""
CPU_STEP_OVERHEAD_S = 0.05
"""Time that a forward and backward pass takes beyond its arithmetic, in seconds. Measured on two CPU cores."""
GPU_STEP_OVERHEAD_S = 0.015
"""The same for a GPU. Calculated, not measured: about 2,700 kernel launches of about 5 µs each."""
FP32_BYTES = 4
"""Bytes per saved weight. Trainable weights are fp32 regardless of the precision setting."""


@dataclass(frozen=True)
class Extent:
    """The data set sizes that determine memory use."""

    train_examples: int
    """Upper limit for the batch size."""
    longest: int
    """Number of tokens in the longest training example."""
    test_examples: int
    longest_prompt: int
    """Number of tokens in the longest test prompt."""

    def answer_positions(self, max_new_tokens: int, context: int) -> int:
        """Return the number of positions in the KV cache for the largest batch of answers."""
        positions_each = min(self.longest_prompt + max_new_tokens, context)
        return min(self.test_examples * positions_each, max(ANSWER_BATCH_TOKENS, positions_each))


def parameters(config: RunConfig, arch: Architecture) -> tuple[int, int]:
    """Return the total number of parameters and the number of trainable ones, both including adapters."""
    total = arch.parameters(config.tie_weights)
    if config.method == "full":
        part = config.trained_weights, config.trained_layers
        return total, arch.trained_parameters(*part, config.tie_weights)
    adapters = arch.lora_parameters(
        config.lora_rank, config.lora_targets, config.lora_last_layers, config.lora_dora
    )
    return total + adapters, adapters


def hidden_parameters(config: RunConfig, arch: Architecture) -> int:
    """Return the number of trainable weights in the matrices of transformer blocks, which Muon trains."""
    return sum(rows * columns for rows, columns in hidden_shapes(config, arch))


def hidden_shapes(config: RunConfig, arch: Architecture) -> list[tuple[int, int]]:
    """Return the shapes of the trainable matrices in transformer blocks."""
    shapes = arch.linear_shapes()
    if config.method == "full":
        first = arch.n_layer - arch.trained_layers(config.trained_weights, config.trained_layers)
        names = [f"h.{i}." for i in range(first, arch.n_layer)]
        return [shape for name, shape in shapes.items() if name.startswith(tuple(names))]
    rank, last = config.lora_rank, config.lora_last_layers
    targets = [shapes[n] for n in arch.lora_targets(config.lora_targets, last) if n != HEAD]
    return [(rank, inputs) for inputs, _ in targets] + [(outputs, rank) for _, outputs in targets]


def optimizer_state(config: RunConfig, arch: Architecture) -> int:
    """Return the number of values in the optimizer state, which consists of moments of the trainable weights."""
    trainable = parameters(config, arch)[1]
    if config.optimizer == "sgd":
        return trainable if momentum(config) else 0
    # AdamW keeps two moments, Muon one.
    return 2 * trainable - (hidden_parameters(config, arch) if config.optimizer == "muon" else 0)


def initial_factors(config: RunConfig, arch: Architecture) -> int:
    """Return the number of values in PiSSA's initial factors, which are kept and saved with the adapters."""
    if config.method != "lora" or config.lora_init != "pissa":
        return 0
    patterns = config.lora_targets, config.lora_last_layers
    return arch.lora_parameters(config.lora_rank, *patterns)


def differentiated_layers(config: RunConfig, arch: Architecture) -> int:
    """Return the number of blocks that gradients pass through, counted from the last."""
    if config.method == "full":
        if config.trained_weights == "head" and config.tie_weights:
            return arch.n_layer  # the gradient of the token embedding passes through all blocks
        return arch.trained_layers(config.trained_weights, config.trained_layers)
    return arch.n_layer


def splits_head(config: RunConfig, arch: Architecture) -> bool:
    """Return whether merging the adapters turns a tied head into a separate matrix."""
    if not config.tie_weights or config.method != "lora":
        return False
    return HEAD in arch.lora_targets(config.lora_targets, config.lora_last_layers)


def memory_mb(
    config: RunConfig, arch: Architecture, extent: Extent, half: bool = False, gpu: bool = False
) -> float:
    """Return a run's peak memory use in MiB.

    The peak occurs either in a training step (weights, gradients, moments, activations, logits) or while the model
    answers the test examples (weights, KV cache).

    Args:
        half: whether matrix products are computed in bf16 or fp16.
        gpu: whether the run uses a GPU, which computes more logits at once.
    """
    weights, trainable = parameters(config, arch)
    runtime = RUNTIME_MB + (CHECKPOINTING_MB if config.grad_checkpointing and not gpu else 0)
    moments = optimizer_state(config, arch)
    layers = differentiated_layers(config, arch)
    # Gradient checkpointing saves the input of each block, and all activations of one block at a time.
    floats = (
        BLOCK_FLOATS + layers
        if config.grad_checkpointing
        else max(BLOCK_FLOATS, SAVED_FLOATS * layers)
    )
    if config.method == "lora" and config.lora_dora:
        floats += DORA_FLOATS * (1 if config.grad_checkpointing else arch.n_layer)
    tokens = min(config.batch_size, extent.train_examples) * extent.longest
    saved_floats = tokens * floats * arch.n_embd
    logits = min(tokens, LOGIT_POSITIONS) * arch.vocabulary
    answers = extent.answer_positions(config.max_new_tokens, arch.context)
    cache = answers * 2 * arch.n_layer * arch.n_embd
    # In fp32, adapters are merged before answering, which turns a tied head into a separate matrix.
    head = arch.vocabulary * arch.n_embd if splits_head(config, arch) else 0
    factors = initial_factors(config, arch)
    residual_head = head if factors else 0  # PiSSA unties the head during training
    answering = 4 * (weights + head + factors + cache)
    if not half:
        state = weights + trainable + moments + factors + residual_head
        training = 4 * (state + CPU_FRAGMENTATION * saved_floats + logits)
        return runtime + max(training, answering) / MIB
    # The residual stream, a fifth of the saved activations, stays in fp32, as do the logits.
    step = 2.2 * saved_floats + 4 * (GPU_LOGITS_FACTOR if gpu else 1) * logits
    embeddings = (arch.vocabulary + arch.context) * arch.n_embd
    if config.method == "full":
        # Frozen linear layers are stored in half precision, frozen embeddings and trainable weights in fp32.
        frozen = 2 * (weights - trainable)
        frozen += 2 * embeddings if config.trained_weights != "all" else 0
        state_bytes = frozen + 4 * (trainable + moments)
        # When the loss is computed, most gradients do not exist yet, but autocast's half-precision weights do.
        at_loss = state_bytes + 2 * trainable + 4 * embeddings + step
        resident_bytes = frozen + 4 * trainable + 2 * trainable
        training = max(at_loss, state_bytes + 4 * trainable)
    else:
        # Only the embeddings and PiSSA's factors are fp32.
        resident_bytes = 2 * (weights + embeddings + residual_head) + 4 * factors
        training = resident_bytes + 6 * trainable + 4 * moments + step
    if gpu:  # a CPU always answers in fp32
        answering = resident_bytes + 2 * cache
    return runtime + max(training, answering) / MIB


def device_memory_mb(
    config: RunConfig, arch: Architecture, extent: Extent, device: torch.device
) -> float:
    """Return a run's peak memory use on a device, in MiB."""
    half = False
    with contextlib.suppress(UserError):  # an unsupported precision is reported with the settings
        half = hardware.resolve_precision(config.precision, device) is not torch.float32
    return memory_mb(config, arch, extent, half, gpu=device.type != "cpu")


def disk_mb(config: RunConfig, arch: Architecture, steps: int | None = None) -> tuple[float, float]:
    """Return the disk space in MiB that a run uses, at its peak and after it has finished.

    Counts checkpoints and weights. Events, answers and the log are small in comparison.

    Args:
        steps: the run's number of optimizer steps; None assumes enough steps for all checkpoints.
    """
    parameter_count, trainable = parameters(config, arch)
    adapted = trainable + initial_factors(config, arch)
    weights_mb = (parameter_count if config.method == "full" else adapted) * FP32_BYTES / MIB
    checkpoint_mb = (adapted + optimizer_state(config, arch)) * FP32_BYTES / MIB
    saves = CHECKPOINTS_TO_KEEP + 1 if steps is None else -(-steps // config.checkpoint_every)
    # The old directory is deleted only when the new one is complete.
    copies_of_weights = {"none": 0, "last": 1, "best": 2}[config.keep_weights]
    while_saving = min(saves, CHECKPOINTS_TO_KEEP + 1) * checkpoint_mb
    if config.keep_weights == "best":
        while_saving += weights_mb
    while_publishing = (
        min(saves, CHECKPOINTS_TO_KEEP) * checkpoint_mb + copies_of_weights * weights_mb
    )
    kept_mb = 0.0 if config.keep_weights == "none" else weights_mb
    return max(while_saving, while_publishing), kept_mb


def too_large(
    config: RunConfig,
    arch: Architecture,
    extent: Extent,
    device: torch.device,
    needed: float,
    available: float,
) -> Problem:
    """Return the problem that too little memory is free, with the nearest settings that fit.

    Args:
        needed: estimated or measured peak in MiB. Its ratio to the estimate is assumed to hold for other settings too.
        available: free memory in MiB.
    """
    factor = needed / device_memory_mb(config, arch, extent, device)
    fit = describe_nearest_fit(
        config,
        available,
        lambda changed: factor * device_memory_mb(changed, arch, extent, device),
        device,
    )
    message = f"the run needs about {needed:,.0f} MB of memory, but only {available:,.0f} MB is free; {fit}"
    return Problem("batch_size", config.batch_size, message)


def describe_nearest_fit(
    config: RunConfig, limit_mb: float, need: Callable[[RunConfig], float], device: torch.device
) -> str:
    """Return a clause that names the nearest settings that need at most `limit_mb` MiB."""
    changes = nearest_fit(
        config,
        lambda changed: need(changed) <= limit_mb,
        half_is_fast=hardware.resolve_precision("auto", device) is torch.bfloat16,
    )
    if changes is None:
        return "not even batch_size = 1 fits; use a shorter max_length or a smaller model"
    first_change, *other_changes = (f"{name} = {value}" for name, value in changes.items())
    return (
        first_change + (f" with {' and '.join(other_changes)}" if other_changes else "") + " fits"
    )


def nearest_fit(
    config: RunConfig, fits: Callable[[RunConfig], bool], half_is_fast: bool = False
) -> dict[str, Any] | None:
    """Return the changes that make a run fit while affecting its result least, or None if nothing fits.

    Tries smaller batches, largest first, with gradient accumulation that preserves the effective batch size. If none
    fits, tries again with gradient checkpointing, then with bf16 if `half_is_fast`, then with LoRA.
    """
    candidates: list[dict[str, Any]] = [{}]
    if not config.grad_checkpointing:
        candidates.append({"grad_checkpointing": True})
    if half_is_fast and config.precision == "fp32":
        candidates += [{**candidate, "precision": "bf16"} for candidate in candidates]
    if config.method == "full":
        candidates += [{**candidate, "method": "lora"} for candidate in candidates]
    for candidate in candidates:
        # With method = full, the patterns of lora_targets may match no layer.
        with contextlib.suppress(UserError):
            for share in range(1, config.batch_size + 1):
                batch_size, remainder = divmod(config.batch_size, share)
                accumulation = config.grad_accumulation * share
                smaller = {"batch_size": batch_size, "grad_accumulation": accumulation}
                changes = smaller | candidate if share > 1 else candidate
                if remainder == 0 and fits(config.model_copy(update=changes)):
                    return changes
    return None


def seconds(work: float, passes: int, rate: float, gpu: bool) -> float:
    """Return the duration of a training run in seconds.

    Args:
        work: number of floating-point operations.
        passes: number of forward and backward passes.
        rate: FLOP/s of matrix multiplication.
    """
    return work / (rate * GEMM_EFFICIENCY) + passes * (
        GPU_STEP_OVERHEAD_S if gpu else CPU_STEP_OVERHEAD_S
    )


def evaluation_seconds(
    config: RunConfig, training_s: float, evaluations: EvaluationPlan, counts: TokenCounts
) -> float:
    """Return the total time for all evaluations in seconds, given the time for the training steps."""
    share = evaluations.tokens(counts) / counts.training
    return training_s * share / training_passes(config)


def flops(config: RunConfig, arch: Architecture, tokens: int) -> float:
    """Return the number of floating-point operations in the forward and backward passes over this many tokens.

    Frozen layers need only input gradients, and none below the first trained weight, so LoRA costs about two thirds as
    much as full fine-tuning.
    """
    is_full = config.method == "full"
    layers = differentiated_layers(config, arch)
    head = float(arch.n_embd * arch.vocabulary)
    trains_head = is_full and config.trained_weights != "last_layers"
    head *= 1 + (layers > 0) + trains_head
    if config.mask_prompt:
        head = 0.4 * head  # the head skips the prompt, about 60% of an example
    blocks = (arch.n_layer + layers) * arch.block_parameters(matrices_only=True)
    # Weight gradients. The adapters' products count three times: forward, input and weight gradients.
    trained = hidden_parameters(config, arch) if is_full else 3 * parameters(config, arch)[1]
    return 2.0 * tokens * (blocks + head + trained)


def optimizer_flops(config: RunConfig, arch: Architecture) -> float:
    """Return the number of floating-point operations in Muon's matrix products per step; 0 for AdamW and SGD."""
    if config.optimizer != "muon":
        return 0.0
    sides = [(min(shape), max(shape)) for shape in hidden_shapes(config, arch)]
    # Each iteration multiplies (short, long) by its transpose, (short, short) by itself, and that by (short, long).
    iteration = sum(4 * short * short * long + 2 * short**3 for short, long in sides)
    return float(NEWTON_SCHULZ_STEPS * iteration)
