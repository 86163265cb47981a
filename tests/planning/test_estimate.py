"""Estimates of memory, time and disk space: closed forms where one term dominates, and monotonicity."""

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import RunConfig
from core.metrics import MIB
from core.nn.architecture import FAMILY
from core.planning import estimate
from core.planning.estimate import Extent
from core.training.evaluation import ANSWER_BATCH_TOKENS

configs = st.builds(
    RunConfig,
    method=st.sampled_from(["full", "lora"]),
    lora_rank=st.integers(1, 256),
    batch_size=st.integers(1, 64),
    grad_checkpointing=st.booleans(),
    tie_weights=st.booleans(),
    optimizer=st.sampled_from(["adamw", "sgd", "muon"]),
    trained_weights=st.sampled_from(["all", "last_layers", "no_embeddings"]),
    max_new_tokens=st.integers(1, 512),
)
extents = st.builds(
    Extent, st.integers(1, 1000), st.integers(2, 1000), st.integers(1, 1000), st.integers(1, 1000)
)
TINY = Extent(train_examples=9, longest=2, test_examples=9, longest_prompt=1)


def test_memory_is_proportional_to_weights_where_they_dominate() -> None:
    config = RunConfig(method="full", optimizer="adamw", batch_size=1, max_new_tokens=1)
    arch = FAMILY["gpt2-xl"]
    weights = 4 * arch.parameters() / MIB
    memory_mb = estimate.memory_mb(config, arch, TINY)
    assert memory_mb == pytest.approx(4 * weights, rel=0.03)  # weights, gradients, two moments
    sgd = estimate.memory_mb(config.changed(optimizer="sgd"), arch, TINY)
    assert sgd == pytest.approx(2 * weights, rel=0.05)
    lora = estimate.memory_mb(config.changed(method="lora"), arch, TINY)
    assert lora == pytest.approx(weights, rel=0.15)


def test_memory_falls_with_grad_checkpointing_and_rises_with_the_batch() -> None:
    config = RunConfig(batch_size=16, max_new_tokens=8)
    arch = FAMILY["gpt2-medium"]
    extent = Extent(99, 512, 9, 100)
    plain = estimate.memory_mb(config, arch, extent)
    checkpointed = estimate.memory_mb(config.changed(grad_checkpointing=True), arch, extent)
    assert checkpointed < 0.7 * plain
    assert estimate.memory_mb(config.changed(batch_size=32), arch, extent) > 1.4 * plain


def test_kv_cache_counts_if_larger_than_a_training_step() -> None:
    """On GPT-2 XL, the cache needs more memory than a one-example training step. The answer batch limits its size."""
    arch = FAMILY["gpt2-xl"]
    config = RunConfig(batch_size=1, max_new_tokens=128)
    extent = Extent(99, 100, 30, 100)
    short_answers_mb = estimate.memory_mb(config.changed(max_new_tokens=28), arch, extent)
    long_answers_mb = estimate.memory_mb(config, arch, extent)
    assert long_answers_mb - short_answers_mb == pytest.approx(30 * 100 * 2 * 48 * 1600 * 4 / MIB)
    many_answers_mb = estimate.memory_mb(config, arch, replace(extent, test_examples=5000))
    assert many_answers_mb - long_answers_mb == pytest.approx(
        (ANSWER_BATCH_TOKENS - 30 * 228) * 2 * 48 * 1600 * 4 / MIB
    )


