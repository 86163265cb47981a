"""The embedded data set and base model: correct facts, no test questions in the training set, and a working GPT-2."""

import itertools
import json
import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from core.config import RunConfig
from core.data import dataset, inspection
from core.data.tokenizer import END_OF_TEXT, decode, encode
from core.nn import pretrained
from core.nn.generation import Sampling, generate
from core.presets import DEMO
from core.run.directory import RunDirectory
from core.scheduler.trainer_process import main
from core.training.evaluation import answer_all
from core.training.trainer import load_trained
from recipe import __main__ as recipe
from recipe import facts, pretraining
from recipe.corpus import Writer
from recipe.primer import primer


@pytest.fixture(scope="module")
def all_facts():
    return facts.all_facts()


def test_facts_of_every_kind_are_correct(all_facts):
    sentences = {fact.start + fact.answer for fact in all_facts}
    for sentence in (
        "A synonym for 'happy' is 'joyful'.", "The opposite of 'hot' is 'cold'.",
        "The plural of 'mouse' is 'mice'.", "The past tense of 'go' is 'went'.",
        "The correct spelling of 'recieve' is 'receive'.", "The French word for 'dog' is 'chien'.",
        "The capital of France is Paris.", "In total, 3 hours are 180 minutes.",
        "The steak is grilled by the chef.",
    ):  # fmt: skip
        assert sentence in sentences
    arithmetic_facts = [fact for fact in all_facts if fact.kind == "arithmetic"]
    operators = {"plus": "+", "minus": "-", "times": "*"}
    for fact in arithmetic_facts:
        left_operand, operator, right_operand = fact.keys[0].split()
        assert eval(f"{left_operand}{operators[operator]}{right_operand}") == int(
            fact.answer.rstrip(".")
        )


def test_embedded_data_set_matches_the_recipe(all_facts):
    examples, _ = primer(all_facts, recipe.SPLIT_SEED)
    assert len(examples) >= 2000
    assert dataset.load("primer") == examples


def test_held_out_facts_are_absent_from_training(all_facts):
    examples, (train, test, validation) = primer(all_facts, recipe.SPLIT_SEED)
    split = dataset.split(examples, RunConfig())
    assert [len(part) for part in vars(split).values()] == [
        2 * len(part) for part in (train, test, validation)
    ]
    text = " ".join(" ".join(e.texts) for e in split.train)
    for fact in [*test, *validation]:
        for key in fact.keys:
            assert not re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text), key
    assert {fact.kind for fact in test} == {fact.kind for fact in all_facts}
    assert not inspection.duplicates(split)["same_prompt"].any()


def test_pretraining_text_states_facts_without_prompts(all_facts):
    texts = list(itertools.islice(Writer(all_facts, 5).documents(), 3000))
    assert texts == list(itertools.islice(Writer(all_facts, 5).documents(), 3000))
    assert texts[:50] != list(itertools.islice(Writer(all_facts, 6).documents(), 50))
    full_text = " ".join(texts)
    assert "###" not in full_text
    assert not any(question in full_text for fact in all_facts for question, _ in fact.questions)
    stated_facts = [fact for fact in all_facts if fact.start + fact.answer in full_text]
    assert len(stated_facts) > 0.7 * len(all_facts)


def test_reduced_loss_matches_the_full_softmax():
    arch = pretraining.NANO
    model = pretraining.Reduced(replace(arch, vocabulary=6), unseen_tokens=arch.vocabulary - 5)
    model.initialize(torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 1, 2, 3, 4]])
    targets = torch.tensor([[1, 2, -100, 4, 0]])
    rows = torch.cat([torch.arange(5), torch.full((arch.vocabulary - 5,), 5)])
    logits = model.features(ids) @ model.wte.weight[rows].T
    expected_loss = F.cross_entropy(logits[0], targets[0], reduction="sum")
    torch.testing.assert_close(model.loss(ids, targets), expected_loss, rtol=1e-5, atol=1e-4)


