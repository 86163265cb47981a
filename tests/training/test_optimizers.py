"""Optimizer steps, compared with closed forms and with torch's optimizers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from core.config import RunConfig
from core.training.optimizers import build_optimizer, orthogonalize, set_learning_rate

ROOT = Path(__file__).parents[2]


def steps_of(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Take four steps with gradients that depend on the weights."""
    for step in range(4):
        for number, parameter in enumerate(parameters):
            generator = torch.Generator().manual_seed(10 * step + number)
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = parameter.detach() * 0.5 + noise
        optimizer.step()


def test_adamw_step_matches_the_closed_form() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    config = RunConfig(optimizer="adamw", lr=0.1, weight_decay=0.5)
    optimizer = build_optimizer(config, [("weight", weight)])
    weight.grad = torch.tensor([3.0, -0.2])
    optimizer.step()
    # Decoupled weight decay, then a step of size lr in the direction of the sign.
    torch.testing.assert_close(weight.data, torch.tensor([1 * 0.95 - 0.1, -2 * 0.95 + 0.1]))


def test_lora_plus_multiplies_the_rate_of_b() -> None:
    config = RunConfig(optimizer="sgd", lr=0.1, weight_decay=0, lora_plus_ratio=16.0)
    weights = {
        name: nn.Parameter(torch.zeros(2)) for name in ("lora_A", "lora_B", "lora_magnitude")
    }
    optimizer = build_optimizer(config, [(f"h.0.{n}", p) for n, p in weights.items()])
    set_learning_rate(optimizer, 0.05)
    for weight in weights.values():
        weight.grad = torch.ones(2)
    optimizer.step()
    steps = {name: weight[0].item() for name, weight in weights.items()}
    assert steps == pytest.approx({"lora_A": -0.05, "lora_B": -0.8, "lora_magnitude": -0.05})


def test_sgd_step_matches_the_closed_form() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    config = RunConfig(optimizer="sgd", lr=0.1, weight_decay=0.5)
    optimizer = build_optimizer(config, [("weight", weight)])
    weight.grad = torch.tensor([3.0, -0.2])
    optimizer.step()
    expected = torch.tensor([1 - 0.1 * (3 + 0.5), -2 - 0.1 * (-0.2 - 1.0)])
    torch.testing.assert_close(weight.data, expected)


def test_optimizer_steps_do_not_import_the_compiler() -> None:
    code = """
import sys
import torch
from core.config import RunConfig
from core.nn.architecture import FAMILY
from core.nn.gpt2 import GPT2
from core.training.optimizers import build_optimizer

with torch.device("meta"):
    GPT2(FAMILY["gpt2-nano"])
for name in ("adamw", "sgd", "muon"):
    weights = {n: torch.nn.Parameter(torch.ones(2, 2)) for n in ("h.0.attn.q.weight", "wte.weight")}
    optimizer = build_optimizer(RunConfig(optimizer=name), weights.items())
    for weight in weights.values():
        weight.grad = torch.ones(2, 2)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    assert all((weight < 1).all() for weight in weights.values())
print("torch._dynamo" in sys.modules)
"""
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert completed.stdout == "False\n", completed.stderr


def test_adamw_updates_all_weights_in_one_operation() -> None:
    """Unfused AdamW makes several passes over the weights and moments."""

    class OperationRecorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(4)]
    for parameter in parameters:
        parameter.grad = torch.ones(3)
    optimizer = build_optimizer(RunConfig(), [(str(i), p) for i, p in enumerate(parameters)])
    with OperationRecorder():
        optimizer.step()
    assert names.count("aten::_fused_adamw_") == 1
    assert not [name for name in names if "addcdiv" in name]


NAMES = (
    "wte.weight",
    "h.0.attn.q.weight",
    "h.0.attn.q.bias",
    "h.1.mlp.fc.weight",
    "lm_head.weight",
)
SHAPES = ((7, 4), (4, 4), (4,), (16, 4), (7, 4))


def weights() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {n: nn.Parameter(torch.randn(s)) for n, s in zip(NAMES, SHAPES, strict=True)}


