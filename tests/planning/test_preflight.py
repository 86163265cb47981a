"""Plans match what the trainer does and list all problems at once."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save

from core.config import RunConfig
from core.data import dataset
from core.data.batches import encode_all
from core.errors import UserError
from core.nn import pretrained
from core.nn.architecture import FAMILY
from core.planning import adapter_scale, estimate, preflight
from core.presets import preset
from core.training import hardware
from core.training.schedules import learning_rate
from core.training.trainer import Trainer, train
from tests.hub_server import Hub

NewConfig = Callable[..., RunConfig]


@pytest.mark.parametrize(
    "values",
    [
        {"method": "full", "epochs": 2, "grad_accumulation": 3},
        {"method": "full", "tie_weights": True, "max_length": 40},
        {"method": "lora", "lora_rank": 4, "min_lr": 1e-3, "warmup_fraction": 0.2},
        {"method": "lora", "lora_targets": "mlp", "lora_last_layers": 1, "mask_prompt": True},
        {"method": "lora", "lora_targets": "h.1.*, lm_head", "lora_dora": True},
    ],
)
def test_plan_matches_the_trainer_plan(
    new_config: NewConfig, new_run: Callable[..., Any], values: dict[str, Any]
) -> None:
    config, run = new_config(**values), new_run()
    plan = preflight.check(config)
    trainer = Trainer(config, run)
    trainer.fit()
    [plan_event] = run.events_of("plan")
    steps = run.events_of("step")
    assert plan.problems == []
    assert (plan.steps, plan.steps_per_epoch) == (
        plan_event["steps"],
        plan_event["steps_per_epoch"],
    )
    assert plan.train_examples == plan_event["train_examples"]
    assert (plan.test_examples, plan.validation_examples) == (2, 2)
    assert (plan.parameters, plan.trainable) == (plan_event["parameters"], plan_event["trainable"])
    assert plan.tokens == steps[-1]["tokens"]
    assert plan.longest == max(len(example.ids) for example in trainer.train_set)
    assert plan.device == plan_event["device"]
    assert plan.learning_rates == [(step["step"], step["lr"]) for step in steps]


def test_truncated_examples_are_counted(new_config: NewConfig) -> None:
    plan = preflight.check(new_config(max_length=40))
    assert plan.longest == 40
    assert plan.cut_examples is not None
    assert 0 < plan.cut_examples < 20
    assert preflight.check(new_config()).cut_examples == 0


def test_learning_rate_curve_of_a_long_run_is_downsampled(new_config: NewConfig) -> None:
    config = new_config(epochs=300, min_lr=1e-4, warmup_fraction=0.1)
    plan = preflight.check(config)
    assert plan.steps == 1500
    assert 150 <= len(plan.learning_rates) <= 300
    assert [step for step, _ in plan.learning_rates][:: len(plan.learning_rates) - 1] == [1, 1500]
    assert all(rate == learning_rate(config, step, 1500) for step, rate in plan.learning_rates)


def test_trained_layers_must_not_exceed_the_model(new_config: NewConfig) -> None:
    config = new_config(trained_weights="last_layers", trained_layers=3)
    [problem] = preflight.check(config).problems
    assert problem.field == "trained_layers"
    assert problem.message.startswith("must be at most 2, the number of blocks in")
    assert not preflight.check(config.changed(trained_layers=2)).problems
    assert not preflight.check(config.changed(trained_weights="all")).problems


def test_every_problem_is_listed_at_once(new_config: NewConfig) -> None:
    config = new_config(
        dataset="nowhere.json",
        device="cuda:99",
        max_length=97,
        method="lora",
        lora_last_layers=3,
    )
    problems = {problem.field: problem.message for problem in preflight.check(config).problems}
    assert set(problems) == {"dataset", "device", "max_length", "lora_last_layers"}
    assert problems["max_length"].startswith("must be at most 96, the context length of")
    assert problems["lora_last_layers"].startswith("must be at most 2, the number of blocks in")
    assert problems["dataset"].startswith("file not found")
    assert problems["device"].startswith("this machine has no such device")


def test_unmatched_target_pattern_is_a_problem(new_config: NewConfig) -> None:
    config = new_config(method="lora", lora_targets="attention, h.*.attn.z")
    plan = preflight.check(config)
    [problem] = plan.problems
    assert str(problem) == (
        "lora_targets = 'attention, h.*.attn.z': 'h.*.attn.z' matches no linear layer; "
        "use all, attention, mlp, or names such as h.0.attn.q, h.*.mlp.fc and lm_head"
    )
    assert plan.trainable is None
    config = new_config(method="lora", lora_targets="h.0.*", lora_last_layers=1)
    [problem] = preflight.check(config).problems
    assert "no linear layer in the last 1 block or the head" in problem.message


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "Adapter scale: 0.5 (alpha/rank)."),
        (
            {"lora_scaling": "alpha", "lora_init": "kaiming-rank", "lora_rank": 2},
            "Adapter scale: 8 (alpha). The first step is as large as with alpha/rank, kaiming and a "
            "learning rate of 0.04 (4 times the configured rate).",
        ),
        ({"lora_scaling": "alpha", "optimizer": "sgd"}, "Adapter scale: 8 (alpha)."),
        (
            {"lora_init": "pissa"},
            "Adapter scale: 0.5 (alpha/rank). With pissa, B does not start at zero, so learning rates tuned "
            "for other initializations do not carry over.",
        ),
    ],
)
def test_plan_explains_the_adapter_scale(
    new_config: NewConfig, settings: dict[str, Any], expected: str
) -> None:
    config = new_config(**{"method": "lora", "lora_alpha": 8, "lora_rank": 16} | settings)
    assert preflight.check(config).adapter_scale == expected


def test_first_step_of_journal_presets_is_128_times_larger() -> None:
    config = preset("run_10")
    rate = adapter_scale.equivalent_rate(config, FAMILY["gpt2-medium"])
    assert rate == pytest.approx(128 * config.lr)


def test_unknown_model_does_not_hide_other_problems(new_config: NewConfig, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("[")
    config = new_config(base_model="gpt-5", dataset=str(broken), precision="fp16")
    problems = [problem.field for problem in preflight.check(config).problems]
    assert problems == ["base_model", "precision", "dataset"]


def test_invalid_values_are_listed_with_other_problems(tmp_path: Path) -> None:
    values = {"batch_size": "x", "nonsense": 1, "dataset": "nowhere.json", "base_model": "gpt-5"}
    fields = [problem.field for problem in preflight.all_problems(values)]
    assert fields == ["nonsense", "batch_size", "base_model", "dataset"]
    assert preflight.all_problems({"dataset": "primer"}) == []
    # min_lr exceeds lr. This is reported once, along with all other problems.
    values = {"lr": "1e-4", "min_lr": "1e-3", "dataset": "nowhere.json", "seed": -1}
    fields = [problem.field for problem in preflight.all_problems(values)]
    assert sorted(fields) == ["dataset", "min_lr", "seed"]


def test_problems_name_only_given_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default batch size, which replaces the invalid one, does not fit, but this is not reported."""
    monkeypatch.setattr(hardware, "available_memory_mb", lambda device: 1.0)
    [problem] = preflight.all_problems({"batch_size": "many", "device": "cpu"})
    assert (problem.field, problem.value) == ("batch_size", "many")


