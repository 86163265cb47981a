"""Column mappings, and examples from conversations and texts."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.config import RunConfig
from core.data import dataset, formats, inspection
from core.data.batches import IGNORE_INDEX, encode_all, encode_example, encode_prompt, fingerprint
from core.data.dataset import Records
from core.data.template import Example, format_prompt
from core.data.tokenizer import END_OF_TEXT, decode, encode, tokenizer
from core.errors import UserError
from core.planning import preflight


def write(path: Path, records: Any) -> str:
    path.write_text(json.dumps(records))
    return str(path)


def read(tmp_path: Path, *records: Any, **options: Any) -> Records:
    return dataset.read(write(tmp_path / "data.json", list(records)), **options)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("instruction input output", "instruction, input, output"),
        ("instruction output", "instruction, input, output"),
        ("id text output instruction input", "instruction, input, output"),
        ("instruction context output", "instruction, input, output"),
        ("messages instruction output", "instruction, input, output"),
        ("Instruction Input Output", "instruction ← Instruction, input ← Input, output ← Output"),
        ("prompt completion", "instruction ← prompt, output ← completion"),
        ("prompt response", "instruction ← prompt, output ← response"),
        ("question answer", "instruction ← question, output ← answer"),
        ("Question Answer", "instruction ← Question, output ← Answer"),
        ("id context question answer", "instruction ← question, input ← context, output ← answer"),
        ("instruction context response", "instruction, input ← context, output ← response"),
        ("input output", "instruction ← input, output"),
        ("prompt_id prompt messages", "messages"),
        ("conversations id", "messages ← conversations"),
        ("id text", "text"),
        ("text prompt completion", "instruction ← prompt, output ← completion"),
    ],
)
def test_columns_are_detected_by_name(columns: str, expected: str) -> None:
    assert str(formats.detect(columns.split())) == f"{expected} (detected)"


@pytest.mark.parametrize(
    "columns", ["", "output", "prompt chosen rejected", "instructions outputs"]
)
def test_unknown_columns_are_not_guessed(columns: str) -> None:
    assert formats.detect(columns.split()) is None


def test_unknown_columns_error_lists_them_and_suggests_a_mapping(tmp_path: Path) -> None:
    record = {"prompt": "Say hi.", "chosen": "hi", "rejected": "no"}
    with pytest.raises(UserError) as caught:
        read(tmp_path, record)
    assert "its columns (prompt, chosen, rejected) match no known format" in str(caught.value)
    assert str(caught.value).endswith("such as columns = 'instruction=prompt, output=chosen'")
    loaded = read(tmp_path, record, columns="instruction=prompt, output=chosen")
    assert loaded.examples == [Example("Say hi.", "", "hi")]
    assert str(loaded.columns) == "instruction ← prompt, output ← chosen (set)"
    assert loaded.unused_keys == {"rejected": 1}


@pytest.mark.parametrize(
    "columns",
    [
        *("question", "instruction=a", "output=a", "instruction=a, output=a", "input=a, text=b"),
        *("instruction=, output=b", "instruction=a, output=b, output=c", "system=a, messages=b"),
        *("messages=a, text=b", "instruction=a, output=b, messages=c", "=", "=a"),
    ],
)
def test_invalid_mapping_is_refused_before_the_data_is_read(columns: str) -> None:
    with pytest.raises(
        UserError, match="must name the columns for instruction and output"
    ) as caught:
        dataset.read("nowhere.json", columns=columns)
    assert str(caught.value).startswith(f"columns = {columns!r}: ")


def test_mapping_to_a_missing_column_is_refused(tmp_path: Path) -> None:
    record = {"q": "Say hi.", "a": "hi"}
    for columns in ("instruction=q, output=b", "instruction=q, input=b, output=a", "text=b"):
        message = "no record has a column 'b'; the columns are q, a"
        with pytest.raises(UserError, match=message):
            read(tmp_path, record, columns=columns)
    # An unread record may have the optional column.
    loaded = read(tmp_path, record, columns="instruction=q, input=b, output=a", max_examples=1)
    assert len(loaded.examples) == 1


names = st.text(
    st.characters(exclude_characters=",=", exclude_categories=["C"]), min_size=1, max_size=8
)
values = st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.data())
def test_mapping_is_equivalent_to_renaming_columns(
    tmp_path_factory: Any, data: st.DataObject
) -> None:
    roles = data.draw(st.sampled_from(["instruction output", "instruction input output", "text"]))
    sources = {}
    for role in roles.split():
        name = data.draw(names.filter(lambda name: name == name.strip()))
        assume(name not in sources.values())
        sources[role] = name
    rows = data.draw(
        st.lists(st.fixed_dictionaries(dict.fromkeys(sources, values)), min_size=1, max_size=5)
    )
    renamed = [{sources[role]: value for role, value in row.items()} for row in rows]
    folder = tmp_path_factory.getbasetemp()
    columns = ", ".join(f"{role}={name}" for role, name in reversed(sources.items()))
    outcomes = []
    for records, setting in ((rows, ""), (renamed, columns)):
        try:
            loaded = dataset.read(write(folder / "renamed.json", records), columns=setting)
            outcomes.append(
                (loaded.examples, loaded.source_rows, [s.source_row for s in loaded.skipped])
            )
        except UserError as error:
            outcomes.append("none of its" in str(error) or "its only" in str(error))
    assert outcomes[0] == outcomes[1]


def test_skip_reasons_use_the_original_column_names(tmp_path: Path) -> None:
    good = {"question": "Say hi.", "answer": "hi"}
    loaded = read(tmp_path, good, {"question": "x"}, {**good, "answer": 7}, {**good, "answer": " "})
    assert [s.reason for s in loaded.skipped] == ["no answer", "answer is a number", "empty answer"]
    with pytest.raises(
        UserError, match="a record must be an object with question and answer as text"
    ):
        read(tmp_path, {**good, "answer": 7})


def test_format_detection_reads_past_other_records(tmp_path: Path) -> None:
    other = {"prompt": "Say hi.", "completion": "hi"}
    loaded = read(tmp_path, other, {"instruction": "Say ho.", "output": "ho"})
    assert loaded.examples == [Example("Say ho.", "", "ho")]
    assert [s.reason for s in loaded.skipped] == ["no instruction or output"]
    late = [other, *[{"prompt": "x"}] * 2000]
    assert len(read(tmp_path, *late).examples) == 1
    late = [*[{"x": "y"}] * 2000, {"instruction": "Say ho.", "output": "ho"}]
    assert read(tmp_path, *late).source_rows == ["record 2001"]


# Conversations

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say red."},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": "And blue?"},
    {"role": "assistant", "content": "blue, too"},
]
SHAREGPT = [
    {"from": {"user": "human", "assistant": "gpt"}.get(m["role"], m["role"]), "value": m["content"]}
    for m in MESSAGES
]
FIRST = format_prompt("Be brief.\n\nSay red.")
SECOND = "\n\n### Instruction:\nAnd blue?\n\n### Response:\n"
IDS = [
    *encode(FIRST), *encode("red"), END_OF_TEXT, *encode(SECOND), *encode("blue, too"), END_OF_TEXT,
]  # fmt: skip


def conversation_files(tmp_path: Path) -> dict[str, Path]:
    """Return files that contain the same conversation, by format."""
    paths = {name: tmp_path / name for name in ("openai.jsonl", "sharegpt.json", "pyarrow.parquet", "text.csv", "single.json")}  # fmt: skip
    paths["openai.jsonl"].write_text(json.dumps({"messages": MESSAGES}) + "\n" * 2 + json.dumps({"messages": MESSAGES}))  # fmt: skip
    write(paths["sharegpt.json"], [{"id": "a", "conversations": SHAREGPT}])
    pd.DataFrame({"messages": [MESSAGES]}).to_parquet(paths["pyarrow.parquet"])
    with paths["text.csv"].open("w", newline="") as file:
        csv.writer(file).writerows([["conversations"], [json.dumps(SHAREGPT)]])
    write(paths["single.json"], {"messages": MESSAGES})
    return paths


@pytest.mark.parametrize(
    "kind", ["openai.jsonl", "sharegpt.json", "pyarrow.parquet", "text.csv", "single.json"]
)
def test_conversations_are_read_from_every_format(tmp_path: Path, kind: str) -> None:
    loaded = dataset.read(str(conversation_files(tmp_path)[kind]))
    example = loaded.examples[0]
    assert example.texts == (
        "And blue?", "System: Be brief.\n\nUser: Say red.\n\nAssistant: red", "blue, too",
    )  # fmt: skip
    assert encode_example(example, 0, 10**6).ids == IDS
    assert not loaded.skipped


@pytest.mark.parametrize("mask_prompt", [False, True])
@pytest.mark.parametrize("length", [10**6, *range(2, len(IDS) + 2, 7)])
def test_only_assistant_turns_are_learned(tmp_path: Path, mask_prompt: bool, length: int) -> None:
    [example] = read(tmp_path, {"messages": MESSAGES}).examples
    n = len(encode(FIRST))
    responses = [*encode("red"), END_OF_TEXT], [*encode("blue, too"), END_OF_TEXT]
    expected = [
        *[IGNORE_INDEX] * n, *responses[0], *[IGNORE_INDEX] * len(encode(SECOND)), *responses[1],
    ]  # fmt: skip
    encoded = encode_example(example, 0, length)
    assert encoded.ids == IDS[:length]
    assert encoded.targets(mask_prompt) == expected[1:length]
    kept = encode_all([example], length, mask_prompt)
    assert bool(kept) == any(target != IGNORE_INDEX for target in expected[1:length])
    tokens = inspection.tokens(
        example, RunConfig(max_length=max(8, length), mask_prompt=mask_prompt), 1024
    )
    shown = [token.state for token in tokens[: max(8, length)]]
    assert shown == [
        "given" if t == IGNORE_INDEX else "learned" for t in expected[: max(8, length)]
    ]


def test_generation_prompt_ends_before_the_last_response(tmp_path: Path) -> None:
    [example] = read(tmp_path, {"messages": MESSAGES}).examples
    assert encode_prompt(example) == IDS[: -len(encode("blue, too")) - 1]
    restored = Example.restored(example.texts, example.turns_text)
    assert encode_prompt(restored) == encode_prompt(example)
    for damaged in ("{", "[1]", '[["a"]]', "7", 7, None, float("nan")):
        assert Example.restored(("a", "b", "c"), damaged) == Example("a", "b", "c")


def test_one_turn_matches_an_instruction_with_masked_prompt(tmp_path: Path) -> None:
    pair = {"user": "Say red.", "assistant": "red"}
    messages = [{"role": role, "content": text} for role, text in pair.items()]
    [example] = read(tmp_path, {"messages": messages}).examples
    single = encode_example(Example("Say red.", "", "red"), 0, 10**6)
    encoded = encode_example(example, 0, 10**6)
    assert (encoded.ids, encoded.prompt_length) == (single.ids, single.prompt_length)
    assert encoded.targets(False) == encoded.targets(True) == single.targets(True)
    assert fingerprint([encoded]) != fingerprint([single])


def test_consecutive_messages_are_joined_and_unanswered_ones_ignored(tmp_path: Path) -> None:
    roles = ["user", "user", "assistant", "assistant", "system", "user", "assistant", "user"]
    messages = [{"role": role, "content": f"m{i}"} for i, role in enumerate(roles)]
    [example] = read(tmp_path, {"messages": messages}).examples
    assert [(turn.prompt, turn.response) for turn in example.turns] == [
        (format_prompt("m0\n\nm1"), "m2\n\nm3"),
        ("\n\n### Instruction:\nm4\n\nm5\n\n### Response:\n", "m6"),
    ]
    assert (example.instruction, example.output) == ("m5", "m6")


def messages(*roles_and_texts: Any) -> list[dict[str, Any]]:
    pairs = zip(roles_and_texts[::2], roles_and_texts[1::2], strict=True)
    return [{"role": role, "content": text} for role, text in pairs]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no messages"),
        ("not JSON", "messages is text"),
        ({}, "messages is an object"),
        ([], "messages has no assistant message"),
        (messages("user", "a"), "messages has no assistant message"),
        (messages("assistant", "a"), "messages starts with an assistant message"),
        (messages("system", "a", "assistant", "b"), "messages has no user message"),
        (messages("user", "a", "tool", "b"), "a message has the role tool"),
        (messages("user", "a", 7, "b"), "a message has the role 7"),
        (messages("user", "a", "assistant", None), "the content of a message is null"),
        (messages("user", "a", "assistant", [1]), "the content of a message is a list"),
        (messages("user", " ", "assistant", "b"), "empty user message"),
        (messages("user", "a", "assistant", ""), "empty assistant message"),
        ([{"text": "a"}], "a message has no role"),
        ([None], "a message is null"),
        (["a"], "a message is text"),
    ],
)
def test_unusable_conversations_are_skipped_with_a_reason(
    tmp_path: Path, value: Any, reason: str
) -> None:
    loaded = read(tmp_path, {"messages": MESSAGES}, {"messages": value})
    assert [s.reason for s in loaded.skipped] == [reason]
    with pytest.raises(UserError, match="as a list of messages, each with role and content"):
        read(tmp_path, {"messages": value})


def test_empty_system_messages_are_ignored(tmp_path: Path) -> None:
    turns = "user", "a", "assistant", "b"
    records = [{"messages": messages(*start, *turns)} for start in ((), ("system", " "))]
    plain, empty = read(tmp_path, *records).examples
    assert empty == plain


def test_empty_assistant_messages_can_be_kept(tmp_path: Path) -> None:
    record = {"messages": messages("user", "a", "assistant", "")}
    [example] = read(tmp_path, record, empty_outputs="keep").examples
    encoded = encode_example(example, 0, 10**6)
    assert [t for t in encoded.targets(False) if t != IGNORE_INDEX] == [END_OF_TEXT]


# Texts


@pytest.mark.parametrize("input", ["", "an\ninput"])
def test_text_in_template_format_matches_its_record(tmp_path: Path, input: str) -> None:
    example = Example("Say it.", input, "a response\n\nof two paragraphs")
    loaded = read(tmp_path, {"text": format_prompt("Say it.", input) + example.output})
    assert loaded.examples == [example]


def test_text_with_another_prompt_is_split_at_the_response_marker(tmp_path: Path) -> None:
    prompt = "A task.\n\n### Instruction:\nSay red.\n\n### Response:\n"
    [example] = read(tmp_path, {"text": prompt + "red"}).examples
    assert example.texts == ("Say red.", "", "red")
    encoded = encode_example(example, 0, 10**6)
    assert encoded.ids == [*encode(prompt), *encode("red"), END_OF_TEXT]
    assert encode_prompt(example) == encode(prompt)
    assert encoded.targets(False) == encoded.ids[1:]
    assert [t for t in encoded.targets(True) if t != IGNORE_INDEX] == [*encode("red"), END_OF_TEXT]


@pytest.mark.parametrize("mask_prompt", [False, True])
def test_plain_text_is_learned_whole_and_continued_from_its_middle(
    tmp_path: Path, mask_prompt: bool
) -> None:
    text = "Once upon a time, there was a model that learned to read."
    [example] = read(tmp_path, {"text": text}).examples
    encoded = encode_example(example, 0, 10**6)
    assert encoded.ids == [*encode(text), END_OF_TEXT]
    assert encoded.targets(mask_prompt) == encoded.ids[1:]
    assert decode(encode_prompt(example)) == "Once upon a time, there was"
    assert (example.instruction, example.output) == ("Once upon a time, there was", " a model that learned to read.")  # fmt: skip


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=2, max_size=40))
def test_halves_concatenate_to_the_text(tmp_path_factory: Any, text: str) -> None:
    assume(len(text.strip()) > 1 and "### Response" not in text)
    record = {"text": text}
    example = formats.convert(record, formats.Columns({"text": "text"}), "drop")
    assert example.instruction + example.output == text
    assert example.instruction.strip()
    assert example.output.strip()
    assert decode(encode_example(example, 0, 10**6).ids[:-1]) == text


@given(st.lists(st.text("abcxyz019.,'", min_size=1, max_size=6), min_size=2, max_size=9))
def test_splitting_at_a_space_does_not_change_the_tokens(words: list[str]) -> None:
    text = " ".join(words)
    example = formats.convert({"text": text}, formats.Columns({"text": "text"}), "drop")
    assert encode_example(example, 0, 10**6).ids[:-1] == tokenizer().encode_ordinary(text)


def test_texts_without_content_are_skipped(tmp_path: Path) -> None:
    texts = [{"text": "Some text."}, {"text": " "}, {"text": "x"}, {"text": None}, {"text": 3}]
    texts.append({"text": format_prompt("Say nothing.")})
    loaded = read(tmp_path, *texts)
    assert [s.reason for s in loaded.skipped] == [
        "empty text", "text has a single character", "empty text", "text is a number", "empty text",
    ]  # fmt: skip


# Planning


def test_plan_shows_the_mapping_and_counts_conversation_tokens(tmp_path: Path) -> None:
    path = write(tmp_path / "data.json", [{"conversations": SHAREGPT}] * 40)
    for mask_prompt in (False, True):
        config = RunConfig(dataset=path, mask_prompt=mask_prompt, device="cpu")
        plan = preflight.check(config)
        assert not plan.problems
        assert plan.columns == "messages ← conversations (detected)"
        assert (plan.longest, plan.tokens) == (len(IDS), 34 * (len(IDS) - 1))
    shorter = preflight.check(config.changed(max_length=len(encode(FIRST)) + 1))
    assert shorter.train_examples == 34
    lost = preflight.check(config.changed(max_length=len(encode(FIRST)), mask_prompt=False))
    assert [problem.field for problem in lost.problems] == ["max_length"]


def test_invalid_mapping_is_reported_for_the_columns_field(tmp_path: Path) -> None:
    path = write(tmp_path / "data.json", [{"conversations": SHAREGPT}] * 40)
    for columns in ("conversations", "messages=turns"):
        [problem] = preflight.check(RunConfig(dataset=path, columns=columns)).problems
        assert problem.field == "columns"
        assert not problem.message.startswith("columns")
