"""Embedding objects of LangChain and LlamaIndex in the loader and the searcher."""

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding
from qdrant_client import models

import quernstone
from quernstone import ConfigError, Embedder, EngineError, NonFiniteError, Reranker
from quernstone_qdrant import FrameworkEmbedder, ProvenanceError, QdrantLoader, QdrantSearcher
from quernstone_qdrant.embedders import as_embedder
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.verify import verify

RECORDS = [{"id": "mill", "text": "a hand mill"}, {"id": "rain", "text": "it rains"}]


class LangChain(Embeddings):
    """Vectors of any length, from the words of a text."""

    def __init__(self, words, model="words-1"):
        self.words, self.model = words, model

    def embed_documents(self, texts):
        return (self.words.embed_documents(texts) * 7).tolist()

    def embed_query(self, text):
        return (self.words.embed_query(text) * 3).tolist()


class LlamaIndex(BaseEmbedding):
    def _get_text_embedding(self, text):
        return (self._words.embed_documents([text])[0] * 7).tolist()

    def _get_query_embedding(self, query):
        return (self._words.embed_query(query) * 3).tolist()

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)


@pytest.fixture(params=["langchain", "llama-index"])
def framework(request, embedder):
    if request.param == "langchain":
        return LangChain(embedder)
    model = LlamaIndex(model_name="words-1")
    object.__setattr__(model, "_words", embedder)
    return model


async def test_a_collection_is_loaded_and_searched(client, framework, embedder, stored):
    report = QdrantLoader(client, "docs", framework).load(RECORDS)
    assert report.embedded == 2
    [note] = report.notes
    assert "names its model, 'words-1', but not its files, prompts and dtype" in note
    assert QdrantLoader(client, "docs", framework).load(RECORDS).skipped == 2
    searcher = QdrantSearcher(client, "docs", framework)
    assert searcher.provenance.model == "words-1"
    assert searcher.provenance.revision == searcher.provenance.query_prompt == ""
    assert searcher.provenance.document_prompt == ""
    assert searcher.provenance.dimensions == 64
    [hit] = searcher.search("hand mill", limit=1)
    assert hit.key == "mill"
    assert 0.5 < hit.score <= 1 + 1e-6  # the cosine, although the object's vectors are longer
    assert await searcher.asearch("hand mill", limit=1) == [hit]
    assert verify(as_target(client, "docs"), framework).passed
    for _, vector in stored(client, "docs").values():
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_an_instruction_with_a_query_is_refused(client, framework):
    QdrantLoader(client, "docs", framework).load(RECORDS)
    searcher = QdrantSearcher(client, "docs", framework)
    for search in (searcher.search, lambda *a, **k: asyncio.run(searcher.asearch(*a, **k))):
        with pytest.raises(ConfigError, match="cannot take an instruction with a query"):
            search("mill", instruction="Find the tool")


def test_another_model_is_refused(client, framework, embedder):
    QdrantLoader(client, "docs", framework).load(RECORDS)
    with pytest.raises(ProvenanceError, match="words-2"):
        QdrantSearcher(client, "docs", FrameworkEmbedder(framework, model="words-2"))
    with pytest.raises(ProvenanceError, match="revision"):
        QdrantSearcher(client, "docs", FrameworkEmbedder(framework, revision="v2"))
    with pytest.raises(ProvenanceError):  # the same vectors, but nothing shows it
        QdrantSearcher(client, "docs", embedder)


def test_a_model_without_a_name_has_to_be_named(client, framework, embedder):
    unnamed = LangChain(embedder, model="unknown")
    with pytest.raises(ConfigError, match=r"does not name its model.*FrameworkEmbedder"):
        QdrantLoader(client, "docs", unnamed)
    assert FrameworkEmbedder(unnamed, model="words-1").model == "words-1"


@pytest.mark.parametrize("wrong", ["tiny", None, object(), Reranker])
def test_other_types_are_refused(client, wrong):
    with pytest.raises(ConfigError, match=r"`embedder` is a .*pass a `quernstone.Embedder`"):
        QdrantLoader(client, "docs", wrong)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([], EngineError),
        ([[1.0] * 64, [1.0] * 64], EngineError),
        ([[1.0] * 63], EngineError),
        ([[float("nan")] * 64], NonFiniteError),
    ],
    ids=["none", "two", "short", "nan"],
)
def test_wrong_vectors_are_refused(embedder, rows, error):
    wrapped = FrameworkEmbedder(LangChain(embedder))
    wrapped._embed = lambda texts: rows
    with pytest.raises(error):
        wrapped.embed_documents(["one"])
    wrapped._query = lambda text: rows[0] if len(rows) == 1 else []
    with pytest.raises(error):
        wrapped.embed_query("one")


