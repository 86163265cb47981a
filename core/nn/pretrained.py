"""Load base models, either by name from the embedded assets or the Hugging Face Hub, or from a directory.

Weights must be safetensors in the Hugging Face GPT-2 layout. Every key and shape is checked; `inspect` does so using
only the file headers. Nothing is ever unpickled.
"""

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.config import RunConfig
from core.data.download import (
    CHECKSUM_MISMATCH,
    cached_file,
    discard_if_damaged,
    explain_error,
    is_cached,
    is_damaged,
)
from core.errors import UserError
from core.nn.architecture import FAMILY, VOCABULARY, Architecture
from core.nn.gpt2 import GPT2

EMBEDDED_MODEL = "gpt2-nano"
ASSETS = Path(__file__).parent.parent / "assets"
WEIGHTS_SUFFIX = ".safetensors"
WEIGHTS_FILES = ("model.safetensors", "model.safetensors.index.json")
"""Weights in a directory: a single file, or the index of a sharded model."""
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""Weights in a format that can run code when loaded. They are mentioned in error messages but never read."""
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module", "model")
"""Parts that torch.compile, FSDP, DataParallel and training frameworks add to the names of tensors."""
VOCABULARY_TABLES = ("wte.weight", "lm_head.weight")
MAX_EXTRA_ROWS = 1024
"""Maximum number of extra vocabulary rows, which are padding or added tokens. More indicate a different tokenizer."""
SIZES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "context": "n_positions",
    "vocabulary": "vocab_size",
}
"""Fields of Architecture and their keys in config.json."""
MAX_LAYERS = 1000
MAX_SIZE = 2**20
"""Upper limit for the other sizes. The product of any two of them still fits in 64 bits."""
COMPARED_ROWS = 4096
"""Vocabulary rows read at a time when comparing the output head with the token embedding."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Tensor dtypes by their names in a safetensors header."""
Headers = dict[tuple[Path, str], tuple[list[int], str]]
"""Shape and dtype of each tensor, by file and name."""
HUB_LAYER_NAMES = {"attn.c_proj": "attn.proj", "mlp.c_fc": "mlp.fc", "mlp.c_proj": "mlp.proj"}
"""Linear layers by their hub names. The hub stores them transposed, as (inputs, outputs)."""
SUPPORTED_CONFIG_VALUES = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}
"""Values in config.json that `core.nn.gpt2` implements. The first is the default if the key is missing."""


def max_length(config: RunConfig) -> int:
    """Return the number of tokens to which a run truncates its examples. Raises UserError; see `architecture`."""
    context = architecture(config.base_model).context
    return min(config.max_length or context, context)


def architecture(base_model: str) -> Architecture:
    """Return a base model's sizes without reading its weights. Raises UserError if the model or a size is invalid."""
    if base_model in FAMILY:
        return FAMILY[base_model]
    if not _has(base_model, "config.json"):
        model_names = ", ".join(FAMILY)
        message = f"base_model = {base_model!r}: unknown model; use {model_names} or a directory with config.json and model.safetensors"
        raise UserError(message)
    try:
        text = (Path(base_model) / "config.json").read_text(encoding="utf-8")
        config = json.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        raise _not_gpt2(base_model, f"it cannot be read as JSON ({error})") from None
    if not isinstance(config, dict):
        raise _not_gpt2(base_model, "it must be a JSON object")
    problems = []
    for key in SIZES.values():
        largest = MAX_LAYERS if key == "n_layer" else MAX_SIZE
        size = config.get(key)
        if key not in config:
            problems.append(f"{key} is missing")
        elif type(size) is not int or not 1 <= size <= largest:
            problems.append(f"{key} = {_brief(size)} must be a whole number from 1 to {largest:,}")
    for key, values in SUPPORTED_CONFIG_VALUES.items():
        if config.get(key, values[0]) not in values:
            problems.append(f"{key} = {_brief(config[key])}; only {values[0]!r} is supported")
    if not problems and config["n_embd"] % config["n_head"]:
        problems.append(
            f"n_embd = {config['n_embd']} must be divisible by n_head = {config['n_head']}"
        )
    if problems:
        raise _not_gpt2(base_model, "; ".join(problems))
    sizes = {field: config[key] for field, key in SIZES.items()}
    if _is_extended(sizes["vocabulary"]):
        sizes["vocabulary"] = VOCABULARY
    return Architecture(**sizes)


