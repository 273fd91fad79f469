"""Points of three writers in one collection, and what each reader finds of them.

The loader, LangChain's vector store and LlamaIndex's write; the searcher, both stores and the
retrievers of the adapters read.
"""

import uuid

import pytest
from qdrant_client import models

from quernstone_qdrant import QdrantLoader, QdrantSearcher
from quernstone_qdrant.repair import repair
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.verify import verify

core = pytest.importorskip("llama_index.core")
pytest.importorskip("langchain_qdrant")

from langchain_core.documents import Document  # noqa: E402
from langchain_core.embeddings import Embeddings  # noqa: E402
from langchain_qdrant import QdrantVectorStore as LangChainStore  # noqa: E402
from llama_index.core.base.embeddings.base import BaseEmbedding  # noqa: E402
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode  # noqa: E402
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters  # noqa: E402
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaStore  # noqa: E402

from langchain_quernstone import QuernstoneRetriever as LangChainRetriever  # noqa: E402
from llama_index.retrievers.quernstone import QuernstoneRetriever as LlamaRetriever  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect")

TEXTS = {
    "loader": "A quern is a stone hand mill.",
    "langchain": "Rain falls on the roof.",
    "llamaindex": "Bread is made of grain.",
}


class Model(Embeddings):
    def __init__(self, embedder):
        self.embedder = embedder

    def embed_documents(self, texts):
        return self.embedder.embed_documents(texts).tolist()

    def embed_query(self, text):
        return self.embedder.embed_query(text).tolist()


@pytest.fixture
def embed_model(embedder):
    class Embedding(BaseEmbedding):
        def _get_text_embedding(self, text):
            return embedder.embed_documents([text])[0].tolist()

        def _get_query_embedding(self, query):
            return embedder.embed_query(query).tolist()

        async def _aget_query_embedding(self, query):
            return self._get_query_embedding(query)

    return Embedding()


@pytest.fixture
def langchain(client, embedder):
    return lambda: LangChainStore(client, "docs", embedding=Model(embedder))


@pytest.fixture
def llama(client, embed_model):
    return lambda: core.VectorStoreIndex.from_vector_store(
        LlamaStore(collection_name="docs", client=client), embed_model=embed_model
    )


@pytest.fixture
def write(client, embedder, langchain, llama):
    """Write one point with each of the writers."""

    def write(settings):
        QdrantLoader(client, "docs", embedder, preset=settings).load(
            [{"id": "mill", "text": TEXTS["loader"], "year": 1200}]
        )
        langchain().add_documents([Document(TEXTS["langchain"], metadata={"year": 1200})])
        node = TextNode(text=TEXTS["llamaindex"], metadata={"year": 1200})
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="loaf")
        llama().insert_nodes([node])

    return write


@pytest.fixture
def read(client, embedder, langchain, llama):
    """Return (text, year, document) of the point that a reader finds first."""

    def searched(query, **search):
        [hit] = QdrantSearcher(client, "docs", embedder).search(query, 1, **search)
        return hit.text, hit.metadata["year"], hit.key or None

    def documents(found):
        [document] = found
        return document.page_content, document.metadata.get("year"), document.metadata.get("_key")

    def nodes(found):
        [node] = found
        return node.text, node.metadata.get("year"), node.node.ref_doc_id

    searcher = lambda: QdrantSearcher(client, "docs", embedder)  # noqa: E731
    return {
        "searcher": searched,
        "langchain": lambda query: documents(langchain().similarity_search(query, k=1)),
        "langchain retriever": lambda query: documents(
            LangChainRetriever(searcher=searcher(), k=1).invoke(query)
        ),
        "llamaindex": lambda query: nodes(llama().as_retriever(similarity_top_k=1).retrieve(query)),
        "llamaindex retriever": lambda query: nodes(
            LlamaRetriever(searcher(), similarity_top_k=1).retrieve(query)
        ),
    }


OURS = ("searcher", "langchain retriever", "llamaindex retriever")


@pytest.mark.parametrize("name", ["universal", "langchain", "llamaindex", "plain"])
@pytest.mark.parametrize("writer", TEXTS)
def test_our_readers_find_the_points_of_every_writer(write, read, name, writer):
    write(CollectionSettings(layout=name))
    for reader in OURS:
        text, year, _ = read[reader](TEXTS[writer])
        assert (text, year) == (TEXTS[writer], 1200), reader


def test_a_repair_lets_every_reader_read_every_writer(client, embedder, write, read):
    write(CollectionSettings(bm25="auto"))
    target = as_target(client, "docs")
    before, _ = client.scroll("docs", limit=10)
    report = repair(target, dry_run=True)
    assert (report.foreign, report.completed) == (2, 2)
    assert client.scroll("docs", limit=10)[0] == before
    assert repair(target) == report

    documents = {"loader": "mill", "langchain": None, "llamaindex": "loaf"}
    for writer, text in TEXTS.items():
        for reader, find in read.items():
            found = find(text)
            assert found[:2] == (text, 1200), (writer, reader)
            if reader.startswith("llamaindex"):  # it has no document of LangChain's points
                expected = documents[writer]
                assert found[2] in (expected, "None" if expected is None else expected)
        year = {"query_filter": {"year": 1200}, "hybrid": True}
        assert read["searcher"](text, **year)[0] == text
    after = {point.id: point.payload for point in client.scroll("docs", limit=10)[0]}
    for point in before:
        assert {name: after[point.id][name] for name in point.payload} == point.payload
    assert repair(target).completed == 0
    assert verify(target, embedder).passed


