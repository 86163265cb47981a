"""LoRA: the initial model matches its base, merging does not change outputs, and training matches PEFT."""

from collections.abc import Callable, Iterator

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional as F

from core.nn import lora
from core.nn.architecture import Architecture
from core.nn.gpt2 import GPT2

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


def adapted(tied: bool = False, targets: str = "all", dropout: float = 0.0) -> GPT2:
    model = base(tied)
    generator = torch.Generator().manual_seed(7)
    lora.add_adapters(model, ARCH.lora_targets(targets), RANK, ALPHA, dropout, generator)
    return model


def with_random_adapters(model: GPT2) -> GPT2:
    """Set lora_B to random values, as if the adapters had been trained."""
    torch.manual_seed(2)
    with torch.no_grad():
        for layer in lora.adapters(model):
            layer.lora_B.copy_(torch.randn_like(layer.lora_B) * 0.2)
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


@pytest.mark.parametrize("targets", ["all", "attention", "mlp"])
@pytest.mark.parametrize("tied", [False, True])
def test_adapted_model_initially_matches_the_base(tied: bool, targets: str) -> None:
    assert torch.equal(adapted(tied, targets)(IDS), base(tied)(IDS))


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


@pytest.mark.parametrize("tied", [False, True])
def test_merging_keeps_the_outputs_and_unmerging_restores_the_weights(tied: bool) -> None:
    model = with_random_adapters(adapted(tied))
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


def with_peft(targets: str) -> GPT2:
    """Return our GPT-2 with PEFT's adapters, starting from the same lora_A as our adapters."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=ARCH.lora_targets(targets))
    peer = inject_adapter_in_model(config, base())
    our_model = adapted(targets=targets)
    names = [n for n, m in peer.named_modules() if isinstance(m, PeftLinear)]
    assert sorted(names) == sorted(ARCH.lora_targets(targets))
    with torch.no_grad():
        for name in names:
            peer_layer = peer.get_submodule(name)
            assert peer_layer.scaling["default"] == ALPHA / RANK
            peer_layer.lora_A["default"].weight.copy_(our_model.get_submodule(name).lora_A)
    return peer


@pytest.mark.parametrize("targets", ["all", "attention", "mlp"])
def test_ten_steps_match_peft(targets: str) -> None:
    model, peer = adapted(targets=targets), with_peft(targets)

    def loss_of_peer(ids: Tensor, target_ids: Tensor) -> Tensor:
        return F.cross_entropy(peer(ids).flatten(0, 1), target_ids.flatten(), reduction="sum")

    losses = train(model, model.loss)
    assert losses == pytest.approx(train(peer, loss_of_peer), abs=1e-5)
    for name in ARCH.lora_targets(targets):
        layer, peer_layer = model.get_submodule(name), peer.get_submodule(name)
        for matrix in ("lora_A", "lora_B"):
            peer_weight = getattr(peer_layer, matrix)["default"].weight
            torch.testing.assert_close(getattr(layer, matrix), peer_weight, atol=1e-4, rtol=1e-3)
        assert layer.lora_B.abs().max() > 0.01


def test_trainable_parameter_count_matches_peft() -> None:
    peer = with_peft("all")
    trainable = sum(p.numel() for p in peer.parameters() if p.requires_grad)
    assert trainable == ARCH.lora_parameters(RANK)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_match_the_formula(dropout: float, bias: bool) -> None:
    torch.manual_seed(4)
    layer = lora.LoRALinear(nn.Linear(5, 7, bias), RANK, ALPHA, dropout).train()
    nn.init.normal_(layer.lora_B)
    x, weights = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 3, 7)
    inputs = [x, layer.lora_A, layer.lora_B]
    results = []
    for formula in (False, True):
        torch.manual_seed(9)
        if formula:
            low = F.dropout(x.flatten(0, 1), dropout).view_as(x) @ layer.lora_A.T
            y = layer.linear(x) + ALPHA / RANK * low @ layer.lora_B.T
        else:
            y = layer(x)
        results.append([y, *torch.autograd.grad((y * weights).sum(), inputs)])
    for gradient, expected in zip(*results, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_autocast_computes_in_bfloat16() -> None:
    model = with_random_adapters(adapted())
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
