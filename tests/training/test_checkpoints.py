"""Tensor directories are published atomically and read only if they match their manifest."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from core.errors import UserError
from core.training import checkpoints

FILES = {"a.safetensors": {"x": torch.arange(6.0).view(2, 3)}, "b.safetensors": {}}


def test_published_directory_can_be_read(tmp_path: Path) -> None:
    checkpoints.publish(tmp_path / "deep" / "weights", FILES, {"step": 3, "name": "\u00fc"})
    manifest, files = checkpoints.read(tmp_path / "deep" / "weights")
    assert (manifest["step"], manifest["name"]) == (3, "\u00fc")
    assert files.keys() == FILES.keys()
    assert torch.equal(files["a.safetensors"]["x"], FILES["a.safetensors"]["x"])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["weights"]


def test_publishing_again_replaces_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "weights"
    checkpoints.publish(directory, FILES, {})
    checkpoints.publish(directory, {"c.safetensors": {"y": torch.zeros(2)}}, {})
    assert sorted(path.name for path in directory.iterdir()) == ["c.safetensors", "manifest.json"]


def test_partial_directory_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    partial = tmp_path / "weights.partial"
    partial.mkdir()
    (partial / "old.safetensors").write_bytes(b"torn")
    checkpoints.publish(tmp_path / "weights", FILES, {})
    assert set(checkpoints.read(tmp_path / "weights")[1]) == set(FILES)
    assert not partial.exists()


def edit(directory: Path, change: Callable[[dict], object]) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda d: (d / "manifest.json").unlink(),
    "empty manifest": lambda d: (d / "manifest.json").write_text(""),
    "manifest is a list": lambda d: (d / "manifest.json").write_text("[]"),
    "binary manifest": lambda d: (d / "manifest.json").write_bytes(b"\xff\xfe"),
    "no file list": lambda d: edit(d, lambda m: m.pop("files")),
    "wrong type of file list": lambda d: edit(d, lambda m: m.update(files=["a.safetensors"])),
    "no hash": lambda d: edit(d, lambda m: m["files"]["a.safetensors"].pop("sha256")),
    "no file": lambda d: (d / "a.safetensors").unlink(),
    "longer file": lambda d: (d / "a.safetensors").write_bytes(
        (d / "a.safetensors").read_bytes() + b"x"
    ),
    "empty file": lambda d: (d / "a.safetensors").write_bytes(b""),
    "changed byte": lambda d: (d / "a.safetensors").write_bytes(
        (d / "a.safetensors").read_bytes()[:-1] + b"\x01"
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_directory_is_reported(tmp_path: Path, damage: str) -> None:
    directory = tmp_path / "weights"
    checkpoints.publish(directory, FILES, {})
    DAMAGE[damage](directory)
    with pytest.raises(UserError, match="damaged") as caught:
        checkpoints.read(directory)
    assert str(directory) in str(caught.value)


def test_manifest_cannot_name_files_outside_its_directory(tmp_path: Path) -> None:
    checkpoints.publish(tmp_path / "weights", FILES, {})
    checkpoints.publish(tmp_path / "other", {"secret.safetensors": {"x": torch.ones(1)}}, {})
    listing = json.loads((tmp_path / "other" / "manifest.json").read_text())["files"]
    outside_files = {f"../other/{name}": expected for name, expected in listing.items()}
    edit(tmp_path / "weights", lambda m: m.update(files=outside_files))
    with pytest.raises(UserError, match="damaged or incomplete"):
        checkpoints.read(tmp_path / "weights")


def trained(
    steps: int = 3, optimizer: type = torch.optim.AdamW
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    built_optimizer = optimizer(parameters, lr=0.1)
    for _ in range(steps):
        built_optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        built_optimizer.step()
    return model, built_optimizer


def test_only_the_two_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    model, optimizer = trained()
    for step in (9, 10, 100):
        checkpoints.save_checkpoint(tmp_path, step, model, optimizer, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_checkpoint_restores_all_state(tmp_path: Path, optimizer: type) -> None:
    model, saved_optimizer = trained(3, optimizer)
    checkpoints.save_checkpoint(
        tmp_path, 3, model, saved_optimizer, {"progress": {"step": 3}, "scaler": {}}
    )
    expected = torch.rand(4)

    restored_model, restored_optimizer = trained(0, optimizer)
    manifest, messages = checkpoints.load_checkpoint(tmp_path, restored_model, restored_optimizer)
    assert torch.equal(torch.rand(4), expected)
    assert manifest is not None
    assert manifest["progress"] == {"step": 3}
    assert messages == []
    assert all(map(torch.equal, model.parameters(), restored_model.parameters()))
    saved_state, restored_state = (
        saved_optimizer.state_dict()["state"],
        restored_optimizer.state_dict()["state"],
    )
    assert saved_state.keys() == restored_state.keys()
    for i in saved_state:
        for key, value in saved_state[i].items():
            assert value is None or torch.equal(value, restored_state[i][key])


def test_missing_checkpoint_is_not_loaded(tmp_path: Path) -> None:
    model, optimizer = trained()
    assert checkpoints.load_checkpoint(tmp_path / "none", model, optimizer) == (None, [])
    with pytest.raises(UserError, match="has no weights yet"):
        checkpoints.newest_weights(tmp_path / "none")


def test_newest_valid_weights_are_used(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    early_model, late_model = trained(1), trained(2)
    checkpoints.save_checkpoint(folder, 1, *early_model, {"progress": {}, "scaler": {}})
    checkpoints.save_checkpoint(folder, 2, *late_model, {"progress": {}, "scaler": {}})
    facts, newest = checkpoints.newest_weights(folder)
    assert facts["step"] == 2
    assert torch.equal(newest["1.weight"], late_model[0][1].weight)
    assert "0.bias" not in newest
    (folder / "step-00000002" / "manifest.json").unlink()
    facts, newest = checkpoints.newest_weights(folder)
    assert facts["step"] == 1
    assert torch.equal(newest["1.weight"], early_model[0][1].weight)


def test_weights_from_a_different_model_are_rejected() -> None:
    model, _ = trained()
    saved = {name: p.clone() for name, p in checkpoints.trainable(model).items()}
    with pytest.raises(UserError, match=r"1\.bias is in only one of them"):
        checkpoints.load_trainable(model, {k: v for k, v in saved.items() if k != "1.bias"})
    with pytest.raises(UserError, match="extra is in only one of them"):
        checkpoints.load_trainable(model, {**saved, "extra": torch.zeros(1)})
    with pytest.raises(UserError, match=r"the shapes of 0\.weight differ"):
        checkpoints.load_trainable(model, {**saved, "0.weight": torch.zeros(4, 4)})


@pytest.mark.parametrize(
    "progress",
    [None, [], "1", {"steps": 1}, {"step": "1"}, {"step": None}, {"step": True}, {"step": [1]}],
    ids=str,
)
def test_checkpoint_without_valid_progress_is_skipped(tmp_path: Path, progress: object) -> None:
    model, optimizer = trained()
    checkpoints.save_checkpoint(
        tmp_path, 1, model, optimizer, {"progress": {"step": 1}, "scaler": {}}
    )
    checkpoints.save_checkpoint(tmp_path, 2, model, optimizer, {"progress": progress, "scaler": {}})
    manifest, [message] = checkpoints.load_checkpoint(tmp_path, model, optimizer)
    assert manifest is not None
    assert manifest["step"] == 1
    assert "step-00000002 is " in message
