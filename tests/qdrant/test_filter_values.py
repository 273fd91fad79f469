"""What was stored can be asked for, by the very object and the very name."""

import datetime
import decimal
import enum
import json
import uuid

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient

from quernstone_qdrant import QdrantLoader, Record, read_paths
from quernstone_qdrant.checks.fields import missing_fields
from quernstone_qdrant.documents.json_values import to_metadata
from quernstone_qdrant.documents.layouts import LAYOUTS
from quernstone_qdrant.documents.paths import field_path, field_paths
from quernstone_qdrant.filters import metadata_filter, parse_condition, text_filter
from quernstone_qdrant.sources import ReadOptions
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.targets.edge import EdgeTarget


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Name(str, enum.Enum):
    ADA = "ada"


OBJECTS = [
    np.int64(5), np.float32(0.1), np.bool_(True), np.array([1.5, 2.5]), np.str_("x"),
    np.datetime64("2026-01-02"), datetime.date(2026, 1, 2), datetime.time(3, 4),
    datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),
    datetime.timedelta(days=1), uuid.UUID(int=7), decimal.Decimal("1.50"), Color.RED, Level.HIGH,
    Name.ADA, {"b", "a"}, frozenset([1, 2]), True, False, 2**70, -(2**80), 2**63, [0.1, 0.2],
    [1, "x", 2.5, True, None], (1, (2, 3)), None, float("nan"), b"\xff", "text", "", 0, 0.0, -1,
]  # fmt: skip
NAMES = ["a b", "a:b", "a@b", "a/b", "a.b", "a.b.c", "é", "标签", "a-b", "a[b", "a]b", " ", "1",
         "a=b", "a>b", "a\nb", "a[0]", ""]  # fmt: skip


@pytest.fixture(params=["embedded", "edge"])
def target(request, tmp_path):
    if request.param == "embedded":
        target = as_target(QdrantClient(":memory:"), "docs")
    else:
        target = EdgeTarget(tmp_path, "docs")
    yield target
    target.close()


def keys(target, where):
    return {point.payload["quernstone"]["key"] for point in target.scroll(None, where=where)}


@pytest.mark.parametrize("layout", ["universal", "plain"])
def test_an_object_finds_the_record_that_was_loaded_with_it(target, embedder, layout):
    records = [Record(str(n), "mill", {"value": value}) for n, value in enumerate(OBJECTS)]
    QdrantLoader(target, "docs", embedder, layout=layout).load([*records, Record("none", "mill")])
    for n, value in enumerate(OBJECTS):
        found = keys(target, metadata_filter({"value": value}, LAYOUTS[layout]))
        assert str(n) in found, value
        assert "none" not in found


def test_every_name_can_be_asked_for(target, embedder):
    layout = LAYOUTS["universal"]
    nested = [{"a": {"b": 1}}, {"a": {"b.c": 1}}, {"a d": {"c:d": 1}}, {"list": [{"x y": 1}]}]
    flat = [{name: 1} for name in NAMES]
    indexes = {"a b": "integer", "a:b": "integer", '"a.b"': "integer"}
    loader = QdrantLoader(target, "docs", embedder, settings={"indexes": indexes})
    loader.load([Record(str(n), "mill", value) for n, value in enumerate([*flat, *nested])])
    for n, name in enumerate(NAMES):
        assert str(n) in keys(target, metadata_filter({name: 1}, layout)), name
        assert keys(target, metadata_filter({field_path(name): 1}, layout)) == {str(n)}, name
    count = len(flat)
    assert str(count) in keys(target, metadata_filter({"a.b": 1}, layout))
    assert str(count + 1) in keys(target, metadata_filter({"a.b.c": 1}, layout))
    assert keys(target, metadata_filter({"a d.c:d": 1}, layout)) == {str(count + 2)}
    assert keys(target, metadata_filter({"list[].x y": 1}, layout)) == {str(count + 3)}
    assert missing_fields(target, ["a b", "a c", "a.b", "list", "a c"], layout) == ["a c"]


def test_ranges(target, embedder):
    layout = LAYOUTS["universal"]
    rows = [
        Record(str(n), "mill", {"price": n / 2, "day": datetime.date(2026, 1, n), "word": "x"})
        for n in range(1, 9)
    ]
    QdrantLoader(target, "docs", embedder).load(rows)
    for value, expected in [
        ({"gte": 1, "lt": 2}, "23"),
        ({"gt": 3.5}, "8"),
        ({"gte": decimal.Decimal("4")}, "8"),
        ({"lt": np.int64(1)}, "1"),
    ]:
        assert keys(target, metadata_filter({"price": value}, layout)) == set(expected)
    days = {"gt": datetime.date(2026, 1, 6), "lte": "2026-01-07"}
    assert keys(target, metadata_filter({"day": days}, layout)) == {"7"}
    for text, expected in [
        ("price>=3.5", "78"),
        ("price<1", "1"),
        ("day>2026-01-07", "8"),
        ("price<=1", "12"),
        ("price=2", "4"),
        ("word=x", "12345678"),
    ]:
        assert keys(target, text_filter([parse_condition(text)], layout)) == set(expected)
    assert parse_condition('"a=b">=2') == ('"a=b"', ">=", "2")
    assert parse_condition("url=http://a?b=c>d") == ("url", "=", "http://a?b=c>d")


def test_paths():
    assert field_paths("a") == ["a"]
    assert field_paths("a.b") == ["a.b", '"a.b"']
    assert field_paths('"a.b".c') == ['"a.b".c']
    assert field_paths("a[].b c") == ['a[]."b c"']
    assert field_paths("a[0]") == ['"a[0]"']
    assert set(field_paths("a.b.c")) == {"a.b.c", '"a.b".c', 'a."b.c"', '"a.b.c"'}


KEYS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters='"\\'), max_size=6)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
)
METADATA = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


def leaves(value, path=""):
    """Yield (name for a filter, value) of each stored leaf."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, f"{path}.{field_path(name)}" if path else field_path(name))
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, f"{path}[]")
    else:
        yield path, value


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(metadata=METADATA)
def test_every_stored_leaf_finds_its_record(target, embedder, metadata):
    loader = QdrantLoader(target, "docs", embedder, layout="langchain")
    loader.load([{"id": "a", "text": "mill", "metadata": metadata}])
    for name, value in leaves(to_metadata(metadata)):
        where = metadata_filter({name: value}, LAYOUTS["langchain"])
        assert "a" in keys(target, where), (name, value)


OTHER_KEYS = KEYS.filter(lambda name: name not in ("id", "a", "b", "drop", "metadata"))


@settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
@given(columns=st.dictionaries(OTHER_KEYS, METADATA | SCALARS, max_size=3))
def test_every_stored_leaf_of_a_row_finds_its_record(target, embedder, tmp_path, columns):
    path = tmp_path.with_name(f"{tmp_path.name}.jsonl")
    row = {"id": "a", "a": "mill", "b": "grain", "drop": "secret", **columns}
    path.write_text(json.dumps(row))
    options = ReadOptions(text_field=["a", "b"], id_field="id", drop=["drop"])
    loader = QdrantLoader(target, "docs", embedder, layout="langchain")
    loader.load(read_paths(path, options=options))
    for name, value in leaves(to_metadata({**columns, "id": "a"})):
        where = metadata_filter({name: value}, LAYOUTS["langchain"])
        assert "a" in keys(target, where), (name, value)
    secret = metadata_filter({"drop": "secret"}, LAYOUTS["langchain"])
    assert keys(target, secret) == set()
