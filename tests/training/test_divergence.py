"""Non-finite losses and gradients: the warning, skipped steps, and the end of the run."""

import itertools

import pytest
import torch

from core.errors import TrainingError
from core.nn import pretrained
from core.training.trainer import Trainer
from tests.training.test_trainer import NewConfig, NewRun


def test_divergence_warning_records_step_batch_and_tensors(
    new_config: NewConfig, new_run: NewRun
) -> None:
    run = new_run()
    trainer = Trainer(new_config(mask_prompt=True), run)
    trainer.model.ln_f.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError):
        trainer.fit()
    [warning] = [event for event in run.events_of("warning") if event["about"] == "divergence"]
    assert (warning["step"], warning["lr"]) == (1, trainer.config.lr)
    assert len(warning["batch"]) == trainer.config.batch_size
    assert "the gradient norm nan" in warning["message"]
    assert "non-finite gradients: ln_f.weight" in warning["message"]
    assert str(warning["batch"][0]) in warning["message"]


def test_non_finite_step_is_skipped_if_enabled(new_config: NewConfig, new_run: NewRun) -> None:
    run = new_run()
    trainer = Trainer(new_config(mask_prompt=True, nonfinite="skip"), run)
    calls: list[int] = []

    def infinite_in_second_step(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * float("inf") if len(calls) == 2 else gradient

    trainer.model.ln_f.weight.register_hook(infinite_in_second_step)
    assert trainer.fit() == "finished"
    losses = run.losses()
    assert len(losses) == trainer.schedule.steps > 2
    assert [loss is None for loss in losses] == [i == 1 for i in range(len(losses))]
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert trainer.progress.skipped == 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_run_with_a_gradient_scaler_continues_after_a_skipped_step(
    new_config: NewConfig, new_run: NewRun, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """Simulates fp16, which needs a GPU."""
    run = new_run()
    trainer = Trainer(new_config(nonfinite="skip", optimizer=optimizer), run)
    trainer.scaler = torch.amp.GradScaler("cpu")
    calls, loss = itertools.count(1), trainer.model.loss

    def infinite_in_second_step(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return loss(ids, targets) * (float("inf") if next(calls) == 2 else 1)

    monkeypatch.setattr(trainer.model, "loss", infinite_in_second_step)
    assert trainer.fit() == "finished"
    losses = run.losses()
    assert [value is None for value in losses] == [i == 1 for i in range(trainer.schedule.steps)]


def test_ten_consecutive_non_finite_steps_end_the_run(
    new_config: NewConfig, new_run: NewRun
) -> None:
    run = new_run()
    trainer = Trainer(new_config(mask_prompt=True, nonfinite="skip", epochs=9), run)
    hash_before = pretrained.fingerprint(trainer.model)
    trainer.model.ln_f.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match="10 consecutive steps up to step 10"):
        trainer.fit()
    assert pretrained.fingerprint(trainer.model) == hash_before
    assert len(run.events_of("step")) == 9