@given(configs, extents)
def test_memory_is_monotonic_in_every_setting(config: RunConfig, extent: Extent) -> None:
    arch = FAMILY["gpt2"]
    base_mb = estimate.memory_mb(config, arch, extent)
    assert base_mb > estimate.RUNTIME_MB
    for name, size in asdict(extent).items():
        assert estimate.memory_mb(config, arch, replace(extent, **{name: size + 1})) >= base_mb
    assert estimate.memory_mb(config, FAMILY["gpt2-medium"], extent) > base_mb
    for name in ("batch_size", "lora_rank", "max_new_tokens"):
        larger_config = config.model_copy(update={name: getattr(config, name) + 1})
        assert estimate.memory_mb(larger_config, arch, extent) >= base_mb
    full_config = config.changed(method="full", trained_weights="all")
    if config.method == "full" or 3 * estimate.parameters(config, arch)[1] < arch.parameters(True):
        # While answering, LoRA also needs its adapters and possibly a separate head.
        added_parameters = estimate.parameters(config, arch)[1]
        added_parameters += (
            arch.vocabulary * arch.n_embd if estimate.splits_head(config, arch) else 0
        )
        full_mb = estimate.memory_mb(full_config, arch, extent)
        assert full_mb >= base_mb - 4 * added_parameters / MIB


def test_batch_is_limited_by_the_training_set() -> None:
    config, arch = RunConfig(batch_size=4096), FAMILY["gpt2"]
    extent = Extent(20, 100, 9, 50)
    memory_mb = estimate.memory_mb(config, arch, extent)
    assert memory_mb == estimate.memory_mb(config.changed(batch_size=20), arch, extent)


def test_step_takes_six_flops_per_weight_and_token() -> None:
    arch = FAMILY["gpt2"]
    matrices = sum(i * o for i, o in arch.linear_shapes().values())
    full_flops = estimate.flops(RunConfig(method="full"), arch, 100)
    assert full_flops == pytest.approx(6 * matrices * 100)
    lora = estimate.flops(RunConfig(method="lora"), arch, 100)
    assert 0.6 * full_flops < lora < 0.75 * full_flops
    assert estimate.flops(RunConfig(method="full", mask_prompt=True), arch, 100) < full_flops


def test_flops_exclude_gradients_of_frozen_weights() -> None:
    arch = FAMILY["gpt2"]
    full = RunConfig(method="full")
    head = arch.vocabulary * arch.n_embd
    block = 12 * arch.n_embd**2
    forward = 12 * block + head
    expected = {"no_embeddings": 3 * forward, "head": forward + head,
                "last_layers": forward + head + 2 * 2 * block}  # fmt: skip
    for part, products in expected.items():
        config = full.changed(trained_weights=part, trained_layers=2)
        assert estimate.flops(config, arch, 100) == pytest.approx(2 * products * 100), part
    tied_head = full.changed(trained_weights="head", tie_weights=True)
    # The gradient of the token embedding passes through all blocks.
    assert estimate.flops(tied_head, arch, 100) == pytest.approx(2 * (2 * forward + head) * 100)


@pytest.mark.parametrize("half", [False, True])
def test_memory_excludes_gradients_and_moments_of_frozen_weights(half: bool) -> None:
    arch = FAMILY["gpt2-xl"]
    config = RunConfig(method="full", batch_size=1, max_new_tokens=1)
    part = config.changed(trained_weights="last_layers", trained_layers=4)
    trained = 4 * arch.block_parameters()
    frozen = arch.parameters() - trained
    embeddings = (arch.vocabulary + arch.context) * arch.n_embd
    # Weights, gradients and two moments; in half precision, frozen linear layers take two bytes.
    resident = 2 * frozen + 2 * embeddings if half else 4 * frozen
    memory_mb = estimate.memory_mb(part, arch, TINY, half, gpu=half) - estimate.RUNTIME_MB
    assert memory_mb == pytest.approx((resident + 16 * trained) / MIB, rel=0.05)
    assert estimate.parameters(part, arch) == (arch.parameters(), trained)


