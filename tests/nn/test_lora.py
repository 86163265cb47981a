"""LoRA: the initial model matches its base, merging does not change outputs, and training matches PEFT."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional as F

from core.nn import lora
from core.nn.architecture import Architecture
from core.nn.gpt2 import GPT2
from core.nn.loss import summed_cross_entropy

ARCH = Architecture(n_layer=2, n_head=2, n_embd=16, context=32, vocabulary=61)
RANK, ALPHA = 4, 6.0


def base(tied: bool = False) -> GPT2:
    model = GPT2(ARCH, tie_weights=tied)
    generator = torch.Generator().manual_seed(0)
    model.initialize(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def adapted(tied: bool = False, targets: str = "all", dropout: float = 0.0, **options: Any) -> GPT2:
    model = base(tied)
    generator = torch.Generator().manual_seed(7)
    names = ARCH.lora_targets(targets)
    lora.add_adapters(model, names, RANK, ALPHA, dropout, generator, **options)
    lora.freeze_residuals(model)
    return model


def with_random_adapters(model: GPT2) -> GPT2:
    """Add random values to the trained weights, as if the adapters had been trained."""
    torch.manual_seed(2)
    with torch.no_grad():
        for layer in lora.adapters(model):
            layer.lora_B.add_(torch.randn_like(layer.lora_B) * 0.2)
            if layer.lora_magnitude is not None:
                layer.lora_magnitude.mul_(1 + 0.3 * torch.rand_like(layer.lora_magnitude))
    return model


def batches(n: int = 10) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(n):
        ids = torch.randint(ARCH.vocabulary, (3, 12), generator=generator)
        targets = torch.randint(ARCH.vocabulary, (3, 12), generator=generator)
        targets[0, :5] = -100
        targets[1, 9:] = -100
        yield ids, targets


IDS, TARGETS = next(batches())


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alpha, kaiming-rank": {"scaling": "alpha", "init": "kaiming-rank"},
    "alpha/sqrt(rank), gaussian": {"scaling": "alpha/sqrt(rank)", "init": "gaussian"},
    "pissa": {"init": "pissa"},
    "dora": {"dora": True},
    "pissa, dora": {"init": "pissa", "dora": True, "scaling": "alpha/sqrt(rank)"},
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


@pytest.mark.parametrize("targets", ["all", "attention", "mlp"])
@pytest.mark.parametrize("tied", [False, True])
def test_adapted_model_initially_matches_the_base(tied: bool, targets: str) -> None:
    assert torch.equal(adapted(tied, targets)(IDS), base(tied)(IDS))


@variants
@pytest.mark.parametrize("tied", [False, True])
def test_every_variant_initially_matches_the_base(tied: bool, options: dict[str, Any]) -> None:
    model = adapted(tied, **options)
    torch.testing.assert_close(model(IDS), base(tied)(IDS), atol=1e-5, rtol=1e-5)
    assert torch.equal(model.wte.weight, base(tied).wte.weight)


def test_output_matches_the_formula() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(5, 3)
    layer = lora.LoRALinear(linear, rank=2, alpha=7.0)
    nn.init.normal_(layer.lora_B)
    x = torch.randn(4, 6, 5)
    weight = linear.weight + 7.0 / 2 * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer(x), x @ weight.T + linear.bias)


def test_lora_a_is_kaiming_uniform_from_the_generator() -> None:
    def a(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return lora.LoRALinear(nn.Linear(400, 3), 50, 1.0, generator=generator).lora_A

    torch.manual_seed(0)
    first = a(1)
    torch.manual_seed(99)
    assert torch.equal(first, a(1))
    assert not torch.equal(first, a(2))
    bound = 1 / 400**0.5  # kaiming_uniform_ with a = sqrt(5), as in nn.Linear and PEFT
    assert bound * 0.99 < first.abs().max().item() <= bound


def test_initial_factors_have_the_documented_distribution() -> None:
    bounds = {"kaiming": 1 / 20, "kaiming-rank": 1 / 50**0.5}
    for init in ("kaiming", "kaiming-rank", "gaussian"):
        generator = torch.Generator().manual_seed(1)
        layer = lora.LoRALinear(nn.Linear(400, 3), 50, 1.0, 0.0, generator, init=init)
        std = lora.initial_std(50, 400, init)
        assert layer.lora_A.std().item() == pytest.approx(std, rel=0.02)
        assert not layer.lora_B.any()
        if init in bounds:
            assert bounds[init] * 0.99 < layer.lora_A.abs().max().item() <= bounds[init]


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (3, 2)])
def test_principal_components_match_singular_value_decomposition(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(3)
    weight, rank = torch.randn(shape), 3
    B, A = lora.principal_components(weight, rank)
    U, S, V = torch.linalg.svd(weight, full_matrices=False)
    best = U[:, :rank] * S[:rank] @ V[:rank]
    torch.testing.assert_close(B @ A, best, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(B.norm(dim=0), S[:rank].sqrt())
    torch.testing.assert_close(A.norm(dim=1), S[:rank].sqrt())


def test_scales_match_their_formulas() -> None:
    assert lora.adapter_scale(64, 16) == 0.25
    assert lora.adapter_scale(64, 16, "alpha/sqrt(rank)") == 2
    assert lora.adapter_scale(64, 16, "alpha") == 16


@pytest.mark.parametrize("in_place", [False, True])
def test_dora_merge_matches_its_formula(in_place: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(5, 3)
    layer = lora.LoRALinear(linear, 2, 7.0, dora=True)
    with torch.no_grad():
        layer.lora_B.normal_()
        layer.lora_magnitude.uniform_(0.5, 2)
    direction = linear.weight + 7.0 / 2 * layer.lora_B @ layer.lora_A
    norm = torch.linalg.vector_norm(direction, dim=1)
    torch.testing.assert_close(layer.weight_norm(), norm)
    expected = layer.lora_magnitude[:, None] * direction / norm[:, None]
    x = torch.randn(4, 6, 5)
    torch.testing.assert_close(layer(x), x @ expected.T + linear.bias)
    layer.merge(in_place)
    torch.testing.assert_close(layer.linear.weight, expected)


@variants
@pytest.mark.parametrize("tied", [False, True])
def test_merging_keeps_the_outputs_and_unmerging_restores_the_weights(
    tied: bool, options: dict[str, Any]
) -> None:
    model = with_random_adapters(adapted(tied, **options))
    weights_before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unmerged = model(IDS)
    assert not torch.allclose(unmerged, base(tied)(IDS), atol=1e-2)

    lora.merge(model)
    torch.testing.assert_close(model(IDS), unmerged, atol=1e-5, rtol=1e-5)
    assert not torch.equal(
        model.h[0].attn.q.linear.weight, weights_before["h.0.attn.q.linear.weight"]
    )
    merged = model.lm_head.linear.weight.clone()
    lora.merge(model)  # merging twice has no effect
    assert torch.equal(model.lm_head.linear.weight, merged)

    lora.unmerge(model)
    lora.unmerge(model)
    torch.testing.assert_close(model(IDS), unmerged, atol=1e-5, rtol=1e-5)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights_before[name], atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_train_and_eval_do_not_merge(mode: str) -> None:
    model = with_random_adapters(adapted())
    getattr(model, mode)()
    assert not any(layer.merged for layer in lora.adapters(model))


def test_merging_a_tied_head_does_not_change_the_token_embedding() -> None:
    model = with_random_adapters(adapted(tied=True))
    assert model.lm_head.linear.weight is model.wte.weight
    embedding = model.wte.weight.clone()
    lora.merge(model)
    assert torch.equal(model.wte.weight, embedding)
    assert not torch.allclose(model.lm_head.linear.weight, embedding)
    lora.unmerge(model)
    assert torch.equal(model.wte.weight, embedding)


def test_only_adapters_are_trained() -> None:
    model = adapted()
    weights_before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, model.loss)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights_before[name]) == ("lora_" not in name), name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_adapter_input_dropout_is_active_in_training_only() -> None:
    model, plain = with_random_adapters(adapted(dropout=0.5)), with_random_adapters(adapted())
    torch.testing.assert_close(model.eval()(IDS), plain.eval()(IDS))
    model.train()
    torch.manual_seed(0)
    first = model(IDS)
    assert not torch.allclose(first, model(IDS))
    torch.manual_seed(0)
    assert torch.equal(first, model(IDS))
    training_model = adapted(dropout=0.5).train()  # the frozen path has no dropout
    assert torch.equal(training_model(IDS), base()(IDS))


def train(model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """Take ten AdamW steps and return the loss at each step."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
    losses = []
    for ids, targets in batches():
        optimizer.zero_grad()
        loss = loss_of(ids, targets) / (targets != -100).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


