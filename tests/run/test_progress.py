"""Progress of a run, as shown in a terminal."""

import io

from rich.console import Console

from core.config import RunConfig
from core.run.directory import RunDirectory
from core.run.progress import follow


def test_run_that_ends_early_fills_the_bar(tmp_path):
    run = RunDirectory.create(tmp_path, RunConfig(name="a"))
    run.append("plan", steps=20)
    step = {"loss": 2.0, "lr": 1e-4, "tokens_per_s": 10.0}
    run.append("step", step=8, **step)
    run.append("eval", step=8, train_loss=None, val_loss=2.0, final=True)
    output = io.StringIO()
    follow(run, 0, lambda: False, Console(file=output, width=100))
    assert "8/8" in output.getvalue()


def test_weights_event_is_shown(tmp_path):
    run = RunDirectory.create(tmp_path, RunConfig(name="a"))
    run.append("weights", step=8, val_loss=2.0)
    output = io.StringIO()
    follow(run, 0, lambda: False, Console(file=output, width=100))
    expected = "answering the test examples with the weights from step 8 (validation loss 2.000)"
    assert expected in output.getvalue()
