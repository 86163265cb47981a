"""Estimate the memory, time and disk space of a run from its settings and the model's shapes.

Also finds the nearest settings that fit into memory. Creates no tensors. Memory is accurate to about a fifth, time to
a factor of two.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from core.config import RunConfig
from core.errors import Problem, UserError
from core.nn.architecture import HEAD, Architecture
from core.training import hardware
from core.training.checkpoints import CHECKPOINTS_TO_KEEP
from core.training.evaluation import ANSWER_BATCH_TOKENS

RUNTIME_MB = 290
"""What a trainer holds besides: Python, torch, tokenizer, data. Fitted to gpt2-nano and gpt2, torch 2.13, Linux."""
CHECKPOINTING_MB = 90
"""What PyTorch's compiler takes, which its gradient checkpointing imports. Fitted to gpt2-nano."""
BLOCK_FLOATS = 17
"""Floats a block makes for the backward pass a token, in units of n_embd: norms, q, k, v, MLP."""
SAVED_FLOATS = 10
"""Of these, what is kept until then: what norms and GELU put out is made again."""
CPU_FRAGMENTATION = 1.3
"""What is kept takes so many times its size on a CPU: between blocks in use lies room that nothing fits into."""
LOGIT_POSITIONS = 256
"""Positions whose logits are there at a time."""
GPU_LOGITS_FACTOR = 12
"""So many times more logits at a time on a GPU, copies in the shorter format and intermediate sums included."""
GEMM_EFFICIENCY = 0.6
"""Share of the rate of a square matrix product that a whole step reaches, roughly."""
CPU_STEP_OVERHEAD_S = 0.05
"""What a forward and backward pass takes besides its arithmetic; measured on two CPU cores."""
GPU_STEP_OVERHEAD_S = 0.015
"""The same on a GPU, reckoned, not measured: some 2,700 operations, each started in about 5 microseconds."""
MIB = 2**20
FP32_BYTES = 4
"""Bytes of a saved weight; weights that are trained stay in fp32 at any precision."""


@dataclass(frozen=True)
class Extent:
    """What of a data set bears on memory."""

    train_examples: int
    """No batch is larger."""
    longest: int
    """Tokens of the longest of them."""
    test_examples: int
    longest_prompt: int
    """Tokens, of those to answer."""

    def answer_positions(self, max_new_tokens: int, context: int) -> int:
        """Positions that the largest batch of answers has room for."""
        positions_each = min(self.longest_prompt + max_new_tokens, context)
        return min(self.test_examples * positions_each, max(ANSWER_BATCH_TOKENS, positions_each))


def parameters(config: RunConfig, arch: Architecture) -> tuple[int, int]:
    """(all, trainable) weights, adapters included in both."""
    total = arch.parameters(config.tie_weights)
    if config.method == "full":
        return total, total
    adapters = arch.lora_parameters(config.lora_rank, config.lora_targets, config.lora_last_layers)
    return total + adapters, adapters


def splits_head(config: RunConfig) -> bool:
    """Whether merging the adapters makes a tied head a matrix of its own."""
    return config.tie_weights and config.method == "lora" and config.lora_targets == "all"


def memory_mb(
    config: RunConfig, arch: Architecture, extent: Extent, half: bool = False, gpu: bool = False
) -> float:
    """Peak memory of a run, MiB: weights, gradients and moments beside what is computed.

    That is gradients, moments, activations and logits in a training step; keys and values while the test set is answered.

    Args:
        half: products in bf16 or fp16, which read and write half as much.
        gpu: it computes more logits at a time.
    """
    weights, trainable = parameters(config, arch)
    runtime = RUNTIME_MB + (CHECKPOINTING_MB if config.grad_checkpointing and not gpu else 0)
    moments = 2 if config.optimizer == "adamw" else 0
    # Checkpointing keeps each block's input, and all of one block at a time.
    floats = (
        BLOCK_FLOATS + arch.n_layer if config.grad_checkpointing else SAVED_FLOATS * arch.n_layer
    )
    tokens = min(config.batch_size, extent.train_examples) * extent.longest
    saved_floats = tokens * floats * arch.n_embd
    logits = min(tokens, LOGIT_POSITIONS) * arch.vocabulary
    answers = extent.answer_positions(config.max_new_tokens, arch.context)
    cache = answers * 2 * arch.n_layer * arch.n_embd
    # In fp32, adapters are merged before answering, so a tied head becomes a separate matrix.
    head = arch.vocabulary * arch.n_embd if splits_head(config) else 0
    answering = 4 * (weights + head + cache)
    if not half:
        state = weights + trainable * (1 + moments)
        training = 4 * (state + CPU_FRAGMENTATION * saved_floats + logits)
        return runtime + max(training, answering) / MIB
    # The residual stream, a fifth of what a block keeps, stays in fp32. So do logits.
    step = 2.2 * saved_floats + 4 * (GPU_LOGITS_FACTOR if gpu else 1) * logits
    embeddings = (arch.vocabulary + arch.context) * arch.n_embd
    if config.method == "full":
        # At the loss, most gradients are not there yet, but autocast's copies of the weights are.
        at_loss = 4 * weights * (1 + moments) + 2 * weights + 4 * embeddings + step
        resident_bytes = 4 * weights + 2 * weights
        training = max(at_loss, 4 * weights * (2 + moments))
    else:
        resident_bytes = (
            2 * weights + 2 * embeddings
        )  # everything else is in the half-precision format
        training = resident_bytes + trainable * (2 + 4 * (1 + moments)) + step
    if gpu:  # a CPU always answers in fp32
        answering = resident_bytes + 2 * cache
    return runtime + max(training, answering) / MIB


