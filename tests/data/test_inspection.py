"""Data set statistics shown before training."""

import json
import random
import string

import pytest
from rapidfuzz import fuzz

from core.config import RunConfig
from core.data import inspection
from core.data.batches import IGNORE_INDEX, encode_example
from core.data.dataset import Split
from core.data.template import Example, format_prompt
from core.errors import UserError


def random_examples(n: int) -> list[Example]:
    rng = random.Random(n)
    texts = ["".join(rng.choices(string.ascii_lowercase, k=30)) for _ in range(n)]
    return [Example(f"Say {text}.", "", text) for text in texts]


def test_table_lists_every_example_in_file_order():
    examples = random_examples(20)
    frame = inspection.table(Split(examples[:17], examples[17:19], examples[19:]))
    assert frame["item"].tolist() == list(range(20))
    assert frame["part"].tolist() == ["train"] * 17 + ["test"] * 2 + ["validation"]
    assert frame["output"].tolist() == [example.output for example in examples]
    encoded = [encode_example(example, 0, 10**9) for example in examples]
    assert frame["tokens"].tolist() == [len(e.ids) for e in encoded]
    assert frame["prompt_tokens"].tolist() == [e.prompt_length for e in encoded]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [None, 45, 20])
def test_token_states_match_training_targets(masked, length):
    example = Example("Say it in French: naïve 日本 🙂", "", "a response")
    config = RunConfig(mask_prompt=masked, max_length=length)
    tokens = inspection.tokens(example, config, 256)
    text = format_prompt(example.instruction) + example.output + "<|endoftext|>"
    assert "".join(token.text for token in tokens) == text
    limit = length or 256
    targets = encode_example(example, 0, limit).targets(masked)
    learned = [False, *(target != IGNORE_INDEX for target in targets)]
    assert [token.state == "learned" for token in tokens[:limit]] == learned
    assert all((token.state == "cut") == (i >= limit) for i, token in enumerate(tokens))


def test_duplicates_between_test_and_training_are_found_and_ranked():
    train = random_examples(50)
    copy = Example(train[7].instruction.upper(), " ", train[7].output)
    near_duplicate = Example(train[9].instruction, "", train[9].output[:-1] + "#")
    same_prompt = Example(train[3].instruction, "", "something else altogether and long enough")
    unrelated = Example("How many legs has a spider?", "", "Eight.")
    frame = inspection.duplicates(
        Split(train, [unrelated, same_prompt, near_duplicate, copy], train[:1])
    )
    assert frame["test"].tolist() == [53, 52, 51]
    assert frame["train"].tolist() == [7, 9, 3]
    assert frame["same_prompt"].tolist() == [True, True, True]
    first, second, third = frame["similarity"]
    assert first == 100 > second >= inspection.MIN_DUPLICATE_SIMILARITY > third
    test_text = f"{same_prompt.instruction} {same_prompt.input} {same_prompt.output}"
    train_text = f"{train[3].instruction} {train[3].input} {train[3].output}"
    plain = [" ".join(text.split()).casefold() for text in (test_text, train_text)]
    assert third == pytest.approx(fuzz.ratio(*plain), abs=0.1)


def test_duplicates_are_found_across_chunks(monkeypatch):
    monkeypatch.setattr(inspection, "COMPARE_CHUNK", 3)
    train, test = random_examples(40), random_examples(11)
    test[10] = train[39]
    frame = inspection.duplicates(Split(train, test, train[:1]))
    assert frame[["test", "train", "similarity"]].values.tolist() == [[50, 39, 100.0]]


def test_table_is_empty_without_duplicates():
    assert inspection.duplicates(
        Split(random_examples(30), random_examples(3), random_examples(2))
    ).empty


def test_batch_lists_examples_in_order_with_lengths(tmp_path):
    examples = random_examples(20)
    path = tmp_path / "data.json"
    path.write_text(
        json.dumps([{"instruction": e.instruction, "output": e.output} for e in examples])
    )
    dataset = inspection.inspect(RunConfig(dataset=str(path)))
    encoded = [encode_example(examples[i], i, 40) for i in (7, 3)]
    tokens = sum(len(e.ids) - 1 for e in encoded)
    frame = inspection.batch(dataset, [7, 3], 40, tokens)
    assert frame["item"].tolist() == [7, 3]
    assert frame["trained"].tolist() == [len(e.ids) for e in encoded]
    assert frame["tokens"].tolist() == [dataset.table["tokens"][i] for i in (7, 3)]
    assert frame["output"].tolist() == [examples[7].output, examples[3].output]
    assert len(inspection.batch(dataset, [7, 3], 40, None)) == 2
    for indices, count in (([7, 3], tokens + 1), ([7, 20], tokens), ([7, -1], tokens)):
        with pytest.raises(UserError, match="has changed"):
            inspection.batch(dataset, indices, 40, count)
    for data, indices, problem in (
        (None, [7], "not on this machine"),
        (dataset, None, "not recorded"),
    ):
        with pytest.raises(UserError, match=problem):
            inspection.batch(data, indices, 40, tokens)
