"""Save and load checkpoints and final weights.

Each directory is written under a temporary name, ending with a manifest of sizes and hashes, and is then published by a
single rename. Tensors are stored as safetensors, and nothing is unpickled. The caller decides when to save and which
settings may change.
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
from core.nn import lora
from core.run.directory import published_checkpoints
from core.training.resumption import MANIFEST
from core.training.run import TrainingProgress

CHECKPOINTS_TO_KEEP = 2
CHECKPOINT_FILES = {"trainable.safetensors", "optimizer.safetensors", "random.safetensors"}
"""Files that a complete checkpoint contains in addition to its manifest."""
Files = Mapping[str, Mapping[str, Tensor]]


def publish(directory: Path, files: Files, facts: Mapping[str, Any]) -> None:
    """Write a directory of tensor files and a manifest, and move it into place atomically and durably.

    Args:
        directory: replaced if it exists.
        files: the tensors of each file, by file name.
        facts: JSON-serializable entries of the manifest.

    Raises:
        UserError: the files cannot be written. The previous directory is unchanged.
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
    """Return the manifest and the tensors of each file.

    Raises:
        UserError: a file is missing, or does not match its size or hash in the manifest.
    """
    _refuse_links(directory.parent, directory)
    try:
        facts = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        files = {}
        for name, expected in facts["files"].items():
            path = directory / Path(name).name
            _refuse_links(path)
            if path.stat().st_size != expected["size"] or _sha256(path) != expected["sha256"]:
                raise UserError(f"{directory}: {name} is damaged: it does not match the manifest")
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
    """Return the manifest and the tensors of `weights/`. Raises UserError if they are damaged."""
    facts, files = read(directory)
    if len(files) != 1:
        raise UserError(f"{directory} is damaged: its manifest must list exactly one file")
    return facts, next(iter(files.values()))


def _refuse_links(*paths: Path) -> None:
    """Raise UserError for symbolic links, which could lead out of the run directory."""
    for path in paths:
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link; replace it with a copy of its target")


def save_checkpoint(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: Mapping[str, Any],
) -> None:
    """Publish a checkpoint and delete all others except the one before it.

    Checkpoints from later steps are deleted too: they were unreadable, so the run resumed from an earlier step.

    Args:
        directory: the folder of all checkpoints; the new one is named `step-N`.
        facts: JSON-serializable entries of the manifest, returned by `load_checkpoint`.
    """
    moments = {
        f"{name}/{key}": value
        for name, parameter in trainable(model).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    random = {"cpu": torch.get_rng_state()}
    device = next(model.parameters()).device
    if device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(device)
    files: Files = {
        "trainable.safetensors": adapted_weights(model),
        "optimizer.safetensors": {k: v for k, v in moments.items() if isinstance(v, Tensor)},
        "random.safetensors": random,
    }
    newest = directory / f"step-{step:08d}"
    publish(newest, files, {**facts, "step": step})
    published = published_checkpoints(directory)
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
    """Restore the model, the optimizer and the random number generators from the newest valid checkpoint.

    Args:
        check: called with the manifest before anything is restored; raises UserError to reject it.

    Returns:
        The manifest, or None if no checkpoint is valid, and a message for each damaged one.
    """
    damaged = []
    for path in published_checkpoints(directory):
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


def newest_weights(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the manifest and trained weights of the newest valid checkpoint. Raises UserError if there is none."""
    for path in published_checkpoints(directory):
        try:
            facts, files = read(path)
            return facts, files["trainable.safetensors"]
        except (UserError, KeyError):  # damaged, or not listed in the manifest
            continue
    raise UserError(f"{directory.parent.name} has no weights yet: no checkpoint has been written")


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read a checkpoint. Raises UserError if it is damaged or its manifest is incomplete."""
    facts, files = read(path)
    progress = facts.get("progress")
    if not (
        files.keys() >= CHECKPOINT_FILES
        and isinstance(progress, dict)
        and isinstance(facts.get("scaler"), dict)
    ):
        raise UserError(f"{path} is incomplete: its manifest lacks required files or entries")
    progress_fields = {field.name for field in fields(TrainingProgress)}
    if not (
        progress.keys() <= progress_fields
        and all(type(v) in (int, float) for v in progress.values())
    ):
        raise UserError(f"{path} is damaged: its manifest does not record the run's progress")
    return facts, files


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable weights by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def adapted_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return, by name, the weights to store in a checkpoint: the trainable weights, and PiSSA's initial factors."""
    return {**trainable(model), **lora.initial_factors(model)}


def final_weights(model: nn.Module, method: str) -> dict[str, Tensor]:
    """Return the weights to store in `weights/` by name: the adapters, or the whole model in fp32."""
    if method == "lora":
        return adapted_weights(model)
    return {name: p.float() for name, p in model.named_parameters()}


@torch.no_grad()
def load_trainable(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved weights into the model: all weights, or those of a checkpoint.

    Raises UserError if names or shapes do not match.
    """
    expected: dict[str, Tensor] = dict(model.named_parameters())
    if expected.keys() != tensors.keys():
        expected = adapted_weights(model)
    if expected.keys() != tensors.keys():
        mismatched = sorted(expected.keys() ^ tensors.keys())
        raise UserError(
            f"the saved weights do not match this model: {mismatched[0]} is in only one of them"
        )
    for name, parameter in expected.items():
        if parameter.shape != tensors[name].shape:
            raise UserError(
                f"the saved weights do not match this model: the shapes of {name} differ"
            )
        parameter.copy_(tensors[name])


def _load_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    parameters = trainable(model)
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition("/")
        if name not in parameters:
            raise UserError(
                f"the saved optimizer state does not match this model, which has no trainable {name}"
            )
        parameter = parameters[name]
        optimizer.state[parameter][kind] = tensor.to(parameter.device)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
