"""Stream the answers of runs and base models to any prompt, token by token.

Recently used models stay in memory until their weights change. For a run, the published weights are used, or the
newest checkpoint if no weights have been published yet.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.data.template import format_prompt
from core.data.tokenizer import END_OF_TEXT, decode, encode
from core.errors import UserError
from core.nn import generation, pretrained
from core.nn.architecture import VOCABULARY
from core.nn.generation import Sampling
from core.nn.gpt2 import GPT2
from core.run.directory import RunDirectory
from core.training import resumption
from core.training.trainer import load_trained

BASE_PREFIX = "base:"


@dataclass(frozen=True)
class StreamedAnswer:
    """The answer so far.

    `prompt_cut` is set if the beginning of the prompt was cut off to fit the context length.
    """

    text: str
    tokens: int
    prompt_cut: bool


class Answerer:
    """A cache of models, each loaded on first use.

    Args:
        runs_dir: the folder that contains the run directories.
        max_models: maximum number of models in memory.
    """

    def __init__(self, runs_dir: Path, max_models: int = 5) -> None:
        self._runs_dir, self._max_models = runs_dir, max_models
        self._models: OrderedDict[str, tuple[float, GPT2]] = OrderedDict()
        self._fingerprints: dict[tuple[str, float], str] = {}
        self._lock = threading.Lock()

    def answer(
        self, model_name: str, instruction: str, input: str, sampling: Sampling, raw: bool = False
    ) -> Iterator[StreamedAnswer]:
        """Yield the answer from a run, or from `base:NAME`, as it is generated, token by token. Yields at least once.

        Args:
            raw: pass the instruction without the template.

        Raises:
            UserError: the run or model does not exist or has no weights yet. Raised by the call itself, not during
                iteration.
        """
        model = self.model(model_name)
        prompt = encode(instruction if raw else format_prompt(instruction, input)) or [END_OF_TEXT]
        return _answer(model, prompt, sampling)

    def model(self, model_name: str) -> GPT2:
        """Return the model for a run or base model. Reloads it if its weights have changed. Raises UserError."""
        with self._lock:
            modified_at = self._modified_at(model_name)
            if model_name not in self._models or self._models[model_name][0] != modified_at:
                self._models.pop(model_name, None)  # both versions may not fit into memory together
                self._models[model_name] = modified_at, self._load(model_name)
            self._models.move_to_end(model_name)
            while len(self._models) > self._max_models:
                self._models.popitem(last=False)
            return self._models[model_name][1]

    def fingerprint(self, model_name: str) -> str:
        """Return the SHA-256 of the base weights, without adapters, for a run or base model. Raises UserError."""
        base = model_name if model_name.startswith(BASE_PREFIX) else self.base_of(model_name)
        key = base, self._modified_at(base)
        if key not in self._fingerprints:
            self._fingerprints[key] = pretrained.fingerprint(self.model(base))
        return self._fingerprints[key]

    def base_of(self, run: str) -> str:
        """Return a run's base model as `base:NAME`. Raises UserError if there is no such run."""
        return BASE_PREFIX + RunDirectory.find(self._runs_dir, run).config().base_model

    def _load(self, model_name: str) -> GPT2:
        if model_name.startswith(BASE_PREFIX):
            model = pretrained.load(model_name.removeprefix(BASE_PREFIX)).eval()
        else:
            run = RunDirectory.find(self._runs_dir, model_name)
            model = load_trained(run.config(), run.path)
        if model.arch.vocabulary != VOCABULARY:
            message = f"{model_name} has a vocabulary of {model.arch.vocabulary:,} tokens; prompts require GPT-2's vocabulary of {VOCABULARY:,}"
            raise UserError(message)
        return model

    def _modified_at(self, model_name: str) -> float:
        """Return the modification time of the weights; 0 for a base model known by name. Raises UserError."""
        if model_name.startswith(BASE_PREFIX):
            paths = [Path(model_name.removeprefix(BASE_PREFIX)) / "model.safetensors"]
        else:
            run = RunDirectory.find(self._runs_dir, model_name)
            folders = (run.weights_path, *run.checkpoint_paths())
            paths = [folder / resumption.MANIFEST for folder in folders]
        modified_at = 0.0
        for path in paths:
            # A base model known by name has no file here, and a checkpoint may have been replaced.
            with contextlib.suppress(OSError):
                modified_at = max(modified_at, path.stat().st_mtime)
        return modified_at


def _answer(model: GPT2, prompt: list[int], sampling: Sampling) -> Iterator[StreamedAnswer]:
    fitted = generation.fit_prompt(prompt, model.arch.context, sampling.max_new_tokens)
    cut = len(fitted) < len(prompt)
    ids: list[int] = []
    for token in generation.stream(model, fitted, sampling, END_OF_TEXT):
        ids.append(token)
        # A character may span several tokens. It is not shown until it is complete.
        yield StreamedAnswer(decode(ids).removesuffix("\ufffd"), len(ids), cut)
    yield StreamedAnswer(decode(ids), len(ids), cut)
