import math
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from quernstone.errors import ConfigError, EngineError
from quernstone_qdrant import (
    CollectionError,
    ProvenanceError,
    QdrantLoader,
    Record,
    RecordError,
    SourceError,
    TargetError,
)
from quernstone_qdrant.loading.pipeline import IN_FLIGHT

LONG = " ".join(f"Sentence number {n} is about mills." for n in range(40))
RECORDS = [
    {"id": "a", "text": "A quern is a hand mill.", "year": 1200},
    {"id": "b", "text": "Rain falls on the roof."},
    {"id": "c", "text": LONG},
]


def figures(report):
    return (report.seen, report.chunks, report.embedded, report.skipped, report.removed)


def test_second_run_adds_and_embeds_nothing(client, embedder, stored):
    first = QdrantLoader(client, "docs", embedder, chunk_size=300, chunk_overlap=30).load(RECORDS)
    before = stored(client, "docs")
    count = len(embedder.embedded)
    second = QdrantLoader(client, "docs", embedder, chunk_size=300, chunk_overlap=30).load(RECORDS)

    assert first.chunks == first.embedded == len(before) == count > 6
    assert (first.seen, first.skipped, first.failed) == (3, 0, 0)
    assert figures(second) == (3, first.chunks, 0, first.chunks, 0)
    assert len(embedder.embedded) == count
    assert stored(client, "docs") == before


def test_only_what_changed_is_embedded(client, embedder, stored):
    loader = QdrantLoader(client, "docs", embedder)
    loader.load(RECORDS)
    embedder.embedded.clear()

    report = loader.load([RECORDS[0], {"id": "b", "text": "Snow falls on the roof."}, RECORDS[2]])

    assert embedder.embedded == ["Snow falls on the roof."]
    assert (report.embedded, report.skipped) == (1, report.chunks - 1)
    texts = {payload["page_content"] for payload, _ in stored(client, "docs").values()}
    assert "Snow falls on the roof." in texts
    assert "Rain falls on the roof." not in texts


def test_changed_metadata_is_written(client, embedder, stored):
    loader = QdrantLoader(client, "docs", embedder)
    loader.load([{"id": "a", "text": "A mill.", "year": 1200}])
    report = loader.load([{"id": "a", "text": "A mill.", "year": 1300}])
    assert report.embedded == 1
    assert [payload["metadata"]["year"] for payload, _ in stored(client, "docs").values()] == [1300]


@pytest.mark.parametrize("shorter", ["A mill.", "", LONG[:700]])
def test_a_document_that_got_shorter_leaves_nothing_behind(
    client, embedder, stored, assert_same, shorter
):
    settings = {"chunk_size": 100, "chunk_overlap": 0}
    loader = QdrantLoader(client, "docs", embedder, **settings)
    other = {"id": "other", "text": LONG}
    loader.load([{"id": "c", "text": LONG * 3}, other])
    many = len(stored(client, "docs"))
    report = loader.load([{"id": "c", "text": shorter}, other])

    fresh = QdrantClient(":memory:")
    QdrantLoader(fresh, "docs", embedder, **settings).load([{"id": "c", "text": shorter}, other])
    assert_same(client, fresh, "docs")
    assert report.removed == many - len(stored(fresh, "docs")) > 20


def test_batches_of_any_size_give_the_same_collection(embedder, stored):
    contents = []
    for batch_size in (1, 2, 7, 256):
        client = QdrantClient(":memory:")
        QdrantLoader(
            client, "docs", embedder, batch_size=batch_size, chunk_size=100, chunk_overlap=10
        ).load(iter(RECORDS))
        contents.append(stored(client, "docs"))
    assert contents[0] == contents[1] == contents[2] == contents[3]


def test_ids_depend_on_the_collection_and_the_key_only(client, embedder, stored):
    QdrantLoader(client, "docs", embedder).load([{"id": "a", "text": "A mill."}])
    QdrantLoader(client, "more", embedder).load([{"id": "a", "text": "A mill."}])
    assert list(stored(client, "docs")) == ["38e1f7d0-2c00-5373-ad16-b661c792b05e"]
    assert list(stored(client, "more")) != list(stored(client, "docs"))


