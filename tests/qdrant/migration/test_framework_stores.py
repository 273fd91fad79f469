"""Collections that the vector stores of LangChain and LlamaIndex wrote, dense and hybrid."""

from contextlib import closing
from uuid import UUID

import pytest
from qdrant_client import models

from quernstone_qdrant import EdgeTarget, QdrantMigration, QdrantSearcher, copy_collection
from quernstone_qdrant.documents.bm25 import encode_document
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets import as_target

pytest.importorskip("langchain_qdrant")
pytest.importorskip("llama_index.vector_stores.qdrant")
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
from langchain_core.documents import Document  # noqa: E402
from langchain_core.embeddings import Embeddings  # noqa: E402
from langchain_qdrant import QdrantVectorStore as LangChainStore  # noqa: E402
from langchain_qdrant import RetrievalMode, SparseEmbeddings  # noqa: E402
from langchain_qdrant import SparseVector as LangChainSparse  # noqa: E402
from llama_index.core.schema import (  # noqa: E402
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import VectorStoreQuery  # noqa: E402
from llama_index.core.vector_stores.types import VectorStoreQueryMode  # noqa: E402
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaStore  # noqa: E402

MODES = {"dense": VectorStoreQueryMode.DEFAULT, "hybrid": VectorStoreQueryMode.HYBRID}
TEXTS = [f"Mill {n} grinds rye." for n in range(9)]
BM25 = CollectionSettings(bm25="sparse").resolved(64)


class Dense(Embeddings):
    def __init__(self, embedder):
        self.embedder = embedder

    def embed_documents(self, texts):
        return self.embedder.embed_documents(texts).tolist()

    def embed_query(self, text):
        return self.embedder.embed_query(text).tolist()


def sparse(text):
    found = encode_document(BM25.bm25_text(text))
    return list(found.indices), [float(value) for value in found.values]


class Sparse(SparseEmbeddings):
    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text):
        indices, values = sparse(text)
        return LangChainSparse(indices=indices, values=values)


@pytest.fixture(params=["embedded", "rest"])
def client(request, place):
    return place(request.param).client


@pytest.fixture
def migrated(client, other, tmp_path):
    """Migrates the collection `docs-1`, which gets the alias `docs`."""

    def migrate(**arguments):
        migration = QdrantMigration(
            client, "docs-1", other, alias="docs", state_folder=tmp_path, sample=3, **arguments
        )
        report = migration.run()
        assert (report.switched, report.points, report.embedded) == (True, len(TEXTS), len(TEXTS))
        return report

    return migrate


@pytest.fixture
def check_copy(client, other, tmp_path):
    """Copies the migrated collection to Edge, twice, and searches both."""

    def check(query):
        here = as_target(client, "docs")
        with closing(EdgeTarget(tmp_path / "edge", "docs")) as there:
            assert copy_collection(here, there).copied == len(TEXTS)
            assert copy_collection(here, there).copied == 0
            found = [QdrantSearcher(at, "docs", other).search(query, 1) for at in (here, there)]
        assert [hits[0].id for hits in found] == [found[0][0].id] * 2

    return check


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_langchain(client, embedder, other, migrated, check_copy, mode):
    documents = [
        Document(page_content=text, metadata={"n": n, "of": {"a": n / 7}})
        for n, text in enumerate(TEXTS)
    ]
    named = {} if mode == "dense" else {"sparse_embedding": Sparse(), "vector_name": "meaning"}
    size = models.VectorParams(size=embedder.dimensions, distance="Cosine")
    client.create_collection(
        "docs-1",
        {"meaning": size} if named else size,
        sparse_vectors_config={"langchain-sparse": models.SparseVectorParams()} if named else None,
    )
    retrieval = {"retrieval_mode": RetrievalMode(mode)}
    store = LangChainStore(client, "docs-1", Dense(embedder), **retrieval, **named)
    ids = store.add_documents(documents)
    report = migrated(hybrid=mode == "hybrid")
    assert any("langchain-sparse" in note for note in report.notes) == (mode == "hybrid")

    hit = QdrantSearcher(client, "docs", other).search("mill 7", 1)[0]
    assert (hit.id, hit.text) == (str(UUID(ids[7])), TEXTS[7])
    assert hit.metadata == {"n": 7, "of": {"a": pytest.approx(1)}}
    check_copy("mill 7")
    named = {**named, "sparse_vector_name": "bm25"} if named else {}
    found = LangChainStore(client, "docs", Dense(other), **retrieval, **named)
    (document,) = found.similarity_search("mill 7", k=1)
    assert document.page_content == TEXTS[7]
    assert {name: document.metadata[name] for name in ("n", "_id")} == {"n": 7, "_id": hit.id}
    assert [one.page_content for one in found.get_by_ids(ids[2:3])] == [TEXTS[2]]


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_llamaindex(client, embedder, other, migrated, check_copy, mode):
    named = {}
    if mode == "hybrid":

        def encode(texts):
            return tuple(zip(*(sparse(text) for text in texts), strict=True))

        named = {"enable_hybrid": True, "sparse_doc_fn": encode, "sparse_query_fn": encode}
    store = LlamaStore("docs-1", client=client, **named)
    nodes = [
        TextNode(
            text=text,
            metadata={"n": n, "title": f"mill of {n}", "internal": "x"},
            excluded_embed_metadata_keys=["internal"],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc-{n // 2}")},
        )
        for n, text in enumerate(TEXTS)
    ]
    embedded = [node.get_content(MetadataMode.EMBED) for node in nodes]
    for node, text in zip(nodes, embedded, strict=True):
        node.embedding = embedder.embed_query(text).tolist()
    store.add(nodes)
    migrated(hybrid=mode == "hybrid")
    assert sorted(other.embedded[: len(nodes)]) == sorted(embedded)

    hit = QdrantSearcher(client, "docs", other).search(embedded[7], 1)[0]
    assert (hit.id, hit.text) == (nodes[7].node_id, TEXTS[7])
    assert hit.metadata["n"] == 7
    check_copy(embedded[7])
    if named:
        named["sparse_vector_name"] = "bm25"
    found = LlamaStore("docs", client=client, **named)
    vector = other.embed_query(embedded[7]).tolist()
    result = found.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=1))
    (node,) = result.nodes
    without = {"embedding"}
    assert node.model_dump(exclude=without) == nodes[7].model_dump(exclude=without)
    found.delete("doc-0")
    assert as_target(client, "docs").count() == len(TEXTS) - 2


