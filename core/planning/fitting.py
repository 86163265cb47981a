"""Whether a run fits into memory, and the nearest settings that do where it does not. All by arithmetic."""

import contextlib
from collections.abc import Callable

import torch

from core.config import RunConfig
from core.errors import Problem, UserError
from core.nn.architecture import Architecture
from core.planning import estimate
from core.planning.estimate import Extent
from core.training import hardware


def too_large(
    config: RunConfig,
    arch: Architecture,
    extent: Extent,
    device: torch.device,
    needed: float,
    available: float,
) -> Problem:
    """That a run needs more memory (MiB) than there is, and the nearest that would fit.

    Where `needed` was measured, what else would need is taken to be off by the same factor.
    """
    factor = needed / estimated(config, arch, extent, device)
    fit = nearest(
        config,
        available,
        lambda changed: factor * estimated(changed, arch, extent, device),
        device,
    )
    message = f"the run would need about {needed:,.0f} MB and {available:,.0f} MB are free; {fit}"
    return Problem("batch_size", config.batch_size, message)


def nearest(
    config: RunConfig, limit_mb: float, need: Callable[[RunConfig], float], device: torch.device
) -> str:
    """The nearest settings that fit into so many MiB, in words."""
    changes = estimate.nearest_fit(
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


def estimated(config: RunConfig, arch: Architecture, extent: Extent, device: torch.device) -> float:
    """Peak memory of a run in MiB by arithmetic."""
    half = False
    with contextlib.suppress(UserError):  # told where settings are checked
        half = hardware.resolve_precision(config.precision, device) is not torch.float32
    return estimate.memory_mb(config, arch, extent, half, gpu=device.type != "cpu")