def test_moments_depend_on_the_optimizer() -> None:
    arch = FAMILY["gpt2-medium"]
    full = RunConfig(method="full", batch_size=1, max_new_tokens=1)
    weights = arch.parameters()
    hidden = arch.n_layer * 12 * arch.n_embd**2
    expected = {"adamw": 2 * weights, "sgd": 0, "muon": 2 * weights - hidden}
    for optimizer, moments in expected.items():
        config = full.changed(optimizer=optimizer)
        assert estimate.optimizer_state(config, arch) == moments
        memory_mb = estimate.memory_mb(config, arch, TINY) - estimate.RUNTIME_MB
        assert memory_mb == pytest.approx(4 * (2 * weights + moments) / MIB, rel=0.05)
        assert estimate.disk_mb(config, arch, 1)[0] == pytest.approx(
            4 * (2 * weights + moments) / MIB
        )
    momentum = full.changed(optimizer="sgd", momentum=0.9)
    assert estimate.optimizer_state(momentum, arch) == weights


def test_muon_flops_match_its_iterations() -> None:
    """For (m, n) with m < n, each of five iterations multiplies (m, n) (n, m), (m, m) (m, m) and (m, m) (m, n)."""
    arch = FAMILY["gpt2"]
    config = RunConfig(method="full", optimizer="muon")
    d = arch.n_embd
    square, wide = 3 * 2 * d**3, 2 * (d * d * 4 * d) * 2 + 2 * d**3
    expected = 5 * arch.n_layer * (4 * square + 2 * wide)
    assert estimate.optimizer_flops(config, arch) == pytest.approx(expected)
    assert estimate.optimizer_flops(config.changed(optimizer="adamw"), arch) == 0


def test_disk_estimate_includes_frozen_weights() -> None:
    arch = FAMILY["gpt2"]
    config = RunConfig(method="full", trained_weights="head", checkpoint_every=100)
    weights_mb, head_mb = (4 * n / MIB for n in (arch.parameters(), arch.vocabulary * arch.n_embd))
    assert estimate.disk_mb(config, arch, 100) == pytest.approx(
        (3 * head_mb + weights_mb, weights_mb)
    )


def test_time_is_flops_over_rate_plus_overhead_per_pass() -> None:
    flops = 60 * 1e9 * estimate.GEMM_EFFICIENCY
    assert estimate.seconds(flops, 0, 1e9, gpu=False) == pytest.approx(60)
    assert estimate.seconds(flops, 1000, 1e9, gpu=False) == pytest.approx(110)
    assert estimate.seconds(flops, 1000, 1e9, gpu=True) == pytest.approx(75)


def test_half_precision_halves_frozen_weights_and_activations() -> None:
    config, arch = RunConfig(method="lora", batch_size=1, max_new_tokens=1), FAMILY["gpt2-xl"]
    full_mb = estimate.memory_mb(config, arch, TINY)
    half = estimate.memory_mb(config, arch, TINY, half=True, gpu=True)
    runtime = estimate.RUNTIME_MB
    # It is more than half, because the embeddings stay in fp32.
    assert half - runtime == pytest.approx((full_mb - runtime) * 0.55, rel=0.02)
    wide_config = config.changed(batch_size=64)
    long_extent = Extent(99, 512, 9, 1)
    added_mb = estimate.memory_mb(wide_config, arch, long_extent) - full_mb
    added_half_mb = estimate.memory_mb(wide_config, arch, long_extent, half=True) - half
    assert added_half_mb == pytest.approx(added_mb * 0.55 / estimate.CPU_FRAGMENTATION, rel=0.05)


def test_cpu_always_answers_in_fp32() -> None:
    config, arch = RunConfig(method="lora", batch_size=1, max_new_tokens=1), FAMILY["gpt2-xl"]
    weights, _ = estimate.parameters(config, arch)
    memory_mb = estimate.memory_mb(config, arch, TINY, half=True) - estimate.RUNTIME_MB
    assert memory_mb == pytest.approx(4 * weights / MIB, rel=0.01)


def test_full_fine_tuning_in_half_precision_keeps_fp32_state() -> None:
    """At the end of a step, memory holds the weights, the gradients and two moments."""
    config, arch = RunConfig(method="full", batch_size=1, max_new_tokens=1), FAMILY["gpt2-xl"]
    memory_mb = estimate.memory_mb(config, arch, TINY, half=True) - estimate.RUNTIME_MB
    assert memory_mb == pytest.approx(16 * arch.parameters() / MIB)


