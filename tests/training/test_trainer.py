"""The trainer: its events, losses, gradients, published weights and warnings."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._dynamo.utils import counters

from core.config import RunConfig
from core.data import dataset, inspection
from core.data.batches import collate, encode_all
from core.errors import TrainingError, UserError
from core.nn import pretrained
from core.nn.architecture import Architecture
from core.nn.gpt2 import GPT2
from core.planning import preflight
from core.training import hardware
from core.training.optimizers import learning_rate
from core.training.trainer import Trainer, build_model, train

NewConfig = Callable[..., RunConfig]
NewRun = Callable[..., Any]
LORA = {"method": "lora", "lora_rank": 4, "lora_alpha": 8}


def test_run_writes_all_events(new_config: NewConfig, new_run: NewRun) -> None:
    config, run = new_config(**LORA, epochs=2, min_lr=1e-3, warmup_fraction=0.2), new_run()
    assert train(config, run) == "finished"
    examples = dataset.load(config.dataset)
    lengths = [len(e.ids) - 1 for e in encode_all(examples[:20], 96, mask_prompt=False)]

    kinds = [event["event"] for event in run.events]
    assert kinds[:2] == ["plan", "eval"]
    [plan] = run.events_of("plan")
    assert (plan["steps"], plan["steps_per_epoch"], plan["train_examples"]) == (10, 5, 20)
    model = build_model(config)
    assert plan["parameters"] == sum(p.numel() for p in model.parameters())
    assert plan["trainable"] == model.arch.lora_parameters(4)
    assert plan["base_hash"] == pretrained.fingerprint(pretrained.load(config.base_model))

    steps = run.events_of("step")
    assert [step["step"] for step in steps] == list(range(1, 11))
    assert [step["epoch"] for step in steps] == pytest.approx([i / 5 for i in range(1, 11)])
    assert [s["lr"] for s in steps] == [learning_rate(config, i, 10) for i in range(1, 11)]
    assert [step["examples"] for step in steps] == list(range(4, 41, 4))
    for epoch in (steps[:5], steps[5:]):
        assert sorted(i for step in epoch for i in step["batch"]) == list(range(20))
    tokens = 0
    for step in steps:
        sizes = [lengths[i] for i in step["batch"]]
        tokens += sum(sizes)
        assert step["tokens"] == tokens
        assert step["padding"] == pytest.approx(1 - sum(sizes) / (4 * max(sizes)), abs=1e-6)
        assert step["tokens_per_s"] > 0
        assert step["memory_mb"] > 0
    seconds = [step["seconds"] for step in steps]
    assert seconds == sorted(seconds)

    evals = [(e["step"], e["final"]) for e in run.events_of("eval")]
    assert evals == [(0, False), (4, False), (8, False), (10, True)]
    assert [e["step"] for e in run.events_of("sample")] == [6, 10]
    answers = run.events_of("generation")
    assert sorted(answer["item"] for answer in answers) == [20, 21]
    for answer in answers:
        example = examples[answer["item"]]
        prompt_fields = (answer["instruction"], answer["input"], answer["reference"])
        assert prompt_fields == (example.instruction, example.input, example.output)
        assert answer["tokens"] <= 4
    assert not run.events_of("warning")


@torch.no_grad()
def mean_target_loss(model: torch.nn.Module, config: RunConfig, first: int, last: int) -> float:
    """Return the mean loss per target token, computed one example at a time."""
    examples = dataset.load(config.dataset)[first:last]
    total, count = 0.0, 0
    for example in encode_all(examples, 96, config.mask_prompt):
        batch = collate([example], config.mask_prompt)
        total += model.loss(batch.ids, batch.targets).item()
        count += batch.target_tokens
    return total / count


@pytest.mark.parametrize("mask_prompt", [False, True])
def test_evaluation_losses_are_means_over_target_tokens(
    new_config: NewConfig, new_run: NewRun, mask_prompt: bool
) -> None:
    config, run = new_config(mask_prompt=mask_prompt, batch_size=1, eval_batches=1), new_run()
    trainer = Trainer(config, run)
    trainer.fit()
    first, last = run.events_of("eval")[0], run.events_of("eval")[-1]
    base = build_model(config).eval()
    assert first["train_loss"] == pytest.approx(mean_target_loss(base, config, 0, 1), rel=1e-5)
    assert first["val_loss"] == pytest.approx(mean_target_loss(base, config, 22, 23), rel=1e-5)
    trained = trainer.model.eval()
    assert last["train_loss"] == pytest.approx(mean_target_loss(trained, config, 0, 1), rel=1e-5)
    assert last["val_loss"] == pytest.approx(mean_target_loss(trained, config, 22, 24), rel=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "mask_prompt"),
    [({"optimizer": "adamw"}, True), ({"optimizer": "sgd", "lr": 0.3}, False)],
)
def test_accumulation_matches_a_larger_batch(
    new_config: NewConfig, new_run: NewRun, optimizer: dict[str, Any], mask_prompt: bool
) -> None:
    results = []
    for batch_size, grad_accumulation in ((6, 1), (2, 3)):
        config = new_config(
            **optimizer,
            batch_size=batch_size,
            grad_accumulation=grad_accumulation,
            group_by_length=False,
            mask_prompt=mask_prompt,
        )
        run = new_run()
        trainer = Trainer(config, run)
        trainer.fit()
        results.append((run, trainer.model.h[1].mlp.fc.weight))
    (big, weight), *accumulated = results
    assert len(big.losses()) == 4
    for run, other_weight in accumulated:
        assert [s["batch"] for s in run.events_of("step")] == [
            s["batch"] for s in big.events_of("step")
        ]
        assert run.losses() == pytest.approx(big.losses(), rel=1e-5)
        norms = [step["grad_norm"] for step in run.events_of("step")]
        assert norms == pytest.approx(
            [step["grad_norm"] for step in big.events_of("step")], rel=1e-3
        )
        torch.testing.assert_close(other_weight, weight, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", [{"method": "full"}, {**LORA, "lora_dropout": 0.2}])
def test_same_settings_give_identical_runs(
    new_config: NewConfig, new_run: NewRun, method: dict[str, Any]
) -> None:
    config = new_config(**method, dropout=0.1, mask_prompt=True, grad_accumulation=2)
    first, second, other_seed = new_run("a"), new_run("b"), new_run("c")
    train(config, first)
    torch.rand(7)
    train(config, second)
    train(config.changed(seed=1), other_seed)
    assert first.losses() == second.losses() != other_seed.losses()
    for kind in ("eval", "sample", "generation"):
        assert without_times(first.events_of(kind)) == without_times(second.events_of(kind))
    assert weights(first.directory) == weights(second.directory) != weights(other_seed.directory)


def without_times(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    measured = ("seconds", "memory_mb")
    return [{k: v for k, v in event.items() if k not in measured} for event in events]


def weights(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "weights" / "manifest.json").read_text())["files"]


def test_answers_and_samples_do_not_change_the_random_state(
    new_config: NewConfig, new_run: NewRun
) -> None:
    config = new_config(dropout=0.2, mask_prompt=True)
    with_samples, without_samples = new_run("a"), new_run("b")
    Trainer(config.changed(sample_every=1, eval_every=1), with_samples).fit()
    Trainer(config.changed(sample_prompt="", eval_every=100), without_samples).fit()
    assert with_samples.losses() == without_samples.losses()
    assert len(with_samples.events_of("sample")) == 5
    assert len(without_samples.events_of("sample")) == 0


@pytest.mark.parametrize("clip", [None, 0.01, 1e5])
def test_clipping_bounds_the_step_and_records_the_unclipped_norm(
    new_config: NewConfig, new_run: NewRun, clip: float | None
) -> None:
    config = new_config(
        optimizer="sgd", lr=0.5, weight_decay=0.0, grad_clip=clip, batch_size=20, mask_prompt=True
    )
    run = new_run()
    trainer = Trainer(config, run)
    weights_before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.fit()
    [step] = run.events_of("step")
    squares = [
        (p - q).double().square().sum().item()
        for p, q in zip(weights_before, trainer.model.parameters(), strict=True)
    ]
    moved = math.sqrt(sum(squares))
    bound = step["grad_norm"] if clip is None else min(clip, step["grad_norm"])
    assert 0.01 < step["grad_norm"] < 1e5
    assert moved == pytest.approx(0.5 * bound, rel=1e-3)


def test_lora_does_not_change_the_base(new_config: NewConfig, new_run: NewRun) -> None:
    trainer = Trainer(new_config(**LORA, mask_prompt=True), new_run())
    trainer.fit()
    assert pretrained.fingerprint(trainer.model) == trainer.base_hash


def nan_base(base: Path, directory: Path) -> str:
    tensors = load_file(base / "model.safetensors")
    tensors["transformer.ln_f.bias"] = torch.full_like(
        tensors["transformer.ln_f.bias"], float("nan")
    )
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_bytes((base / "config.json").read_bytes())
    return str(directory)


def test_nan_loss_ends_the_run(
    new_config: NewConfig, new_run: NewRun, base: Path, tmp_path: Path
) -> None:
    run = new_run()
    with pytest.raises(
        TrainingError, match=r"diverged at step 1 with lr = 0\.01: the loss became nan"
    ):
        train(new_config(base_model=nan_base(base, tmp_path)), run)
    assert not run.events_of("step")
    assert not (run.directory / "checkpoint").exists()
    assert not (run.directory / "weights").exists()


def test_nan_gradient_does_not_change_the_weights(new_config: NewConfig, new_run: NewRun) -> None:
    run = new_run()
    trainer = Trainer(new_config(mask_prompt=True), run)
    hash_before = pretrained.fingerprint(trainer.model)
    trainer.model.ln_f.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match=r"diverged at step 1 .* the gradient norm nan"):
        trainer.fit()
    assert pretrained.fingerprint(trainer.model) == hash_before
    assert not run.events_of("step")


def test_divergence_ends_the_run(new_config: NewConfig, new_run: NewRun) -> None:
    unstable = {"optimizer": "sgd", "lr": 10.0, "grad_clip": None, "weight_decay": 10.0}
    run = new_run()
    with pytest.raises(TrainingError, match=r"diverged at step \d+ with lr = 10: .*(nan|inf)"):
        train(new_config(**unstable, mask_prompt=True, epochs=40), run)
    assert run.events_of("step")
    assert all(math.isfinite(loss) for loss in run.losses())


def test_examples_that_lose_their_response_cause_a_warning(
    new_config: NewConfig, new_run: NewRun
) -> None:
    examples = dataset.load(new_config().dataset)
    train_examples = [*examples[:20], *examples[22:]]
    prompts = [
        example.prompt_length for example in encode_all(train_examples, 96, mask_prompt=True)
    ]
    limit = sorted(prompts)[-3]
    lost_count = sum(limit <= length for length in prompts)
    config, run = new_config(max_length=limit, mask_prompt=True), new_run()
    Trainer(config, run).fit()
    [warning] = run.events_of("warning")
    assert 3 <= lost_count < 20
    assert warning["message"].startswith(f"{lost_count} examples are skipped")
    assert len({i for step in run.events_of("step") for i in step["batch"]}) < 20


def test_truncating_every_example_is_reported(new_config: NewConfig, new_run: NewRun) -> None:
    with pytest.raises(UserError, match=r"max_length = 10: .*use a larger value"):
        Trainer(new_config(max_length=10, mask_prompt=True), new_run())


@pytest.mark.parametrize(
    "invalid_setting", [{"base_model": "nowhere"}, {"dataset": "nowhere.json"}]
)
def test_unknown_inputs_are_user_errors(
    new_config: NewConfig, new_run: NewRun, invalid_setting: dict[str, Any]
) -> None:
    [field] = invalid_setting
    with pytest.raises(UserError, match=f"{field} = 'nowhere"):
        Trainer(new_config(**invalid_setting), new_run())


def test_grad_checkpointing_does_not_change_losses(new_config: NewConfig, new_run: NewRun) -> None:
    plain, checkpointed = new_run("a"), new_run("b")
    Trainer(new_config(mask_prompt=True, dropout=0.1), plain).fit()
    Trainer(new_config(mask_prompt=True, dropout=0.1, grad_checkpointing=True), checkpointed).fit()
    assert checkpointed.losses() == pytest.approx(plain.losses(), rel=1e-5)


def test_bf16_run_is_close_to_fp32(new_config: NewConfig, new_run: NewRun) -> None:
    fp32_run, bf16_run = new_run("a"), new_run("b")
    Trainer(new_config(mask_prompt=True, batch_size=10), fp32_run).fit()
    trainer = Trainer(new_config(mask_prompt=True, batch_size=10, precision="bf16"), bf16_run)
    trainer.fit()
    assert bf16_run.events_of("plan")[0]["precision"] == "bfloat16"
    assert bf16_run.losses() == pytest.approx(fp32_run.losses(), rel=1e-2)
    assert bf16_run.losses() != fp32_run.losses()
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_training_memory_is_released_before_generation(
    new_config: NewConfig, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freed memory can be returned to the system only after gradients and moments are deleted."""
    trainer = Trainer(new_config(), new_run("a"))
    trainer.fit()
    state_held: list[bool] = []

    def record_state() -> None:
        grads = [p.grad is not None for p in trainer.parameters]
        state_held.append(any(grads) or bool(trainer.optimizer.state))

    monkeypatch.setattr(hardware, "return_freed_memory", record_state)
    trainer.answer_test_set()
    assert state_held == [False]