@pytest.mark.long
def test_exported_model_has_the_same_loss_as_the_reduced_model(all_facts, tmp_path):
    for directory in (tmp_path, tmp_path / "again"):
        (directory / "gpt2-nano").mkdir(parents=True)
        recipe.build(directory, directory / "runs", steps=2)
    for name in ("primer.json", "gpt2-nano/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    (tmp_path / "gpt2-nano" / "config.json").write_bytes(
        (recipe.ASSETS / "gpt2-nano" / "config.json").read_bytes()
    )
    model = pretrained.load(str(tmp_path / "gpt2-nano"), tie_weights=True)
    assert model.arch == pretraining.NANO
    log = tmp_path / "runs" / "pretraining" / "events.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    final = next(event for event in events if event.get("final"))
    rows = pretraining.blocks(Writer(all_facts, 123).documents(), 64 * pretraining.BLOCK_TOKENS + 1)
    ids = torch.tensor(rows)
    with torch.no_grad():
        loss = float(model.loss(ids[:, :-1], ids[:, 1:])) / ids[:, 1:].numel()
    assert loss == pytest.approx(
        final["val_loss"], abs=0.05
    )  # stored in fp16, with noise on unseen tokens


def count_correct(model, examples):
    """Return the number of answers that match the reference."""
    answers = itertools.chain.from_iterable(answer_all(model, examples, Sampling(24)))
    return sum(answer.text == examples[answer.index].output for answer in answers)


class TestEmbeddedModel:
    """The embedded base model's size, architecture and knowledge."""

    def test_model_is_small_and_tied(self):
        path = pretrained.ASSETS / "gpt2-nano" / "model.safetensors"
        assert path.stat().st_size <= 16e6
        model = pretrained.load("gpt2-nano", tie_weights=True)
        assert model.lm_head.weight is model.wte.weight

    def test_logits_match_transformers(self):
        from transformers import GPT2LMHeadModel

        peer = GPT2LMHeadModel.from_pretrained(
            pretrained.ASSETS / "gpt2-nano", dtype=torch.float32
        ).eval()
        ids = torch.tensor([encode("The capital of France is Paris. Another word for 'happy' is")])
        with torch.no_grad():
            logits, expected = pretrained.load("gpt2-nano").eval()(ids), peer(ids).logits
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)

    def test_model_recalls_pretraining_facts(self, all_facts):
        model = pretrained.load("gpt2-nano").eval()
        sampled_facts = all_facts[::12]
        prompts = [encode(fact.start.rstrip()) for fact in sampled_facts]
        answers = generate(model, prompts, Sampling(16), END_OF_TEXT)
        correct_count = sum(
            decode(ids).strip().startswith(fact.answer)
            for fact, ids in zip(sampled_facts, answers, strict=True)
        )
        assert correct_count / len(sampled_facts) > 0.8

    def test_unseen_questions_are_answered_only_after_tuning(self, tmp_path):
        """Train for 30 steps on a quarter of the training set and ask 60 test questions."""
        full_split = dataset.split(dataset.load("primer"), RunConfig())
        parts = (full_split.train[:480], full_split.test[:60], full_split.validation[:10])
        path = tmp_path / "some.json"
        path.write_text(json.dumps([e.record() for part in parts for e in part]))
        shares = {"train_fraction": 480.5 / 550, "test_fraction": 60.5 / 550}
        short_training = {"epochs": 1, "lr": 6e-4, "eval_every": 9999, "sample_prompt": ""}
        config = RunConfig.parse(
            {**DEMO, **shares, **short_training, "dataset": str(path), "device": "cpu"}
        )
        run = RunDirectory.create(tmp_path / "runs", config)
        untuned = count_correct(pretrained.load("gpt2-nano").eval(), parts[1])
        main(run)
        tuned = count_correct(load_trained(config, run.path), parts[1])
        assert (untuned, tuned > 24) == (0, True), tuned

    def test_model_completes_general_english(self):
        model = pretrained.load("gpt2-nano").eval()
        ids = torch.tensor([encode("Anna drank a cup of")])
        with torch.no_grad():
            likely = model(ids)[0, -1].topk(1).indices.tolist()
        assert decode(likely) == " tea"
