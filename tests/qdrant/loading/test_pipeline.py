import asyncio

import pytest
from llama_index.core.schema import TextNode
from tests.qdrant.conftest import WordEmbedder

from quernstone_qdrant import QdrantLoader


class Panic(BaseException):
    """Raised as PyO3 raises the panic of a library in Rust: not an `Exception`."""


class PanickingEmbedder(WordEmbedder):
    def embed_documents(self, texts):
        if "panic" in texts:
            raise Panic("index out of bounds")
        return super().embed_documents(texts)


@pytest.mark.timeout(20)  # a thread that dies would leave the load waiting for it
@pytest.mark.parametrize("error", [Panic, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_an_error_of_any_kind_in_the_records_ends_the_load(client, embedder, error):
    def records():
        yield {"id": "a", "text": "A quern."}
        raise error("while reading")

    loader = QdrantLoader(client, "docs", embedder)
    with pytest.raises(error, match="while reading"):
        loader.load(records())
    assert loader.load([{"id": "a", "text": "A quern."}]).seen == 1


@pytest.mark.timeout(20)
def test_an_error_of_any_kind_in_the_embedder_ends_the_load(client):
    loader = QdrantLoader(client, "docs", PanickingEmbedder(), batch_size=1)
    with pytest.raises(Panic, match="index out of bounds"):
        loader.load(["panic", *(f"text {n}" for n in range(50))])
    assert loader.load(["text 1"]).seen == 1


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["retrieve", "upsert"])
def test_an_error_of_any_kind_in_the_client_ends_the_load(client, embedder, monkeypatch, name):
    loader = QdrantLoader(client, "docs", embedder, batch_size=1)

    def panic(*_args, **_options):
        raise Panic(name)

    monkeypatch.setattr(client, name, panic)
    with pytest.raises(Panic, match=name):
        loader.load(f"text {n}" for n in range(50))
    monkeypatch.undo()
    assert loader.load(["text 1"]).embedded == 1


def test_records_without_text_are_counted(client, embedder):
    records = [{"id": "a", "text": ""}, TextNode(id_="b", text=" "), "A quern.", "\n"]
    report = QdrantLoader(client, "docs", embedder).load(records)
    assert (report.seen, report.embedded) == (4, 1)
    assert report.notes == ("3 records have no text and were not stored; the first is 'a'",)
