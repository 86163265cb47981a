"""Loading base models from real save_pretrained directories, both intact and damaged."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import UserError
from core.nn import lora, pretrained
from core.nn.architecture import FAMILY, Architecture
from core.nn.gpt2 import GPT2

SavePeer = Callable[..., Any]
QKV = "transformer.h.0.attn.c_attn.weight"


@pytest.fixture
def base(tmp_path: Path, save_peer: SavePeer) -> Path:
    """A directory with a valid tied base model."""
    save_peer(tmp_path)
    return tmp_path


def rewrite(base: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = base / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def error_message(base: Path) -> str:
    """Return the error message from `load`. `inspect` must raise the same error."""
    with pytest.raises(UserError) as load_error:
        pretrained.load(str(base))
    text = str(load_error.value)
    with pytest.raises(UserError) as inspect_error:
        pretrained.inspect(str(base))
    assert str(inspect_error.value) == text
    assert text.startswith(f"base_model = {str(base)!r}: ")
    assert "\n" not in text
    return text.removeprefix(f"base_model = {str(base)!r}: ")


def test_head_of_a_tied_model_starts_as_a_copy(base: Path) -> None:
    model = pretrained.load(str(base))
    assert torch.equal(model.lm_head.weight, model.wte.weight)
    assert model.lm_head.weight is not model.wte.weight
    tied = pretrained.load(str(base), tie_weights=True)
    assert tied.lm_head.weight is tied.wte.weight
    assert torch.equal(tied.wte.weight, model.wte.weight)


def test_weights_are_fp32_and_trainable(base: Path) -> None:
    rewrite(base, lambda tensors: tensors.update({k: t.bfloat16() for k, t in tensors.items()}))
    for parameter in pretrained.load(str(base)).parameters():
        assert parameter.dtype == torch.float32
        assert parameter.requires_grad


def test_untied_model_cannot_be_tied(tmp_path: Path, save_peer: SavePeer) -> None:
    save_peer(tmp_path, tied=False)
    for load_model in (pretrained.load, pretrained.inspect):
        with pytest.raises(UserError, match="tie_weights"):
            load_model(str(tmp_path), tie_weights=True)
    pretrained.load(str(tmp_path))
    assert pretrained.inspect(str(tmp_path)) == []


def test_stored_head_equal_to_the_embedding_can_be_tied(base: Path) -> None:
    rewrite(base, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()}))
    assert pretrained.inspect(str(base), tie_weights=True) == []
    assert pretrained.load(str(base), tie_weights=True)


def test_sharded_model_matches_the_single_file(tmp_path: Path, save_peer: SavePeer) -> None:
    peer = save_peer(tmp_path / "whole")
    base = tmp_path / "sharded"
    peer.save_pretrained(base, max_shard_size="20KB")
    assert len([*base.glob("model-*.safetensors")]) > 2
    assert not (base / "model.safetensors").exists()
    expected_hash = pretrained.fingerprint(pretrained.load(str(tmp_path / "whole")))
    assert pretrained.fingerprint(pretrained.load(str(base))) == expected_hash
    first = min(base.glob("model-*.safetensors"))
    first.write_bytes(first.read_bytes()[:-1])
    assert error_message(base).startswith(f"{first.name} is damaged (")
    first.unlink()
    assert error_message(base).startswith(f"{first.name} is damaged (")


@pytest.mark.parametrize(
    ("listed", "expected_message"),
    [
        ("[", "Expecting value"),
        ("[" * 100_000, "it lists no files"),
        ("[]", "it lists no files"),
        ("{}", "it lists no files"),
        ('{"weight_map": {"x": 1}}', "it lists 1, which is not a .safetensors file"),
        ('{"weight_map": {"x": "../whole/model.safetensors"}}', "file in the same directory"),
        ('{"weight_map": {"x": ".."}}', "file in the same directory"),
    ],
)  # fmt: skip
def test_invalid_shard_index_is_reported(base: Path, listed: str, expected_message: str) -> None:
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text(listed)
    text = error_message(base)
    assert text.startswith("model.safetensors.index.json is damaged (")
    assert expected_message in text


def test_old_exports_without_prefix_and_with_causal_masks_are_loaded(base: Path) -> None:
    expected = pretrained.load(str(base)).state_dict()

    def convert_to_old_export(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for i in range(2):
            tensors[f"h.{i}.attn.bias"] = torch.ones(1, 1, 48, 48).tril()
            tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)

    rewrite(base, convert_to_old_export)
    loaded = pretrained.load(str(base)).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "wrap",
    [
        "_orig_mod.{}",
        "module.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.{}",
        "model.{}",
        "_fsdp_wrapped_module.{}",
    ],
)
def test_wrapper_prefixes_are_stripped(base: Path, wrap: str) -> None:
    expected = pretrained.fingerprint(pretrained.load(str(base)))
    rewrite(base, lambda t: [t.update({wrap.format(name): t.pop(name)}) for name in list(t)])
    assert pretrained.inspect(str(base)) == []
    assert pretrained.fingerprint(pretrained.load(str(base))) == expected


def test_wrapped_blocks_are_unwrapped(base: Path) -> None:
    """When applied to individual blocks, torch.compile inserts its prefix in the middle of parameter names."""
    expected = pretrained.fingerprint(pretrained.load(str(base)))

    def wrap(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            wrapped = name.replace("h.0.", "h.0._orig_mod.").replace("h.1.", "h.1._orig_mod.")
            tensors[wrapped] = tensors.pop(name)

    rewrite(base, wrap)
    assert pretrained.inspect(str(base)) == []
    assert pretrained.fingerprint(pretrained.load(str(base))) == expected


def test_unknown_prefix_is_reported(base: Path) -> None:
    rewrite(base, lambda t: [t.update({f"net.{name}": t.pop(name)}) for name in list(t)])
    assert error_message(base) == (
        "its tensor names start with the unknown prefix 'net.transformer.'; "
        "save the model without it"
    )


def test_duplicate_tensor_is_an_error(base: Path) -> None:
    rewrite(base, lambda t: t.update({"module.wte.weight": t["transformer.wte.weight"] + 1}))
    assert error_message(base).endswith("both map to the same GPT-2 tensor; keep only one")


@pytest.mark.parametrize("rows", [50_258, 50_304, 51_200])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("declared", [True, False])
def test_padded_vocabularies_are_truncated(
    tmp_path: Path, save_peer: SavePeer, rows: int, tied: bool, declared: bool
) -> None:
    peer = save_peer(tmp_path, tied=tied, n_layer=1, n_head=1, n_embd=4, vocab_size=rows)
    if not declared:
        path = tmp_path / "config.json"
        path.write_text(path.read_text().replace(f'"vocab_size": {rows}', '"vocab_size": 50257'))
    assert pretrained.architecture(str(tmp_path)).vocabulary == 50_257
    model = pretrained.load(str(tmp_path), tie_weights=tied)
    ids = torch.tensor([[1, 2, 50_256]])
    expected = peer(ids).logits[..., :50_257]
    torch.testing.assert_close(model(ids), expected, atol=1e-4, rtol=1e-4)
    assert pretrained.inspect(str(tmp_path), tie_weights=tied) == [
        f"the base model has {rows:,} vocabulary rows; only the 50,257 rows of GPT-2's vocabulary are used"
    ]


def test_much_larger_vocabulary_is_not_truncated(tmp_path: Path, save_peer: SavePeer) -> None:
    save_peer(tmp_path, n_layer=1, n_head=1, n_embd=4, vocab_size=64_000)
    assert pretrained.architecture(str(tmp_path)).vocabulary == 64_000


def test_inspect_reads_only_headers(tmp_path: Path) -> None:
    """Use a sparse file as large as GPT-2 XL, with only the header on disk."""
    arch = FAMILY["gpt2-xl"]
    sizes = {"n_layer": arch.n_layer, "n_head": arch.n_head, "n_embd": arch.n_embd}
    config = {**sizes, "n_positions": arch.context, "vocab_size": arch.vocabulary}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        shapes = {name: list(t.shape) for name, t in pretrained.hub_layout(GPT2(arch)).items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    before = psutil.Process().memory_info().rss
    assert pretrained.inspect(str(tmp_path)) == []
    assert psutil.Process().memory_info().rss - before < 200e6


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_pickled_weights_are_an_error(base: Path, name: str) -> None:
    (base / "model.safetensors").rename(base / name)
    assert error_message(base).startswith(
        "it has no model.safetensors. pytorch_model.bin is not supported"
    )


@pytest.mark.parametrize(
    ("change", "expected_message"),
    [
        ({"n_positions": None}, "n_positions = None must be a whole number from 1 to 1,048,576"),
        ({"n_positions": ...}, "n_positions is missing"),
        ({"n_positions": ..., "vocab_size": ...}, "n_positions is missing; vocab_size is missing"),
        ({"n_layer": 2.5}, "n_layer = 2.5 must be a whole number from 1 to 1,000"),
        ({"n_layer": True}, "n_layer = True must be"),
        ({"n_layer": 10**12}, "n_layer = 1000000000000 must be"),
        ({"n_head": [4]}, "n_head = [4] must be a whole number"),
        ({"n_head": 5}, "n_embd = 32 must be divisible by n_head = 5"),
        ({"n_embd": "x" * 9999}, "n_embd = 'xxx"),
    ],
)
def test_invalid_fields_of_config_json_are_listed(
    base: Path, change: dict[str, Any], expected_message: str
) -> None:
    path = base / "config.json"
    config = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    text = error_message(base)
    assert text.startswith(f"config.json is not a GPT-2 configuration: {expected_message}")
    assert len(text) < 200


def test_missing_tensor_is_reported(base: Path) -> None:
    rewrite(base, lambda tensors: tensors.pop("transformer.h.1.ln_2.bias"))
    assert error_message(base) == "h.1.ln_2.bias is missing"


def test_missing_head_of_an_untied_model_is_reported(tmp_path: Path, save_peer: SavePeer) -> None:
    save_peer(tmp_path, tied=False)
    state = load_file(tmp_path / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head\.weight is missing"):
        pretrained.load(str(tmp_path))


def test_missing_token_embedding_is_reported(base: Path) -> None:
    rewrite(base, lambda tensors: tensors.pop("transformer.wte.weight"))
    assert error_message(base) == "wte.weight is missing; lm_head.weight is missing"


def test_unexpected_tensor_is_reported(base: Path) -> None:
    rewrite(base, lambda tensors: tensors.update({"score.weight": torch.zeros(2, 32)}))
    assert error_message(base) == "score.weight is not part of GPT-2"


@pytest.mark.parametrize("shape", [(32, 97), (32, 2), (97,), (), (2, 3, 4), (0, 0)])
def test_wrong_shape_is_reported(base: Path, shape: tuple[int, ...]) -> None:
    rewrite(base, lambda tensors: tensors.update({QKV: torch.zeros(shape)}))
    assert "h.0.attn.q.weight has shape" in error_message(base)
    assert error_message(base).endswith("instead of (32, 32)")


def test_wrong_position_table_length_is_reported(base: Path) -> None:
    rewrite(base, lambda t: t.update({"transformer.wpe.weight": torch.zeros(50, 32)}))
    assert error_message(base) == "wpe.weight has shape (50, 32) instead of (48, 32)"


def test_error_with_many_problems_is_short(base: Path) -> None:
    rewrite(base, lambda tensors: tensors.clear())
    assert error_message(base).endswith(" more")
    assert len(error_message(base)) < 200


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b""])
def test_truncated_file_is_reported(base: Path, damage: Callable[[bytes], bytes]) -> None:
    path = base / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert error_message(base).startswith("model.safetensors is damaged (")


def test_missing_files_are_reported(base: Path) -> None:
    (base / "model.safetensors").unlink()
    assert error_message(base) == "it has no model.safetensors"
    (base / "config.json").unlink()
    assert "unknown model; use gpt2-nano, gpt2," in error_message(base)


@pytest.mark.parametrize("name", ["gpt3", "x" * 200, "\u00fc" * 200, "a\0b", "~/nothing"])
def test_unknown_model_is_reported(name: str) -> None:
    with pytest.raises(UserError, match="unknown model"):
        pretrained.architecture(name)


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"n_layer": 2, "n_head": 4, "n_embd": "x", "n_positions": 8, "vocab_size": 97}',
        b'{"n_layer": 2, "n_head": 5, "n_embd": 32, "n_positions": 8, "vocab_size": 97}',
        b'{"n_layer": 2, "n_head": 0, "n_embd": 32, "n_positions": 8, "vocab_size": 97}',
        b'{"n_layer": -2, "n_head": 4, "n_embd": 32, "n_positions": 8, "vocab_size": 97}',
    ],
)
def test_config_for_a_different_architecture_is_refused(base: Path, config: bytes) -> None:
    (base / "config.json").write_bytes(config)
    assert error_message(base).startswith("config.json is not a GPT-2 configuration")


@pytest.mark.parametrize(
    ("key", "value"),
    [("activation_function", "relu"), ("layer_norm_epsilon", 1e-6), ("scale_attn_weights", False)],
)
def test_unsupported_gpt2_variant_is_refused(base: Path, key: str, value: object) -> None:
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert f"{key} = {value!r}" in error_message(base)


def test_sizes_are_read_from_config_json(base: Path) -> None:
    arch = pretrained.architecture(str(base))
    assert arch == Architecture(n_layer=2, n_head=4, n_embd=32, context=48, vocabulary=97)
    assert pretrained.architecture("gpt2-large") == FAMILY["gpt2-large"]


def test_fingerprint_ignores_adapters(base: Path) -> None:
    model = pretrained.load(str(base))
    plain = pretrained.fingerprint(model)
    assert plain == pretrained.fingerprint(pretrained.load(str(base)))
    assert plain == pretrained.fingerprint(pretrained.load(str(base), tie_weights=True))
    lora.add_adapters(model, model.arch.lora_targets(), rank=2, alpha=2)
    assert pretrained.fingerprint(model) == plain
    with torch.no_grad():
        model.wpe.weight[0, 0] += 1e-3
    assert pretrained.fingerprint(model) != plain


def test_embedded_model_matches_its_config() -> None:
    model = pretrained.load("gpt2-nano")
    assert model.arch == pretrained.architecture(str(pretrained.ASSETS / "gpt2-nano"))
    assert pretrained.fingerprint(model) == pretrained.fingerprint(pretrained.load("gpt2-nano"))


def test_hub_layout_conversion_round_trips(base: Path) -> None:
    peer = load_file(base / "model.safetensors")
    saved = pretrained.hub_layout(pretrained.load(str(base), tie_weights=True))
    assert saved.keys() == peer.keys()
    for name, tensor in saved.items():
        assert torch.equal(tensor, peer[name]), name