def test_vocabulary_mismatch_is_a_problem(
    new_config: NewConfig, save_peer: Callable[..., Any], tmp_path: Path
) -> None:
    save_peer(tmp_path / "other", n_positions=96)
    [problem] = preflight.check(new_config(base_model=str(tmp_path / "other"))).problems
    assert (problem.field, problem.message) == (
        "base_model",
        "its vocabulary has 97 tokens; it must have GPT-2's 50,257",
    )


def test_truncating_every_response_is_a_problem(new_config: NewConfig) -> None:
    [problem] = preflight.check(new_config(max_length=9, mask_prompt=True)).problems
    assert problem.field == "max_length"
    assert problem.message.startswith("every training response would be cut off")


def test_truncating_every_validation_response_is_a_problem(
    new_config: NewConfig, tmp_path: Path
) -> None:
    short_record, long_record = (
        {"instruction": instruction, "output": "Yes."} for instruction in ("Go.", "Go. " * 30)
    )
    path = tmp_path / "data.json"
    path.write_text(json.dumps([short_record] * 8 + [long_record] * 2))
    config = new_config(
        dataset=str(path), train_fraction=0.7, max_length=60, mask_prompt=True, test_fraction=0.1
    )
    [problem] = preflight.check(config).problems
    assert problem.message.startswith("every validation response would be cut off")