def test_nearest_fit_prefers_changes_that_keep_the_result() -> None:
    config = RunConfig(method="full", batch_size=12, precision="fp32")

    def nearest(fits: Callable[[RunConfig], bool], half: bool = False) -> dict[str, object] | None:
        return estimate.nearest_fit(config, fits, half)

    expected_change = {"grad_checkpointing": True}
    smaller = {"batch_size": 4, "grad_accumulation": 3}
    assert nearest(lambda c: True) == {}
    assert nearest(lambda c: c.batch_size <= 5) == smaller
    assert nearest(lambda c: c.grad_checkpointing) == expected_change
    assert (
        nearest(lambda c: c.grad_checkpointing and c.batch_size <= 5) == smaller | expected_change
    )
    assert nearest(lambda c: c.precision == "bf16", half=True) == {"precision": "bf16"}
    assert nearest(lambda c: c.precision == "bf16") is None
    assert nearest(lambda c: c.method == "lora") == {"method": "lora"}
    assert nearest(lambda c: c.batch_size == 1 or c.method == "lora") == {
        "batch_size": 1, "grad_accumulation": 12,
    }  # fmt: skip
    assert nearest(lambda c: False, half=True) is None


def test_disk_space_matches_the_closed_form() -> None:
    arch = FAMILY["gpt2-medium"]
    config = RunConfig(method="full", checkpoint_every=100)
    weights_mb = 4 * arch.parameters() / MIB
    # Two checkpoints and the one being written, each with weights and two moments.
    assert estimate.disk_mb(config, arch, 1000) == pytest.approx((9 * weights_mb, weights_mb))
    assert estimate.disk_mb(config, arch) == estimate.disk_mb(config, arch, 1000)
    assert estimate.disk_mb(config, arch, 200) == pytest.approx((7 * weights_mb, weights_mb))
    assert estimate.disk_mb(config, arch, 100) == pytest.approx((4 * weights_mb, weights_mb))
    assert estimate.disk_mb(config.changed(keep_weights="none"), arch, 100) == pytest.approx(
        (3 * weights_mb, 0.0)
    )
    best_config = config.changed(keep_weights="best")
    assert estimate.disk_mb(best_config, arch, 100) == pytest.approx((5 * weights_mb, weights_mb))
    assert estimate.disk_mb(best_config, arch) == pytest.approx((10 * weights_mb, weights_mb))
    sgd_config = config.changed(optimizer="sgd")
    assert estimate.disk_mb(sgd_config, arch) == pytest.approx((3 * weights_mb, weights_mb))
    adapters_mb = 4 * arch.lora_parameters(16) / MIB
    assert estimate.disk_mb(RunConfig(method="lora"), arch, 1) == pytest.approx(
        (4 * adapters_mb, adapters_mb)
    )


def test_initial_factors_of_pissa_take_memory_and_disk_space() -> None:
    arch = FAMILY["gpt2-medium"]
    kaiming = RunConfig(method="lora", lora_rank=64, batch_size=1, max_new_tokens=1)
    pissa = kaiming.changed(lora_init="pissa")
    factors_mb = 4 * arch.lora_parameters(64) / MIB
    # Saved with the adapters, next to the two moments in a checkpoint.
    assert estimate.disk_mb(pissa, arch, 1) == pytest.approx((6 * factors_mb, 2 * factors_mb))
    assert estimate.disk_mb(pissa.changed(lora_dora=True), arch, 1)[1] == pytest.approx(
        2 * factors_mb, rel=0.01
    )
    for half, gpu in ((False, False), (False, True), (True, False), (True, True)):
        added_mb = estimate.memory_mb(pissa, arch, TINY, half, gpu) - estimate.memory_mb(
            kaiming, arch, TINY, half, gpu
        )
        assert added_mb == pytest.approx(factors_mb)
