"""Answers of trained runs and base models to a prompt of one's own, token by token.

Keeps the models used last in memory until their weights change. A run answers from its published
weights, or from its newest checkpoint while it has none.
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
from core.training.build import load_trained

BASE_PREFIX = "base:"


@dataclass(frozen=True)
class StreamedAnswer:
    """An answer so far. `prompt_cut`: the prompt was longer than the context and lost its beginning."""

    text: str
    tokens: int
    prompt_cut: bool


class Answerer:
    """Loads models when first asked and keeps a few.

    Args:
        runs_dir: where the runs are.
        keep: most models in memory.
    """

    def __init__(self, runs_dir: Path, keep: int = 5) -> None:
        self._runs_dir, self._keep = runs_dir, keep
        self._models: OrderedDict[str, tuple[float, GPT2]] = OrderedDict()
        self._fingerprints: dict[tuple[str, float], str] = {}
        self._lock = threading.Lock()

    def answer(
        self, who: str, instruction: str, input: str, sampling: Sampling, raw: bool = False
    ) -> Iterator[StreamedAnswer]:
        """The answer of a run, or of `base:NAME`, growing token by token; at least one item.

        Args:
            raw: feed the instruction as it stands, without the template.

        Raises:
            UserError: there is no such run or model, or it has no weights yet. At once, not at the
                first item.
        """
        model = self.model(who)
        prompt = encode(instruction if raw else format_prompt(instruction, input)) or [END_OF_TEXT]
        return _answer(model, prompt, sampling)

    def model(self, who: str) -> GPT2:
        """The model of a run or base, loaded once and again when its weights change. Raises UserError."""
        with self._lock:
            written = self._written(who)
            if who not in self._models or self._models[who][0] != written:
                self._models.pop(who, None)  # two of a kind may not fit
                self._models[who] = written, self._load(who)
            self._models.move_to_end(who)
            while len(self._models) > self._keep:
                self._models.popitem(last=False)
            return self._models[who][1]

    def fingerprint(self, who: str) -> str:
        """SHA-256 of the base weights under a run or base, its adapters left out. Raises UserError."""
        base = who if who.startswith(BASE_PREFIX) else self.base_of(who)
        key = base, self._written(base)
        if key not in self._fingerprints:
            self._fingerprints[key] = pretrained.fingerprint(self.model(base))
        return self._fingerprints[key]

    def base_of(self, run: str) -> str:
        """The base model that a run started from, as `base:NAME`. Raises UserError."""
        return BASE_PREFIX + RunDirectory.find(self._runs_dir, run).config().base_model

    def _load(self, who: str) -> GPT2:
        if who.startswith(BASE_PREFIX):
            model = pretrained.load(who.removeprefix(BASE_PREFIX)).eval()
        else:
            run = RunDirectory.find(self._runs_dir, who)
            model = load_trained(run.config(), run.path)
        if model.arch.vocabulary != VOCABULARY:
            message = f"{who} has {model.arch.vocabulary:,} tokens; it should have GPT-2's {VOCABULARY:,} to be asked in words"
            raise UserError(message)
        return model

    def _written(self, who: str) -> float:
        """When the weights were written last. Raises UserError where there is no such run."""
        if who.startswith(BASE_PREFIX):
            paths = [Path(who.removeprefix(BASE_PREFIX)) / "model.safetensors"]
        else:
            run = RunDirectory.find(self._runs_dir, who)
            folders = ("weights", "checkpoint/*")
            paths = [p for f in folders for p in run.path.glob(f"{f}/{resumption.MANIFEST}")]
        written = 0.0
        for path in paths:
            with contextlib.suppress(OSError):  # a base known by name, a checkpoint just replaced
                written = max(written, path.stat().st_mtime)
        return written


def _answer(model: GPT2, prompt: list[int], sampling: Sampling) -> Iterator[StreamedAnswer]:
    fitted = generation.fit_prompt(prompt, model.arch.context, sampling.max_new_tokens)
    cut = len(fitted) < len(prompt)
    ids: list[int] = []
    for token in generation.stream(model, fitted, sampling, END_OF_TEXT):
        ids.append(token)
        # A letter may take several tokens: what there is of it is not shown before it is whole.
        yield StreamedAnswer(decode(ids).removesuffix("\ufffd"), len(ids), cut)
    yield StreamedAnswer(decode(ids), len(ids), cut)