@pytest.mark.parametrize("max_length", [8, 41, 60, 96])
@pytest.mark.parametrize("mask_prompt", [False, True])
def test_lengths_match_the_encoded_examples(
    new_config: NewConfig, max_length: int, mask_prompt: bool
) -> None:
    config = new_config(max_length=max_length, mask_prompt=mask_prompt, max_examples=23)
    parts = dataset.split(dataset.load(config.dataset, 23), config)
    encoded = encode_all(parts.train, max_length, mask_prompt)
    if not encoded:
        with pytest.raises(UserError):
            preflight.read_corpus(config, 96)
        return
    assert preflight.read_corpus(config, 96).lengths == [len(e.ids) for e in encoded]


def test_data_file_is_read_once_until_it_changes(
    new_config: NewConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Launch page runs the check after every change to the form."""
    reads: list[Path] = []
    original_read = Path.read_bytes

    def counting_read(path: Path, *args: Any, **kwargs: Any) -> bytes:
        reads.append(path)
        return original_read(path, *args, **kwargs)

    path = tmp_path / "data.json"
    records = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(40)]
    path.write_text(json.dumps(records))
    monkeypatch.setattr(Path, "read_bytes", counting_read)
    monkeypatch.chdir(tmp_path)

    def examples(**values: Any) -> int | None:
        return preflight.check(new_config(dataset="data.json", **values)).train_examples

    assert examples() == 34
    for values in ({"lr": 1e-4}, {"batch_size": 2}, {"train_fraction": 0.5}, {"max_length": 50}):
        examples(**values)
    assert reads.count(Path("data.json")) == 1
    assert examples(train_fraction=0.5) == 20
    assert examples(max_examples=20) == 17
    path.write_text(json.dumps(records[:20]))
    assert examples() == 17
    path.write_text("[")
    assert [p.field for p in preflight.check(new_config(dataset="data.json")).problems] == [
        "dataset"
    ]
    path.unlink()
    assert [p.field for p in preflight.check(new_config(dataset="data.json")).problems] == [
        "dataset"
    ]


def test_second_check_does_not_encode_again(
    new_config: NewConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.json"
    records = [{"instruction": f"Say {i} " * 10, "output": str(i) * 20} for i in range(50)]
    path.write_text(json.dumps(records))
    preflight.check(new_config(dataset=str(path)))
    monkeypatch.setattr(preflight, "encode_example", None)
    assert preflight.check(new_config(dataset=str(path), lr=2e-3)).problems == []


def test_missing_downloads_are_noted_but_not_fetched(
    new_config: NewConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def connect(*args: object) -> None:
        raise AssertionError("the check used the network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", connect)
    plan = preflight.check(new_config(dataset="alpaca", lr=1e-3))
    assert plan.problems == []
    assert plan.note == "alpaca will be downloaded at launch; steps and time are unknown until then"
    large = preflight.check(new_config(base_model="gpt2", dataset="alpaca"))
    assert large.note is not None
    assert large.note.startswith("gpt2 (about 498 MB) will be downloaded at launch; alpaca")
    assert plan.parameters
    assert (plan.steps, plan.learning_rates) == (None, [])
    [problem] = preflight.check(new_config(dataset="alpaca", base_model="gpt-5")).problems
    assert problem.field == "base_model"


def test_memory_problem_is_reported_before_the_data_is_downloaded(
    new_config: NewConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hardware, "available_memory_mb", lambda device: 20_000.0)
    config = new_config(dataset="alpaca", base_model="gpt2-xl", method="full", precision="fp32")
    [problem] = preflight.check(config).problems
    assert problem.message.startswith("the run needs about 25,")
    assert problem.message.endswith("method = lora fits")
    assert preflight.check(config.changed(method="lora")).problems == []


def test_plan_matches_the_journal_counts() -> None:
    plan = preflight.check(preset("run_12"))
    assert (plan.base_parameters, plan.base_mb, plan.trainable) == (406_286_336, 1549.86, 7_898_384)


@pytest.mark.parametrize(("batch_size", "fitting"), [(64, 16), (60, 15), (9, 3), (7, 1)])
def test_batch_too_large_for_memory_names_the_nearest_fitting_one(
    new_config: NewConfig, monkeypatch: pytest.MonkeyPatch, batch_size: int, fitting: int
) -> None:
    """The nearest batch size is the largest one that keeps the effective batch size."""
    config = new_config(batch_size=batch_size, grad_accumulation=2, max_new_tokens=1)
    config = config.changed(dataset="primer")
    arch = pretrained.architecture(config.base_model)
    extent = preflight.read_corpus(config, arch.context).extent
    available_mb = estimate.memory_mb(config.changed(batch_size=fitting), arch, extent)
    monkeypatch.setattr(hardware, "available_memory_mb", lambda device: available_mb)
    [problem] = preflight.check(config).problems
    accumulation = 2 * batch_size // fitting
    assert problem.field == "batch_size"
    assert problem.message.endswith(
        f"batch_size = {fitting} with grad_accumulation = {accumulation} fits"
    )
    monkeypatch.setattr(hardware, "available_memory_mb", lambda device: 1.0)
    [problem] = preflight.check(config).problems
    assert "not even batch_size = 1 fits" in problem.message


def test_examples_that_lose_their_response_are_counted(
    new_config: NewConfig, tmp_path: Path
) -> None:
    """The count matches the one in the trainer's warning."""
    texts = ["a b c", "a b c d e f g h i j k l m n o p q r s t u v w x y z"]
    records = [{"instruction": texts[i % 3 == 0], "output": "so"} for i in range(30)]
    path = tmp_path / "long.json"
    path.write_text(json.dumps(records))
    plan = preflight.check(new_config(dataset=str(path), max_length=45, mask_prompt=True))
    assert not plan.problems
    lost_count = sum(i % 3 == 0 for i in [*range(25), *range(28, 30)])
    assert (
        plan.note
        == f"{lost_count} examples will be skipped: max_length cuts off their entire response"
    )
    assert plan.train_examples == sum(i % 3 != 0 for i in range(25))


def test_plan_lists_skipped_records_and_unused_keys(new_config: NewConfig, tmp_path: Path) -> None:
    records = [{"instruction": f"Say {i}.", "output": str(i), "system": "x"} for i in range(30)]
    records[3]["output"] = records[17]["instruction"] = ""
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))
    plan = preflight.check(new_config(dataset=str(path)))
    assert plan.problems == []
    assert [(each.source_row, each.reason) for each in plan.skipped_records] == [
        ("record 4", "empty output"),
        ("record 18", "empty instruction"),
    ]
    assert plan.unused_keys == {"system": 28}
    assert plan.note == (
        "2 of 30 records are skipped: empty output (record 4), empty instruction (record 18); "
        "unused keys (with record counts): system (28)"
    )
    kept = preflight.check(new_config(dataset=str(path), empty_outputs="keep"))
    assert [each.source_row for each in kept.skipped_records] == ["record 18"]
    assert kept.train_examples == int(29 * 0.85)