def _not_gpt2(base_model: str, reason: str) -> UserError:
    return UserError(
        f"base_model = {base_model!r}: config.json is not a GPT-2 configuration: {reason}"
    )


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _is_extended(rows: int) -> bool:
    """Whether a vocabulary is GPT-2's plus padding or added tokens, which are ignored."""
    return VOCABULARY < rows <= VOCABULARY + MAX_EXTRA_ROWS


def inspect(base_model: str, tie_weights: bool = False) -> list[str]:
    """Check a local base model's weights using only the file headers.

    Returns:
        Notes for the user, for example about a padded vocabulary or a damaged download, which `fetch` replaces. Empty
        if the weights have not been downloaded yet.

    Raises:
        UserError: whenever `load` would raise it, except for damaged tensor data.
    """
    arch = architecture(base_model)
    path = _cached_weights(base_model)
    if path is None:
        return []
    try:
        files = [path.with_name("config.json"), *_parts(path)]
        stats = [(file, file.stat()) for file in files if file.exists()]
    except (OSError, ValueError):  # reported below, when the headers are read
        stats = []
    stamps = tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)
    return list(_inspected(base_model, arch, path, tie_weights, stamps))


@functools.lru_cache(maxsize=16)
def _inspected(
    base_model: str, arch: Architecture, path: Path, tie_weights: bool, stamps: object
) -> tuple[str, ...]:
    """Implement `inspect`. `stamps` is part of the cache key."""
    try:
        return _notes(base_model, arch, path, tie_weights)
    except UserError:
        if not _is_from_hub(base_model) or not is_damaged(path):
            raise
        return (
            f"the cached file for {base_model} is damaged and will be downloaded again at launch",
        )


def _notes(base_model: str, arch: Architecture, path: Path, tie_weights: bool) -> tuple[str, ...]:
    headers = _headers(path, base_model)
    tensors = [
        (name, torch.empty(shape, dtype=DTYPES.get(dtype, torch.uint8), device="meta"))
        for (_, name), (shape, dtype) in headers.items()
    ]
    _from_hub_layout(tensors, arch, base_model)
    locations = {_own_name(location[1]): location for location in headers}
    tables = [locations[name] for name in VOCABULARY_TABLES if name in locations]
    if tie_weights and len(tables) == 2 and not _equal_rows(tables[0], tables[1], arch.vocabulary):
        raise _not_tied(base_model)
    rows = max(headers[location][0][0] for location in tables)
    if rows <= arch.vocabulary:
        return ()
    return (
        f"the base model has {rows:,} vocabulary rows; only the {VOCABULARY:,} rows of GPT-2's vocabulary are used",
    )


def _equal_rows(
    first_location: tuple[Path, str], second_location: tuple[Path, str], rows: int
) -> bool:
    """Whether the first rows of two stored matrices are equal."""
    with (
        safe_open(first_location[0], "pt") as file,
        safe_open(second_location[0], "pt") as second_file,
    ):
        first_rows, second_rows = (
            file.get_slice(first_location[1]),
            second_file.get_slice(second_location[1]),
        )
        for start in range(0, rows, COMPARED_ROWS):
            end = min(start + COMPARED_ROWS, rows)
            if not torch.equal(first_rows[start:end].float(), second_rows[start:end].float()):
                return False
    return True


def _not_tied(base_model: str) -> UserError:
    return UserError(
        f"base_model = {base_model!r}: its output head differs from its token embedding; turn off tie_weights"
    )


def load(
    base_model: str, dropout: float = 0.0, tie_weights: bool = False, frozen: bool = False
) -> GPT2:
    """Load a base model in fp32 on the CPU.

    Args:
        tie_weights: share the token embedding with the head.
        frozen: the weights will not be trained, so a head equal to the token embedding may share its memory.

    Raises:
        UserError: the model is unavailable, is not a GPT-2 model, or cannot be tied because its head differs.
    """
    arch = architecture(base_model)
    state = _from_hub_layout(_read(fetch(base_model), base_model), arch, base_model)
    head, embedding = state["lm_head.weight"], state["wte.weight"]
    is_tied_copy = torch.equal(head, embedding)
    if tie_weights and not is_tied_copy:
        raise _not_tied(base_model)
    if is_tied_copy:
        state["lm_head.weight"] = embedding if tie_weights or frozen else embedding.clone()
    with torch.device("meta"):
        model = GPT2(arch, dropout)
    model.load_state_dict(state, assign=True)  # without copying the tensors
    if tie_weights:
        model.lm_head.weight = model.wte.weight
    return model