def device_memory_mb(
    config: RunConfig, arch: Architecture, extent: Extent, device: torch.device
) -> float:
    """Return the peak memory of a run on a device, in MiB."""
    half = False
    with contextlib.suppress(UserError):  # an unsupported precision is reported with the settings
        half = hardware.resolve_precision(config.precision, device) is not torch.float32
    return memory_mb(config, arch, extent, half, gpu=device.type != "cpu")


def disk_mb(config: RunConfig, arch: Architecture, steps: int | None = None) -> tuple[float, float]:
    """Return the disk space of a run in MiB: its peak, and what is left when it has finished.

    Counts checkpoints and weights. Events, answers and the log are small in comparison.

    Args:
        steps: optimizer steps of the run; None assumes enough for all checkpoints.
    """
    weights_mb = parameters(config, arch)[1] * FP32_BYTES / MIB
    moments = 2 if config.optimizer == "adamw" else 0
    checkpoint_mb = weights_mb * (1 + moments)
    saves = CHECKPOINTS_TO_KEEP + 1 if steps is None else -(-steps // config.checkpoint_every)
    # A directory is replaced only once the new one is complete.
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
    """Return the problem that a run needs more memory than is free, with the nearest settings that fit.

    Args:
        needed: estimated or measured peak, in MiB. Other settings are assumed to be off by the same factor.
        available: in MiB.
    """
    factor = needed / device_memory_mb(config, arch, extent, device)
    fit = describe_nearest_fit(
        config,
        available,
        lambda changed: factor * device_memory_mb(changed, arch, extent, device),
        device,
    )
    message = f"the run would need about {needed:,.0f} MB and {available:,.0f} MB are free; {fit}"
    return Problem("batch_size", config.batch_size, message)


def describe_nearest_fit(
    config: RunConfig, limit_mb: float, need: Callable[[RunConfig], float], device: torch.device
) -> str:
    """Return a clause that names the nearest settings whose need is within the limit, in MiB."""
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
    """The changes that make a run fit and change least of what it learns; None where nothing does.

    First a smaller batch, accumulated to the same size of step, the largest that fits; then blocks computed
    twice instead of kept; then a shorter number format where the device is `half_is_fast`; then LoRA.
    """
    rungs: list[dict[str, Any]] = [{}]
    if not config.grad_checkpointing:
        rungs.append({"grad_checkpointing": True})
    if half_is_fast and config.precision == "fp32":
        rungs += [{**rung, "precision": "bf16"} for rung in rungs]
    if config.method == "full":
        rungs += [{**rung, "method": "lora"} for rung in rungs]
    for rung in rungs:
        for share in range(1, config.batch_size + 1):
            batch_size, remainder = divmod(config.batch_size, share)
            accumulation = config.grad_accumulation * share
            smaller = {"batch_size": batch_size, "grad_accumulation": accumulation}
            changes = smaller | rung if share > 1 else rung
            if remainder == 0 and fits(config.model_copy(update=changes)):
                return changes
    return None


def seconds(work: float, passes: int, rate: float, gpu: bool) -> float:
    """Seconds of so many operations in so many passes, where a matrix product reaches `rate` a second."""
    return work / (rate * GEMM_EFFICIENCY) + passes * (
        GPU_STEP_OVERHEAD_S if gpu else CPU_STEP_OVERHEAD_S
    )


def flops(config: RunConfig, arch: Architecture, tokens: int) -> float:
    """Floating-point operations of training on so many tokens: the forward pass, and the gradients.

    A frozen layer has a gradient of its input only, so LoRA costs about two thirds of full tuning.
    """
    shapes = arch.linear_shapes()
    weights = sum(i * o for i, o in shapes.values())
    passes = 2 if config.method == "lora" else 3
    adapters = 3 * parameters(config, arch)[1] if config.method == "lora" else 0
    head = shapes[HEAD][0] * shapes[HEAD][1] if config.mask_prompt else 0
    saved = passes * head * 0.6  # the head skips the prompt, roughly that share of an example
    return 2.0 * tokens * (passes * weights + adapters - saved)
