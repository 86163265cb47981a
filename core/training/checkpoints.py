"""Resumable states and final weights on disk.

A directory is written under another name, its manifest of sizes and hashes last, and published by one
rename; the two newest checkpoints stay. Tensors are safetensors; nothing is ever unpickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import UserError
from core.training import resumption
from core.training.run import TrainingProgress

MANIFEST = resumption.MANIFEST
CHECKPOINTS_TO_KEEP = 2
CHECKPOINT_FILES = {"trainable.safetensors", "optimizer.safetensors", "random.safetensors"}
"""Files of a checkpoint."""
Files = Mapping[str, Mapping[str, Tensor]]


def publish(directory: Path, files: Files, facts: Mapping[str, Any]) -> None:
    """Write tensors by file name, then the manifest, then rename the whole into place, durably.

    Raises:
        UserError: they cannot be written; what was there before is there still.
    """
    try:
        _publish(directory, files, facts)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{directory} cannot be written to ({error})") from None


def _publish(directory: Path, files: Files, facts: Mapping[str, Any]) -> None:
    _refuse_links(directory.parent, directory)
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    listing = {}
    for name, tensors in files.items():
        path = partial / name
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, path)
        listing[name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
        _sync(path)
    manifest = partial / MANIFEST
    manifest.write_text(json.dumps({**facts, "files": listing}, indent=2), encoding="utf-8")
    _sync(manifest)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    _sync(directory.parent)


def read(directory: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The manifest's facts and the tensors of each file.

    Raises:
        UserError: something is missing or is not what the manifest says.
    """
    _refuse_links(directory.parent, directory)
    try:
        facts = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        files = {}
        for name, expected in facts["files"].items():
            path = directory / Path(name).name
            _refuse_links(path)
            if path.stat().st_size != expected["size"] or _sha256(path) != expected["sha256"]:
                raise UserError(f"{directory}: {name} is damaged (its hash is not the manifest's)")
            files[name] = load_file(path)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ) as error:
        raise UserError(f"{directory} is damaged or incomplete ({error})") from None
    return facts, files


def read_weights(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the manifest's facts and the tensors of `weights/`. Raises UserError if they are damaged."""
    facts, files = read(directory)
    if len(files) != 1:
        raise UserError(f"{directory} is damaged: its manifest should list one file")
    return facts, next(iter(files.values()))


def _refuse_links(*paths: Path) -> None:
    """Weights lie where they seem to: a link could lead out of the run. Raises UserError."""
    for path in paths:
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link; it should be what it points to")


def save_checkpoint(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: Mapping[str, Any],
) -> None:
    """Publish `step-N` under `directory` and drop all but the newest two, and what claims to be further on.

    A run that could not read those has begun anew before them.

    Args:
        facts: JSON-able bookkeeping that `load_checkpoint` gives back.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    states = optimizer.state_dict()["state"]
    moments = {
        f"{names[i]}/{key}": value for i, state in states.items() for key, value in state.items()
    }
    random = {"cpu": torch.get_rng_state()}
    device = next(model.parameters()).device
    if device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(device)
    files: Files = {
        "trainable.safetensors": trainable(model),
        "optimizer.safetensors": {k: v for k, v in moments.items() if isinstance(v, Tensor)},
        "random.safetensors": random,
    }
    newest = directory / f"step-{step:08d}"
    publish(newest, files, {**facts, "step": step})
    published = _checkpoints(directory)
    retained = published[published.index(newest) :][:CHECKPOINTS_TO_KEEP]
    for path in published:
        if path not in retained:
            shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(
    directory: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    check: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[dict[str, Any] | None, list[str]]:
    """Restore the newest valid checkpoint into the model, the optimizer and the random generators.

    Args:
        check: called with the checkpoint's facts before anything is restored; raises UserError to reject it.

    Returns:
        The facts, or None if there is nothing to resume from; and a message for each damaged checkpoint.
    """
    damaged = []
    for path in _checkpoints(directory):
        try:
            facts, files = _read_checkpoint(path)
        except UserError as error:
            damaged.append(str(error))
            continue
        if check is not None:
            check(facts)
        load_trainable(model, files["trainable.safetensors"])
        _load_moments(model, optimizer, files["optimizer.safetensors"])
        torch.set_rng_state(files["random.safetensors"]["cpu"])
        device = next(model.parameters()).device
        if device.type == "cuda" and "cuda" in files["random.safetensors"]:
            torch.cuda.set_rng_state(files["random.safetensors"]["cuda"], device)
        return facts, damaged
    return None, damaged


def changed_inputs(facts: Mapping[str, Any], origin: Mapping[str, str], step: int) -> list[str]:
    """A sentence about each thing that a run begins from and that is another than when it was saved.

    Args:
        facts: of the checkpoint.
        origin: by what it is, the hash of what there is now.
        step: of the checkpoint.
    """
    recorded_origin = facts.get("origin")
    return [
        f"the {input_name} is another than before step {step}: from here on the run is not the one that was started"
        for input_name, current_hash in origin.items()
        if isinstance(recorded_origin, dict) and recorded_origin.get(input_name) != current_hash
    ]


def newest_weights(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the manifest and trained weights of the newest valid checkpoint. Raises UserError if there is none."""
    for path in _checkpoints(directory):
        try:
            facts, files = read(path)
            return facts, files["trainable.safetensors"]
        except (UserError, KeyError):  # damaged, or its manifest does not list them
            continue
    raise UserError(f"{directory.parent.name} has no weights yet: no checkpoint has been written")


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """As `read`; raises UserError too where the manifest does not list all that makes a checkpoint."""
    facts, files = read(path)
    progress = facts.get("progress")
    if not (
        files.keys() >= CHECKPOINT_FILES
        and isinstance(progress, dict)
        and isinstance(facts.get("scaler"), dict)
    ):
        raise UserError(f"{path} is incomplete: its manifest does not list all of a checkpoint")
    progress_fields = {field.name for field in fields(TrainingProgress)}
    if not (
        progress.keys() <= progress_fields
        and all(type(v) in (int, float) for v in progress.values())
    ):
        raise UserError(f"{path} is damaged: its manifest does not say how far the run had come")
    return facts, files


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training moves, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def load_trainable(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved weights back. Raises UserError where names or shapes are not the model's."""
    expected = trainable(model)
    if expected.keys() != tensors.keys():
        mismatched = sorted(expected.keys() ^ tensors.keys())
        raise UserError(
            f"the saved weights are not this model's: {mismatched[0]} is only in one of them"
        )
    for name, parameter in expected.items():
        if parameter.shape != tensors[name].shape:
            raise UserError(f"the saved weights are not this model's: {name} has another shape")
        parameter.copy_(tensors[name])


def _load_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    names = list(trainable(model))
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition("/")
        if name not in names:
            raise UserError(f"the saved optimiser is not this model's: it knows {name}")
        state.setdefault(names.index(name), {})[kind] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _checkpoints(directory: Path) -> list[Path]:
    """Published checkpoints, newest first."""
    paths = [path for path in directory.glob("step-*") if path.suffix != ".partial"]
    return sorted(paths, reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
