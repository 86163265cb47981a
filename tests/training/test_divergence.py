"""A loss or gradient that is not finite: what is kept of it, and a run that goes on without the step."""

import pytest
import torch

from core.errors import TrainingError
from core.nn import pretrained
from core.training.trainer import Trainer
from tests.training.test_trainer import NewRun, Settings


def test_what_diverged_is_kept(settings: Settings, new_run: NewRun) -> None:
    run = new_run()
    trainer = Trainer(settings(mask_prompt=True), run)
    trainer.model.ln_f.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError):
        trainer.fit()
    [warning] = [event for event in run.of("warning") if event["about"] == "divergence"]
    assert (warning["step"], warning["lr"]) == (1, trainer.config.lr)
    assert len(warning["batch"]) == trainer.config.batch_size
    assert "the gradient norm nan" in warning["message"]
    assert "without a finite gradient: ln_f.weight" in warning["message"]
    assert str(warning["batch"][0]) in warning["message"]


def test_a_step_that_is_not_finite_is_left_out_on_request(
    settings: Settings, new_run: NewRun
) -> None:
    run = new_run()
    trainer = Trainer(settings(mask_prompt=True, nonfinite="skip"), run)
    calls: list[int] = []

    def once(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * float("inf") if len(calls) == 2 else gradient

    trainer.model.ln_f.weight.register_hook(once)
    assert trainer.fit() == "finished"
    losses = run.losses()
    assert len(losses) == trainer.schedule.steps > 2
    assert [loss is None for loss in losses] == [i == 1 for i in range(len(losses))]
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert trainer.progress.skipped == 0


def test_ten_steps_in_a_row_end_the_run_all_the_same(settings: Settings, new_run: NewRun) -> None:
    run = new_run()
    trainer = Trainer(settings(mask_prompt=True, nonfinite="skip", epochs=9), run)
    before = pretrained.fingerprint(trainer.model)
    trainer.model.ln_f.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match="10 steps in a row up to step 10"):
        trainer.fit()
    assert pretrained.fingerprint(trainer.model) == before
    assert len(run.of("step")) == 9
