"""Base models: by name from the embedded assets or the Hugging Face hub, or from a directory.

Weights are safetensors in the Hugging Face GPT-2 layout; every key and every shape is checked.
Nothing is ever unpickled.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.download import DIFFERS, cached_file, discard_if_damaged, explained, is_cached
from core.errors import UserError
from core.nn.architecture import FAMILY, Architecture
from core.nn.gpt2 import GPT2

EMBEDDED = "gpt2-nano"
ASSETS = Path(__file__).parent.parent / "assets"
SUFFIX = ".safetensors"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""Of a directory: one file, or a list of those that a large model was cut into."""
RENAMED = {"attn.c_proj": "attn.proj", "mlp.c_fc": "mlp.fc", "mlp.c_proj": "mlp.proj"}
"""Linear layers by the hub's names; its layout keeps them as (inputs, outputs), transposed."""
COMPUTED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}
"""What `core.nn.gpt2` computes, by the keys of config.json; the first is also what a missing key means."""


def architecture(base_model: str) -> Architecture:
    """The sizes of a base model, without its weights. Raises UserError where there is no such model."""
    if base_model in FAMILY:
        return FAMILY[base_model]
    if not _has(base_model, "config.json"):
        known = ", ".join(FAMILY)
        message = f"base_model = {base_model!r}: there is no such model; it should be {known} or a directory with config.json and model.safetensors"
        raise UserError(message)
    try:
        config = json.loads((Path(base_model) / "config.json").read_text(encoding="utf-8"))
        arch = Architecture(
            n_layer=int(config["n_layer"]),
            n_head=int(config["n_head"]),
            n_embd=int(config["n_embd"]),
            context=int(config["n_positions"]),
            vocabulary=int(config["vocab_size"]),
        )
        if min(vars(arch).values()) < 1 or arch.n_embd % arch.n_head:
            raise ValueError(f"the sizes do not agree: {arch}")
        for key, values in COMPUTED.items():
            if config.get(key, values[0]) not in values:
                raise ValueError(f"{key} = {config[key]!r}, and only {values[0]!r} is supported")
        return arch
    except (ValueError, KeyError, TypeError, OSError, OverflowError, RecursionError) as error:
        message = (
            f"base_model = {base_model!r}: config.json is not a GPT-2 configuration ({error!r})"
        )
        raise UserError(message) from None


def load(
    base_model: str, dropout: float = 0.0, tie_weights: bool = False, frozen: bool = False
) -> GPT2:
    """A base model in fp32 on the CPU, ready to tune.

    Args:
        frozen: its weights will not change, so a head that is equal to the token embedding may lie in
            the same memory.

    Raises:
        UserError: it cannot be had, is not a GPT-2, or should be tied and comes with a head of its own.
    """
    arch = architecture(base_model)
    state = _from_hub_layout(_read(fetch(base_model), base_model), arch, base_model)
    head, embedding = state["lm_head.weight"], state["wte.weight"]
    same = torch.equal(head, embedding)
    if tie_weights and not same:
        message = f"base_model = {base_model!r}: its head is not its token embedding; tie_weights should be off"
        raise UserError(message)
    if same:
        state["lm_head.weight"] = embedding if tie_weights or frozen else embedding.clone()
    with torch.device("meta"):
        model = GPT2(arch, dropout)
    model.load_state_dict(state, assign=True)  # the tensors themselves: no second copy
    if tie_weights:
        model.lm_head.weight = model.wte.weight
    return model


def fetch(base_model: str) -> Path:
    """The file of a base model's weights, or the list of its files; downloaded first if need be.

    Raises:
        UserError: they cannot be had.
    """
    if base_model == EMBEDDED:
        return ASSETS / EMBEDDED / "model.safetensors"
    if base_model not in FAMILY:
        for name in WEIGHTS:
            if _has(base_model, name):
                return Path(base_model) / name
        raise UserError(f"base_model = {base_model!r}: it has no model.safetensors")
    repository = f"openai-community/{base_model}"
    named = f"base_model = {base_model!r}"
    with explained(named, repository, "name a directory that holds its weights"):
        path = cached_file(repository, "model.safetensors")
        if discard_if_damaged(path):
            raise UserError(f"{named}: what came from {repository} {DIFFERS}")
        return path


def to_download(base_model: str) -> int:
    """About how many bytes of weights would have to be downloaded first."""
    if base_model not in FAMILY or base_model == EMBEDDED:
        return 0
    if is_cached(f"openai-community/{base_model}", "model.safetensors"):
        return 0
    return 4 * FAMILY[base_model].parameters(tied=True)