@pytest.mark.parametrize(
    ("settings", "oracle", "options"),
    [
        (
            {"optimizer": "adamw", "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3},
            torch.optim.AdamW,
            {"betas": (0.8, 0.95), "eps": 1e-3},
        ),
        ({"optimizer": "sgd"}, torch.optim.SGD, {}),
        ({"optimizer": "sgd", "momentum": 0.7}, torch.optim.SGD, {"momentum": 0.7}),
    ],
    ids=["adamw", "sgd", "momentum"],
)
def test_optimizers_pass_their_settings_to_torch(
    settings: dict[str, Any], oracle: type, options: dict[str, Any]
) -> None:
    config = RunConfig.parse({**settings, "lr": 0.05, "weight_decay": 0.3})
    actual, expected = weights(), weights()
    steps_of(build_optimizer(config, actual.items()), list(actual.values()))
    steps_of(oracle(expected.values(), lr=0.05, weight_decay=0.3, **options), [*expected.values()])
    for name, weight in actual.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("momentum", [None, 0.8])
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.0), ("float32", 2e-2)])
def test_muon_step_matches_torch(
    momentum: float | None, dtype: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch computes Muon's Newton-Schulz iterations in bf16, so results differ by rounding."""
    monkeypatch.setattr(
        "core.training.hardware.resolve_precision", lambda *args: getattr(torch, dtype)
    )
    config = RunConfig(optimizer="muon", lr=0.05, weight_decay=0.3, momentum=momentum)
    actual, expected = weights(), weights()
    steps_of(build_optimizer(config, actual.items()), list(actual.values()))

    hidden = [name for name in NAMES if name.startswith("h.") and name.endswith("weight")]
    options = {"momentum": momentum or 0.95, "adjust_lr_fn": "match_rms_adamw"}
    matrices = [expected[name] for name in hidden]
    muon = torch.optim.Muon(matrices, lr=0.05, weight_decay=0.3, **options)
    others = [p for name, p in expected.items() if name not in hidden]
    adamw = torch.optim.AdamW(others, lr=0.05, weight_decay=0.3)
    for optimizer in (muon, adamw):
        steps_of(optimizer, list(expected.values()))
    for name, weight in actual.items():
        limit = tolerance if name in hidden else 1e-6
        torch.testing.assert_close(weight, expected[name], rtol=limit, atol=limit)
    assert not torch.equal(actual["h.0.attn.q.weight"], weights()["h.0.attn.q.weight"])


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_orthogonalized_matrices_keep_their_singular_vectors(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(matrix, torch.float32)
    core = u.T @ result @ vh.T
    torch.testing.assert_close(core, core.diag().diag(), atol=1e-4, rtol=0)
    values = core.diag()[:-1]  # the smallest singular value of a square matrix may be near 0
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_muon_trains_block_matrices_and_adapters_only() -> None:
    names = {
        "wte.weight": (7, 4),
        "h.0.ln_1.weight": (4,),
        "h.0.attn.q.weight": (4, 4),
        "h.0.attn.q.lora_A": (2, 4),
        "lm_head.lora_A": (2, 4),
        "lm_head.weight": (7, 4),
    }
    parameters = {name: nn.Parameter(torch.ones(shape)) for name, shape in names.items()}
    optimizer = build_optimizer(RunConfig(optimizer="muon"), parameters.items())
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    by_muon = {n for n, p in parameters.items() if optimizer.state[p].keys() == {"momentum_buffer"}}
    assert by_muon == {"h.0.attn.q.weight", "h.0.attn.q.lora_A"}
    assert all(optimizer.state[p].keys() == {"step", "exp_avg", "exp_avg_sq"}
               for n, p in parameters.items() if n not in by_muon)  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("scope", ["all", "matrices"])
def test_decay_scope_selects_the_weights_that_decay(optimizer: str, scope: str) -> None:
    values = {"optimizer": optimizer, "lr": 0.1, "weight_decay": 0.5, "decay_scope": scope}
    parameters = weights()
    before = {name: p.detach().clone() for name, p in parameters.items()}
    built = build_optimizer(RunConfig.parse(values | {"method": "full"}), parameters.items())
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    for name, parameter in parameters.items():
        decays = scope == "all" or parameter.ndim == 2
        expected = before[name] * (1 - 0.1 * 0.5 if decays else 1)
        torch.testing.assert_close(parameter.detach(), expected)
