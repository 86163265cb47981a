"""Losses and answers do not depend on how examples are batched."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from core.config import RunConfig
from core.data import dataset
from core.data.batches import encode_all
from core.data.template import Example, format_prompt
from core.data.tokenizer import END_OF_TEXT, decode, encode
from core.nn import pretrained
from core.nn.generation import Sampling, generate
from core.training import evaluation
from core.training.evaluation import Answer, answer_all, mean_loss


@pytest.mark.parametrize("mask_prompt", [False, True])
@torch.no_grad()
def test_mean_loss_matches_the_cross_entropy_over_all_targets(
    new_config: Callable[..., RunConfig], mask_prompt: bool
) -> None:
    config = new_config()
    model = pretrained.load(config.base_model).eval()
    examples = encode_all(dataset.load(config.dataset)[:9], 96, mask_prompt)
    token_losses = []
    for example in examples:
        first = example.prompt_length - 1 if mask_prompt else 0
        logits = model(torch.tensor([example.ids[:-1]]))[0, first:]
        targets = torch.tensor(example.ids[1:][first:])
        token_losses.append(F.cross_entropy(logits, targets, reduction="none"))
    expected = torch.cat(token_losses).mean().item()
    for batch_size in (1, 4, 20):
        result = mean_loss(model, examples, batch_size, mask_prompt)
        assert result == pytest.approx(expected, rel=1e-5)


def test_batched_answers_match_individual_answers(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pretrained.load(str(base)).eval()
    generator = random.Random(3)
    vocabulary = ["red", "green", "seven", "house", "river"]
    examples = [
        Example(
            " ".join(generator.choices(vocabulary, k=generator.randint(1, 9))),
            generator.choice(["", "x y"]),
            "",
        )
        for _ in range(11)
    ]
    monkeypatch.setattr(evaluation, "ANSWER_BATCH_TOKENS", 250)
    batches = list(answer_all(model, examples, Sampling(5)))
    assert 2 < len(batches) < 11
    answers = {answer.index: answer for batch in batches for answer in batch}
    assert sorted(answers) == list(range(11))
    for i, example in enumerate(examples):
        prompt = encode(format_prompt(example.instruction, example.input))
        [ids] = generate(model, [prompt], Sampling(5), END_OF_TEXT)
        assert answers[i] == Answer(i, decode(ids), len(ids), len(ids) == 5, False)


def test_answers_report_truncation(base: Path) -> None:
    model = pretrained.load(str(base)).eval()
    examples = [Example("short", "", ""), Example("very long " * 60, "", "")]
    [batch] = answer_all(model, examples, Sampling(3))
    assert [(a.index, a.cut, a.prompt_cut) for a in batch] == [(1, True, True), (0, True, False)]
    with torch.no_grad():  # make the model end every answer immediately
        model.ln_f.weight.zero_()
        model.lm_head.weight.zero_()
        model.lm_head.weight[END_OF_TEXT] = model.ln_f.bias
    [batch] = answer_all(model, examples, Sampling(3))
    assert [(a.text, a.tokens, a.cut) for a in batch] == [("", 0, False)] * 2
