"""The log of a run: how events are written as lines, and which errors are ignored."""

import pytest

from core.run import log


@pytest.mark.parametrize(
    ("kind", "event", "line"),
    [
        ("status", {"status": "running"}, "running"),
        ("status", {"status": "failed", "reason": "no disk"}, "failed: no disk"),
        ("eval", {"step": 1000, "train_loss": 1.0, "val_loss": 2.0, "final": False},
         "step 1,000: training loss 1.0000, validation loss 2.0000"),
        ("rewind", {"step": -1}, "no usable checkpoint; starting from step 0"),
        ("rewind", {"step": 40}, "resuming from the checkpoint at step 40"),
        ("warning", {"step": 3, "message": "careful"}, "step 3: careful"),
    ],
)  # fmt: skip
def test_event_is_one_line(tmp_path, kind, event, line):
    for _ in range(2):
        log.append_event(tmp_path / "log", kind, event)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [log_line[20:] for log_line in lines] == [line, line]


def test_steps_and_answers_are_not_logged(tmp_path):
    log.append_event(tmp_path / "log", "step", {"step": 1})
    log.append_event(tmp_path / "log", "generation", {"answer": "red"})
    assert not (tmp_path / "log").exists()


def test_log_errors_do_not_reach_the_trainer(tmp_path):
    log.append_event(
        tmp_path / "log", "eval", {"step": 1, "train_loss": None, "val_loss": 1.0, "final": True}
    )
    log.append_event(tmp_path / "log", "warning", {})
    log.append_event(tmp_path / "no folder" / "log", "status", {"status": "running"})
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    log.append_event(tmp_path / "link", "status", {"status": "running"})
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