def test_records_of_every_kind(client, embedder, stored):
    from langchain_core.documents import Document
    from llama_index.core.schema import TextNode

    @dataclass
    class Note:
        key: str
        body: str
        author: str

    report = QdrantLoader(client, "docs", embedder).load(
        [
            Record("record", "one", {"n": 1}),
            {"doc_id": "mapping", "content": "two", "metadata": {"n": 2}, "m": 3},
            Note("dataclass", "three", "Ada"),
            Document(id="langchain", page_content="four", metadata={"n": 4}),
            TextNode(id_="llamaindex", text="five", metadata={"n": 5}),
            "six",
        ]
    )
    found = {
        payload["page_content"]: (payload["doc_id"], payload["metadata"])
        for payload, _ in stored(client, "docs").values()
    }
    assert report.embedded == 6
    assert found["one"] == ("record", {"n": 1, "chunk": 0})
    assert found["two"] == ("mapping", {"n": 2, "m": 3, "chunk": 0})
    assert found["three"] == ("dataclass", {"author": "Ada", "chunk": 0})
    assert found["four"] == ("langchain", {"n": 4, "chunk": 0})
    assert found["five"] == ("None", {"n": 5})  # as LlamaIndex stores it
    assert found["six"][0].startswith("sha256:")


def test_langchain_documents_with_odd_metadata_are_recognized(client, embedder, stored):
    from langchain_core.documents import Document

    def documents():
        values = [{1, 2}, date(2020, 1, 1), np.float32(1.5), {None: b"x"}, math.nan]
        return [Document(id="d", page_content="A mill.", metadata={"values": values})]

    loader = QdrantLoader(client, "docs", embedder)
    assert loader.load(documents()).embedded == 1
    assert loader.load(documents()).skipped == 1
    ((payload, _),) = stored(client, "docs").values()
    assert payload["metadata"]["values"] == [[1, 2], "2020-01-01", 1.5, {"None": "eA=="}, None]
    assert payload["quernstone"]["key"] == "d"


def test_documents_without_a_lasting_id_are_found_again(client, embedder):
    from langchain_core.documents import Document
    from llama_index.core.schema import TextNode

    def records():
        return [Document(page_content="four", metadata={"n": 4}), TextNode(text="five")]

    loader = QdrantLoader(client, "docs", embedder)
    assert loader.load(records()).embedded == 2
    assert loader.load(records()).skipped == 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (7, "it has type int; pass mappings"),
        (
            {"id": "a", "subtitle": "x"},
            "it has no text field",
        ),
        ({"id": "a", "text": None}, "its text is missing: it is None"),
        ({"id": "a", "text": "half \ud800 pair"}, "character 5 is a lone surrogate"),
        ({"id": "", "text": "x"}, "its key is empty"),
        ({"id": "a", "text": "poison"}, "record 'a': chunk 0 cannot be embedded: no poison"),
        (SourceError("a.txt", "not UTF-8"), "a.txt: not UTF-8"),
    ],
)
def test_bad_records(client, embedder, stored, record, message):
    good = [{"id": "before", "text": "before"}, {"id": "after", "text": "after"}]
    stream = [good[0], record, good[1]]
    with pytest.raises((RecordError, SourceError), match=message):
        QdrantLoader(client, "stops", embedder, batch_size=1).load(stream)
    assert "before" in {p["page_content"] for p, _ in stored(client, "stops").values()}

    errors = []
    report = QdrantLoader(
        client, "goes_on", embedder, skip_errors=True, on_error=errors.append
    ).load(stream)
    assert (report.failed, report.embedded, len(errors)) == (1, 2, 1)
    assert message in str(errors[0])
    texts = {p["page_content"] for p, _ in stored(client, "goes_on").values()}
    assert texts == {"before", "after"}