def fetch(base_model: str) -> Path:
    """Return a base model's weights file, or the index of its shards, downloading it if needed.

    A damaged download is deleted and retried once.

    Raises:
        UserError: the weights are unavailable.
    """
    if not _is_from_hub(base_model):
        return _local_weights(base_model)
    repository = f"openai-community/{base_model}"
    setting = f"base_model = {base_model!r}"
    with explain_error(setting, repository, "choose a local model folder"):
        for _ in range(2):
            path = cached_file(repository, "model.safetensors")
            if not discard_if_damaged(path):
                return path
        raise UserError(f"{setting}: the download from {repository} {CHECKSUM_MISMATCH}")


def _is_from_hub(base_model: str) -> bool:
    return base_model in FAMILY and base_model != EMBEDDED_MODEL


def _local_weights(base_model: str) -> Path:
    """Return the weights file of the embedded model or of a directory. Raises UserError if there is none."""
    if base_model == EMBEDDED_MODEL:
        return ASSETS / EMBEDDED_MODEL / "model.safetensors"
    for name in WEIGHTS_FILES:
        if _has(base_model, name):
            return Path(base_model) / name
    message = f"base_model = {base_model!r}: it has no model.safetensors"
    if any(_has(base_model, name) for name in PICKLED):
        message += ". pytorch_model.bin is not supported because loading it can run code; convert it with save_pretrained(..., safe_serialization=True)"
    raise UserError(message)


def _cached_weights(base_model: str) -> Path | None:
    """Return a base model's weights file, or None if it has not been downloaded yet. Raises UserError."""
    if not _is_from_hub(base_model):
        return _local_weights(base_model)
    repository = f"openai-community/{base_model}"
    if not is_cached(repository, "model.safetensors"):
        return None
    return cached_file(repository, "model.safetensors")


def to_download(base_model: str) -> int:
    """Return the approximate number of bytes to download before the weights can be loaded."""
    if not _is_from_hub(base_model):
        return 0
    if is_cached(f"openai-community/{base_model}", "model.safetensors"):
        return 0
    return 4 * FAMILY[base_model].parameters(tied=True)


def fingerprint(model: GPT2) -> str:
    """Return the SHA-256 of all weight names and values except adapters. Identical base models have the same hash."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "lora_" not in name:
            digest.update(name.replace(".linear.", ".").encode())
            digest.update(tensor.detach().float().cpu().contiguous().view(-1).numpy())
    return digest.hexdigest()


def _has(directory: str, name: str) -> bool:
    try:
        return (Path(directory) / name).is_file()
    except OSError:  # the name is too long
        return False


def _headers(path: Path, base_model: str) -> Headers:
    """Read the headers of a weights file, or of the files listed in an index. Raises UserError."""
    part, headers = path, Headers()
    try:
        for part in _parts(path):
            with safe_open(part, "pt") as file:
                for name in list(file.keys()):
                    entry = file.get_slice(name)
                    headers[part, name] = (list(entry.get_shape()), str(entry.get_dtype()))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(base_model, part, error) from None
    return headers


def _read(path: Path, base_model: str) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor with its name. Tensors are views of the memory-mapped file, so copy any that must be kept.

    The file is mapped again for each tensor; otherwise all of it would count as this process's memory. The
    largest tensors come first, when the least memory is in use.
    """
    headers = _headers(path, base_model)
    for part, name in sorted(headers, key=lambda location: -math.prod(headers[location][0])):
        try:
            with safe_open(part, "pt") as file:
                tensor = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise _damaged(base_model, part, error) from None
        yield name, tensor


def _damaged(base_model: str, part: Path, error: Exception) -> UserError:
    return UserError(f"base_model = {base_model!r}: {part.name} is damaged ({error})")


def _own_name(key: str) -> str:
    """Strip wrapper parts and the hub's prefix from a tensor name."""
    parts = [part for part in key.split(".") if part not in WRAPPERS]
    return ".".join(parts).removeprefix("transformer.")