ROUTES = [("embedded", "rest"), ("grpc", "edge", "embedded"), ("embedded", "embedded")]
DISTINCT = [text + " It is old." * n for n, text in enumerate(TEXTS)]
"""Texts of which no two are equally near to a query."""


@pytest.fixture
def copied(place):
    """Copies the collection `docs` of a target from place to place; returns the last client."""

    def copy(source, route):
        for there in route[1:]:
            target = place(there)
            report = copy_collection(source, target)
            assert (report.copied, report.different) == (len(DISTINCT), 0)
            assert copy_collection(source, target).copied == 0
            source = target
        return source.client

    return copy


@pytest.mark.parametrize("route", ROUTES, ids="-".join)
@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_langchain_opens_a_copy_of_its_own_collection(place, embedder, copied, route, mode):
    source = place(route[0])
    named = {} if mode == "dense" else {"sparse_embedding": Sparse(), "vector_name": "meaning"}
    size = models.VectorParams(size=embedder.dimensions, distance="Cosine")
    source.client.create_collection(
        "docs",
        {"meaning": size} if named else size,
        sparse_vectors_config={"langchain-sparse": models.SparseVectorParams(modifier="idf")}
        if named
        else None,
    )
    options = {"retrieval_mode": RetrievalMode(mode), **named}
    documents = [Document(text, metadata={"n": n, "f": n / 7}) for n, text in enumerate(DISTINCT)]
    store = LangChainStore(source.client, "docs", Dense(embedder), **options)
    ids = store.add_documents(documents)
    copy = LangChainStore(copied(source, route), "docs", Dense(embedder), **options)

    here, there = (one.similarity_search_with_score(DISTINCT[7], k=4) for one in (store, copy))
    assert here[0][0].page_content == DISTINCT[7]
    assert [one.id for one, _ in there] == [one.id for one, _ in here]
    for (one, score), (other, again) in zip(here, there, strict=True):
        assert (other.page_content, again) == (one.page_content, pytest.approx(score, abs=1e-5))
        assert other.metadata == {**one.metadata, "f": pytest.approx(one.metadata["f"])}
    assert [one.page_content for one in copy.get_by_ids(ids[2:3])] == [DISTINCT[2]]
    copy.add_texts(["A new mill."])


@pytest.mark.parametrize("route", ROUTES, ids="-".join)
@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_llamaindex_opens_a_copy_of_its_own_collection(place, embedder, copied, route, mode):
    def encode(texts):
        return tuple(zip(*(sparse(text) for text in texts), strict=True))

    hybrid = {"enable_hybrid": True, "sparse_doc_fn": encode, "sparse_query_fn": encode}
    options = hybrid if mode == "hybrid" else {}
    source = place(route[0])
    store = LlamaStore("docs", client=source.client, **options)
    nodes = [
        TextNode(
            text=text,
            metadata={"n": n, "f": n / 7},
            embedding=embedder.embed_query(text).tolist(),
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc-{n // 2}")},
        )
        for n, text in enumerate(DISTINCT)
    ]
    store.add(nodes)
    client = copied(source, route)
    copy = LlamaStore("docs", client=client, **options)
    vector = embedder.embed_query(DISTINCT[7]).tolist()
    query = VectorStoreQuery(
        query_embedding=vector, query_str=DISTINCT[7], similarity_top_k=4, mode=MODES[mode]
    )
    here, there = store.query(query), copy.query(query)
    assert here.nodes[0].text == DISTINCT[7]
    assert there.ids == here.ids
    assert there.similarities == pytest.approx(here.similarities, abs=1e-5)
    assert [one.text for one in there.nodes] == [one.text for one in here.nodes]
    copy.delete("doc-0")
    assert client.count("docs").count == len(DISTINCT) - 2