PEFT_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alpha/sqrt(rank), gaussian": {"use_rslora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "dora": {"use_dora": True},
    "pissa, dora": {"use_rslora": True, "init_lora_weights": "pissa", "use_dora": True},
}
"""PEFT's options for our variants."""


def with_peft(targets: str = "all", variant: str = "plain") -> GPT2:
    """Return our GPT-2 with PEFT's adapters, starting from the same factors as ours.

    PiSSA's factors are compared first. Rounding and the sign of singular vectors depend on the CPU, so ten steps from
    separate decompositions would differ.
    """
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=ARCH.lora_targets(targets),
        **PEFT_OPTIONS[variant],
    )
    peer = inject_adapter_in_model(config, base())
    our_model = adapted(targets=targets, **VARIANTS[variant])
    names = [n for n, m in peer.named_modules() if isinstance(m, PeftLinear)]
    assert sorted(names) == sorted(ARCH.lora_targets(targets))
    with torch.no_grad():
        for name in names:
            peer_layer, layer = peer.get_submodule(name), our_model.get_submodule(name)
            assert peer_layer.scaling["default"] == pytest.approx(layer.scale)
            peer_A, peer_B = (
                getattr(peer_layer, m)["default"].weight for m in ("lora_A", "lora_B")
            )
            residual = peer_layer.base_layer.weight
            if layer.is_pissa:
                close = {"atol": 1e-5, "rtol": 1e-4}
                torch.testing.assert_close(layer.linear.weight, residual, **close)
                torch.testing.assert_close(layer.lora_B @ layer.lora_A, peer_B @ peer_A, **close)
                torch.testing.assert_close(layer.lora_A.abs(), peer_A.abs(), atol=1e-3, rtol=1e-2)
            residual.copy_(layer.linear.weight)
            peer_A.copy_(layer.lora_A)
            peer_B.copy_(layer.lora_B)
    return peer