def test_all_that_was_read_before_an_error_is_written(client, embedder, stored):
    records = [{"id": str(n), "text": f"text {n}"} for n in range(10)]
    with pytest.raises(SourceError):
        QdrantLoader(client, "docs", embedder, batch_size=4).load(
            [*records, SourceError("b.txt", "gone"), {"id": "z", "text": "z"}]
        )
    assert len(stored(client, "docs")) == 10
    records[7]["text"] = "poison"
    with pytest.raises(RecordError, match="record '7': chunk 0 cannot be embedded: no poison"):
        QdrantLoader(client, "more", embedder).load(records)
    assert len(stored(client, "more")) == 7


def test_one_key_for_two_texts_is_an_error(client, embedder):
    twice = [{"id": "a", "text": "one"}, {"id": "a", "text": "two"}]
    with pytest.raises(RecordError, match="'a': another record of this load has the same key"):
        QdrantLoader(client, "docs", embedder).load(twice)
    same = QdrantLoader(client, "more", embedder).load([twice[0], twice[0]])
    assert (same.seen, same.chunks, same.embedded) == (2, 1, 1)


def test_a_failing_engine_stops_the_load_and_keeps_what_was_written(client, embedder, stored):
    real = embedder.embed_documents

    def embed_documents(texts):
        if "text 5" in texts:
            raise EngineError("the device is gone")
        return real(texts)

    embedder.embed_documents = embed_documents
    loader = QdrantLoader(client, "docs", embedder, batch_size=1, skip_errors=True)
    with pytest.raises(EngineError, match="the device is gone"):
        loader.load({"id": str(n), "text": f"text {n}"} for n in range(20))
    texts = {payload["page_content"] for payload, _ in stored(client, "docs").values()}
    assert {f"text {n}" for n in range(5)} <= texts
    assert "text 5" not in texts

    embedder.embed_documents = real
    report = loader.load({"id": str(n), "text": f"text {n}"} for n in range(20))
    assert len(stored(client, "docs")) == 20
    assert report.skipped == len(texts)


def test_a_vector_that_is_not_finite_names_its_record(client, make_embedder, stored):
    class Broken(type(make_embedder())):
        def embed_documents(self, texts):
            rows = super().embed_documents(texts)
            for row, text in zip(rows, texts, strict=True):
                if "rain" in text.lower():
                    row[5] = float("nan")
            return rows

    with pytest.raises(RecordError, match=r"record 'b': chunk 0 cannot be embedded: .*not finite"):
        QdrantLoader(client, "stops", Broken()).load(RECORDS)
    assert [p["doc_id"] for p, _ in stored(client, "stops").values()] == ["a"]

    report = QdrantLoader(client, "docs", Broken(), skip_errors=True).load(RECORDS)
    assert (report.failed, report.embedded) == (1, report.chunks - 1)
    assert {p["doc_id"] for p, _ in stored(client, "docs").values()} == {"a", "c"}


def test_an_embedder_that_gives_the_wrong_shape_is_named(client, embedder, stored):
    embedder.embed_documents = lambda texts: np.ones((len(texts) - 1, 64), np.float32)
    message = r"an array of shape \(3, 64\) for 4 texts; it must be \(4, 64\)"
    with pytest.raises(EngineError, match=message):
        QdrantLoader(client, "docs", embedder).load(RECORDS)
    assert stored(client, "docs") == {}


def test_another_model_is_refused_with_both_sides_named(client, embedder, make_embedder):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    with pytest.raises(ProvenanceError, match=r"created with model 'words', but .* has 'other'"):
        QdrantLoader(client, "docs", make_embedder(model="other", revision="2"))
    with pytest.raises(ProvenanceError, match=r"created with dimensions 64, but .* has 32"):
        QdrantLoader(client, "docs", make_embedder(dimensions=32))
    with pytest.raises(ProvenanceError, match=r"created with revision '1', but .* has '2'"):
        QdrantLoader(client, "docs", make_embedder(revision="2"))
    # the same files in another folder
    moved = QdrantLoader(client, "docs", make_embedder(model="/elsewhere/words")).load(RECORDS)
    assert moved.embedded == 0
    # float32 on a laptop and bfloat16 on a GPU are the same model
    same = QdrantLoader(client, "docs", make_embedder(dtype="bfloat16")).load(RECORDS)
    assert same.embedded == 0