def _parts(path: Path) -> list[Path]:
    """Return the weights file itself, or the shards listed in an index. Raises ValueError if the index is invalid."""
    if path.suffix != ".json":
        return [path]
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("it lists no files") from None
    for name in names:
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith(WEIGHTS_SUFFIX)
        ):
            raise ValueError(
                f"it lists {name!r}, which is not a {WEIGHTS_SUFFIX} file in the same directory"
            )
    return [path.parent / name for name in sorted(names)]


def _from_hub_layout(
    tensors: Iterable[tuple[str, Tensor]], arch: Architecture, base_model: str
) -> dict[str, Tensor]:
    """Convert the hub's state dict to ours: transpose Conv1D, split c_attn into q, k, v, fill in the head.

    Also works on meta tensors, so that `inspect` applies the same rules to headers.
    """
    state: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    for key, tensor in tensors:
        if not tensor.is_floating_point() and not key.endswith((".attn.bias", ".attn.masked_bias")):
            message = f"base_model = {base_model!r}: {key} has dtype {tensor.dtype}; it must be floating point"
            raise UserError(message)
        name = _own_name(key)
        if name.endswith((".attn.bias", ".attn.masked_bias")):  # causal masks in old exports
            continue
        if name in keys:
            message = f"base_model = {base_model!r}: {keys[name]} and {key} both map to the same GPT-2 tensor; keep only one"
            raise UserError(message)
        keys[name] = key
        if name in VOCABULARY_TABLES and tensor.dim() == 2 and _is_extended(len(tensor)):
            tensor = tensor[:VOCABULARY]
        layer, _, kind = name.rpartition(".")
        if layer.endswith("attn.c_attn"):
            parts = torch.atleast_1d(tensor).tensor_split(3, -1)  # (n_embd, n_embd) or (n_embd,)
            for part, letter in zip(parts, "qkv", strict=True):
                value = part.transpose(0, -1) if kind == "weight" else part
                state[f"{layer.removesuffix('c_attn')}{letter}.{kind}"] = _copy(value)
            continue
        for hub_name, local_name in HUB_LAYER_NAMES.items():
            if layer.endswith(hub_name):
                layer = layer.removesuffix(hub_name) + local_name
                tensor = tensor.transpose(0, -1) if kind == "weight" else tensor
        state[f"{layer}.{kind}"] = _copy(tensor)
    if "wte.weight" in state and not _has_own_head(base_model):
        state.setdefault("lm_head.weight", state["wte.weight"])
    _check(state, arch, base_model)
    return state


def hub_layout(model: GPT2) -> dict[str, Tensor]:
    """Return a tied model's weights in the Hugging Face GPT-2 layout. This is the inverse of `load`."""
    state = {k: v.detach() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    exported: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if layer.endswith((".q", ".k", ".v")):
            if not layer.endswith(".q"):
                continue
            stem = layer.removesuffix("q")
            tensor = torch.cat([state[f"{stem}{letter}.{kind}"] for letter in "qkv"])
            layer = stem + "c_attn"
        for hub_name, local_name in HUB_LAYER_NAMES.items():
            if layer.endswith(local_name):
                layer = layer.removesuffix(local_name) + hub_name
        conv = layer.endswith((".c_attn", ".c_proj", ".c_fc")) and kind == "weight"
        exported[f"transformer.{layer}.{kind}"] = (tensor.T if conv else tensor).contiguous()
    return exported


def _has_own_head(base_model: str) -> bool:
    """Whether config.json declares an untied head, so that the head's weights are required."""
    path = Path(base_model) / "config.json"
    if base_model in FAMILY or not path.is_file():
        return False
    return json.loads(path.read_text(encoding="utf-8")).get("tie_word_embeddings") is False


def _copy(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _check(state: dict[str, Tensor], arch: Architecture, base_model: str) -> None:
    with torch.device("meta"):
        expected = GPT2(arch).state_dict()
    prefixes = [name.removesuffix("wte.weight") for name in state if name.endswith(".wte.weight")]
    if prefixes and "wte.weight" not in state:
        message = f"its tensor names start with the unknown prefix {_brief(prefixes[0])}; save the model without it"
        raise UserError(f"base_model = {base_model!r}: {message}")
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is not part of GPT-2" for name in state if name not in expected]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if problems:
        suffix = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"base_model = {base_model!r}: {'; '.join(problems[:3])}{suffix}")
