"""What a run will cost, by arithmetic on its settings and the model's shapes. Needs no tensors.

Rough where it has to be: memory within a fifth or so, time within a factor of two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.config import RunConfig
from core.nn.architecture import HEAD, Architecture
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