def test_a_snapshot_of_the_hub_and_a_copy_of_its_files_are_one_model(client, make_embedder):
    snapshot = make_embedder(model="org/model", revision="0123456789abcdef")
    copy = make_embedder(model="/data/model", revision="sha256-1")
    snapshot.digest = copy.digest = "sha256-1"
    assert QdrantLoader(client, "docs", snapshot).load(RECORDS).embedded >= len(RECORDS)
    assert QdrantLoader(client, "docs", copy).load(RECORDS).embedded == 0


def test_a_collection_of_unknown_origin_is_refused_unless_empty(client, embedder):
    def create(name, size=64, distance=models.Distance.COSINE):
        vectors = models.VectorParams(size=size, distance=distance)
        client.create_collection(name, vectors_config=vectors)

    create("full")
    client.upsert("full", [models.PointStruct(id=1, vector=[1.0] * 64)])
    with pytest.raises(CollectionError, match="does not record which model"):
        QdrantLoader(client, "full", embedder)

    create("empty")
    assert QdrantLoader(client, "empty", embedder).load(RECORDS).embedded == 4
    assert QdrantLoader(client, "empty", embedder).load(RECORDS).skipped == 4

    create("size", size=65)
    with pytest.raises(ProvenanceError, match="dimensions 65, but the embedder has 64"):
        QdrantLoader(client, "size", embedder)
    create("distance", distance=models.Distance.EUCLID)
    with pytest.raises(CollectionError, match="its distance is Euclid"):
        QdrantLoader(client, "distance", embedder)
    named = {"dense": models.VectorParams(size=64, distance=models.Distance.COSINE)}
    client.create_collection("named", vectors_config=named)
    with pytest.raises(CollectionError, match="named vectors"):
        QdrantLoader(client, "named", embedder)


def test_an_unfinished_write_is_not_reported_as_done(client, embedder, monkeypatch):
    loader = QdrantLoader(client, "docs", embedder, patience=0)
    late = models.UpdateResult(operation_id=1, status=models.UpdateStatus.ACKNOWLEDGED)
    monkeypatch.setattr(client, "upsert", lambda *_, **__: late)
    with pytest.raises(
        TargetError, match="'acknowledged' instead of 'completed' to writing 4 points"
    ):
        loader.load(RECORDS)


def test_an_unreachable_server_is_one_clear_error(embedder, monkeypatch):
    monkeypatch.setattr("quernstone_qdrant.loader.OPENING_PATIENCE", 0.2)  # instead of 5 s
    client = QdrantClient(url="http://127.0.0.1:9", check_compatibility=False)
    with pytest.raises(TargetError, match=r"at http://127.0.0.1:9\): .*refused"):
        QdrantLoader(client, "docs", embedder)


def test_settings_that_cannot_work(client, embedder):
    for settings, message in [
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"request_bytes": 0}, "`request_bytes` is 0"),
        ({"patience": -1}, "`patience` is -1"),
        ({"chunk_size": 0}, "`chunk_size` is 0"),
        ({"chunk_size": 10, "chunk_overlap": 10}, "`chunk_overlap` is 10"),
    ]:
        with pytest.raises(ConfigError, match=message):
            QdrantLoader(client, "docs", embedder, **settings)


def test_memory_is_bounded_by_reading_only_a_little_ahead(client, embedder):
    read = 0
    ahead = []

    def records():
        nonlocal read
        for n in range(200):
            read += 1
            yield {"id": str(n), "text": f"text {n}"}

    loader = QdrantLoader(
        client,
        "docs",
        embedder,
        batch_size=10,
        progress=lambda report: ahead.append(read - report.embedded),
    )
    assert loader.load(records()).embedded == 200
    assert len(ahead) == 20
    assert max(ahead) <= 10 * (IN_FLIGHT + 1)


def test_progress_reports_grow_to_the_final_one(client, embedder):
    reports = []
    loader = QdrantLoader(client, "docs", embedder, batch_size=1, progress=reports.append)
    final = loader.load(RECORDS)
    assert [report.embedded for report in reports] == [1, 2, 3, 4]
    last = {"seconds": final.seconds, "points": 4, "status": "green"}
    assert replace(reports[-1], **last) == final
