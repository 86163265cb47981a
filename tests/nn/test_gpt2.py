"""GPT-2 compared with transformers' GPT2LMHeadModel with the same weights: logits, loss and all gradients."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.nn import gpt2, pretrained
from core.nn.architecture import Architecture
from core.nn.gpt2 import GPT2

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
VOCABULARY = 97


def ragged(rows: int = 3, length: int = 20) -> tuple[Tensor, Tensor]:
    """Return token ids, and targets with gaps: a masked prompt, padding, and targets only at the two ends."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(VOCABULARY, (rows, length), generator=generator)
    targets = torch.randint(VOCABULARY, (rows, length), generator=generator)
    targets[0, :6] = -100
    targets[1, 8:] = -100
    targets[2, 1:-1] = -100
    return ids, targets


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


@pytest.mark.parametrize("tied", [False, True])
def test_logits_loss_and_gradients_match_transformers(
    tmp_path: Path, save_peer: Callable[..., Any], tied: bool
) -> None:
    peer = save_peer(tmp_path, tied)
    model = pretrained.load(str(tmp_path), tie_weights=tied)
    ids, targets = ragged()
    logits = peer(ids).logits
    torch.testing.assert_close(model(ids), logits, **TOLERANCE)

    expected = cross_entropy(logits, targets)
    loss = model.loss(ids, targets)
    torch.testing.assert_close(loss, expected, **TOLERANCE)

    expected.backward()
    loss.backward()
    peer_gradients = {n: p.grad for n, p in peer.named_parameters()}
    gradients = {n: p.grad for n, p in model.named_parameters()}
    for name, gradient in in_peers_layout(gradients, model.arch.n_layer).items():
        torch.testing.assert_close(gradient, peer_gradients.pop(name), **TOLERANCE, msg=name)
    assert not peer_gradients


def in_peers_layout(values_by_name: dict[str, Any], n_layer: int) -> dict[str, Tensor]:
    """Return our tensors under transformers' names. Independent of `pretrained.hub_layout`."""
    result = {}
    for i in range(n_layer):
        block, peer = f"h.{i}", f"transformer.h.{i}"
        for kind in ("weight", "bias"):
            qkv = torch.cat([values_by_name.pop(f"{block}.attn.{x}.{kind}") for x in "qkv"])
            result[f"{peer}.attn.c_attn.{kind}"] = qkv.T if kind == "weight" else qkv
            for our_name, peer_name in (
                ("attn.proj", "attn.c_proj"),
                ("mlp.fc", "mlp.c_fc"),
                ("mlp.proj", "mlp.c_proj"),
            ):
                tensor = values_by_name.pop(f"{block}.{our_name}.{kind}")
                result[f"{peer}.{peer_name}.{kind}"] = tensor.T if kind == "weight" else tensor
    head = (
        {"lm_head.weight": values_by_name.pop("lm_head.weight")}
        if "lm_head.weight" in values_by_name
        else {}
    )
    return (
        result | {f"transformer.{name}": tensor for name, tensor in values_by_name.items()} | head
    )


ARCH = Architecture(n_layer=2, n_head=4, n_embd=32, context=48, vocabulary=VOCABULARY)