def test_truncated_sample_prompt_is_reported(new_config: NewConfig, new_run: NewRun) -> None:
    run = new_run("long")
    Trainer(new_config(sample_prompt="red house " * 150, max_new_tokens=4), run).fit()
    [warning] = run.events_of("warning")
    assert warning["about"] == "sample"
    assert "only its end is used" in warning["message"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # from torch
def test_compile_setting_compiles_the_loss(
    new_config: NewConfig, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing_only = functools.partialmethod(torch.nn.Module.compile, backend="eager")
    monkeypatch.setattr(torch.nn.Module, "compile", tracing_only)  # does not need a C++ compiler
    config = new_config(mask_prompt=True, batch_size=10, sample_prompt="")
    plain, compiled = new_run("a"), new_run("b")
    Trainer(config, plain).fit()
    graphs = counters["stats"]["unique_graphs"]
    Trainer(config.changed(compile=True), compiled).fit()
    assert counters["stats"]["unique_graphs"] > graphs
    assert compiled.losses() == pytest.approx(plain.losses(), rel=1e-5)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_block_compiles_without_graph_breaks() -> None:
    """Check two padded batch widths, as on a GPU."""
    arch = Architecture(n_layer=2, n_head=2, n_embd=8, context=16, vocabulary=50)
    model = GPT2(arch).train()
    torch.compiler.reset()
    counters.clear()
    for block in model.h:
        block.compile(dynamic=True, backend="eager")
    for length in (5, 9):
        model.features(torch.zeros(2, length, dtype=torch.long)).sum().backward()
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()


def empty_some(data: Path, path: Path) -> Path:
    """Copy 24 records from a data set, emptying the outputs at indices 0, 10 and 20."""
    records = json.loads(data.read_text())
    for i in (0, 10, 20):
        records[i]["output"] = ""
    path.write_text(json.dumps(records))
    return path


def test_skipped_records_cause_one_warning_and_leave_no_gaps_in_the_indices(
    new_config: NewConfig, new_run: NewRun, data: Path, tmp_path: Path
) -> None:
    config, run = new_config(dataset=str(empty_some(data, tmp_path / "data.json"))), new_run()
    assert train(config, run) == "finished"
    [warning] = run.events_of("warning")
    assert (warning["step"], warning["about"]) == (0, "data")
    assert warning["message"] == (
        "3 of 24 records are skipped: empty output (record 1, record 11, record 21)"
    )
    examples = dataset.load(config.dataset)
    parts = dataset.split(examples, config)
    assert (len(examples), len(parts.train), len(parts.test)) == (21, 17, 2)
    trained = sorted(index for step in run.events_of("step") for index in step["batch"])
    assert trained == list(range(17))
    table = inspection.table(parts).set_index("item")
    answers = run.events_of("generation")
    assert sorted(answer["item"] for answer in answers) == [17, 18]
    for answer in answers:
        row = table.loc[answer["item"]]
        assert row["part"] == "test"
        assert (answer["instruction"], answer["reference"]) == (row["instruction"], row["output"])


def test_kept_empty_outputs_are_trained_on_and_answered(
    new_config: NewConfig, new_run: NewRun, data: Path, tmp_path: Path
) -> None:
    path = empty_some(data, tmp_path / "data.json")
    config, run = new_config(dataset=str(path), empty_outputs="keep", mask_prompt=True), new_run()
    assert train(config, run) == "finished"
    assert not run.events_of("warning")
    assert sorted(
        dataset_index for step in run.events_of("step") for dataset_index in step["batch"]
    ) == list(range(20))
    references = {answer["item"]: answer["reference"] for answer in run.events_of("generation")}
    assert references[20] == ""


def test_padded_vocabulary_is_truncated_with_a_warning(
    new_config: NewConfig, new_run: NewRun, save_peer: Callable[..., Any], tmp_path: Path
) -> None:
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 96, "vocab_size": 50_304}
    save_peer(tmp_path / "padded", **sizes)
    config, run = new_config(base_model=str(tmp_path / "padded"), **LORA), new_run()
    plan = preflight.check(config)
    message = "the base model has 50,304 vocabulary rows; only the 50,257 rows of GPT-2's vocabulary are used"
    assert (plan.problems, plan.note) == ([], message)
    assert train(config, run) == "finished"
    assert [(w["about"], w["message"]) for w in run.events_of("warning")] == [
        ("base model", message)
    ]
    assert run.events_of("plan")[0]["parameters"] == plan.parameters
