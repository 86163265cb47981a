"""The training loop for full fine-tuning and LoRA, and loading trained models.

Treats a run as a directory and an event writer. Independent of the index and the pages. Uses the network only to
download the base model and the data set.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core.config import RunConfig
from core.data import dataset, download
from core.data.batches import Batch, Encoded, Schedule, collate, encode_all, fingerprint
from core.data.template import Example
from core.errors import TrainingError, UserError
from core.nn import freezing, generation, lora, pretrained
from core.nn.gpt2 import GPT2
from core.run.directory import RunDirectory
from core.training import checkpoints, divergence, hardware, resumption
from core.training.early_stopping import EarlyStopping
from core.training.evaluation import ExampleLosses, answer_all, example_losses, leading
from core.training.evaluation_plan import EvaluationPlan, TokenCounts, evaluation_plan
from core.training.optimizers import build_optimizer, set_learning_rate
from core.training.relative_update import UpdateMeter
from core.training.run import (
    Evaluation,
    Outcome,
    Run,
    StoppedError,
    TrainingProgress,
    report_download,
)
from core.training.schedules import learning_rate


def train(config: RunConfig, run: Run) -> Outcome:
    """Train a run from its newest checkpoint or from step 0, publish its weights and answer its test set.

    The caller records that the run finished and then deletes its checkpoints.

    Raises:
        UserError: the base model, the data set or the hardware is not available as configured.
        TrainingError: the loss or a gradient is no longer finite.
    """
    try:
        with download.reporting_to(report_download(run)):
            trainer = Trainer(config, run)
    except StoppedError:
        return "stopped"
    if trainer.fit() == "stopped":
        return "stopped"
    run.reason = trainer.early_stopping.reason
    trainer.publish_weights()
    return trainer.answer_test_set()


def build_model(config: RunConfig, load: bool = False) -> GPT2:
    """Return the base model with adapters (LoRA) or with frozen weights as configured. Raises UserError.

    With PiSSA, the frozen weights are still those of the base model: call `lora.freeze_residuals` next.

    Args:
        load: adapters will be loaded from a file, so their initial values need not be computed.
    """
    lora_only = config.method == "lora"
    model = pretrained.load(config.base_model, config.dropout, config.tie_weights, frozen=lora_only)
    if lora_only:
        names = model.arch.lora_targets(config.lora_targets, config.lora_last_layers)
        generator = torch.Generator().manual_seed(config.seed)
        lora.add_adapters(
            model,
            names,
            config.lora_rank,
            config.lora_alpha,
            config.lora_dropout,
            generator,
            scaling=config.lora_scaling,
            init=config.lora_init,
            dora=config.lora_dora,
            load=load,
        )
    else:
        freezing.freeze(model, config.trained_weights, config.trained_layers)
    return model


def load_trained(config: RunConfig, directory: Path) -> GPT2:
    """Load a run's model in fp32 from `weights/` or the newest valid checkpoint, with adapters merged.

    Frozen weights are rounded to the precision of the training, because the adapters were trained on rounded weights.
    Manifests of older versions do not record the precision.

    Raises:
        UserError: the run has neither, or its adapters belong to a different base model.
    """
    run, model = RunDirectory(directory), build_model(config, load=True)
    if run.weights_path.is_dir():
        facts, tensors = checkpoints.read_weights(run.weights_path)
        if config.method == "lora" and facts.get("base_hash") != pretrained.fingerprint(model):
            raise UserError(
                f"{run.name}: the weights of {config.base_model} have changed since its adapters were trained; "
                "restore the original base model, or train the run again"
            )
    elif config.keep_weights == "none" and not run.checkpoints_path.is_dir():
        raise UserError(
            f"{run.name} has no weights: with keep_weights = none, a run deletes them when it finishes; "
            "train it again with keep_weights = last to generate answers"
        )
    else:
        facts, tensors = checkpoints.newest_weights(run.checkpoints_path)
    checkpoints.load_trainable(model, tensors)
    lora.freeze_residuals(model)
    for dtype in (torch.bfloat16, torch.float16):
        if facts.get("precision") == hardware.name_of(dtype):
            lora.narrow(model, dtype)
            lora.widen(model)
    lora.merge(model)
    return model.eval()


class Trainer:
    """A run in progress: its model, optimizer, data and progress."""

    first_validation_index = 0
    """Index of the first example of the validation split in the data set."""

    def __init__(self, config: RunConfig, run: Run) -> None:
        self.config, self.run = config, run
        self.paths = RunDirectory(run.directory)
        self.device = hardware.resolve_device(config.device)
        self.dtype = hardware.resolve_precision(config.precision, self.device)
        hardware.enable_determinism(self.device)
        torch.manual_seed(config.seed)
        model = self._build_model()
        self.base_hash = pretrained.fingerprint(model)
        lora.freeze_residuals(model)
        lora.narrow(model, self.dtype)
        self.model = model.to(self.device)
        self.model.grad_checkpointing = config.grad_checkpointing
        if config.grad_checkpointing:
            hardware.map_large_blocks()
        # Gradient checkpointing saves more memory than this, and the compiler chooses what to recompute itself.
        self.model.recompute(not (config.grad_checkpointing or config.compile))
        self.train_set, self.validation_set = self._encode()
        self.schedule = Schedule(
            [len(example.ids) for example in self.train_set],
            config.batch_size,
            config.grad_accumulation,
            config.epochs,
            config.seed,
            config.group_by_length,
        )
        self.subset = leading(
            self.validation_set, config.eval_examples, self.first_validation_index
        )
        """Validation examples used in every evaluation."""
        self.probe = leading(self.train_set, config.probe_examples, 0)
        """Training examples whose loss is measured."""
        self.evaluations = evaluation_plan(config, self.schedule.steps, self.token_counts())
        trainable = checkpoints.trainable(self.model)
        self.parameters = list(trainable.values())
        self.optimizer = build_optimizer(config, trainable.items())
        self.update_meter = UpdateMeter(self.model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        if config.compile:
            for block in self.model.h:  # the loss calls the blocks, not the model's forward
                block.compile(dynamic=True)
        self.progress = TrainingProgress()
        self.early_stopping = EarlyStopping(len(self.subset))
        self.best: Evaluation | None = None
        """The evaluation with the lowest validation loss."""
        self.published: Evaluation | None = None
        """The evaluation whose weights are in `weights/`, if `keep_weights` is `best`."""
        self.recorded_settings = resumption.recorded(config)
        self.ignores_warmup = False
        """Whether warm-up is disabled, as in the older version that started the run."""

    def _build_model(self) -> GPT2:
        return build_model(self.config)

    def _encode(self) -> tuple[list[Encoded], list[Encoded]]:
        """Return the encoded training and validation sets. Keeps the test set in `split`."""
        config = self.config
        self.records = dataset.read(
            config.dataset, config.max_examples, config.empty_outputs, columns=config.columns
        )
        parts = self.split = dataset.split(self.records.examples, config)
        length = min(config.max_length or self.model.arch.context, self.model.arch.context)
        train = encode_all(parts.train, length, config.mask_prompt)
        self.first_validation_index = len(parts.train) + len(parts.test)
        validation = encode_all(
            parts.validation, length, config.mask_prompt, self.first_validation_index
        )
        if not train or not validation:
            raise TrainingError(
                f"max_length = {length}: every response would be cut off entirely; use a larger value"
            )
        return train, validation

    def token_counts(self) -> TokenCounts:
        """Return the number of tokens in training and in each evaluated part."""
        epochs = self.config.epochs
        parts = self.train_set, self.subset, self.validation_set, self.probe
        training, *others = (sum(len(e.ids) - 1 for e in part) for part in parts)
        return TokenCounts(epochs * training, *others)

    def _warn_at_start(self) -> None:
        """Write warnings about truncated vocabularies and skipped examples."""
        for note in pretrained.inspect(self.config.base_model):
            self.run.emit("warning", step=0, about="base model", message=note)
        if skipped := dataset.skipped_summary(self.records):
            self.run.emit("warning", step=0, about="data", message=skipped)
        examples_read = len(self.split.train) + len(self.split.validation)
        if lost_count := examples_read - len(self.train_set) - len(self.validation_set):
            message = (
                f"{lost_count} examples are skipped: max_length cuts off their entire response"
            )
            self.run.emit("warning", step=0, about="data", message=message)

    def fit(self) -> Outcome:
        """Take all remaining optimizer steps. Stops after the current step if requested."""
        self._resume()
        config = self.config
        self.run.emit(
            "plan",
            **self._counts(),
            eval_every=None if config.eval_every else self.evaluations.interval,
            base_hash=self.base_hash,
            parameters=sum(p.numel() for p in self.model.parameters()),
            trainable=sum(p.numel() for p in self.parameters),
            device=hardware.describe(self.device),
            precision=hardware.name_of(self.dtype),
        )
        if self.progress.step == 0:
            self._warn_at_start()
            self._evaluate()
        while not self._has_ended():
            step = self.progress.step + 1
            self.step(step, self.schedule.batches(step))
            if self.evaluations.is_due(step):
                self._evaluate()
            is_last = self._has_ended()
            if config.sample_prompt and (is_last or step % config.sample_every == 0):
                self._sample()
            stop = self.run.stop_requested()
            if is_last or stop or step % config.checkpoint_every == 0:
                self.save_checkpoint()
            if stop and not is_last:
                return "stopped"
        return "finished"

    def _has_ended(self) -> bool:
        return self.progress.step == self.schedule.steps or self.early_stopping.ended_at is not None

    def step(self, step: int, batch_indices: list[list[int]]) -> None:
        """Take one optimizer step on one or more micro-batches of training indices.

        All target tokens of the step have equal weight, regardless of their micro-batch.
        """
        start = time.perf_counter()
        config = self.config
        batches = [
            collate([self.train_set[i] for i in indices], config.mask_prompt)
            for indices in batch_indices
        ]
        targets = sum(batch.target_tokens for batch in batches)
        lr = self.learning_rate(step)
        set_learning_rate(self.optimizer, lr)
        self.model.train()
        self.optimizer.zero_grad()
        total, update = torch.zeros((), device=self.device), None
        for batch in batches:
            with hardware.autocast(self.device, self.dtype):
                loss = self.model.loss(batch.ids, batch.targets) / targets
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters if p.grad is not None]
        )
        # The only GPU synchronization of a step, unless its relative update is measured.
        loss_value, grad_norm = torch.stack([total, norm]).tolist()
        if divergence.is_sound(loss_value, grad_norm, self.scaler.is_enabled()):
            if config.grad_clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, config.grad_clip, norm)
            copies = self.update_meter.before(step)
            self.scaler.step(self.optimizer)
            update = self.update_meter.after(copies) if copies else None
            self.progress.skipped = 0
            measured: dict[str, float | None] = {"loss": loss_value, "grad_norm": grad_norm}
        else:
            indices = [index for batch in batches for index in batch.dataset_indices]
            skipped = self.progress.skipped
            divergence.report(
                config, self.run, self.model, step, indices, lr, loss_value, grad_norm, skipped
            )
            self.progress.skipped = skipped + 1
            measured = {"loss": None, "grad_norm": None}
        self.scaler.update()  # required even after a skipped step; otherwise the next unscale fails
        seconds = time.perf_counter() - start
        self.record_step(batches, seconds, lr=lr, **measured)
        if update:
            self.run.emit(
                "update",
                **self._progress_fields(),
                relative_update=update.overall,
                modules=list(update.modules),
                relative_updates=list(update.modules.values()),
            )

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        return learning_rate(self.config, step, self.schedule.steps)

    def record_step(self, batches: list[Batch], seconds: float, **measured: float | None) -> None:
        """Update the progress and write the event for a step."""
        dataset_indices = [index for batch in batches for index in batch.dataset_indices]
        tokens = sum(batch.tokens for batch in batches)
        positions = sum(batch.ids.numel() for batch in batches)
        p = self.progress
        p.step, p.examples = p.step + 1, p.examples + len(dataset_indices)
        p.tokens, p.seconds = p.tokens + tokens, p.seconds + seconds
        self.run.emit(
            "step",
            **self._progress_fields(),
            examples=p.examples,
            padding=round(1 - tokens / positions, 6),
            **measured,
            tokens_per_s=round(tokens / seconds, 3),
            memory_mb=round(hardware.peak_memory_mb(self.device), 1),
            batch=dataset_indices,
        )

    def _progress_fields(self) -> dict[str, float]:
        """Return the progress fields of events."""
        p = self.progress
        epoch = round(p.step / self.schedule.steps_per_epoch, 6)
        return {"step": p.step, "epoch": epoch, "tokens": p.tokens, "seconds": round(p.seconds, 6)}

    def _evaluate(self) -> None:
        """Record the losses of the validation subset and, when due, of the training probe.

        After the last step, record those of the whole validation set, which starts with the subset.
        """
        config, step = self.config, self.progress.step
        final = step == self.schedule.steps
        validation = self.losses_of(self.validation_set if final else self.subset)
        subset_loss, subset_se = validation.first(len(self.subset)).mean()
        if not final:
            self.early_stopping.count(config, step, subset_loss)
            if final := self._has_ended():
                validation = self.losses_of(self.validation_set)
        measured: dict[str, Any] = {
            "train_loss": None,
            "val_loss": validation.mean()[0],
            "subset_loss": subset_loss,
            "subset_se": subset_se,
            **validation.event("val"),
        }
        if self.probe and (final or self.evaluations.includes_probe(step)):
            probe = self.losses_of(self.probe)
            measured |= {"train_loss": probe.mean()[0], **probe.event("train")}
        self.run.emit("eval", **self._progress_fields(), final=final, **measured)
        # Step 0 is the base model.
        lowest = self.published if config.keep_weights == "best" else self.best
        if not step or not subset_loss < (lowest.val_loss if lowest else math.inf):
            return
        evaluation = Evaluation(step, subset_loss, len(self.subset))
        if config.keep_weights == "best":
            self._write_weights(val_loss=subset_loss, eval_examples=len(self.subset))
            self.published = evaluation
        if not self.best or subset_loss < self.best.val_loss:
            self.best = evaluation

    def losses_of(self, examples: Sequence[Encoded]) -> ExampleLosses:
        """Return the loss of each example under the current weights, in evaluation mode."""
        self.model.eval()
        with hardware.autocast(self.device, self.dtype):
            return example_losses(
                self.model, examples, self.config.batch_size, self.config.mask_prompt
            )

    def _sample(self) -> None:
        prompt = self.config.sample_prompt
        with hardware.autocast(self.device, self.dtype):
            [[answer]] = answer_all(
                self.model.eval(),
                [Example(prompt, "", "")],
                generation.Sampling(self.config.max_new_tokens),
            )
        step = self.progress.step
        self.run.emit("sample", step=step, prompt=prompt, text=answer.text)
        if answer.prompt_cut and step <= self.config.sample_every:
            message = "sample_prompt does not fit into the context; only its end is used"
            self.run.emit("warning", step=step, about="sample", message=message)

    def save_checkpoint(self) -> None:
        """Write a checkpoint of this step, after flushing the events to disk."""
        self.run.sync()
        checkpoints.save_checkpoint(
            self.paths.checkpoints_path,
            self.progress.step,
            self.model,
            self.optimizer,
            {
                "progress": asdict(self.progress),
                "scaler": self.scaler.state_dict(),
                "origin": self._origin(),
                "best": asdict(self.best) if self.best else None,
                "early_stopping": asdict(self.early_stopping),
                "train_examples": len(self.train_set),
                "precision": hardware.name_of(self.dtype),
                "ignores_warmup": self.ignores_warmup,
                resumption.SETTINGS: self.recorded_settings,
            },
        )

    def _origin(self) -> dict[str, str]:
        """Return hashes of the training data and the base model, to detect changes on resume."""
        hashes = {"dataset": fingerprint(self.train_set), "base_model": self.base_hash}
        return {key: hashes[name] for name, key in resumption.INPUTS.items()}

    def _resume(self) -> None:
        if not self.run.resumed:
            return
        computed = {name: t.clone() for name, t in lora.initial_factors(self.model).items()}
        facts, messages = checkpoints.load_checkpoint(
            self.paths.checkpoints_path, self.model, self.optimizer, self._check_settings
        )
        saved = lora.initial_factors(self.model)
        if not all(torch.equal(computed[name], saved[name]) for name in saved):
            self._restore_residuals()
        if facts:
            self.progress = TrainingProgress(**facts["progress"])
            if facts["scaler"]:  # empty unless the run used fp16
                self.scaler.load_state_dict(facts["scaler"])
            if resumption.has_settings(facts):
                self.recorded_settings = facts[resumption.SETTINGS]
            else:
                messages.append(
                    f"the checkpoint of step {self.progress.step} is from an older version and records no settings; "
                    "changes to config.json before this resume could not be checked"
                )
            messages += self._keep_constant_rate(facts) + self._restore_best(facts)
            self.early_stopping = EarlyStopping.parse(facts.get("early_stopping"), len(self.subset))
            self._keep_evaluation_interval()
            messages += resumption.input_warnings(facts, self._origin())
        self.run.emit("rewind", step=self.progress.step if facts else -1)
        for message in messages:
            self.run.emit("warning", step=self.progress.step, about="checkpoint", message=message)

    def _restore_residuals(self) -> None:
        """Recompute PiSSA's frozen weights from the loaded factors.

        The factors computed at startup can differ on another machine or library version.
        """
        base = build_model(self.config, load=True)
        checkpoints.load_trainable(base, checkpoints.adapted_weights(self.model))
        lora.freeze_residuals(base)
        lora.narrow(base, self.dtype)
        for layer, restored in zip(lora.adapters(self.model), lora.adapters(base), strict=True):
            layer.linear.weight.data.copy_(restored.linear.weight)
        lora.forget_norms(self.model)

    def _check_settings(self, facts: dict[str, Any]) -> None:
        """Raise UserError if settings have changed since the checkpoint. Paths may change if their content has not."""
        earlier = None if resumption.has_settings(facts) else self.run.last_plan()
        unchanged = resumption.unchanged_inputs(facts, self._origin())
        resumption.check(
            self.paths.name, facts, self.config, self._counts(), earlier, ignored=unchanged
        )

    def _counts(self) -> dict[str, int]:
        return {
            "steps": self.schedule.steps,
            "steps_per_epoch": self.schedule.steps_per_epoch,
            "train_examples": len(self.train_set),
        }

    def _keep_evaluation_interval(self) -> None:
        """Keep the automatic interval of the interrupted run, even if the data or this version would change it."""
        interval = (self.run.last_plan() or {}).get("eval_every")
        if self.config.eval_every is None and type(interval) is int and interval > 0:
            self.evaluations = EvaluationPlan(interval, self.schedule.steps)

    def _keep_constant_rate(self, facts: dict[str, Any]) -> list[str]:
        """Disable warm-up for runs started by an older version, which ignored it without `min_lr`."""
        from_older = facts.get("ignores_warmup") or not resumption.has_settings(facts)
        if not from_older or self.config.min_lr is not None or not self.config.warmup_fraction:
            return []
        self.ignores_warmup = True
        self.config = self.config.changed(warmup_fraction=0.0)
        return [
            "the learning rate stays constant because an older version started this run without warm-up; "
            f"use `python -m core resume {self.paths.name} --restart` to train with warm-up"
        ]

    def _restore_best(self, facts: dict[str, Any]) -> list[str]:
        """Restore the best evaluation and the one whose weights are published. Return warnings.

        The published weights may be from a step after the checkpoint, which the resumed run repeats.
        """
        messages, directory = [], self.paths.weights_path
        published_facts: dict[str, Any] = {}
        if directory.is_dir():
            try:
                published_facts, _ = checkpoints.read_weights(directory)
            except UserError as error:
                messages = [str(error)]
        # None for weights published with keep_weights = last.
        self.published = Evaluation.parse(self._with_examples(published_facts))
        self.best = Evaluation.parse(self._with_examples(facts.get("best")))
        if self.published and (not self.best or self.published.val_loss < self.best.val_loss):
            self.best = self.published
        is_comparable = not self.best or self.best.eval_examples == len(self.subset)
        if not is_comparable and self.progress.step < self.schedule.steps:
            self.best = self.published = None
        return messages if self.config.keep_weights == "best" else []

    def _with_examples(self, recorded: object) -> object:
        """Add the number of examples to an evaluation from an older version, which recorded the number of batches."""
        if isinstance(recorded, dict) and type(recorded.get("eval_batches")) is int:
            examples = self.config.batch_size * recorded["eval_batches"]
            return {**recorded, "eval_examples": min(examples, len(self.validation_set))}
        return recorded

    def publish_weights(self) -> None:
        """Write `weights/` according to `keep_weights`. For `best`, load the best weights into the model."""
        if self.config.keep_weights == "none":
            return
        if self.config.keep_weights == "last":
            self._write_weights()
            return
        if self.published:
            facts, tensors = checkpoints.read_weights(self.paths.weights_path)
            checkpoints.load_trainable(self.model, tensors)
            self.run.emit("weights", step=facts["step"], val_loss=facts["val_loss"])
        else:
            self._write_weights()
        published_step = self.published.step if self.published else self.progress.step
        if self.best != self.published or not self.best:
            best = f"the best weights (step {self.best.step})" if self.best else "the best weights"
            message = (
                f"{best} are not available; the weights of step {published_step} are kept instead"
            )
            step = self.progress.step
            self.run.emit("warning", step=step, about="weights", message=message)

    def _write_weights(self, **facts: float) -> None:
        """Write the adapter or the whole model to `weights/`."""
        name = "adapter.safetensors" if self.config.method == "lora" else "model.safetensors"
        manifest = {
            "method": self.config.method,
            "base_model": self.config.base_model,
            "base_hash": self.base_hash,
            "precision": hardware.name_of(self.dtype),
            "step": self.progress.step,
            **facts,
        }
        tensors = checkpoints.final_weights(self.model, self.config.method)
        checkpoints.publish(self.paths.weights_path, {name: tensors}, manifest)

    def answer_test_set(self) -> Outcome:
        """Answer all test examples greedily and write an event for each."""
        self.end_training()
        examples, first_index = self.split.test, self.split.first_test_item
        sampling = generation.Sampling(self.config.max_new_tokens)
        with hardware.autocast(self.device, self.dtype):
            for answers in answer_all(self.model, examples, sampling):
                for answer in answers:
                    self.run.emit(
                        "generation",
                        **answer.event(examples[answer.index], first_index + answer.index),
                        memory_mb=round(hardware.peak_memory_mb(self.device), 1),
                    )
                if self.run.stop_requested():
                    return "stopped"
        return "finished"

    def end_training(self) -> None:
        """Free the memory that only training needs, and prepare the model for answering.

        On a CPU, the model answers in fp32, which is faster and matches `load_trained`. Other devices keep the reduced
        precision that memory was estimated for. Adapters are merged only in fp32, because rounding the merged weights
        to bf16 changes greedy answers.
        """
        self.optimizer.zero_grad()
        self.optimizer.state.clear()
        hardware.return_freed_memory()
        self.model.eval()
        if self.device.type == "cpu":
            lora.widen(self.model)
            self.dtype = torch.float32
        if self.dtype is torch.float32:
            lora.merge(self.model)
