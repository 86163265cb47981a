"""GPT-2 against transformers' GPT2LMHeadModel with the same weights: logits, loss, every gradient."""

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
    """Token ids, and targets of which some are left out: a masked prompt, padding, a lone one."""
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
def test_logits_loss_and_gradients_are_transformers(
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
    theirs = {n: p.grad for n, p in peer.named_parameters()}
    ours = {n: p.grad for n, p in model.named_parameters()}
    for name, gradient in in_peers_layout(ours, model.arch.n_layer).items():
        torch.testing.assert_close(gradient, theirs.pop(name), **TOLERANCE, msg=name)
    assert not theirs


def in_peers_layout(ours: dict[str, Any], n_layer: int) -> dict[str, Tensor]:
    """Our tensors under transformers' names, put together here anew."""
    result = {}
    for i in range(n_layer):
        block, peer = f"h.{i}", f"transformer.h.{i}"
        for kind in ("weight", "bias"):
            qkv = torch.cat([ours.pop(f"{block}.attn.{x}.{kind}") for x in "qkv"])
            result[f"{peer}.attn.c_attn.{kind}"] = qkv.T if kind == "weight" else qkv
            for mine, other in (
                ("attn.proj", "attn.c_proj"),
                ("mlp.fc", "mlp.c_fc"),
                ("mlp.proj", "mlp.c_proj"),
            ):
                tensor = ours.pop(f"{block}.{mine}.{kind}")
                result[f"{peer}.{other}.{kind}"] = tensor.T if kind == "weight" else tensor
    head = {"lm_head.weight": ours.pop("lm_head.weight")} if "lm_head.weight" in ours else {}
    return result | {f"transformer.{name}": tensor for name, tensor in ours.items()} | head


ARCH = Architecture(n_layer=2, n_head=4, n_embd=32, context=48, vocabulary=VOCABULARY)


def fresh(dropout: float = 0.0, tied: bool = False) -> GPT2:
    model = GPT2(ARCH, dropout, tied)
    model.initialize(torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_loss_at_targets_is_the_full_cross_entropy(tied: bool) -> None:
    ids, targets = ragged()
    model, twin = fresh(tied=tied), fresh(tied=tied)
    loss, full = model.loss(ids, targets), cross_entropy(twin(ids), targets)
    torch.testing.assert_close(loss, full)
    loss.backward()
    full.backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_no_target_is_no_loss() -> None:
    ids, targets = ragged()
    loss = fresh().loss(ids, torch.full_like(targets, -100))
    assert loss.item() == 0.0


def test_the_future_is_invisible() -> None:
    ids, _ = ragged()
    other = ids.clone()
    other[:, 10:] = (other[:, 10:] + 1) % VOCABULARY
    before, after = fresh()(ids), fresh()(other)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_grad_checkpointing_changes_nothing(dropout: float) -> None:
    ids, targets = ragged()
    results = []
    for checkpointing in (False, True):
        model = fresh(dropout).train()
        model.grad_checkpointing = checkpointing
        torch.manual_seed(3)
        loss = model.loss(ids, targets)
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again)


def test_what_is_made_again_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, targets = ragged()
    kept = []
    made: list[str] = []
    for owner, name in ((gpt2, "_gelu"), (torch.nn.LayerNorm, "forward"), (torch, "cat")):
        plain = getattr(owner, name)
        spy = lambda *a, plain=plain, name=name, **k: made.append(name) or plain(*a, **k)  # fmt: skip  # noqa: E731
        monkeypatch.setattr(owner, name, spy)
    for recompute in (False, True):
        model = fresh(dropout=0.3).train()
        model.recompute(recompute)
        torch.manual_seed(3)
        made.clear()
        loss = model.loss(ids, targets)
        first = Counter(made)
        loss.backward()
        again = Counter(made) - first
        layers = ARCH.n_layer if recompute else 0
        # a norm's output is wanted by q, k and v, and by fc
        assert again == Counter(_gelu=layers, forward=4 * layers, cat=layers) - Counter()
        kept.append([loss, *(p.grad for p in model.parameters())])
    assert all(map(torch.equal, *kept))


def test_rows_packed_together_do_not_see_each_other() -> None:
    ids, targets = ragged()
    together = fresh().loss(ids, targets)
    alone = sum(
        fresh().loss(row[None], wanted[None]) for row, wanted in zip(ids, targets, strict=True)
    )
    torch.testing.assert_close(together, alone)
    beyond = ids.clone()
    beyond[1, 8:] = 0  # after the last target: as if it were padding
    torch.testing.assert_close(fresh().loss(beyond, targets), together)


def test_padding_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, targets = ragged()
    model = fresh()
    seen = []
    plain = model.features
    monkeypatch.setattr(
        model, "features", lambda *a, **k: seen.append(a[0].shape) or plain(*a, **k)
    )
    model.loss(ids, targets)
    assert seen == [(1, 20 + 8 + 20)]


def test_a_tied_models_gradients_add_up_over_batches() -> None:
    ids, targets = ragged()
    model, twin = fresh(tied=True), fresh(tied=True)
    for rows in ([0], [1, 2]):
        (model.loss(ids[rows], targets[rows]) / 7).backward()
        (cross_entropy(twin(ids[rows]), targets[rows]) / 7).backward()
    torch.testing.assert_close(model.wte.weight.grad, twin.wte.weight.grad)
    [gradient] = torch.autograd.grad(model.loss(ids, targets), [model.wte.weight])
    [expected] = torch.autograd.grad(cross_entropy(twin(ids), targets), [twin.wte.weight])
    torch.testing.assert_close(gradient, expected)


def test_dropout_acts_in_training_only() -> None:
    ids, targets = ragged()
    model = fresh(dropout=0.5)
    plain = fresh().loss(ids, targets)
    torch.testing.assert_close(model.eval().loss(ids, targets), plain)
    model.train()
    torch.manual_seed(0)
    first = model.loss(ids, targets)
    assert not torch.equal(first, model.loss(ids, targets))
    torch.manual_seed(0)
    assert torch.equal(first, model.loss(ids, targets))


def test_fresh_weights_are_drawn_as_in_gpt2() -> None:
    model = fresh()
    assert torch.equal(model.lm_head.weight, model.wte.weight)
    assert model.lm_head.weight is not model.wte.weight
    assert model.wte.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.h[0].attn.q.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.h[1].mlp.proj.weight.std().item() == pytest.approx(0.02 / 4**0.5, rel=0.1)
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, torch.nn.LayerNorm))
    assert all((p == 0).all() for n, p in model.named_parameters() if n.endswith("bias"))
    twin = fresh()
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_a_tied_head_is_the_embedding() -> None:
    model = fresh(tied=True)
    assert model.lm_head.weight is model.wte.weight
