import dataclasses

import numpy as np
import pytest

from quernstone.errors import ConfigError
from quernstone.types import unit_prefix
from quernstone_qdrant.documents.bm25 import Bm25Text
from quernstone_qdrant.overrides import SettingsOverrides
from quernstone_qdrant.settings import (
    BM25,
    PREFIX,
    PRESETS,
    CollectionSettings,
    VectorSettings,
)


def unit_vectors(rows, dimensions, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def vectors_of(preset, dimensions=256):
    settings = PRESETS[preset].resolved(dimensions)
    return dict(settings.vectors(dimensions))


def test_the_vectors_of_each_preset():
    assert {name: vectors_of(name) for name in PRESETS} == {
        "dense": {"": VectorSettings(size=256)},
        "mrl": {
            "dense": VectorSettings(size=256, on_disk=True, graph=False),
            "prefix": VectorSettings(size=64, quantization="scalar", on_disk=True),
        },
        "scalar": {"": VectorSettings(size=256, quantization="scalar", on_disk=True)},
        "binary": {"": VectorSettings(size=256, quantization="binary", on_disk=True)},
        "turbo": {"": VectorSettings(size=256, quantization="turbo4", on_disk=True)},
        "float16": {"": VectorSettings(size=256, datatype="float16")},
        "uint8": {"": VectorSettings(size=256, datatype="uint8", distance="Euclid")},
    }


@pytest.mark.parametrize(("dimensions", "prefix"), [(1024, 256), (4096, 1024), (100, 32)])
def test_an_automatic_prefix_is_a_quarter_and_at_least_32(dimensions, prefix):
    assert PRESETS["mrl"].resolved(dimensions).prefix == prefix


def test_rows_of_a_hybrid_pair():
    settings = CollectionSettings(vector="full", prefix=8, bm25="sparse", language="german")
    embeddings = unit_vectors(2, 32)
    rows = settings.vectors_to_write(embeddings, ["eins", "zwei"])
    assert sorted(rows) == [BM25, "full", PREFIX]
    np.testing.assert_array_equal(rows["full"], embeddings)
    cut = embeddings[:, :8]
    np.testing.assert_allclose(
        rows[PREFIX], cut / np.linalg.norm(cut, axis=1, keepdims=True), rtol=1e-6
    )
    assert rows[BM25] == [Bm25Text("eins", "german", 2), Bm25Text("zwei", "german", 2)]
    with pytest.raises(ValueError, match="2 embeddings for 1 texts"):
        settings.vectors_to_write(embeddings, ["eins"])


def test_a_prefix_of_zeros_stays_finite():
    assert unit_prefix(np.zeros(4, np.float32), 2).tolist() == [0.0, 0.0]


def test_uint8_rows_are_bytes_whose_distance_orders_like_the_cosine():
    settings = PRESETS["uint8"]
    documents, query = unit_vectors(300, 256), unit_vectors(1, 256, seed=1)[0]
    # make some near: independent vectors of 256 numbers are all about orthogonal
    documents[:50] = documents[:50] * 0.5 + query * np.linspace(0.1, 1, 50)[:, None]
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    stored = settings.encode(documents)
    assert stored.min() >= 0
    assert stored.max() <= 255
    np.testing.assert_array_equal(stored, np.rint(stored))
    cosines = documents @ query
    distances = np.linalg.norm(stored - settings.encode(query), axis=1)
    nearest = set(np.argsort(-cosines)[:10].tolist())
    assert len(nearest & set(np.argsort(distances)[:10].tolist())) >= 9
    computed = [settings.cosine(query, row) for row in stored]
    np.testing.assert_allclose(computed, cosines, atol=5e-3)


def test_fields_follow_the_layout():
    indexes = {"year": "integer"}
    universal = CollectionSettings(indexes=indexes)
    assert dict(universal.fields()) == {"metadata.year": "integer"}
    assert universal.key_fields() == ("quernstone.key", "doc_id", "quernstone.node_id")
    assert CollectionSettings(node_rule=1).key_fields() == ("quernstone.key", "doc_id")
    plain = CollectionSettings(layout="plain", indexes=indexes)
    assert dict(plain.fields()) == {"year": "integer"}
    assert plain.key_fields() == ("quernstone.key",)
    assert (universal.text_field, plain.text_field) == ("page_content", "text")


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_survive_the_metadata(preset):
    settings = dataclasses.replace(PRESETS[preset], indexes={"year": "integer"}, bm25="sparse")
    settings = settings.resolved(256)
    assert CollectionSettings.from_json(settings.to_json()) == settings


def test_a_collection_keeps_its_rule_for_nodes():
    new = CollectionSettings().resolved(64)
    assert (new.node_rule, new.payloads.node_rule) == (2, 2)
    assert CollectionSettings.from_json(new.to_json()) == new
    old = CollectionSettings.from_json({})  # as version 0.1.0 wrote it
    assert (old.node_rule, old.payloads.node_rule) == (1, 1)
    assert CollectionSettings.from_json(old.to_json()) == old
    assert CollectionSettings().differences(old) == []
    with pytest.raises(ConfigError, match="`node_rule` is 3"):
        CollectionSettings(node_rule=3)
    assert (new.record_rule, old.record_rule) == (2, 1)
    with pytest.raises(ConfigError, match="`record_rule` is 3"):
        CollectionSettings(record_rule=3)


def test_a_collection_keeps_its_bm25_rule():
    new = CollectionSettings(bm25="auto").resolved(64)
    assert new.to_json() == {"bm25": "sparse", "bm25_rule": 2, "node_rule": 2, "record_rule": 2}
    old = CollectionSettings.from_json({"bm25": "sparse"})  # as version 0.1.0 wrote it
    assert (old.bm25_rule, old.bm25_text("mill").rule) == (1, 1)
    assert CollectionSettings.from_json(old.to_json()) == old
    assert CollectionSettings(bm25="auto").differences(old) == []
    other = CollectionSettings(bm25="sparse", bm25_rule=2)
    assert other.differences(old) == [("bm25_rule", 1, 2)]
    for without in (CollectionSettings(), CollectionSettings(bm25="text")):
        assert "bm25_rule" not in without.resolved(64).to_json()


def test_the_metadata_holds_what_is_not_the_default():
    assert CollectionSettings().to_json() == {}
    assert PRESETS["binary"].to_json() == {"quantization": "binary", "on_disk": True}
    with pytest.raises(ConfigError, match=r"unknown settings \(colour\), because a newer version"):
        CollectionSettings.from_json({"colour": "red"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefix": 64}, "`prefix` needs a named full vector"),
        ({"vector": "prefix", "prefix": 64}, "`vector` is 'prefix', which is reserved"),
        ({"vector": "a", "prefix": 0}, "`prefix` is 0; it must be at least 1"),
        ({"datatype": "uint8", "quantization": "binary"}, "`datatype` is 'uint8'; use only one"),
        ({"datatype": "int4"}, "`datatype` is 'int4'; it must be one of float32, float16, uint8"),
        ({"quantization": "product"}, "`quantization` is 'product'; it must be one of scalar"),
        ({"layout": "flat"}, "`layout` is 'flat'; it must be one of universal"),
        ({"bm25": "yes"}, "`bm25` is 'yes'; it must be one of auto, sparse, text"),
        ({"bm25": "text", "layout": "llamaindex"}, "layout 'llamaindex' has no text field"),
        ({"bm25_rule": 3}, "`bm25_rule` is 3; it must be one of auto, 1, 2"),
        ({"bm25": "text", "bm25_rule": 1}, "`bm25_rule` is 1 and `bm25` is 'text'"),
        ({"indexes": {"year": "number"}}, r"`indexes\['year'\]` is 'number'"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ConfigError, match=message):
        CollectionSettings(**settings)


def test_a_prefix_must_be_shorter():
    settings = CollectionSettings(vector="dense", prefix=64)
    with pytest.raises(ConfigError, match="`prefix` is 64; it must be below 64, the size of"):
        settings.resolved(64)


def test_overrides_change_only_what_they_name():
    made = CollectionSettings(vector="dense", prefix=64, bm25="text", layout="plain")
    assert SettingsOverrides().apply_to(made) == made
    assert SettingsOverrides(hybrid=True).apply_to(made) == made
    assert SettingsOverrides(hybrid=False).apply_to(made).bm25 is None
    assert SettingsOverrides(layout="langchain").apply_to(made).prefix == 64
    assert SettingsOverrides(preset="binary", hybrid=True).apply_to(made) == dataclasses.replace(
        PRESETS["binary"], bm25="auto"
    )
    own = CollectionSettings(m=32)
    assert SettingsOverrides(preset=own).apply_to(made) == own
    with pytest.raises(ConfigError, match="`preset` is 'fast'; it must be one of dense, mrl"):
        SettingsOverrides(preset="fast")
    with pytest.raises(ConfigError, match="`layout` is 'flat'"):
        SettingsOverrides(layout="flat")


def test_differences_name_both_sides_and_accept_what_auto_became():
    made = PRESETS["mrl"].resolved(256)
    assert PRESETS["mrl"].differences(made) == []
    assert CollectionSettings().differences(made) == [
        ("vector", "dense", ""),
        ("prefix", 64, None),
        ("quantization", "scalar", None),
        ("on_disk", True, False),
    ]
    hybrid = dataclasses.replace(made, bm25="auto")
    assert hybrid.differences(made) == [("bm25", None, "auto")]
    assert hybrid.differences(dataclasses.replace(made, bm25="text")) == []
