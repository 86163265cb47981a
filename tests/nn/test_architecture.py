"""Parameter counts compared with the journal, the actual modules and transformers."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from core.nn import lora
from core.nn.architecture import ATTENTION, FAMILY, HEAD, MLP, RANKS, Architecture
from core.nn.gpt2 import GPT2

JOURNAL = {
    "gpt2-medium": (406_286_336, "1549.86", {16: 7_898_384, 32: 15_796_768, 64: 31_593_536}),
    "gpt2-large": (838_359_040, "3198.09", {16: 14_095_632}),
    "gpt2-xl": (1_638_022_400, "6248.56", {}),
}


@pytest.mark.parametrize("name", JOURNAL)
def test_parameter_and_memory_counts_match_the_journal(name: str) -> None:
    parameters, memory, adapters = JOURNAL[name]
    arch = FAMILY[name]
    assert arch.parameters() == parameters
    assert f"{parameters * 4 / 2**20:.2f}" == memory
    assert {rank: arch.lora_parameters(rank) for rank in adapters} == adapters


def build(arch: Architecture, tied: bool) -> GPT2:
    with torch.device("cpu" if arch == FAMILY["gpt2-nano"] else "meta"):
        return GPT2(arch, tie_weights=tied)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", FAMILY)
def test_parameter_formula_matches_the_module_count(name: str, tied: bool) -> None:
    arch = FAMILY[name]
    model = build(arch, tied)
    assert sum(p.numel() for p in model.parameters()) == arch.parameters(tied)
    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert {n: (m.in_features, m.out_features) for n, m in linear.items()} == arch.linear_shapes()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", FAMILY)
def test_parameter_formula_matches_the_transformers_count(name: str, tied: bool) -> None:
    arch = FAMILY[name]
    sizes = {"n_layer": arch.n_layer, "n_head": arch.n_head, "n_embd": arch.n_embd}
    config = GPT2Config(**sizes, n_positions=arch.context, tie_word_embeddings=tied)
    with torch.device("meta"):
        peer = GPT2LMHeadModel(config)
    assert sum(p.numel() for p in peer.parameters()) == arch.parameters(tied)


@pytest.mark.parametrize("last_layers", [None, 1, 3, 4, 99])
@pytest.mark.parametrize("targets", ["all", "attention", "mlp"])
@pytest.mark.parametrize("name", ["gpt2-nano", "gpt2-medium"])
def test_adapter_formula_matches_the_module_count(
    name: str, targets: str, last_layers: int | None
) -> None:
    arch = FAMILY[name]
    model = build(arch, tied=False)
    names = arch.lora_targets(targets, last_layers)
    with torch.device("meta"):
        lora.add_adapters(model, names, rank=8, alpha=8)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"{name}.lora_{x}" for name in names for x in "AB"}
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == arch.lora_parameters(8, targets, last_layers)


@pytest.mark.parametrize("rank", RANKS)
def test_adapter_size_is_proportional_to_the_rank(rank: int) -> None:
    for arch in FAMILY.values():
        assert arch.lora_parameters(rank) == rank * arch.lora_parameters(1)


def test_lora_targets_select_layers_by_name() -> None:
    arch = FAMILY["gpt2-nano"]
    last = arch.lora_targets("all", 1)
    assert last == [*(f"h.3.{kind}" for kind in ATTENTION + MLP), HEAD]
    assert arch.lora_targets("attention", 2) == [f"h.{i}.{k}" for i in (2, 3) for k in ATTENTION]
    assert arch.lora_targets("mlp") == [f"h.{i}.{kind}" for i in range(4) for kind in MLP]
    assert len(arch.lora_targets()) == 4 * 6 + 1
