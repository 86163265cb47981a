"""Fuzz tests for weights, checkpoints, model configurations and prompts.

Malformed files are either read correctly or rejected with a UserError. No other exception is raised.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from core.data.template import format_prompt
from core.data.tokenizer import decode, encode
from core.inference import Answerer
from core.nn import pretrained
from core.nn.generation import Sampling
from core.nn.gpt2 import GPT2
from core.training import checkpoints
from tests.test_fuzz import (
    Rejection,
    any_json,
    any_text,
    few_examples,
    malformed,
    many_examples,
    result_or_rejection,
    to_json_bytes,
)

SIZES = {"n_layer": 1, "n_head": 1, "n_embd": 2, "n_positions": 8, "vocab_size": 11}
NANO = "base:gpt2-nano"


def trained_model() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a model and its optimizer after one step."""
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture(scope="module")
def saved_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with two checkpoints, and the manifest of the newer one. Tests overwrite the manifest."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (1, 2):
        checkpoints.save_checkpoint(
            folder, step, *trained_model(), {"progress": {"step": step}, "scaler": {}}
        )
    manifest: dict[str, Any] = json.loads((folder / "step-00000002" / "manifest.json").read_text())
    return folder, manifest


file_names = st.sampled_from(["trainable.safetensors", "optimizer.safetensors", "random.safetensors", "manifest.json", "../x",
                              "/etc/passwd", "", ".", "..", "a\0b", "x" * 300])  # fmt: skip
file_entries = (
    st.fixed_dictionaries({"size": st.integers(0, 600) | any_json, "sha256": any_json}) | any_json
)
file_lists = st.dictionaries(file_names | any_text, file_entries, max_size=3)


@st.composite
def manifests(draw: Any, manifest: dict[str, Any]) -> Any:
    """Generate a manifest with at most one defect."""
    damaged_manifest = json.loads(json.dumps(manifest))
    damage = draw(
        st.sampled_from(
            ["none", "missing file", "extra entries", "replaced files", "replaced fields"]
        )
    )
    if damage == "missing file":
        del damaged_manifest["files"][draw(st.sampled_from(sorted(damaged_manifest["files"])))]
    elif damage == "extra entries":
        damaged_manifest["files"] |= draw(file_lists)
    elif damage == "replaced files":
        damaged_manifest["files"] = draw(file_lists | any_json)
    elif damage == "replaced fields":
        damaged_manifest |= draw(
            st.dictionaries(st.sampled_from(["progress", "step", "files"]), any_json)
        )
    return damaged_manifest


@many_examples
@given(st.data())
def test_damaged_manifest_falls_back_to_the_previous_checkpoint(
    saved_checkpoints: Any, data: Any
) -> None:
    folder, manifest = saved_checkpoints
    content = data.draw(
        malformed | any_json.map(to_json_bytes) | manifests(manifest).map(to_json_bytes)
    )
    newest = folder / "step-00000002"
    (newest / "manifest.json").write_bytes(content)
    result = result_or_rejection(lambda: checkpoints.read(newest))
    if not isinstance(result, Rejection):
        assert result[1].keys() == json.loads(content)["files"].keys()
    _, weights = result_or_rejection(lambda: checkpoints.newest_weights(folder))
    assert weights.keys() == {"weight", "bias"}
    model, optimizer = trained_model()
    restored, skipped = checkpoints.load_checkpoint(folder, model, optimizer)
    assert restored is not None
    if skipped:
        assert restored["progress"] == {"step": 1}
    else:
        # Compare the representations, because NaN is not equal to itself.
        assert repr(restored) == repr(json.loads(content))