BASE_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled": (
        lambda base: (base / "model.safetensors").rename(base / "pytorch_model.bin"),
        "it has no model.safetensors. pytorch_model.bin is not supported",
    ),
    "no weights": (lambda base: (base / "model.safetensors").unlink(), "it has no model.safeten"),
    "no n_positions": (
        lambda base: (base / "config.json").write_text('{"n_layer": 2}'),
        "config.json is not a GPT-2 configuration: n_head is missing; n_embd is missing; n_positions",
    ),
    "damaged": (
        lambda base: (base / "model.safetensors").write_bytes(b"damaged"),
        "model.safetensors is damaged",
    ),
    "other shapes": (
        lambda base: (base / "config.json").write_text(
            (base / "config.json").read_text().replace('"n_embd": 8', '"n_embd": 12')
        ),
        "has shape (50257, 8) instead of (50257, 12)",
    ),
}


@pytest.mark.parametrize("fault", BASE_FAULTS)
def test_check_finds_every_unusable_base_model(
    new_config: NewConfig, base: Path, tmp_path: Path, new_run: Callable[..., Any], fault: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    damage, message = BASE_FAULTS[fault]
    damage(broken)
    config = new_config(base_model=str(broken))
    [problem] = preflight.check(config).problems
    assert problem.field == "base_model"
    assert message in problem.message
    with pytest.raises(UserError) as rejected:
        Trainer(config, new_run())
    assert str(rejected.value).endswith(problem.message)


def test_check_finds_a_separate_head_with_tie_weights(
    new_config: NewConfig, save_peer: Callable[..., Any], tmp_path: Path
) -> None:
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 96, "vocab_size": 50257}
    save_peer(tmp_path / "untied", tied=False, **sizes)
    config = new_config(base_model=str(tmp_path / "untied"), tie_weights=True)
    [problem] = preflight.check(config).problems
    assert (
        problem.message == "its output head differs from its token embedding; turn off tie_weights"
    )
    assert preflight.check(config.changed(tie_weights=False)).problems == []


