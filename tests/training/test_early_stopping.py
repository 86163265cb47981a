"""Early stopping: when a run ends, what it records, and how it resumes."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from core.config import RunConfig, is_relevant
from core.errors import ConfigError
from core.training.early_stopping import EarlyStopping
from core.training.trainer import train

NewConfig = Callable[..., RunConfig]
NewRun = Callable[..., Any]
DIVERGING: dict[str, Any] = {
    "epochs": 4,
    "lr": 10.0,
    "eval_every": 2,
    "checkpoint_every": 3,
    "early_stopping_patience": 3,
}
"""The loss rises at once, so the run ends at the third evaluation."""
END = 6


def counted(losses: list[float], **settings: Any) -> EarlyStopping:
    """Return the state after these losses, measured at step 0, 10, 20 and so on, until the run ends."""
    state, config = EarlyStopping(4), RunConfig(**settings)
    for number, loss in enumerate(losses):
        if state.ended_at is None:
            state.count(config, 10 * number, loss)
    return state


@pytest.mark.parametrize(
    ("losses", "min_delta", "end"),
    [
        ([5, 4, 3, 2, 1], 0, None),
        ([5, 4, 4, 4], 0, (30, 10)),
        ([5, 4, 4.1, 3.9, 4, 3.95], 0, (50, 30)),
        ([5, 6, 7], 0, (20, 0)),
        ([5, 4.9, 4.8, 4.7], 0.5, (20, 0)),
        ([5, 4.7, 4.4, 4.1], 0.5, None),
        ([5, 4, float("nan"), float("inf")], 0, (30, 10)),
        ([float("nan"), 4, 3], 0, None),
    ],
)
def test_run_ends_after_evaluations_without_improvement(
    losses: list[float], min_delta: float, end: tuple[int, int] | None
) -> None:
    state = counted(losses, early_stopping_patience=2, early_stopping_min_delta=min_delta)
    assert (state.ended_at and (state.ended_at, state.best_step)) == end
    assert counted(losses).ended_at is None, "early stopping is off by default"


def test_state_survives_a_checkpoint_unless_the_subset_changes() -> None:
    state = counted([5, 4, 4, 4], early_stopping_patience=2)
    saved = json.loads(json.dumps(asdict(state)))
    assert EarlyStopping.parse(saved, 4) == state
    assert EarlyStopping.parse(saved, 8) == EarlyStopping(8)
    for damaged in (None, {}, [], {**saved, "evaluations": "x"}, {**saved, "best_step": None}):
        assert EarlyStopping.parse(damaged, 4) == EarlyStopping(4)


def test_settings_are_validated() -> None:
    with pytest.raises(ConfigError, match="early_stopping_patience"):
        RunConfig.parse({"early_stopping_patience": 0})
    with pytest.raises(ConfigError, match="early_stopping_min_delta"):
        RunConfig.parse({"early_stopping_min_delta": -1})
    assert not is_relevant("early_stopping_min_delta", RunConfig().model_dump())
    assert is_relevant("early_stopping_min_delta", {"early_stopping_patience": 3})


def test_early_end_evaluates_everything_and_answers(new_config: NewConfig, new_run: NewRun) -> None:
    run = new_run()
    assert train(new_config(**DIVERGING), run) == "finished"
    assert run.reason == f"stopped early at step {END}: no improvement since step 0"
    assert [event["step"] for event in run.events_of("step")] == [*range(1, END + 1)]
    *earlier, last = run.events_of("eval")
    assert (last["step"], last["final"], len(last["val_indices"])) == (END, True, 2)
    assert last["train_loss"] is not None
    assert not any(event["final"] for event in earlier)
    assert run.events_of("plan")[0]["steps"] == 20, "the planned steps stay"
    assert run.events_of("sample")[-1]["step"] == END
    assert len(run.events_of("generation")) == 2
    assert (run.directory / "weights").is_dir()


def test_best_weights_are_kept_after_an_early_end(new_config: NewConfig, new_run: NewRun) -> None:
    run = new_run()
    config = new_config(**{**DIVERGING, "lr": 1.0, "keep_weights": "best", "eval_every": 1})
    assert train(config, run) == "finished"
    losses = {e["step"]: e["subset_loss"] for e in run.events_of("eval") if e["step"]}
    [published] = run.events_of("weights")
    assert published["step"] == min(losses, key=losses.__getitem__)
    manifest = json.loads((run.directory / "weights" / "manifest.json").read_text())
    assert manifest["step"] == published["step"]


@pytest.mark.parametrize("stop_at", [1, 3, 4, END])
def test_resumed_run_ends_at_the_same_step(
    new_config: NewConfig, new_run: NewRun, stop_at: int
) -> None:
    config = new_config(**DIVERGING)
    whole = new_run("whole")
    train(config, whole)
    stopped = new_run("stopped", stop_at=stop_at)
    outcome = train(config, stopped)
    assert outcome == "stopped"
    resumed = new_run("stopped", resumed=True)
    assert train(config, resumed) == "finished"
    assert resumed.reason == whole.reason
    assert resumed.losses() == whole.losses()[stop_at:]
    keys = ("step", "final", "val_loss", "subset_loss", "val_losses", "train_losses")
    evaluations = [
        [{key: event.get(key) for key in keys} for event in run.events_of("eval") if event["step"] > stop_at]
        for run in (resumed, whole)
    ]  # fmt: skip
    assert evaluations[0] == evaluations[1]
    answers = [[a["answer"] for a in run.events_of("generation")] for run in (resumed, whole)]
    assert answers[0] == answers[1]


def test_early_stopping_can_be_enabled_before_a_resume(
    new_config: NewConfig, new_run: NewRun
) -> None:
    off = {**DIVERGING, "early_stopping_patience": None}
    train(new_config(**off), new_run("a", stop_at=5))
    resumed = new_run("a", resumed=True)
    assert train(new_config(**{**DIVERGING, "early_stopping_patience": 2}), resumed) == "finished"
    assert resumed.reason == "stopped early at step 6: no improvement since step 0"


def test_checkpoint_of_an_older_version_starts_counting_on_resume(
    new_config: NewConfig, new_run: NewRun
) -> None:
    train(new_config(**DIVERGING), new_run("a", stop_at=3))
    for path in (new_run("a").directory / "checkpoint").glob("*/manifest.json"):
        facts = json.loads(path.read_text())
        del facts["early_stopping"]
        path.write_text(json.dumps(facts))
    resumed = new_run("a", resumed=True)
    assert train(new_config(**DIVERGING), resumed) == "finished"
    first = resumed.events_of("eval")[0]["step"]
    assert first == 4
