"""What a plan says is what the trainer then does; what is wrong is listed at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig
from core.nn import pretrained
from core.nn.architecture import FAMILY
from core.training import hardware, preflight
from core.training.optimiser import learning_rate
from core.training.trainer import Trainer

Settings = Callable[..., RunConfig]


@pytest.mark.parametrize(
    "values",
    [
        {"method": "full", "epochs": 2, "grad_accumulation": 3},
        {"method": "full", "tie_weights": True, "max_length": 40},
        {"method": "lora", "lora_rank": 4, "min_lr": 1e-3, "warmup_fraction": 0.2},
        {"method": "lora", "lora_targets": "mlp", "lora_last_layers": 1, "mask_prompt": True},
    ],
)
def test_the_plan_is_what_the_trainer_does(
    settings: Settings, new_run: Callable[..., Any], values: dict[str, Any]
) -> None:
    config, run = settings(**values), new_run()
    plan = preflight.check(config)
    trainer = Trainer(config, run)
    trainer.fit()
    [done] = run.of("plan")
    steps = run.of("step")
    assert plan.problems == []
    assert (plan.steps, plan.steps_per_epoch) == (done["steps"], done["steps_per_epoch"])
    assert plan.train_examples == done["train_examples"]
    assert (plan.test_examples, plan.validation_examples) == (2, 2)
    assert (plan.parameters, plan.trainable) == (done["parameters"], done["trainable"])
    assert plan.tokens == steps[-1]["tokens"]
    assert plan.longest == max(len(example.ids) for example in trainer.train_set)
    assert plan.device == done["device"]
    assert plan.learning_rates == [(step["step"], step["lr"]) for step in steps]


def test_cut_examples_are_counted(settings: Settings) -> None:
    plan = preflight.check(settings(max_length=40))
    assert plan.longest == 40
    assert plan.cut_examples is not None
    assert 0 < plan.cut_examples < 20
    assert preflight.check(settings()).cut_examples == 0


def test_a_long_run_shows_a_short_curve(settings: Settings) -> None:
    config = settings(epochs=300, min_lr=1e-4, warmup_fraction=0.1)
    plan = preflight.check(config)
    assert plan.steps == 1500
    assert 150 <= len(plan.learning_rates) <= 300
    assert [step for step, _ in plan.learning_rates][:: len(plan.learning_rates) - 1] == [1, 1500]
    assert all(rate == learning_rate(config, step, 1500) for step, rate in plan.learning_rates)


def test_every_problem_is_listed_at_once(settings: Settings) -> None:
    config = settings(
        dataset="nowhere.json",
        device="cuda:99",
        max_length=97,
        method="lora",
        lora_last_layers=3,
    )
    problems = {problem.field: problem.message for problem in preflight.check(config).problems}
    assert set(problems) == {"dataset", "device", "max_length", "lora_last_layers"}
    assert problems["max_length"].startswith("it should be at most 96, the context of")
    assert problems["lora_last_layers"].startswith("it should be at most 2, the blocks of")
    assert problems["dataset"].startswith("there is no such file")
    assert problems["device"].startswith("this machine has none")


def test_a_missing_model_hides_no_other_problem(settings: Settings, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("[")
    config = settings(base_model="gpt-5", dataset=str(broken), precision="fp16")
    problems = [problem.field for problem in preflight.check(config).problems]
    assert problems == ["base_model", "precision", "dataset"]


def test_a_batch_that_can_not_fit_names_one_that_does(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(batch_size=64, grad_accumulation=2)
    plan = preflight.check(config)
    assert plan.memory_mb is not None
    arch = pretrained.architecture(config.base_model)
    fits = preflight.memory_mb(config.changed(batch_size=16), arch, plan.longest or 0)
    monkeypatch.setattr(hardware, "available_memory_mb", lambda device: fits + 1)
    [problem] = preflight.check(config).problems
    assert problem.field == "batch_size"
    assert problem.message.endswith("batch_size = 16 with grad_accumulation = 8 fits")
    monkeypatch.setattr(hardware, "available_memory_mb", lambda device: 1.0)
    [problem] = preflight.check(config).problems
    assert "not even batch_size = 1 fits" in problem.message


def test_memory_in_closed_form_where_weights_dominate() -> None:
    config = RunConfig(method="full", optimizer="adamw", batch_size=1)
    arch = FAMILY["gpt2-xl"]
    weights = 4 * arch.parameters() / 2**20
    found = preflight.memory_mb(config, arch, longest=2)
    assert found == pytest.approx(4 * weights, rel=0.03)  # weights, gradients, two moments
    sgd = preflight.memory_mb(config.changed(optimizer="sgd"), arch, longest=2)
    assert sgd == pytest.approx(2 * weights, rel=0.05)
    lora = preflight.memory_mb(config.changed(method="lora"), arch, longest=2)
    assert lora == pytest.approx(weights, rel=0.15)


def test_memory_falls_with_grad_checkpointing_and_rises_with_the_batch() -> None:
    config = RunConfig(batch_size=8)
    arch = FAMILY["gpt2-medium"]
    plain = preflight.memory_mb(config, arch, 512)
    assert preflight.memory_mb(config.changed(grad_checkpointing=True), arch, 512) < 0.6 * plain
    assert preflight.memory_mb(config.changed(batch_size=16), arch, 512) > 1.4 * plain


def test_work_of_a_step_is_six_flops_a_weight_and_token() -> None:
    arch = FAMILY["gpt2"]
    matrices = sum(i * o for i, o in arch.linear_shapes().values())
    full = preflight.step_flops(RunConfig(method="full"), arch, 100)
    assert full == pytest.approx(6 * matrices * 100)
    lora = preflight.step_flops(RunConfig(method="lora"), arch, 100)
    assert 0.6 * full < lora < 0.75 * full