def fingerprint(model: GPT2) -> str:
    """SHA-256 over names and values of all weights, adapters left out: equal where the base is equal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "lora_" not in name:
            digest.update(name.replace(".linear.", ".").encode())
            digest.update(tensor.detach().float().cpu().contiguous().view(-1).numpy())
    return digest.hexdigest()


def _has(directory: str, name: str) -> bool:
    try:
        return (Path(directory) / name).is_file()
    except OSError:  # a name too long
        return False


def _read(path: Path, base_model: str) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a file, or of those that it lists, by name. It lies in the mapped file: copy what is to stay.

    The file is mapped anew for each, or all of it would count as this process's memory; the largest
    comes first, while there is least beside it.
    """
    part, sizes = path, {}
    try:
        for part in _parts(path):
            with safe_open(part, "pt") as file:
                for name in list(file.keys()):
                    sizes[part, name] = math.prod(file.get_slice(name).get_shape())
        for part, name in sorted(sizes, key=lambda place: -sizes[place]):
            with safe_open(part, "pt") as file:
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"base_model = {base_model!r}: {part.name} is damaged ({error})") from None


def _parts(path: Path) -> list[Path]:
    """A file of weights itself, or those that a list names, all beside it. Raises ValueError where it is none."""
    if path.suffix != ".json":
        return [path]
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("it lists no files") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(SUFFIX):
            raise ValueError(f"it lists {name!r}, which is no file beside it")
    return [path.parent / name for name in sorted(names)]


def _from_hub_layout(
    tensors: Iterable[tuple[str, Tensor]], arch: Architecture, base_model: str
) -> dict[str, Tensor]:
    """Our state dict from the hub's: Conv1D transposed, c_attn split in q, k, v, the head filled in."""
    state: dict[str, Tensor] = {}
    for key, tensor in tensors:
        if not tensor.is_floating_point() and not key.endswith((".attn.bias", ".attn.masked_bias")):
            message = f"base_model = {base_model!r}: {key} is of {tensor.dtype}; it should be of floating-point numbers"
            raise UserError(message)
        name = key.removeprefix("transformer.")
        if name.endswith((".attn.bias", ".attn.masked_bias")):  # causal masks of old exports
            continue
        layer, _, kind = name.rpartition(".")
        if layer.endswith("attn.c_attn"):
            parts = torch.atleast_1d(tensor).tensor_split(3, -1)  # (n_embd, n_embd) or (n_embd,)
            for part, letter in zip(parts, "qkv", strict=True):
                value = part.transpose(0, -1) if kind == "weight" else part
                state[f"{layer.removesuffix('c_attn')}{letter}.{kind}"] = _copy(value)
            continue
        for theirs, ours in RENAMED.items():
            if layer.endswith(theirs):
                layer = layer.removesuffix(theirs) + ours
                tensor = tensor.transpose(0, -1) if kind == "weight" else tensor
        state[f"{layer}.{kind}"] = _copy(tensor)
    if "wte.weight" in state and not _has_own_head(base_model):
        state.setdefault("lm_head.weight", state["wte.weight"])
    _check(state, arch, base_model)
    return state


def hub_layout(model: GPT2) -> dict[str, Tensor]:
    """The weights of a tied model as the Hugging Face GPT-2 format has them: the way back of `load`."""
    state = {k: v.detach() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if layer.endswith((".q", ".k", ".v")):
            if not layer.endswith(".q"):
                continue
            stem = layer.removesuffix("q")
            tensor = torch.cat([state[f"{stem}{letter}.{kind}"] for letter in "qkv"])
            layer = stem + "c_attn"
        for theirs, ours in RENAMED.items():
            if layer.endswith(ours):
                layer = layer.removesuffix(ours) + theirs
        conv = layer.endswith((".c_attn", ".c_proj", ".c_fc")) and kind == "weight"
        found[f"transformer.{layer}.{kind}"] = (tensor.T if conv else tensor).contiguous()
    return found


def _has_own_head(base_model: str) -> bool:
    """Whether a directory says that its head is a matrix of its own, so that it must be there."""
    path = Path(base_model) / "config.json"
    if base_model in FAMILY or not path.is_file():
        return False
    return json.loads(path.read_text(encoding="utf-8")).get("tie_word_embeddings") is False


def _copy(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _check(state: dict[str, Tensor], arch: Architecture, base_model: str) -> None:
    with torch.device("meta"):
        expected = GPT2(arch).state_dict()
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is not part of GPT-2" for name in state if name not in expected]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} and should have {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"base_model = {base_model!r}: {'; '.join(problems[:3])}{more}")
