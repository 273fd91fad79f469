import pytest
from qdrant_client import models

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader
from quernstone_qdrant.documents.layouts import LAYOUTS
from quernstone_qdrant.filters import metadata_filter, text_filter

RECORDS = [
    {"id": "int", "text": "a", "value": 1200, "deep": {"x": 1}},
    {"id": "str", "text": "b", "value": "1200", "deep": {"x": 2}},
    {"id": "float", "text": "c", "value": 0.5},
    {"id": "bool", "text": "d", "value": True},
    {"id": "list", "text": "e", "value": ["red", "green"]},
    {"id": "word", "text": "f", "value": "nan"},
]


@pytest.fixture(params=LAYOUTS)
def found(client, embedder, request):
    """Keys of the documents that a filter lets through."""
    layout = LAYOUTS[request.param]
    QdrantLoader(client, "docs", embedder, layout=layout.name).load(RECORDS)

    def found(make, conditions):
        where = make(conditions, layout)
        assert isinstance(where, models.Filter)
        points, _ = client.scroll("docs", scroll_filter=where)
        return {point.payload["quernstone"]["key"] for point in points}

    return found


def test_values_are_found_by_their_type(found):
    for value, keys in [
        (1200, {"int"}),
        ("1200", {"str"}),
        (0.5, {"float"}),
        (True, {"bool"}),
        ("red", {"list"}),
        (["green", "1200"], {"list", "str"}),
        ([1200, 7], {"int"}),
    ]:
        assert found(metadata_filter, {"value": value}) == keys
    assert found(metadata_filter, {"value": 1200, "deep.x": 1}) == {"int"}
    assert found(metadata_filter, {"value": 1200, "deep.x": 2}) == set()
    assert found(metadata_filter, {}) == {record["id"] for record in RECORDS}


def test_typed_text_is_found_as_whatever_it_may_mean(found):
    for text, keys in [
        ("1200", {"int", "str"}),
        ("1.2e3", {"int"}),
        ("0.5", {"float"}),
        ("true", {"bool"}),
        ("false", set()),
        ("red", {"list"}),
        ("nan", {"word"}),
        ("inf", set()),
    ]:
        assert found(text_filter, [("value", text)]) == keys
    assert found(text_filter, [("value", "1200"), ("deep.x", "2")]) == {"str"}


def test_what_cannot_be_filtered_on_is_an_error():
    with pytest.raises(ConfigError, match=r"field 'metadata.value' has a value of type dict"):
        metadata_filter({"value": {}}, LAYOUTS["universal"])
