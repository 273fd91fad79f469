import pandas as pd
import pytest

from quernstone_qdrant import QdrantLoader, Record, RecordError
from quernstone_qdrant.documents.json_values import UnstorableError, to_json, to_metadata
from quernstone_qdrant.documents.records import to_record


class Loc:
    """An object without a text of its own."""


class Broken:
    def __str__(self):
        raise RuntimeError("no text")


class Named(Loc):
    def __str__(self):
        return "Bergen"


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        (Loc(), "a", "is a Loc, whose text"),
        ([1, {"b": Loc()}], r"a\[1\].b", "is a Loc, whose text"),
        ({Loc()}, r"a\[0\]", "is a Loc"),
        (lambda: None, "a", "is a function, whose text"),
        ((n for n in ()), "a", "is a generator, whose text"),
        (Broken(), "a", "is a Broken without a text: no text"),
        ({1: "x", "1": "y"}, "a.1", "has two keys that are equal as text"),
    ],
)
def test_values_that_cannot_be_stored_are_errors_of_their_record(
    client, embedder, value, path, reason
):
    with pytest.raises(UnstorableError, match=f"^the metadata field `{path}` {reason}"):
        to_metadata({"a": value})
    for record in (Record("bad", "x", {"a": value}), {"id": "bad", "text": "x", "a": value}):
        with pytest.raises(RecordError, match=f"record 'bad': the metadata field `{path}` "):
            to_record(record, 0)
    loader = QdrantLoader(client, "docs", embedder, skip_errors=True)
    rows = [{"id": "a", "text": "a"}, {"id": "bad", "text": "x", "a": value}]
    assert (loader.load(rows).failed, loader.load(rows).embedded) == (1, 0)


def test_texts_and_missing_values():
    assert to_json(Named()) == "Bergen"
    assert to_json("<Loc object at 0x7f0000000000>") == "<Loc object at 0x7f0000000000>"
    assert to_json([pd.NaT, pd.NA, pd.Timestamp("2026-01-02")]) == [
        *(None, None, "2026-01-02T00:00:00"),
    ]


def test_sets_may_not_nest_without_end():
    value = frozenset()
    for _ in range(40):
        value = frozenset([value])
    with pytest.raises(UnstorableError, match="nested more than 28 levels"):
        to_json(value)