@pytest.mark.parametrize(
    ("targets", "variant"),
    [("attention", "plain"), ("mlp", "plain"), *(("all", variant) for variant in PEFT_OPTIONS)],
)
def test_ten_steps_match_peft(targets: str, variant: str) -> None:
    options = VARIANTS[variant]
    model, peer = adapted(targets=targets, **options), with_peft(targets, variant)

    def loss_of_peer(ids: Tensor, target_ids: Tensor) -> Tensor:
        return F.cross_entropy(peer(ids).flatten(0, 1), target_ids.flatten(), reduction="sum")

    losses = train(model, model.loss)
    assert losses == pytest.approx(train(peer, loss_of_peer), abs=1e-5)
    for name in ARCH.lora_targets(targets):
        layer, peer_layer = model.get_submodule(name), peer.get_submodule(name)
        peer_A, peer_B = (
            getattr(peer_layer, matrix)["default"].weight for matrix in ("lora_A", "lora_B")
        )
        torch.testing.assert_close(layer.lora_A, peer_A, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(layer.lora_B, peer_B, atol=1e-4, rtol=1e-3)
        if "dora" in variant:
            magnitude = peer_layer.lora_magnitude_vector["default"].weight
            torch.testing.assert_close(layer.lora_magnitude, magnitude, atol=1e-4, rtol=1e-3)
        assert layer.lora_B.abs().max() > 0.01


@pytest.mark.parametrize("variant", ["plain", "dora"])
def test_trainable_parameter_count_matches_peft(variant: str) -> None:
    peer = with_peft("all", variant)
    trainable = sum(p.numel() for p in peer.parameters() if p.requires_grad)
    assert trainable == ARCH.lora_parameters(RANK, dora=variant == "dora")


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_match_the_formula(dropout: float, bias: bool, dora: bool) -> None:
    torch.manual_seed(4)
    layer = lora.LoRALinear(nn.Linear(5, 7, bias), RANK, ALPHA, dropout, dora=dora).train()
    nn.init.normal_(layer.lora_B)
    if dora:
        nn.init.uniform_(layer.lora_magnitude, 0.5, 2)
    x, weights = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 3, 7)
    inputs = [x, *layer.parameters()]
    inputs = [p for p in inputs if p.requires_grad]
    results = []
    for formula in (False, True):
        torch.manual_seed(9)
        if formula:
            low = F.dropout(x.flatten(0, 1), dropout).view_as(x) @ layer.lora_A.T
            y = layer.linear(x) + ALPHA / RANK * low @ layer.lora_B.T
            if dora:
                offset = 0 if layer.linear.bias is None else layer.linear.bias
                direction = layer.linear.weight + ALPHA / RANK * layer.lora_B @ layer.lora_A
                norm = torch.linalg.vector_norm(direction, dim=1).detach()
                y = (y - offset) * layer.lora_magnitude / norm + offset
        else:
            y = layer(x)
        results.append([y, *torch.autograd.grad((y * weights).sum(), inputs)])
    for gradient, expected in zip(*results, strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("low_logits", [False, True])
def test_dora_head_gradients_match_autograd(low_logits: bool) -> None:
    """Some logits are so low that their exponentials underflow."""
    torch.manual_seed(5)
    head = lora.LoRALinear(nn.Linear(8, 4100, bias=False), RANK, ALPHA, dora=True)
    nn.init.normal_(head.lora_B)
    with torch.no_grad():
        head.lora_magnitude.mul_(40 if low_logits else 1.3)
    x = torch.randn(300, 8, requires_grad=True)
    targets = torch.randint(4100, (300,))
    with torch.no_grad():
        targets[:150] = head(x)[:150].argmax(1)
        assert ((head(x) - head(x).amax(1, keepdim=True)).exp() == 0).any() == low_logits
    inputs = [x, head.lora_A, head.lora_B, head.lora_magnitude]
    loss = summed_cross_entropy(head, x, targets)
    expected = F.cross_entropy(head(x), targets, reduction="sum")
    torch.testing.assert_close(loss, expected)
    gradients, autograd = torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)
    for gradient, peer_gradient in zip(gradients, autograd, strict=True):
        scale = peer_gradient.abs().max().item()
        torch.testing.assert_close(gradient, peer_gradient, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize("variant", ["plain", "pissa", "dora"])
def test_autocast_computes_in_bfloat16(variant: str) -> None:
    model = with_random_adapters(adapted(**VARIANTS[variant]))
    exact = model.loss(IDS, TARGETS)
    exact.backward()
    gradients = [layer.lora_B.grad for layer in lora.adapters(model)]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.h[0].mlp(torch.randn(1, 3, ARCH.n_embd)).dtype == torch.bfloat16
        rough = model.loss(IDS, TARGETS)
    rough.backward()
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.0)
    for layer, gradient in zip(lora.adapters(model), gradients, strict=True):
        assert layer.lora_B.grad.dtype == torch.float32
        scale = gradient.abs().max().item()
        torch.testing.assert_close(layer.lora_B.grad, gradient, rtol=0.0, atol=0.1 * scale)


@pytest.mark.parametrize("targets", ["all", "attention"])
@pytest.mark.parametrize("tied", [False, True])
def test_half_precision_layers_match_autocast(tied: bool, targets: str) -> None:
    results = []
    for is_narrow in (False, True):
        model = with_random_adapters(adapted(tied, targets))
        count = sum(p.numel() for p in model.parameters())
        if is_narrow:
            lora.narrow(model, torch.bfloat16)
            assert model.h[0].attn.q.linear.weight.dtype == torch.bfloat16
            assert model.wte.weight.dtype == torch.float32
            assert count == sum(p.numel() for p in model.parameters())
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(IDS, TARGETS)
        loss.backward()
        gradients = [p.grad for layer in lora.adapters(model) for p in (layer.lora_A, layer.lora_B)]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            lora.merge(model)
            merged = model.loss(IDS, TARGETS)
        torch.testing.assert_close(merged, loss, rtol=0.02, atol=0.0)
        results.append([loss, *gradients])
    for autocast_value, narrow_value in zip(*results, strict=True):
        assert torch.equal(autocast_value, narrow_value)