def new_model(dropout: float = 0.0, tied: bool = False) -> GPT2:
    model = GPT2(ARCH, dropout, tied)
    model.initialize(torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_loss_matches_cross_entropy_over_all_logits(tied: bool) -> None:
    ids, targets = ragged()
    model, twin = new_model(tied=tied), new_model(tied=tied)
    loss, expected_loss = model.loss(ids, targets), cross_entropy(twin(ids), targets)
    torch.testing.assert_close(loss, expected_loss)
    loss.backward()
    expected_loss.backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_batch_without_targets_has_zero_loss() -> None:
    ids, targets = ragged()
    loss = new_model().loss(ids, torch.full_like(targets, -100))
    assert loss.item() == 0.0


def test_attention_is_causal() -> None:
    ids, _ = ragged()
    changed_ids = ids.clone()
    changed_ids[:, 10:] = (changed_ids[:, 10:] + 1) % VOCABULARY
    logits, changed_logits = new_model()(ids), new_model()(changed_ids)
    torch.testing.assert_close(logits[:, :10], changed_logits[:, :10])
    assert not torch.allclose(logits[:, 10:], changed_logits[:, 10:])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_grad_checkpointing_does_not_change_loss_or_gradients(dropout: float) -> None:
    ids, targets = ragged()
    results = []
    for checkpointing in (False, True):
        model = new_model(dropout).train()
        model.grad_checkpointing = checkpointing
        torch.manual_seed(3)
        loss = model.loss(ids, targets)
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_recomputation_does_not_change_loss_or_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, targets = ragged()
    results = []
    calls: list[str] = []
    for owner, name in ((gpt2, "_gelu"), (torch.nn.LayerNorm, "forward"), (torch, "cat")):
        plain = getattr(owner, name)
        spy = lambda *a, plain=plain, name=name, **k: calls.append(name) or plain(*a, **k)  # fmt: skip  # noqa: E731
        monkeypatch.setattr(owner, name, spy)
    for recompute in (False, True):
        model = new_model(dropout=0.3).train()
        model.recompute(recompute)
        torch.manual_seed(3)
        calls.clear()
        loss = model.loss(ids, targets)
        first = Counter(calls)
        loss.backward()
        backward_calls = Counter(calls) - first
        layers = ARCH.n_layer if recompute else 0
        # The norm outputs are needed by q, k and v, and by fc.
        assert backward_calls == Counter(_gelu=layers, forward=4 * layers, cat=layers) - Counter()
        results.append([loss, *(p.grad for p in model.parameters())])
    assert all(map(torch.equal, *results))


def test_packed_rows_do_not_attend_to_each_other() -> None:
    ids, targets = ragged()
    packed_loss = new_model().loss(ids, targets)
    separate_loss = sum(
        new_model().loss(row[None], row_targets[None])
        for row, row_targets in zip(ids, targets, strict=True)
    )
    torch.testing.assert_close(packed_loss, separate_loss)
    changed_ids = ids.clone()
    changed_ids[1, 8:] = 0  # after the last target, like padding
    torch.testing.assert_close(new_model().loss(changed_ids, targets), packed_loss)


def test_padding_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, targets = ragged()
    model = new_model()
    shapes = []
    plain = model.features
    monkeypatch.setattr(
        model, "features", lambda *a, **k: shapes.append(a[0].shape) or plain(*a, **k)
    )
    model.loss(ids, targets)
    assert shapes == [(1, 20 + 8 + 20)]


def test_tied_gradients_accumulate_over_batches() -> None:
    ids, targets = ragged()
    model, twin = new_model(tied=True), new_model(tied=True)
    for rows in ([0], [1, 2]):
        (model.loss(ids[rows], targets[rows]) / 7).backward()
        (cross_entropy(twin(ids[rows]), targets[rows]) / 7).backward()
    torch.testing.assert_close(model.wte.weight.grad, twin.wte.weight.grad)
    [gradient] = torch.autograd.grad(model.loss(ids, targets), [model.wte.weight])
    [expected] = torch.autograd.grad(cross_entropy(twin(ids), targets), [twin.wte.weight])
    torch.testing.assert_close(gradient, expected)


def test_dropout_is_active_in_training_only() -> None:
    ids, targets = ragged()
    model = new_model(dropout=0.5)
    plain = new_model().loss(ids, targets)
    torch.testing.assert_close(model.eval().loss(ids, targets), plain)
    model.train()
    torch.manual_seed(0)
    first = model.loss(ids, targets)
    assert not torch.equal(first, model.loss(ids, targets))
    torch.manual_seed(0)
    assert torch.equal(first, model.loss(ids, targets))


def test_initial_weights_follow_gpt2() -> None:
    model = new_model()
    assert torch.equal(model.lm_head.weight, model.wte.weight)
    assert model.lm_head.weight is not model.wte.weight
    assert model.wte.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.h[0].attn.q.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.h[1].mlp.proj.weight.std().item() == pytest.approx(0.02 / 4**0.5, rel=0.1)
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, torch.nn.LayerNorm))
    assert all((p == 0).all() for n, p in model.named_parameters() if n.endswith("bias"))
    twin = new_model()
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_tied_head_shares_the_embedding_weight() -> None:
    model = new_model(tied=True)
    assert model.lm_head.weight is model.wte.weight
