"""Records that bring their vectors: in a field, in an array, or as nodes."""

import numpy as np
import orjson
import pyarrow as pa
import pytest
from llama_index.core.schema import TextNode

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader, QdrantSearcher, Record, RecordError, read_paths
from quernstone_qdrant.documents.deadletter import DeadLetters, Failure
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.verify import verify

TEXTS = [f"The mill number {n} grinds rye." for n in range(30)]


@pytest.fixture
def loader(client, embedder):
    return QdrantLoader(client, "docs", embedder, hybrid=True)


@pytest.fixture
def vectors(make_embedder):
    return make_embedder().embed_documents(TEXTS)


def records(vectors, field="embedding"):
    return [
        {"id": f"d{n}", "text": TEXTS[n], "n": n, field: list(map(float, row))}
        for n, row in enumerate(vectors)
    ]


def is_right(client, embedder, count=30):
    report = verify(as_target(client, "docs"), embedder, sample=count, re_embed=count)
    assert report.passed, report.problems
    assert report.embedded == count
    assert report.least_cosine > 0.999999


@pytest.mark.parametrize("form", ["mappings", "arrow", "nodes", "array", "memmap", "another field"])
def test_vectors_come_in_every_form(loader, client, embedder, vectors, form, tmp_path):
    rows, given = records(vectors), "embedding"
    if form == "arrow":
        rows = pa.Table.from_pylist(rows)
    elif form == "nodes":
        rows = [
            TextNode(text=TEXTS[n], embedding=list(map(float, row)))
            for n, row in enumerate(vectors)
        ]
    elif form == "another field":
        rows, given = records(vectors, "dense"), "dense"
    elif form in ("array", "memmap"):
        rows, given = TEXTS, vectors.astype(np.float64) * 3
    if form == "memmap":
        np.save(tmp_path / "vectors.npy", given)
        given = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    report = loader.load_vectors(rows, given)
    assert report.embedded == 30
    assert embedder.embedded == []
    is_right(client, embedder)
    hit = QdrantSearcher(client, "docs", embedder).search("mill 7", limit=1)[0]
    assert "number 7 " in hit.text
    assert given not in hit.metadata if isinstance(given, str) else True


def test_only_changed_vectors_are_written_again(loader, client, embedder, vectors):
    loader.load_vectors(records(vectors))
    assert loader.load_vectors(records(vectors)).skipped == 30
    changed = vectors.copy()
    changed[3] = vectors[4]
    assert loader.load_vectors(records(changed)).embedded == 1
    assert verify(as_target(client, "docs"), embedder, sample=30, re_embed=30).failures == 1
    # Embedded from its text, a point gets another vector.
    plain = [
        {name: value for name, value in row.items() if name != "embedding"}
        for row in records(vectors)
    ]
    assert loader.load(plain).embedded == 30
    is_right(client, embedder)


def test_long_texts_are_stored_whole(loader, client, embedder):
    text = "A mill grinds. " * 500
    loader.load_vectors([{"id": "long", "text": text, "embedding": [1.0] * 64}])
    assert client.count("docs").count == 1


@pytest.mark.parametrize(
    ("vector", "problem"),
    [
        (None, "no vector in the field `embedding`"),
        ([1.0] * 63, r"shape \(63,\), not \(64,\)"),
        ([[1.0] * 64], r"shape \(1, 64\)"),
        ([float("nan")] * 64, "NaN, infinity, or only zeros"),
        ([0.0] * 64, "NaN, infinity, or only zeros"),
        (["a"] * 64, "not a list of numbers"),
        ("a" * 64, "not a list of numbers"),
    ],
    ids=range(7),
)
def test_a_wrong_vector_is_an_error_of_its_record(client, embedder, vectors, vector, problem):
    rows = records(vectors)
    rows[5]["embedding"] = vector
    loader = QdrantLoader(client, "docs", embedder)
    with pytest.raises(RecordError, match=problem) as caught:
        loader.load_vectors(rows)
    assert caught.value.key == "d5"
    errors = []
    loader = QdrantLoader(client, "docs", embedder, skip_errors=True, on_error=errors.append)
    assert loader.load_vectors(rows).failed == 1
    assert client.count("docs").count == 29
    assert len(errors) == 1


def test_the_array_has_one_row_per_record(loader, vectors):
    with pytest.raises(RecordError, match="there are 30 vectors"):
        loader.load_vectors([*TEXTS, "one more"], vectors)
    with pytest.raises(ConfigError, match=r"shape \(30, 63\).*\(records, 64\)"):
        loader.load_vectors(TEXTS, vectors[:, :63])


def test_rows_of_a_file_that_were_left_out_load_later(client, embedder, vectors, tmp_path):
    rows = records(vectors)
    rows[2]["n"] = "two"
    lines, letters = tmp_path / "rows.jsonl", tmp_path / "left-out.jsonl"
    lines.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    overrides = {"indexes": {"n": "integer"}}
    loader = QdrantLoader(client, "docs", embedder, settings=overrides, dead_letter=letters)
    report = loader.load_vectors(read_paths([lines]))
    assert (report.embedded, report.failed) == (29, 1)
    letters.write_text(letters.read_text().replace('"n":"two"', '"n":2'))
    assert QdrantLoader(client, "docs", embedder).load_vectors(read_paths([letters])).embedded == 1
    is_right(client, embedder)


def test_a_dead_letter_keeps_the_vector(client, embedder, vectors, tmp_path):
    record = Record("d0", TEXTS[0], vector=vectors[0])
    with DeadLetters(tmp_path / "left-out.jsonl") as letters:
        letters.add(Failure(RecordError("d0", "refused"), record))
    loader = QdrantLoader(client, "docs", embedder)
    loader.load(read_paths([tmp_path / "left-out.jsonl"]))
    assert embedder.embedded == []
    is_right(client, embedder, 1)


def test_given_and_embedded_vectors_mix(client, embedder, vectors):
    mixed = [
        Record(f"d{n}", text, vector=vectors[n] if n % 3 else None) for n, text in enumerate(TEXTS)
    ]
    mixed[6] = Record("d6", "some poison")
    loader = QdrantLoader(client, "docs", embedder, skip_errors=True)
    report = loader.load(mixed)
    assert (report.embedded, report.failed) == (29, 1)
    assert embedder.embedded == [TEXTS[n] for n in range(0, 30, 3) if n != 6]
    is_right(client, embedder, 29)