def test_no_texts(embedder):
    assert FrameworkEmbedder(LangChain(embedder)).embed_documents([]).shape == (0, 64)


def test_our_adapters_give_their_own_embedder(client):
    """So a collection records files and prompts, and instructions work."""
    from langchain_quernstone import QuernstoneEmbeddings
    from llama_index.embeddings.quernstone import QuernstoneEmbedding

    core = Embedder("tiny")
    QdrantLoader(client, "docs", core).load(RECORDS)
    for adapter in (QuernstoneEmbeddings(model="tiny"), QuernstoneEmbedding(model_name="tiny")):
        assert isinstance(as_embedder(adapter), Embedder)
        assert QdrantLoader(client, "docs", adapter).load(RECORDS).skipped == 2
        searcher = QdrantSearcher(client, "docs", adapter)
        assert searcher.provenance.revision == core.digest
        assert searcher.search("mill", instruction="Find the tool")


def test_a_reranker_of_a_framework_is_refused(client, embedder):
    from langchain_quernstone import QuernstoneReranker
    from llama_index.postprocessor.quernstone import QuernstoneRerank

    QdrantLoader(client, "docs", embedder).load(RECORDS)
    for adapter in (QuernstoneReranker(model="tiny"), QuernstoneRerank(model="tiny")):
        with pytest.raises(ConfigError, match="has a property `reranker`"):
            QdrantSearcher(client, "docs", embedder, adapter)
        QdrantSearcher(client, "docs", embedder, adapter.reranker)


def test_a_vector_replaces_that_of_the_query(client, embedder):
    QdrantLoader(client, "docs", embedder).load(RECORDS)
    searcher = QdrantSearcher(client, "docs", embedder)
    vector = embedder.embed_query("hand mill")
    expected = searcher.search("hand mill")
    for given in (vector * 5, vector.tolist()):
        found = searcher.search("rains", vector=given)
        assert [hit.key for hit in found] == [hit.key for hit in expected]
        assert found[0].score == pytest.approx(expected[0].score, abs=1e-6)
    for wrong in (vector[:5], [float("nan")] * 64):
        with pytest.raises(ConfigError, match="`vector` has shape"):
            searcher.search("rains", vector=wrong)


@pytest.fixture
def unnormalized(tmp_path):
    """The tiny model without its `Normalize`."""
    tiny = Path(quernstone.__file__).parent / "checkpoints" / "tiny" / "embedding"
    folder = shutil.copytree(tiny, tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    with Embedder(str(folder), dtype="float32") as embedder:
        yield embedder


@pytest.mark.parametrize("distance", [None, models.Distance.DOT])
def test_vectors_that_a_model_does_not_normalize_are_compared_by_cosine(
    client, unnormalized, stored, distance
):
    if distance is not None:
        vectors = models.VectorParams(size=256, distance=distance)
        client.create_collection("docs", vectors_config=vectors)
    report = QdrantLoader(client, "docs", unnormalized).load(RECORDS)
    [note] = [each for each in report.notes if "not normalized" in each]
    assert "compared by cosine" in note
    rows = unnormalized.embed_documents([record["text"] for record in RECORDS])
    assert np.linalg.norm(rows, axis=1).min() > 2
    lengths = [np.linalg.norm(vector) for _, vector in stored(client, "docs").values()]
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
    query = unnormalized.embed_query("rain")
    cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    hits = QdrantSearcher(client, "docs", unnormalized).search("rain")
    np.testing.assert_allclose([hit.score for hit in hits], sorted(cosines)[::-1], atol=1e-6)
    assert verify(as_target(client, "docs"), unnormalized).passed


def test_a_collection_of_normalized_vectors_is_not_searched_by_others(client, unnormalized):
    with Embedder("tiny", dtype="float32") as normalized:
        QdrantLoader(client, "docs", normalized).load(RECORDS)
    with pytest.raises(ProvenanceError):
        QdrantSearcher(client, "docs", unnormalized)
