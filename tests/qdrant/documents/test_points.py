import datetime
import decimal
import enum
import uuid
from pathlib import Path, PurePosixPath

import numpy as np
import orjson
import pytest

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.chunking import Chunker
from quernstone_qdrant.documents.json_values import to_json
from quernstone_qdrant.documents.layouts import LAYOUTS, layout_of
from quernstone_qdrant.documents.points import (
    collection_namespace,
    make_point,
    point_id,
    stored_hash,
)
from quernstone_qdrant.documents.records import Record

GOLDEN = Path(__file__).parent / "golden_layouts.json"

RECORD = Record(
    "guide/mills.md",
    "# Mills\n\nA quern is a hand mill – „Handmühle“.",
    {
        "source": "guide/mills.md",
        "year": 1200,
        "tags": ["stone", "grain"],
        "nested": {"ok": True, "none": None},
        "page_content": "a name that the payload needs itself",
        "text": "another one",
    },
    "markdown",
)


def point_of(record, collection="docs", fingerprint="model@1;64", layout="universal"):
    (chunk,) = Chunker().split(record)
    return make_point(collection_namespace(collection), fingerprint, chunk, LAYOUTS[layout])


def test_payloads_are_the_golden_ones():
    points = {name: point_of(RECORD, layout=name) for name in LAYOUTS}
    written = {name: {"id": p.id, "payload": p.payload()} for name, p in points.items()}
    assert written == orjson.loads(GOLDEN.read_bytes())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_back_what_it_wrote(layout):
    content = LAYOUTS[layout].read(point_of(RECORD, layout=layout).payload())
    assert (content.key, content.text) == (RECORD.key, RECORD.text)
    assert content.metadata == {**RECORD.metadata, "chunk": 0, "headings": ["Mills"]}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_what_it_did_not_write(layout):
    for foreign in ({}, {"quernstone": None, "metadata": None, "page_content": None}):
        content = LAYOUTS[layout].read(foreign)
        assert (content.key, content.text) == ("", "")


def test_filters_name_the_field_that_a_layout_has():
    payloads = {name: point_of(RECORD, layout=name).payload() for name in LAYOUTS}
    fields = {name: layout.field("year") for name, layout in LAYOUTS.items()}
    assert fields == {
        "universal": "metadata.year",
        "langchain": "metadata.year",
        "llamaindex": "year",
        "plain": "year",
    }
    for name, path in fields.items():
        found = payloads[name]
        for part in path.split("."):
            found = found[part]
        assert found == 1200


def test_an_unknown_layout_is_refused():
    with pytest.raises(ConfigError, match="`layout` is 'flat'; it must be one of universal, lang"):
        layout_of("flat")


@pytest.mark.parametrize("layout", ["universal", "llamaindex"])
def test_payload_equals_what_the_frameworks_write(layout):
    schema = pytest.importorskip("llama_index.core.schema")
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

    point = point_of(RECORD, layout=layout)
    payload = point.payload()
    node = schema.TextNode(
        id_=point.id,
        text=point.text,
        metadata=dict(point.metadata),
        relationships={
            schema.NodeRelationship.SOURCE: schema.RelatedNodeInfo(node_id="guide/mills.md")
        },
    )
    theirs = node_to_metadata_dict(node, remove_text=False, flat_metadata=False)
    assert orjson.loads(payload["_node_content"]) == orjson.loads(theirs["_node_content"])
    apart = {"_node_content"} | ({"page_content", "metadata"} if layout == "universal" else set())
    assert {k: v for k, v in payload.items() if k not in apart} == {
        **{k: v for k, v in theirs.items() if k not in apart},
        "quernstone": payload["quernstone"],
    }
    assert metadata_dict_to_node(payload) == node


def test_hash_changes_with_all_that_matters_and_nothing_else():
    base = point_of(RECORD).content_hash
    same = Record(RECORD.key, RECORD.text, dict(reversed(RECORD.metadata.items())), "markdown")
    assert point_of(same).content_hash == base
    different = [
        point_of(Record(RECORD.key, RECORD.text + "!", RECORD.metadata, "markdown")),
        point_of(Record(RECORD.key, RECORD.text, {**RECORD.metadata, "year": 1201}, "markdown")),
        point_of(Record("other", RECORD.text, RECORD.metadata, "markdown")),
        point_of(RECORD, fingerprint="model@2;64"),
        point_of(RECORD, layout="plain"),
    ]
    assert len({base, *(point.content_hash for point in different)}) == 6
    assert stored_hash(point_of(RECORD).payload()) == base
    assert [stored_hash(p) for p in (None, {}, {"quernstone": 1}, {"quernstone": {}})] == [None] * 4


def test_ids_are_uuid5_of_collection_key_and_number():
    docs = collection_namespace("docs")
    assert uuid.UUID(point_id(docs, "a", 0)).version == 5
    ids = {
        point_id(namespace, key, number)
        for namespace in (docs, collection_namespace("more"))
        for key in ("a", "a:1", "a:1:1")
        for number in (0, 1, 11)
    }
    assert len(ids) == 18


class Colour(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (np.float32(0.5), 0.5),
        (np.float32("nan"), None),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array([1.0, np.nan]), [1.0, None]),
        (np.datetime64("2026-01-02"), "2026-01-02"),
        (np.datetime64("NaT"), None),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), "2026-01-02T00:00:00+00:00"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (decimal.Decimal("1.10"), "1.10"),
        (2**63, "9223372036854775808"),
        (-(2**63), -(2**63)),
        (b"\x00\xff", "AP8="),
        ({2, 1}, [1, 2]),
        (Colour.RED, 3),
        (PurePosixPath("a/b"), "a/b"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({1: {"a": (1, None, True)}}, {"1": {"a": [1, None, True]}}),
        ("half \ud800", "half \ufffd"),
        ("nul \x00", "nul \x00"),
    ],
)
def test_values_become_json(value, expected):
    found = to_json(value)
    assert found == expected
    assert type(found) is type(expected)
    orjson.dumps(found)