def node_of(key, number, **settings):
    node = TextNode(text=f"Grain number {number} of {key}", **settings)
    node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=key)
    return node


def by_node_id(ids):
    return MetadataFilters(
        filters=[MetadataFilter(key="quernstone.node_id", value=list(ids), operator="in")]
    )


@pytest.mark.parametrize("layout", ["universal", "llamaindex"])
def test_llama_index_finds_and_deletes_loaded_nodes_by_their_ids(client, embedder, layout):
    nodes = [node_of(key, n, id_=f"{key}-{n}") for key in ("a", "b") for n in range(2)]
    nodes.append(node_of("c", 0))  # with a random id
    loader = QdrantLoader(client, "docs", embedder, layout=layout)
    loader.load(nodes)
    store = LlamaStore(collection_name="docs", client=client)
    searcher = QdrantSearcher(client, "docs", embedder)
    for some in ([nodes[1]], [nodes[4], nodes[0]], nodes):
        ids = [node.node_id for node in some]
        points = searcher.point_ids(ids)
        assert len(points) == len(ids)
        by_filter, by_point = store.get_nodes(filters=by_node_id(ids)), store.get_nodes(points)
        for found in (by_filter, by_point):
            assert {node.node_id: node.text for node in found} == {n.node_id: n.text for n in some}

    assert len(searcher.point_ids(["a"])) == 2
    store.delete_nodes(searcher.point_ids([nodes[0].node_id]))
    store.delete_nodes(filters=by_node_id([nodes[4].node_id]))
    kept = {node.node_id for node in nodes[1:4]}
    assert {node.node_id for node in store.get_nodes(filters=MetadataFilters(filters=[]))} == kept
    report = loader.load(nodes)
    assert (report.embedded, report.skipped) == (2, 3)
    assert verify(as_target(client, "docs"), embedder).passed


def test_ids_of_nodes_are_added_to_points_that_lack_them_without_embedding(client, embedder):
    node = node_of("a", 0, id_="first")
    loader = QdrantLoader(client, "docs", embedder)
    loader.load([node])
    [point], _ = client.scroll("docs")
    without = {name: v for name, v in point.payload["quernstone"].items() if name != "node_id"}
    client.set_payload("docs", {"quernstone": without}, points=[point.id])
    assert verify(as_target(client, "docs"), embedder).passed
    searcher = QdrantSearcher(client, "docs", embedder)
    assert searcher.point_ids(["first"]) == []
    report = loader.load([node])
    assert (report.embedded, report.refreshed) == (0, 1)
    assert searcher.point_ids(["first"]) == [point.id]
    client.set_payload("docs", {"quernstone": {**without, "node_id": "else"}}, points=[point.id])
    assert not verify(as_target(client, "docs"), embedder).passed
    assert repair(as_target(client, "docs")).payloads == 1
    assert searcher.point_ids(["first"]) == [point.id]


@pytest.mark.parametrize("layout", ["universal", "langchain"])
def test_langchain_finds_and_deletes_loaded_documents_by_their_ids(
    client, embedder, langchain, layout
):
    documents = [
        Document("A quern is a hand mill. " * 20, id="mill"),
        Document("Rain falls.", id=str(uuid.uuid5(uuid.NAMESPACE_URL, "rain"))),
    ]
    loader = QdrantLoader(client, "docs", embedder, layout=layout, chunk_size=200, chunk_overlap=0)
    loader.load(documents)
    searcher, store = QdrantSearcher(client, "docs", embedder), langchain()
    points = searcher.point_ids(document.id for document in documents)
    found = store.get_by_ids(points)
    assert {each.page_content for each in found if "Rain" in each.page_content} == {"Rain falls."}
    mills = searcher.point_ids(["mill"])
    assert points[:-1] == mills
    assert [client.retrieve("docs", [p])[0].payload["quernstone"]["chunk"] for p in mills] == list(
        range(len(mills))
    )
    [document] = LangChainRetriever(searcher=searcher, k=1).invoke("rain falls")
    assert [each.page_content for each in store.get_by_ids([document.id])] == ["Rain falls."]
    assert searcher.point_ids([document.id, documents[1].id]) == points[-1:]  # once
    assert searcher.point_ids([]) == searcher.point_ids(["unknown"]) == []
    assert store.delete(mills)
    assert client.count("docs").count == 1


def test_strict_mode_allows_a_search_for_ids(open_server, embedder):
    """Each filter reads one payload index."""
    client = open_server("rest")
    loader = QdrantLoader(client, "docs", embedder)
    loader.load([node_of("a", 0, id_="first")])
    client.update_collection(
        "docs",
        strict_mode_config=models.StrictModeConfig(
            enabled=True, unindexed_filtering_retrieve=False, max_query_limit=10
        ),
    )
    searcher = QdrantSearcher(client, "docs", embedder)
    [point] = searcher.point_ids(["first"])
    assert searcher.point_ids(["a", point, "first"]) == [point]
