"""PDF, HTML, office documents and e-books, with titles and pages."""

import pytest
from tests.support.documents import write_documents, write_pdf

from quernstone_qdrant import QdrantLoader, Record, read_paths
from quernstone_qdrant.sources import ReadOptions, check_first_rows


def test_every_format(tmp_path):
    write_documents(tmp_path)
    records = read_paths(tmp_path)
    found = {record.key: record for record in records}
    assert all(isinstance(record, Record) for record in found.values())
    assert (records.files.found, records.files.loaded) == (6, 6)
    titles = {key: record.metadata.get("title") for key, record in found.items()}
    assert titles == {**dict.fromkeys(found, "Mills"), "mills.html": "Mülls & Mills"}
    assert found["mills.pdf"].text == "A quern is a hand mill.\n\nBread is baked."
    assert found["mills.html"].text.split() == ["#", "Quern", "Mühle"]
    for name in ("docx", "epub"):
        assert found[f"mills.{name}"].text.split("\n\n") == ["# Quern", "A quern is a hand mill."]
    assert found["mills.xlsx"].text.startswith("## Prices")
    assert "| Quern | old |" in found["mills.xlsx"].text
    assert found["mills.pptx"].text == "## Quern\n\n## Bread"


def test_pages_are_metadata_of_chunks(client, embedder, tmp_path):
    write_documents(tmp_path)
    write_pdf(tmp_path / "blank.pdf", ["", "Rain falls."])
    loader = QdrantLoader(client, "docs", embedder, chunk_size=12, chunk_overlap=0)
    assert loader.load(read_paths(tmp_path)).failed == 0
    points, _ = client.scroll("docs", limit=100)
    pages = {(p.payload["metadata"]["source"], p.payload["metadata"].get("page")) for p in points}
    assert pages == {
        ("mills.pdf", 1), ("mills.pdf", 2), ("mills.pptx", 1), ("mills.pptx", 2),
        ("blank.pdf", 2), ("mills.docx", None), ("mills.epub", None), ("mills.xlsx", None),
        ("mills.html", None),
    }  # fmt: skip
    assert loader.load(read_paths(tmp_path)).embedded == 0


@pytest.mark.parametrize("suffix", [".pdf", ".docx", ".pptx", ".xlsx", ".epub"])
def test_a_damaged_document_is_named(tmp_path, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(b"PK\x03\x04 damaged")
    (error,) = read_paths(path)
    assert str(error).startswith(f"{path}: cannot be read as {suffix}: ")


def test_a_panic_of_the_library_ends_one_file_only(tmp_path, monkeypatch):
    """PyO3 raises it, and it is no `Exception`."""

    class PanicException(BaseException):
        pass

    def panic(*inputs):
        raise PanicException("index out of bounds")

    write_pdf(tmp_path / "bad.pdf", ["text"])
    (tmp_path / "good.txt").write_text("A quern.")
    monkeypatch.setattr("kreuzberg.extract_bytes_sync", panic)
    error, record = read_paths(tmp_path)
    assert str(error) == f"{tmp_path / 'bad.pdf'}: cannot be read as .pdf: index out of bounds"
    assert record.text == "A quern."


def test_pages_without_text_and_wrong_encodings(tmp_path):
    write_pdf(tmp_path / "scan.pdf", ["", ""])
    (tmp_path / "bad.html").write_bytes(b"<p>caf\xe9</p>")
    records = read_paths(tmp_path)
    (error,) = records
    assert "bad.html: is not valid UTF-8 (" in str(error)
    assert records.files.skipped == {"without text": 1}
    (record,) = read_paths(tmp_path / "bad.html", options=ReadOptions(encoding="cp1252"))
    assert record.text == "café"


def test_without_the_extra(tmp_path, monkeypatch):
    write_pdf(tmp_path / "a.pdf", ["text"])
    monkeypatch.setitem(__import__("sys").modules, "kreuzberg", None)
    monkeypatch.setattr("quernstone_qdrant.sources.files.can_read_documents", lambda: False)
    records = read_paths(tmp_path)
    assert list(records) == []
    assert records.files.skipped == {".pdf (needs the extra `documents`)": 1}
    with pytest.raises(ValueError, match=r'run `pip install "quernstone-qdrant\[documents\]"`'):
        check_first_rows([tmp_path / "a.pdf"], ReadOptions(), skip_errors=False)