def safetensors_file(value: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a file in the safetensors format; `length` overrides the header length."""
    text = to_json_bytes(value)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


tensor = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "BOOL", "U8", "F8_E4M3", "U64", "C64", "X", 3]),
     "shape": st.lists(st.integers(-1, 3) | st.just(2**62), max_size=3) | any_json,
     "data_offsets": st.tuples(st.integers(0, 16), st.integers(0, 64)) | any_json}
)  # fmt: skip
weight_files = st.one_of(
    malformed,
    st.binary(max_size=60),
    st.builds(safetensors_file, st.dictionaries(any_text | st.sampled_from(["wte.weight", "__metadata__"]), tensor | any_json, max_size=3),
              st.binary(max_size=64), st.none() | st.integers(0, 2**64 - 1)),
)  # fmt: skip
one_tensor = {"wte.weight": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}


@many_examples
@given(weight_files)
@example(safetensors_file(one_tensor, b"\0" * 4))
@example(safetensors_file({"wte.weight": {**one_tensor["wte.weight"], "dtype": "C64", "data_offsets": [0, 32]}}, b"\0" * 32))  # fmt: skip
@example(safetensors_file({"h.0.attn.c_attn.weight": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, b"\0" * 4))  # fmt: skip
def test_malformed_weights_are_rejected(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    base = tmp_path_factory.getbasetemp() / "fuzzed-base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text(json.dumps(SIZES))
    (base / "model.safetensors").write_bytes(content)
    load_result = result_or_rejection(lambda: pretrained.load(str(base)))
    assert isinstance(load_result, Rejection)
    assert load_result.startswith(f"base_model = {str(base)!r}: ")
    assert isinstance(result_or_rejection(lambda: pretrained.inspect(str(base))), Rejection)
    weights = base / "weights"
    shutil.rmtree(weights, ignore_errors=True)
    weights.mkdir()
    (weights / "a.safetensors").write_bytes(content)
    file_entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (weights / "manifest.json").write_text(json.dumps({"files": {"a.safetensors": file_entry}}))
    read_result = result_or_rejection(lambda: checkpoints.read(weights))
    assert isinstance(read_result, Rejection) or read_result[1]["a.safetensors"].keys() <= json.loads(content[8:8 + int.from_bytes(content[:8], "little")]).keys()  # fmt: skip


odd_sizes = st.fixed_dictionaries(
    {key: st.just(value) | st.integers(-2, 12) | any_json for key, value in SIZES.items()},
    optional={"activation_function": any_json, "layer_norm_epsilon": any_json},
)


@many_examples
@given(malformed | (any_json | odd_sizes).map(to_json_bytes))
@example(to_json_bytes({**SIZES, "n_layer": float("inf")}))
def test_any_base_config_is_valid_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    base = tmp_path_factory.getbasetemp() / "described-base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_bytes(content)
    result = result_or_rejection(lambda: pretrained.architecture(str(base)))
    if not isinstance(result, Rejection):
        assert min(vars(result).values()) >= 1
        assert result.n_embd % result.n_head == 0


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    return Answerer(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def nano(answerer: Answerer) -> GPT2:
    return answerer.model(NANO)


@few_examples
@given(
    st.text(max_size=40) | any_text | st.sampled_from(["", "\0", "\ud800", "<|endoftext|>", "ﷺ", "🏳️‍🌈"]),
    st.integers(0, 900), st.integers(1, 4), st.booleans(),
)  # fmt: skip
@example("word ", 250, 4, True)
@example("word ", 3000, 4, False)
def test_long_prompt_keeps_its_end_and_reports_truncation(
    answerer: Answerer, nano: GPT2, text: str, times: int, max_new_tokens: int, raw: bool
) -> None:
    prompt = text * times
    context, sampling = nano.arch.context, Sampling(max_new_tokens)
    *_, answer = answerer.answer(NANO, prompt, "", sampling, raw)
    ids = encode(prompt if raw else format_prompt(prompt))
    assert answer.prompt_cut == (len(ids) > context - max_new_tokens)
    assert answer.tokens <= max_new_tokens
    if (
        answer.prompt_cut
        and encode(prompt_end := decode(ids[max_new_tokens - context :]))
        == ids[max_new_tokens - context :]
    ):
        *_, short_answer = answerer.answer(NANO, prompt_end, "", sampling, raw=True)
        assert (short_answer.text, short_answer.prompt_cut) == (answer.text, False)
