"""Answers of trained runs and base models to a prompt of one's own, token by token.

Keeps the models used last in memory. A run answers from its published weights, or from its newest
checkpoint while it has none.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.data.template import format_prompt
from core.data.tokenizer import END_OF_TEXT, decode, encode
from core.nn import generation, pretrained
from core.nn.generation import Sampling
from core.nn.gpt2 import GPT2
from core.tracking.rundir import RunDirectory
from core.training.build import load_trained

BASE = "base:"


@dataclass(frozen=True)
class Answer:
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
        self._models: OrderedDict[tuple[str, float], GPT2] = OrderedDict()
        self._fingerprints: dict[str, str] = {}
        self._lock = threading.Lock()

    def answer(
        self, who: str, instruction: str, input: str, sampling: Sampling, raw: bool = False
    ) -> Iterator[Answer]:
        """The answer of a run, or of `base:NAME`, growing token by token; at least one item.

        Args:
            raw: feed the instruction as it stands, without the template.

        Raises:
            UserError: there is no such run or model, or it has no weights yet.
        """
        model = self.model(who)
        prompt = encode(instruction if raw else format_prompt(instruction, input)) or [END_OF_TEXT]
        fitted = generation.fit_prompt(prompt, model.arch.context, sampling.max_new_tokens)
        cut = len(fitted) < len(prompt)
        ids: list[int] = []
        for token in generation.stream(model, fitted, sampling, END_OF_TEXT):
            ids.append(token)
            yield Answer(decode(ids).removesuffix("\ufffd"), len(ids), cut)
        yield Answer(decode(ids), len(ids), cut)

    def model(self, who: str) -> GPT2:
        """The model of a run or base, loaded once. Raises UserError."""
        with self._lock:
            key = (who, self._written(who))
            if key not in self._models:
                self._models[key] = self._load(who)
            self._models.move_to_end(key)
            while len(self._models) > self._keep:
                self._models.popitem(last=False)
            return self._models[key]

    def fingerprint(self, who: str) -> str:
        """SHA-256 of the base weights under a run or base, its adapters left out. Raises UserError."""
        base = who if who.startswith(BASE) else self.base_of(who)
        if base not in self._fingerprints:
            self._fingerprints[base] = pretrained.fingerprint(self.model(base))
        return self._fingerprints[base]

    def base_of(self, run: str) -> str:
        """The base model that a run started from, as `base:NAME`. Raises UserError."""
        return BASE + RunDirectory.find(self._runs_dir, run).config().base_model

    def _load(self, who: str) -> GPT2:
        if who.startswith(BASE):
            return pretrained.load(who.removeprefix(BASE)).eval()
        run = RunDirectory.find(self._runs_dir, who)
        return load_trained(run.config(), run.path)

    def _written(self, who: str) -> float:
        """When the weights were written last, so that a run trained further is loaded anew."""
        if who.startswith(BASE):
            return 0.0
        manifests = (self._runs_dir / Path(who).name).glob("**/manifest.json")
        return max((path.stat().st_mtime for path in manifests), default=0.0)