def test_check_reads_a_cached_hub_model(
    new_config: NewConfig, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "available_memory_mb", lambda device: 1e6)
    config = new_config(base_model="gpt2")
    assert preflight.check(config).problems == []
    hub.hold(save({"wte.weight": torch.zeros(3, 2)}))
    pretrained.fetch("gpt2")
    [problem] = preflight.check(config).problems
    assert (problem.field, problem.value) == ("base_model", "gpt2")
    assert "is missing" in problem.message


def test_small_batches_have_a_longer_estimate(new_config: NewConfig) -> None:
    """The amount of arithmetic is the same, but there are more steps."""
    large, small = (preflight.check(new_config(batch_size=size)) for size in (16, 1))
    added_overhead_s = (small.steps - large.steps) * estimate.CPU_STEP_OVERHEAD_S
    assert small.seconds - large.seconds == pytest.approx(added_overhead_s, rel=0.05)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "full"},
        {"method": "lora", "optimizer": "sgd"},
        {"method": "lora", "lora_init": "pissa", "optimizer": "sgd"},
    ],
)
def test_planned_disk_space_matches_the_size_of_the_files(
    new_config: NewConfig, new_run: Callable[..., Any], values: dict[str, Any]
) -> None:
    config, run = new_config(**values, checkpoint_every=5), new_run()  # only one checkpoint
    plan = preflight.check(config)
    train(config, run)
    sizes = {
        folder: sum(p.stat().st_size for p in (run.directory / folder).rglob("*.safetensors"))
        for folder in ("checkpoint", "weights")
    }
    assert plan.disk_mb == pytest.approx(sizes["weights"] / 2**20, rel=0.02, abs=0.05)
    assert plan.disk_peak_mb == pytest.approx(sum(sizes.values()) / 2**20, rel=0.02, abs=0.05)
    assert (plan.free_disk_mb, plan.problems) == (None, [])


def test_too_little_disk_space_is_a_problem(
    new_config: NewConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage, runs_dir = shutil.disk_usage(tmp_path), tmp_path / "new" / "runs"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=500 * 2**20))
    monkeypatch.setattr(hardware, "available_memory_mb", lambda device: 1e6)
    config = new_config(base_model="gpt2", dataset="primer", method="full", checkpoint_every=1)
    plan = preflight.check(config, runs_dir)
    [problem] = plan.problems
    assert (plan.free_disk_mb, problem.field) == (500.0, "keep_weights")
    # GPT-2 with a separate output head has 163M parameters. Each of the three checkpoints is three times their size.
    assert problem.message == (
        f"the run needs about 5,597 MB of disk space, but only 500 MB is free in {runs_dir}; "
        "delete files or use method = lora, which needs about 119 MB"
    )
    assert preflight.check(config.changed(method="lora"), runs_dir).problems == []
    assert preflight.check(config).problems == []
    assert preflight.check(config, runs_dir, freed_mb=5200).problems == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    [problem] = preflight.check(config, runs_dir).problems
    assert problem.message.endswith("delete files or use a smaller model")


def test_patterns_without_effect_do_not_break_suggestions(
    new_config: NewConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With full fine-tuning, layer name patterns may be left over from a larger model."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=500 * 2**20))
    monkeypatch.setattr(hardware, "available_memory_mb", lambda device: 1.0)
    config = new_config(base_model="gpt2", dataset="primer", method="full")
    plan = preflight.check(config.changed(lora_targets="h.23.attn.q"), tmp_path)
    messages = {problem.field: problem.message for problem in plan.problems}
    assert messages.keys() == {"batch_size", "keep_weights"}
    assert "not even batch_size = 1 fits" in messages["batch_size"]
    assert messages["keep_weights"].endswith("delete files or use a smaller model")
