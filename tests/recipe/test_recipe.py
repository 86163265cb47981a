"""The embedded pair: the data set gives nothing away, the text repeats itself, the model is GPT-2."""

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
from core.training.build import load_trained
from core.training.evaluation import answer_all
from recipe import __main__ as recipe
from recipe import facts, pretraining
from recipe.corpus import Writer
from recipe.primer import primer


@pytest.fixture(scope="module")
def known():
    return facts.all_facts()


def test_facts_of_every_kind_are_true_where_a_person_knows(known):
    said = {fact.start + fact.answer for fact in known}
    for sentence in (
        "A synonym for 'happy' is 'joyful'.", "The opposite of 'hot' is 'cold'.",
        "The plural of 'mouse' is 'mice'.", "The past tense of 'go' is 'went'.",
        "The correct spelling of 'recieve' is 'receive'.", "The French word for 'dog' is 'chien'.",
        "The capital of France is Paris.", "In total, 3 hours are 180 minutes.",
        "The steak is grilled by the chef.",
    ):  # fmt: skip
        assert sentence in said
    sums = [fact for fact in known if fact.kind == "arithmetic"]
    signs = {"plus": "+", "minus": "-", "times": "*"}
    for fact in sums:
        left, sign, right = fact.keys[0].split()
        assert eval(f"{left}{signs[sign]}{right}") == int(fact.answer.rstrip("."))


def test_the_embedded_data_set_is_the_recipes(known):
    examples, _ = primer(known, recipe.SPLIT_SEED)
    assert len(examples) >= 2000
    assert dataset.load("primer") == examples


def test_what_is_tested_occurs_in_no_training_example(known):
    examples, (train, test, validation) = primer(known, recipe.SPLIT_SEED)
    split = dataset.split(examples, RunConfig())
    assert [len(part) for part in vars(split).values()] == [
        2 * len(part) for part in (train, test, validation)
    ]
    text = " ".join(" ".join(vars(e).values()) for e in split.train)
    for fact in [*test, *validation]:
        for key in fact.keys:
            assert not re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text), key
    assert {fact.kind for fact in test} == {fact.kind for fact in known}
    assert not inspection.duplicates(split)["same_prompt"].any()


def test_the_text_states_facts_and_shows_no_prompt(known):
    texts = list(itertools.islice(Writer(known, 5).documents(), 3000))
    assert texts == list(itertools.islice(Writer(known, 5).documents(), 3000))
    assert texts[:50] != list(itertools.islice(Writer(known, 6).documents(), 50))
    whole = " ".join(texts)
    assert "###" not in whole
    assert not any(asked in whole for fact in known for asked, _ in fact.asked)
    stated = [fact for fact in known if fact.start + fact.answer in whole]
    assert len(stated) > 0.7 * len(known)


def test_the_reduced_loss_is_the_full_softmax_with_tied_rows():
    arch = pretraining.NANO
    model = pretraining.Reduced(replace(arch, vocabulary=6), others=arch.vocabulary - 5)
    model.initialize(torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 1, 2, 3, 4]])
    targets = torch.tensor([[1, 2, -100, 4, 0]])
    rows = torch.cat([torch.arange(5), torch.full((arch.vocabulary - 5,), 5)])
    logits = model.features(ids) @ model.wte.weight[rows].T
    full = F.cross_entropy(logits[0], targets[0], reduction="sum")
    torch.testing.assert_close(model.loss(ids, targets), full, rtol=1e-5, atol=1e-4)


def test_a_short_pretraining_ends_in_the_same_model_of_the_whole_vocabulary(known, tmp_path):
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
    rows = pretraining.blocks(Writer(known, 123).documents(), 64 * pretraining.BLOCK_TOKENS + 1)
    ids = torch.tensor(rows)
    with torch.no_grad():
        loss = float(model.loss(ids[:, :-1], ids[:, 1:])) / ids[:, 1:].numel()
    assert loss == pytest.approx(final["val_loss"], abs=0.05)  # halves, and noise on absent tokens


def right(model, examples):
    """How many answers are those of the data set."""
    answers = itertools.chain.from_iterable(answer_all(model, examples, Sampling(24)))
    return sum(answer.text == examples[answer.index].output for answer in answers)


class TestTheEmbeddedModel:
    """What it is, and that it knows what it was told."""

    def test_it_is_small_and_tied(self):
        path = pretrained.ASSETS / "gpt2-nano" / "model.safetensors"
        assert path.stat().st_size <= 16e6
        model = pretrained.load("gpt2-nano", tie_weights=True)
        assert model.lm_head.weight is model.wte.weight

    def test_its_logits_are_those_of_transformers(self):
        from transformers import GPT2LMHeadModel

        peer = GPT2LMHeadModel.from_pretrained(
            pretrained.ASSETS / "gpt2-nano", dtype=torch.float32
        ).eval()
        ids = torch.tensor([encode("The capital of France is Paris. Another word for 'happy' is")])
        with torch.no_grad():
            ours, theirs = pretrained.load("gpt2-nano").eval()(ids), peer(ids).logits
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    def test_it_states_what_it_was_told(self, known):
        model = pretrained.load("gpt2-nano").eval()
        some = known[::12]
        prompts = [encode(fact.start.rstrip()) for fact in some]
        answers = generate(model, prompts, Sampling(16), END_OF_TEXT)
        right = sum(
            decode(ids).strip().startswith(fact.answer)
            for fact, ids in zip(some, answers, strict=True)
        )
        assert right / len(some) > 0.8

    def test_it_answers_what_it_was_not_tuned_on_only_after_tuning(self, tmp_path):
        """Thirty steps on a quarter of the training set, 60 test questions."""
        whole = dataset.split(dataset.load("primer"), RunConfig())
        parts = (whole.train[:480], whole.test[:60], whole.validation[:10])
        path = tmp_path / "some.json"
        path.write_text(json.dumps([vars(e) for part in parts for e in part]))
        shares = {"train_fraction": 480.5 / 550, "test_fraction": 60.5 / 550}
        once = {"epochs": 1, "lr": 6e-4, "eval_every": 9999, "sample_prompt": ""}
        config = RunConfig.parse({**DEMO, **shares, **once, "dataset": str(path), "device": "cpu"})
        run = RunDirectory.create(tmp_path / "runs", config)
        untuned = right(pretrained.load("gpt2-nano").eval(), parts[1])
        main(run)
        tuned = right(load_trained(config, run.path), parts[1])
        assert (untuned, tuned > 24) == (0, True), tuned

    def test_it_has_english_left_for_other_words(self):
        model = pretrained.load("gpt2-nano").eval()
        ids = torch.tensor([encode("Anna drank a cup of")])
        with torch.no_grad():
            likely = model(ids)[0, -1].topk(1).indices.tolist()
        assert decode(likely) == " tea"
