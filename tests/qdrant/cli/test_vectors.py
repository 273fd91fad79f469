"""`quern load --vector-field` and `--vectors`."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quernstone import Embedder

TEXTS = [f"The mill number {n} grinds rye." for n in range(20)]


@pytest.fixture
def vectors():
    with Embedder("tiny") as embedder:
        return embedder.embed_documents(TEXTS)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "npy"])
def test_vectors_are_loaded_and_found(quern, tmp_path, vectors, form):
    rows = [{"id": f"d{n}", "text": text, "n": n} for n, text in enumerate(TEXTS)]
    option = ("--vector-field", "embedding")
    path = tmp_path / f"rows.{'parquet' if form == 'parquet' else 'jsonl'}"
    if form == "npy":
        np.save(tmp_path / "vectors.npy", vectors)
        option = ("--vectors", tmp_path / "vectors.npy")
    else:
        for row, vector in zip(rows, vectors, strict=True):
            row["embedding"] = list(map(float, vector))
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    common = ("load", path, "-c", "docs", "-m", "tiny", *option)

    dry = json.loads(quern(*common, "--dry-run", "--json").stdout)
    assert (dry["documents"], dry["failed"], dry["seconds"]) == (20, 0, None)
    assert "embedding" not in dry["first"][0]["metadata"]
    done = quern(*common)
    assert "20 documents, 20 chunks, 20 embedded" in done.output, done.output
    checked = quern("collection", "verify", "-c", "docs")
    assert checked.exit_code == 0, checked.output
    assert "16 texts embedded again (least cosine 1.0000)" in checked.output
    found = quern(
        "search", "mill number 7", "-c", "docs", "-m", "tiny", "--no-rerank", "--limit", 1
    )
    assert "number 7 " in found.output


def test_vectors_of_another_size_name_their_row(quern, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "text": "mill", "embedding": [1, 2]}')
    done = quern("load", path, "-c", "docs", "-m", "tiny", "--vector-field", "embedding")
    assert done.exit_code == 1
    assert "its vector has shape (2,), not (256,)" in done.output


def test_arrays_that_do_not_fit_are_refused(quern, tmp_path, docs):
    np.save(tmp_path / "vectors.npy", np.zeros((3, 8)))
    (tmp_path / "broken.npy").write_text("no array")
    for arguments, problem in (
        ((docs, "--vectors", tmp_path / "vectors.npy"), "pass that file alone"),
        ((docs / "c.jsonl", "--vectors", tmp_path / "vectors.npy"), "shape (3, 8)"),
        ((docs / "c.jsonl", "--vectors", tmp_path / "broken.npy"), "broken.npy"),
        (
            (docs / "c.jsonl", "--vectors", tmp_path / "vectors.npy", "--vector-field", "v"),
            "use one of them",
        ),
    ):
        done = quern("load", *arguments, "-c", "docs", "-m", "tiny")
        assert done.exit_code != 0
        assert problem in " ".join(done.output.split()), done.output
