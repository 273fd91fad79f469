"""`verify` accepts floats that a server rounded and finds every other change."""

import math
import random
from dataclasses import replace

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient
from tests.qdrant.conftest import WordEmbedder

from quernstone_qdrant import QdrantLoader, Record
from quernstone_qdrant.documents.layouts import LAYOUTS
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.verify import verify


class RoundingTarget:
    """Reads like a server: maps come back in any order, and floats rounded."""

    def __init__(self, target, rng, change=lambda payload: payload):
        self._target, self._rng, self._change = target, rng, change

    def __getattr__(self, name):
        return getattr(self._target, name)

    def pinned(self):
        return self

    def payloads(self, ids, fields):
        return {i: self._read(p) for i, p in self._target.payloads(ids, fields).items()}

    def scroll(self, fields, **options):
        for point in self._target.scroll(fields, **options):
            payload = self._read(point.payload)
            yield replace(point, payload=self._change(payload) if fields is None else payload)

    def _read(self, value):
        if isinstance(value, dict):
            keys = list(value)
            self._rng.shuffle(keys)
            return {key: self._read(value[key]) for key in keys}
        if isinstance(value, list):
            return [self._read(item) for item in value]
        if isinstance(value, float) and value:
            for _ in range(self._rng.randrange(4)):
                value = math.nextafter(value, self._rng.choice((0.0, math.inf, -math.inf)))
        return value


finite = st.floats(-1e300, 1e300).map(lambda x: x + 0.0)
names = st.text(max_size=5) | st.sampled_from(
    "page_content metadata quernstone text doc_id _node_content chunk last floats a.b".split()
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
metadata = st.dictionaries(names, values, max_size=4)


def leaves(value, path=()):
    """Yield the path of each leaf: a value that is not a container, or an empty one."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, (dict, list)) and item:
            yield from leaves(item, (*path, key))
        else:
            yield (*path, key)


def other_value(value):
    if isinstance(value, float):
        return value * 1.001 if abs(value) > 1e-300 else value + 1
    return {bool: lambda v: not v, int: lambda v: 0 if v else 1, str: lambda v: v + "x"}.get(
        type(value), lambda v: 0
    )(value)


def load_one(layout, metadata):
    client, embedder = QdrantClient(":memory:"), WordEmbedder()
    loader = QdrantLoader(client, "docs", embedder, layout=layout)
    loader.load([Record("k", "A quern is a hand mill.", metadata, source="s")])
    return as_target(client, "docs"), embedder


@settings(max_examples=25, deadline=None)
@given(metadata, st.randoms(use_true_random=False))
@example({"_node_content": ""}, random.Random(0))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rounded_floats_and_shuffled_keys_pass(layout, metadata, rng):
    target, embedder = load_one(layout, metadata)
    read = RoundingTarget(target, rng)
    report = verify(read, embedder)
    assert report.passed, report.problems
    assert (report.points, report.unchecked) == (1, 0)
    again = QdrantLoader(read, "docs", embedder).load(
        [Record("k", "A quern is a hand mill.", metadata, source="s")]
    )
    assert (again.embedded, again.skipped) == (0, 1)


@settings(max_examples=25, deadline=None)
@given(metadata, st.randoms(use_true_random=False))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_changed_leaf_is_found(layout, metadata, rng):
    target, _ = load_one(layout, metadata)

    def change(payload):
        *path, last = rng.choice(list(leaves(payload)))
        inner = payload
        for key in path:
            inner = inner[key]
        inner[last] = other_value(inner[last])
        return payload

    report = verify(RoundingTarget(target, rng, change), None)
    assert report.failures, "the change was not noticed"
    assert not report.unchecked


@settings(max_examples=25, deadline=None)
@given(metadata, st.randoms(use_true_random=False))
@pytest.mark.parametrize("layout", ["universal", "llamaindex"])
def test_one_changed_leaf_inside_a_node_is_found(layout, metadata, rng):
    target, _ = load_one(layout, metadata)

    def change(payload):
        node = orjson.loads(payload["_node_content"])
        *path, last = rng.choice(list(leaves(node)))
        inner = node
        for key in path:
            inner = inner[key]
        inner[last] = other_value(inner[last])
        return {**payload, "_node_content": orjson.dumps(node).decode()}

    assert verify(RoundingTarget(target, rng, change), None).failures


def old_payload(payload):
    """Return a payload as a version wrote it that did not keep the last bits of floats."""
    own = {name: value for name, value in payload["quernstone"].items() if name != "floats"}
    return {**payload, "quernstone": own}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rounded_floats_of_an_older_version(layout):
    """The node's JSON holds exact floats. Without it, nothing says which floats were loaded."""
    target, embedder = load_one(layout, {"f": 90.28571428571429, "n": 3})

    def rounded(payload):
        for field in (payload, payload.get("metadata", {})):
            if "f" in field:
                field["f"] = 90.28571428571428
        return old_payload(payload)

    report = verify(RoundingTarget(target, random.Random(0), rounded), embedder)
    assert report.passed, report.problems
    assert report.unchecked == (layout in ("langchain", "plain"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_changes_that_no_rounding_explains_are_found_in_older_points(layout):
    target, embedder = load_one(layout, {"n": 3})

    def changed(payload):
        field = payload.get("metadata") or payload
        field["n"] = 4
        return old_payload(payload)

    report = verify(RoundingTarget(target, random.Random(0), changed), embedder)
    assert (report.failures, report.unchecked) == (1, 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_edge_rounds_floats(tmp_path, embedder, layout):
    edge = pytest.importorskip("quernstone_qdrant.targets.edge")
    target = edge.EdgeTarget(tmp_path, "docs")
    records = [{"id": f"r{n}", "text": f"Record {n}.", "f": n / 7} for n in range(600, 700)]
    loader = QdrantLoader(target, "docs", embedder, layout=layout)
    loader.load(records)
    report = verify(target, embedder)
    assert report.passed, report.problems
    assert report.rounded > 5
    assert loader.load(records).embedded == 0
    target.close()
