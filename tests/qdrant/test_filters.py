import uuid

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader
from quernstone_qdrant.documents.layouts import LAYOUTS
from quernstone_qdrant.filters import metadata_filter, text_filter
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets import as_target

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
        assert found(text_filter, [("value", "=", text)]) == keys
    assert found(text_filter, [("value", "=", "1200"), ("deep.x", "=", "2")]) == {"str"}


def test_what_cannot_be_filtered_on_is_an_error():
    layout = LAYOUTS["universal"]
    for value in ({}, {"min": 1}, {"gte": 1, "lt": "x"}, {"gte": "soon"}, {"gte": True}):
        with pytest.raises(ConfigError, match=r"field 'metadata.value' has the range"):
            metadata_filter({"value": value}, layout)
    with pytest.raises(ConfigError, match=r"field 'metadata.value' has an object in its list"):
        metadata_filter({"value": [{"a": 1}]}, layout)
    with pytest.raises(ConfigError, match=r"field 'metadata.value' is a object, whose text"):
        metadata_filter({"value": object()}, layout)
    for name in ('a"b', "a\\b", 'x."'):
        with pytest.raises(ConfigError, match=r"has a double quote or a backslash in its name"):
            metadata_filter({name: 1}, layout)
    with pytest.raises(ConfigError, match=r"more than 5 dots: put names that have dots in double"):
        metadata_filter({"a.b.c.d.e.f.g": 1}, layout)


@pytest.fixture(scope="module", params=["embedded", "none", "integer", "float"])
def numbers(request, tmp_path_factory):
    """Return the stored values that a filter on the field `n` finds: embedded, and Edge indexes."""
    if request.param == "embedded":
        target = as_target(QdrantClient(":memory:"), "numbers")
        indexes = {}
    else:
        pytest.importorskip("qdrant_edge", reason="the extra `edge` is not installed")
        from quernstone_qdrant.targets.edge import EdgeTarget

        target = EdgeTarget(tmp_path_factory.mktemp("edge"), "numbers")
        indexes = {} if request.param == "none" else {"n": request.param}
    collection = CollectionSettings(indexes=indexes, layout="plain")
    layout = LAYOUTS["plain"]
    target.create(collection, 1, {})
    target.create_indexes(collection)

    def found(stored, asked):
        ids = [str(uuid.UUID(int=place)) for place in range(len(stored))]
        rows = np.ones((len(ids), 1), np.float32)
        target.upsert(ids, [{"n": value} for value in stored], {"": rows})
        points = target.scroll([], where=metadata_filter({"n": asked}, layout))
        places = [uuid.UUID(point.id).int for point in points]
        target.delete(ids)
        return [stored[place] for place in places]

    found.index = request.param
    yield found
    target.close()


EXACT = 2**53
WHOLE = st.integers(-EXACT // 10, EXACT // 10)  # beyond, Qdrant changes some floats
VALUES = st.one_of(
    WHOLE, WHOLE.map(float), st.integers(-9, 9), st.booleans(), st.sampled_from(["1", "5", "true"])
)


def is_equal(one, other):
    return isinstance(one, bool) == isinstance(other, bool) and one == other


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored=st.lists(VALUES, max_size=8), asked=VALUES)
@example(stored=[5.0, 5, 6.0, True, 1, "5"], asked=5)
@example(stored=[5.0, 5, 6.0, True, 1, "5"], asked=5.0)
@example(stored=[1.0, 1, True, 0, False, "1"], asked=True)
@example(stored=[1.0, 1, True, 0.0, False, "1"], asked=0)
def test_numbers_match_by_value(numbers, stored, asked):
    swapped = float(asked) if type(asked) is int else asked
    for value in (asked, swapped):
        stored = [*stored, value]
        expected = [other for other in stored if is_equal(other, value)]
        assert [repr(other) for other in numbers(stored, value)] == [repr(o) for o in expected]
        assert numbers(stored, [value, "x", 2**53 + 2]) == expected


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False))
@example(value=90.28571428571429)
@example(value=1801439850948199.0)
@example(value=1.7976931348623157e308)
def test_a_float_is_found_although_its_last_bits_changed(numbers, value):
    if numbers.index == "integer" and not (value.is_integer() and abs(value) < 2**63):
        return  # an integer index does not hold it
    others = [value / 2 + 1e-9, value * (1 - 1e-14) - 1e-300]
    assert numbers([value, *others], value) == [value]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.integers(EXACT, 2**63 - 2) | st.integers(-(2**63) + 1, -EXACT))
def test_a_large_integer_matches_only_itself(numbers, value):
    assert numbers([value - 1, value, value + 1], value) == [value]
    assert numbers([value - 1, value, value + 1], [value, value + 1]) == [value, value + 1]


def test_values_are_asked_for_as_they_are_stored(found):
    """Integers beyond 64 bits are stored as strings, and numpy numbers as numbers."""
    layout = LAYOUTS["plain"]
    big = metadata_filter({"value": 2**70}, layout)
    assert big == metadata_filter({"value": str(2**70)}, layout)
    assert found(metadata_filter, {"value": np.int64(1200)}) == {"int"}
    assert found(metadata_filter, {"value": 1200.0}) == {"int"}
    assert found(metadata_filter, {"value": [1200.0, 0.5, True, "1200", "red"]}) == {
        *("int", "float", "bool", "str", "list")
    }
    assert found(metadata_filter, {"value": []}) == set()
