"""Loading trained models from published weights and checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.config import RunConfig
from core.data.template import Example, format_prompt
from core.data.tokenizer import END_OF_TEXT, decode, encode
from core.errors import UserError
from core.nn import lora
from core.nn.generation import Sampling, stream
from core.nn.gpt2 import GPT2
from core.training import checkpoints
from core.training.evaluation import answer_all
from core.training.trainer import Trainer, build_model, load_trained

NewConfig = Callable[..., RunConfig]
NewRun = Callable[..., Any]
LORA = {"method": "lora", "lora_rank": 4, "lora_alpha": 8}


@pytest.mark.parametrize(
    "method",
    [
        {"method": "full"},
        {"method": "full", "tie_weights": True},
        LORA,
        {**LORA, "tie_weights": True},
        {**LORA, "lora_targets": "attention", "lora_last_layers": 1},
    ],
    ids=["full", "full tied", "lora", "lora tied", "lora partial"],
)
def test_published_weights_match_the_trained_model(
    new_config: NewConfig, new_run: NewRun, method: dict[str, Any]
) -> None:
    config, run = new_config(**method, mask_prompt=True), new_run()
    trainer = Trainer(config, run)
    trainer.fit()
    trainer.publish_weights()
    ids = torch.tensor([[1, 50256, 300, 4000]])
    with torch.no_grad():
        expected = trainer.model.eval()(ids)
        base = build_model(config).eval()(ids)
        loaded = load_trained(config, run.directory)
        torch.testing.assert_close(loaded(ids), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(expected, base, atol=1e-2)
    assert not loaded.training
    name = "adapter" if config.method == "lora" else "model"
    manifest = json.loads((run.directory / "weights" / "manifest.json").read_text())
    assert list(manifest["files"]) == [f"{name}.safetensors"]
    assert manifest["base_hash"] == trainer.base_hash
    saved = load_file(run.directory / "weights" / f"{name}.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == run.events_of("plan")[0]["trainable"]


def greedy_answers(model: GPT2, examples: list[Example]) -> list[str]:
    answers = [a for batch in answer_all(model, examples, Sampling(12)) for a in batch]
    return [a.text for a in sorted(answers, key=lambda answer: answer.index)]


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(LORA, id="lora"),
        pytest.param({**LORA, "tie_weights": True}, id="lora tied", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_stored_answers_match_the_loaded_and_the_unmerged_model(
    new_config: NewConfig, new_run: NewRun, method: dict[str, Any], precision: str
) -> None:
    config, run = (
        new_config(
            **method, precision=precision, train_fraction=0.1, test_fraction=0.8, max_new_tokens=12
        ),
        new_run(),
    )
    trainer = Trainer(config, run)
    torch.manual_seed(3)
    with torch.no_grad():
        for layer in lora.adapters(trainer.model):
            layer.lora_B.normal_(0.0, 0.02)
    trained = {name: p.clone() for name, p in checkpoints.trainable(trainer.model).items()}
    trainer.publish_weights()
    assert trainer.answer_test_set() == "finished"
    stored = [e["answer"] for e in sorted(run.events_of("generation"), key=lambda e: e["item"])]
    examples = trainer.split.test
    assert len(set(stored)) > 5

    assert stored == greedy_answers(load_trained(config, run.directory), examples)
    unmerged = build_model(config).eval()
    checkpoints.load_trainable(unmerged, trained)
    lora.narrow(unmerged, torch.bfloat16 if precision == "bf16" else torch.float32)
    lora.widen(unmerged)
    assert stored == greedy_answers(unmerged, examples)
    prompts = [encode(format_prompt(e.instruction, e.input)) for e in examples]
    streamed = [stream(unmerged, prompt, Sampling(12), END_OF_TEXT) for prompt in prompts]
    assert stored == [decode(list(ids)) for ids in streamed]  # as on the Compare page


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_checkpoint_loads_like_published_weights(
    new_config: NewConfig, new_run: NewRun, precision: str
) -> None:
    config, run = new_config(**LORA, precision=precision), new_run(stop_at=2)
    trainer = Trainer(config, run)
    assert trainer.fit() == "stopped"
    from_checkpoint = load_trained(config, run.directory).state_dict()
    trainer.publish_weights()
    published = load_trained(config, run.directory).state_dict()
    assert from_checkpoint.keys() == published.keys()
    assert all(torch.equal(from_checkpoint[name], published[name]) for name in published)


def test_initial_adapters_depend_on_the_seed(new_config: NewConfig) -> None:
    def initial_weights(seed: int) -> list[torch.Tensor]:
        return [layer.lora_A for layer in lora.adapters(build_model(new_config(**LORA, seed=seed)))]

    assert len(initial_weights(1)) == 2 * 6 + 1
    assert all(map(torch.equal, initial_weights(1), initial_weights(1)))
    assert not any(map(torch.equal, initial_weights(1), initial_weights(2)))


def test_adapters_are_rejected_if_the_base_model_changed(
    new_config: NewConfig, new_run: NewRun, tmp_path: Path, save_peer: Callable[..., Any]
) -> None:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 96, "vocab_size": 50257}
    base = tmp_path / "base"
    save_peer(base, **sizes)
    config, run = new_config(**LORA, base_model=str(base)), new_run()
    Trainer(config, run).publish_weights()
    load_trained(config, run.directory)
    weights = load_file(base / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, base / "model.safetensors")
    with pytest.raises(UserError, match="have changed since its adapters were trained"):
        load_trained(config, run.directory)


def test_weights_are_rejected_if_settings_changed_the_model(
    new_config: NewConfig, new_run: NewRun
) -> None:
    run = new_run()
    Trainer(new_config(**LORA), run).publish_weights()
    with pytest.raises(UserError, match="the saved weights do not match this model"):
        load_trained(new_config(**LORA | {"lora_rank": 8}), run.directory)
    with pytest.raises(UserError, match="the saved weights do not match this model"):
        load_trained(new_config(method="full"), run.directory)


def test_damaged_weights_are_reported(new_config: NewConfig, new_run: NewRun) -> None:
    run = new_run()
    Trainer(new_config(**LORA), run).publish_weights()
    (run.directory / "weights" / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"adapter\.safetensors is damaged"):
        load_trained(new_config(**LORA), run.directory)


def test_run_without_weights_is_reported(new_config: NewConfig, new_run: NewRun) -> None:
    with pytest.raises(UserError, match="has no weights yet"):
        load_trained(new_config(**LORA), new_run().directory)
