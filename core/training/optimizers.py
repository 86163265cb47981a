"""Optimizers, built from the names and shapes of parameters. Independent of the model and the schedule."""

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from core.config import RunConfig
from core.training import hardware

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's quintic iteration (Jordan et al. 2024)."""
NEWTON_SCHULZ_STEPS = 5
DEFAULT_MOMENTUM = {"sgd": 0.0, "muon": 0.95}
MUON_OPTIONS = ("lr", "momentum", "weight_decay")
Group = dict[str, Any]


def _without_compiler_wrappers(optimizer: type[torch.optim.Optimizer]) -> Any:
    """Return an optimizer class without the wrappers that exclude its methods from `torch.compile`.

    The first call to any wrapper imports the compiler, which takes 0.8 s and 71 MB in every trainer (PyTorch 2.13).
    """
    names = ("step", "zero_grad", "add_param_group", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    methods["step"] = torch.no_grad()(methods["step"])
    return type(optimizer.__name__, (optimizer,), methods)


AdamW = _without_compiler_wrappers(torch.optim.AdamW)
SGD = _without_compiler_wrappers(torch.optim.SGD)


class _Muon(torch.optim.Optimizer):
    """Muon for hidden matrices and AdamW for all other weights, with shared state and parameter groups.

    Matrix updates equal those of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, which scales them by
    0.2 sqrt(max(rows, columns)) so that AdamW's learning rate and weight decay can be used (Liu et al. 2025). torch's
    class always iterates in bf16, which is a hundred times slower than fp32 on CPUs without AMX.

    Args:
        matrices: groups of 2-D weights, each with `lr`, `momentum` and `weight_decay`.
        adamw: AdamW for the other weights, or None if there are none.
        dtype: data type of the Newton-Schulz iteration.
    """

    def __init__(
        self, matrices: list[Group], adamw: torch.optim.Optimizer | None, dtype: torch.dtype
    ) -> None:
        super().__init__(matrices, {})
        self.matrices, self.adamw, self.dtype = self.param_groups, adamw, dtype
        if adamw is not None:
            self.param_groups = [*self.matrices, *adamw.param_groups]
            adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step. A closure is not supported."""
        assert closure is None
        for group in self.matrices:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, **{k: group[k] for k in MUON_OPTIONS})
        if self.adamw is not None:
            self.adamw.step()

    def _update(
        self, weight: Tensor, grad: Tensor, lr: float, momentum: float, weight_decay: float
    ) -> None:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        mean = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        update = orthogonalize(grad.lerp(mean, momentum), self.dtype)  # Nesterov momentum
        weight.mul_(1 - lr * weight_decay)
        weight.add_(update, alpha=-lr * 0.2 * math.sqrt(max(weight.shape)))


Muon = _without_compiler_wrappers(_Muon)


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Return approximately U V' for a matrix U S V'. All singular values become about 1 (0.7 to 1.2).

    Args:
        matrix: (rows, columns).
        dtype: data type of the iteration and the result.
    """
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.size(0) > matrix.size(1)
    x = matrix.to(dtype, copy=True)
    x = x.T if is_tall else x
    x.div_(x.norm().clamp(min=1e-7))  # the largest singular value must be at most 1
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def is_hidden_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter is a matrix in a transformer block, including adapters. Muon trains only these."""
    return name.startswith("h.") and len(shape) == 2


def momentum(config: RunConfig) -> float:
    """Return the momentum of SGD or Muon."""
    return DEFAULT_MOMENTUM[config.optimizer] if config.momentum is None else config.momentum


def build_optimizer(
    config: RunConfig, parameters: Iterable[tuple[str, nn.Parameter]]
) -> torch.optim.Optimizer:
    """Return fused AdamW, SGD, or Muon with AdamW.

    Args:
        parameters: names and trainable parameters of the model.
    """
    matrices: dict[tuple[bool, float], list[nn.Parameter]] = {}
    others: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        by_muon = config.optimizer == "muon" and is_hidden_matrix(name, parameter.shape)
        decays = config.decay_scope == "all" or parameter.ndim >= 2
        key = decays, rate_ratio(config, name)
        (matrices if by_muon else others).setdefault(key, []).append(parameter)
    other_groups = _groups(config, others)
    if config.optimizer == "sgd":
        return SGD(other_groups, lr=config.lr, momentum=momentum(config))
    adamw: torch.optim.Optimizer | None = None
    if others:
        betas = config.beta1, config.beta2
        adamw = AdamW(other_groups, lr=config.lr, betas=betas, eps=config.epsilon, fused=True)
    if adamw is not None and not matrices:
        return adamw
    groups = [
        {**g, "lr": config.lr, "momentum": momentum(config)} for g in _groups(config, matrices)
    ]
    device = groups[0]["params"][0].device
    return Muon(groups, adamw, hardware.resolve_precision("auto", device))


def rate_ratio(config: RunConfig, name: str) -> float:
    """Return the ratio of a parameter's learning rate to the scheduled rate (LoRA+, Hayou et al. 2024)."""
    return (config.lora_plus_ratio or 1.0) if name.endswith("lora_B") else 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_ratio"]


def _groups(
    config: RunConfig, parameters: dict[tuple[bool, float], list[nn.Parameter]]
) -> list[Group]:
    """Return a parameter group for each combination of weight decay (yes or no) and learning rate ratio."""
    return [
        {
            "params": group,
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr_ratio": ratio,
        }
        for (decays, ratio), group in parameters.items()
    ]
