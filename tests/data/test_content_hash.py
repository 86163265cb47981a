"""The hash that identifies answers. It is stored in ledgers, so it must not change."""

import hashlib

from core.data.content_hash import content_hash


def test_hash_is_the_sha256_of_the_texts_joined_by_a_unit_separator() -> None:
    expected = hashlib.sha256("Say ä.\x1f\x1fä".encode()).hexdigest()
    assert content_hash("Say ä.", "", "ä") == expected
    assert content_hash("a", "b") != content_hash("ab")


def test_lone_surrogates_hash_like_question_marks() -> None:
    assert content_hash("\ud800") == content_hash("?")
