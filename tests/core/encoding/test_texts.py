"""Inputs of engines that take text: wrapped, not rendered, and refused like all others."""

import pytest

from quernstone import InputError
from quernstone.encoding.texts import TextEncoder
from quernstone.types import TextInput

ENCODER = TextEncoder()


def test_documents_have_no_instruction_and_queries_have_one():
    documents = ENCODER.encode_documents(["a", ""])
    assert documents.sequences == [TextInput("a"), TextInput("")]
    queries = ENCODER.encode_queries(["a"], "Find it")
    assert queries.sequences == [TextInput("a", "Find it")]
    assert ENCODER.encode_queries(["a"], "").sequences[0].instruction == ""
    assert documents.truncated == queries.truncated == []


def test_pairs_keep_their_parts():
    pairs = ENCODER.encode_pairs([("q", "d", "Judge"), ("", "e", "Judge")], "eval")
    assert pairs.sequences == [
        TextInput("d", "Judge", "q", "eval"),
        TextInput("e", "Judge", "", "eval"),
    ]


@pytest.mark.parametrize(
    ("bad", "reason"), [(3, "is int"), (None, "is NoneType"), ("\ud800", "lone")]
)
def test_bad_texts_are_named_by_index(bad, reason):
    for encode in (
        lambda: ENCODER.encode_documents(["a", bad], offset=10),
        lambda: ENCODER.encode_queries(["a", bad], "", offset=10),
        lambda: ENCODER.encode_pairs([("a", "a", ""), (bad, "a", "")], "card", offset=10),
        lambda: ENCODER.encode_pairs([("a", "a", ""), ("a", bad, "")], "card", offset=10),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            encode()
        assert caught.value.index == 11
