"""Batches: every example appears once per epoch, and the order depends only on the seed and the epoch."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.data.batches import (
    IGNORE_INDEX,
    Encoded,
    Schedule,
    collate,
    encode_all,
    encode_example,
    epoch_order,
)
from core.data.template import Example, format_prompt
from core.data.tokenizer import END_OF_TEXT, decode, encode

EXAMPLE = Example("Suggest an alternate word for 'happy'.", "", "Joyful <|endoftext|> is one.")
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
examples = st.builds(Example, texts, st.just("") | texts, texts)
lengths = st.lists(st.integers(2, 400), min_size=1, max_size=300)


@given(lengths, st.integers(1, 9), st.integers(0, 2**31 - 1), st.integers(0, 3), st.booleans())
def test_every_index_occurs_exactly_once_per_epoch(
    sizes: list[int], batch_size: int, seed: int, epoch: int, group: bool
) -> None:
    order = epoch_order(sizes, batch_size, seed, epoch, group)
    assert sorted(i for batch in order for i in batch) == list(range(len(sizes)))
    assert len(order) == math.ceil(len(sizes) / batch_size)
    assert sorted(map(len, order))[1:] == [batch_size] * (len(order) - 1)
    assert order == epoch_order(sizes, batch_size, seed, epoch, group)


@pytest.mark.parametrize("group", [False, True])
def test_order_depends_only_on_the_seed_and_the_epoch(group: bool) -> None:
    sizes = [2 + i * 7919 % 300 for i in range(200)]
    orders = [epoch_order(sizes, 4, seed, epoch, group) for seed in (0, 1) for epoch in (0, 1)]
    assert all(orders[i] != orders[j] for i in range(4) for j in range(i))
    torch.manual_seed(99)  # the global generator must not affect the order
    torch.rand(3)
    assert epoch_order(sizes, 4, 0, 1, group) == orders[1]


def test_grouping_by_length_reduces_padding_and_still_shuffles() -> None:
    sizes = [20 + i * 7919 % 200 for i in range(900)]

    def padding(group: bool) -> float:
        order = epoch_order(sizes, 4, 1, 0, group)
        width = sum(max(sizes[i] for i in batch) * len(batch) for batch in order)
        return 1 - sum(sizes) / width

    assert padding(True) < 0.05 < 0.2 < padding(False)
    max_lengths = [max(sizes[i] for i in batch) for batch in epoch_order(sizes, 4, 1, 0, True)]
    rising = sum(a < b for a, b in itertools.pairwise(max_lengths))
    assert 0.4 < rising / len(max_lengths) < 0.6  # batches are not sorted by length


@given(lengths, st.integers(1, 7), st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_schedule_covers_every_epoch(
    sizes: list[int], batch_size: int, accumulation: int, epochs: int, group: bool
) -> None:
    schedule = Schedule(sizes, batch_size, accumulation, epochs, 7, group)
    assert schedule.steps == epochs * schedule.steps_per_epoch
    batches = math.ceil(len(sizes) / batch_size)
    assert schedule.steps_per_epoch == math.ceil(batches / accumulation)
    steps = [schedule.batches(step) for step in range(1, schedule.steps + 1)]
    for epoch in range(epochs):
        epoch_steps = steps[epoch * schedule.steps_per_epoch :][: schedule.steps_per_epoch]
        assert [b for step in epoch_steps for b in step] == epoch_order(
            sizes, batch_size, 7, epoch, group
        )
        assert all(len(step) == accumulation for step in epoch_steps[:-1])
        assert 1 <= len(epoch_steps[-1]) <= accumulation


def test_schedule_can_be_read_from_any_step() -> None:
    sizes = [5 + i % 17 for i in range(50)]
    expected = [Schedule(sizes, 4, 2, 3, 1, True).batches(step) for step in range(1, 22)]
    schedule = Schedule(sizes, 4, 2, 3, 1, True)
    assert [schedule.batches(step) for step in reversed(range(1, 22))] == expected[::-1]


@given(examples)
def test_encoded_example_starts_with_the_prompt_tokens(example: Example) -> None:
    encoded = encode_example(example, 3, 10**6)
    prompt = encode(format_prompt(example.instruction, example.input))
    assert encoded.ids[: encoded.prompt_length] == prompt
    assert decode(encoded.ids[encoded.prompt_length : -1]) == example.output
    assert encoded.dataset_index == 3


@given(examples)
def test_end_of_text_is_learned_exactly_once(example: Example) -> None:
    encoded = encode_example(example, 0, 10**6)
    for mask_prompt in (False, True):
        targets = encoded.targets(mask_prompt)
        assert targets.count(END_OF_TEXT) == 1
        assert targets[-1] == END_OF_TEXT
        assert END_OF_TEXT not in encoded.ids[:-1]


def test_targets_are_the_next_tokens() -> None:
    encoded = encode_example(EXAMPLE, 0, 10**6)
    assert encoded.targets(mask_prompt=False) == encoded.ids[1:]
    masked = encoded.targets(mask_prompt=True)
    response = encoded.ids[encoded.prompt_length :]
    assert masked == [IGNORE_INDEX] * (encoded.prompt_length - 1) + response
    assert response == [*encode(EXAMPLE.output), END_OF_TEXT]


@given(examples, st.integers(2, 120))
def test_truncation_keeps_the_beginning(example: Example, max_length: int) -> None:
    uncut, truncated = encode_example(example, 0, 10**6), encode_example(example, 0, max_length)
    assert truncated.ids == uncut.ids[:max_length]
    n = len(truncated.ids) - 1
    for mask_prompt in (False, True):
        assert truncated.targets(mask_prompt) == uncut.targets(mask_prompt)[:n]


def test_dropped_examples_do_not_shift_dataset_indices() -> None:
    long_example = Example("A very long instruction. " * 20, "", "x")
    input_examples = [EXAMPLE, long_example, EXAMPLE]
    encoded = encode_all(input_examples, 60, mask_prompt=True, first_index=10)
    assert [example.dataset_index for example in encoded] == [10, 12]
    encoded = encode_all(input_examples, 60, mask_prompt=False, first_index=10)
    assert [example.dataset_index for example in encoded] == [10, 11, 12]
    prompt = encode(format_prompt(EXAMPLE.instruction))
    assert encode_all([EXAMPLE], len(prompt), mask_prompt=True) == []
    assert len(encode_all([EXAMPLE], len(prompt) + 1, mask_prompt=True)) == 1


encoded_examples = st.integers(2, 30).flatmap(
    lambda n: st.builds(
        Encoded,
        st.lists(st.integers(0, END_OF_TEXT), min_size=n, max_size=n),
        st.integers(1, n - 1),
        st.integers(0, 10**6),
    )
)


@given(st.lists(encoded_examples, min_size=1, max_size=6), st.booleans())
def test_collate_pads_on_the_right_and_counts_tokens(
    rows: list[Encoded], mask_prompt: bool
) -> None:
    batch = collate(rows, mask_prompt)
    width = max(len(row.ids) for row in rows) - 1
    assert batch.ids.shape == batch.targets.shape == (len(rows), width)
    assert batch.ids.dtype == batch.targets.dtype == torch.int64
    assert batch.dataset_indices == [row.dataset_index for row in rows]
    for i, row in enumerate(rows):
        n = len(row.ids) - 1
        assert batch.ids[i, :n].tolist() == row.ids[:-1]
        assert batch.targets[i, :n].tolist() == row.targets(mask_prompt)
        assert (batch.ids[i, n:] == END_OF_TEXT).all()
        assert (batch.targets[i, n:] == IGNORE_INDEX).all()
    assert batch.tokens == sum(len(row.ids) - 1 for row in rows)
    assert batch.target_tokens == int((batch.targets != IGNORE_INDEX).sum())
