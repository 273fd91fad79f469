"""LlamaIndex nodes through the loader: stored as LlamaIndex stores them, read back as they were."""

import json
from uuid import UUID

import pytest
from qdrant_client import QdrantClient

from quernstone_qdrant import QdrantLoader
from quernstone_qdrant.settings import CollectionSettings
from quernstone_qdrant.targets import as_target
from quernstone_qdrant.verify import verify

core = pytest.importorskip("llama_index.core")

from llama_index.core.base.embeddings.base import BaseEmbedding  # noqa: E402
from llama_index.core.node_parser import (  # noqa: E402
    HierarchicalNodeParser,
    SentenceSplitter,
    get_leaf_nodes,
)
from llama_index.core.retrievers import AutoMergingRetriever  # noqa: E402
from llama_index.core.schema import (  # noqa: E402
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    TextNode,
)
from llama_index.core.storage.docstore import SimpleDocumentStore  # noqa: E402
from llama_index.vector_stores.qdrant import QdrantVectorStore  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect")

WORDS = ("quern mill grain flour stone rain roof bread oven hand water wheel miller sack sieve "
         "bran husk dough yeast crust").split()  # fmt: skip


def make_document(number, sentences=60):
    text = " ".join(
        f"The {WORDS[(number + i) % 20]} of {WORDS[(7 * i) % 20]} has number {number * 1000 + i}."
        for i in range(sentences)
    )
    return Document(
        id_=f"doc-{number}",
        text=text,
        metadata={"title": f"Title {number}", "secret": "a private note", "year": 1200 + number},
        excluded_embed_metadata_keys=["year"],
        excluded_llm_metadata_keys=["secret"],
    )


def make_nodes():
    documents = [make_document(number) for number in range(3)]
    hierarchy = HierarchicalNodeParser.from_defaults(chunk_sizes=[512, 128, 64])
    nodes = hierarchy.get_nodes_from_documents(documents)
    others = [make_document(number, 300) for number in range(3, 6)]
    nodes += SentenceSplitter(chunk_size=96, chunk_overlap=10).get_nodes_from_documents(others)
    return nodes[:250]


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
def client():
    with_points = QdrantClient(":memory:")
    yield with_points
    with_points.close()


def read_nodes(client, collection="docs"):
    store = QdrantVectorStore(collection_name=collection, client=client)
    points, _ = client.scroll(collection, limit=10_000, with_payload=True)
    return {node.node_id: node for node in store.parse_to_query_result(points).nodes}


def stored_points(client, collection):
    """By node id: the payload with its JSON parsed, and the vector."""
    points, _ = client.scroll(collection, limit=10_000, with_payload=True, with_vectors=True)
    found = {}
    for point in points:
        payload = dict(point.payload)
        payload["_node_content"] = json.loads(payload["_node_content"])
        found[payload["_node_content"]["id_"]] = (payload, point.vector)
    return found


@pytest.mark.parametrize("layout", ["universal", "llamaindex"])
def test_200_nodes_are_stored_as_llama_index_stores_them(client, embedder, embed_model, layout):
    nodes = make_nodes()
    assert len(nodes) >= 200
    assert {len(node.relationships) for node in nodes} >= {2, 3, 4}
    theirs = QdrantVectorStore(collection_name="theirs", client=client)
    context = core.StorageContext.from_defaults(vector_store=theirs)
    core.VectorStoreIndex(
        [node.model_copy(deep=True) for node in nodes],
        storage_context=context,
        embed_model=embed_model,
    )
    originals = [node.model_copy(deep=True) for node in nodes]
    report = QdrantLoader(client, "docs", embedder, layout=layout).load(iter(nodes))
    assert (report.embedded, report.seen) == (len(nodes), len(nodes))
    assert nodes == originals

    expected, found = stored_points(client, "theirs"), stored_points(client, "docs")
    assert found.keys() == expected.keys() == {node.node_id for node in nodes}
    added = {"quernstone"} | ({"page_content", "metadata"} if layout == "universal" else set())
    for node_id, (payload, vector) in expected.items():
        ours, own_vector = found[node_id]
        assert {name: ours[name] for name in ours.keys() - added} == payload
        assert own_vector == pytest.approx(vector, abs=1e-6)
    read = read_nodes(client)
    for node in nodes:
        assert read[node.node_id] == node
        assert type(read[node.node_id]) is type(node)
    assert verify(as_target(client, "docs"), embedder).passed


@pytest.mark.parametrize(
    "node",
    [
        IndexNode(id_="i", text="an index", index_id="table-7", metadata={"a": 1}),
        TextNode(id_="t", text=" kept  white space\n", metadata={"b": [1, None, "x"]}),
        TextNode(
            id_="m",
            text="a template",
            metadata={"c": 1.5, "d": True},
            metadata_template="<{key}>{value}</{key}>",
            metadata_separator=" | ",
            text_template="{content} // {metadata_str}",
            excluded_embed_metadata_keys=["d"],
        ),
        ImageNode(id_="p", text="a caption", image_path="a.png", image_url="https://x/a.png"),
        Node(id_="n", text_resource=MediaResource(text="a resource"), metadata={"e": "f"}),
    ],
    ids=lambda node: type(node).__name__,
)
def test_every_class_comes_back_as_it_was(client, embedder, node):
    texts = []
    embed = embedder.embed_documents

    class Recording:
        def __getattr__(self, name):
            return getattr(embedder, name)

        def embed_documents(self, given):
            texts.extend(given)
            return embed(given)

    QdrantLoader(client, "docs", Recording()).load([node])
    assert texts == [node.get_content(metadata_mode=MetadataMode.EMBED)]
    (read,) = read_nodes(client).values()
    assert read == node
    assert type(read) is type(node)


def test_embedding_the_text_alone(client, embedder):
    node = TextNode(id_="n", text="a quern", metadata={"title": "Mills"})
    settings = {"embed_metadata": False}
    QdrantLoader(client, "docs", embedder, settings=settings, hybrid=True).load([node])
    ((_, vector),) = stored_points(client, "docs").values()
    assert vector[""] == pytest.approx(embedder.embed_documents(["a quern"])[0], abs=1e-6)
    assert read_nodes(client) == {"n": node}
    assert verify(as_target(client, "docs"), embedder).passed
    again = QdrantLoader(client, "docs", embedder)  # the collection keeps the setting
    assert again.load([node]).embedded == 0


def test_an_edited_document_replaces_its_nodes(client, embedder):
    splitter = SentenceSplitter(chunk_size=96, chunk_overlap=0)
    loader = QdrantLoader(client, "docs", embedder)
    documents = [make_document(0), make_document(1)]
    first = splitter.get_nodes_from_documents(documents)
    assert loader.load(first).embedded == len(first)

    again = splitter.get_nodes_from_documents(documents)  # with other random ids
    report = loader.load(again)
    assert (report.embedded, report.skipped) == (0, len(again))
    assert report.refreshed == len(again)
    assert read_nodes(client) == {node.node_id: node for node in again}
    report = loader.load(again)
    assert (report.embedded, report.refreshed, report.removed) == (0, 0, 0)

    documents[1].set_content(documents[1].text[:200])
    edited = splitter.get_nodes_from_documents(documents)
    assert len(edited) < len(first)
    report = loader.load(edited)
    assert report.embedded < 3
    assert report.removed == len(first) - len(edited)
    assert read_nodes(client) == {node.node_id: node for node in edited}

    QdrantVectorStore(collection_name="docs", client=client).delete("doc-0")
    assert {node.ref_doc_id for node in read_nodes(client).values()} == {"doc-1"}
    assert loader.load(edited).embedded == sum(node.ref_doc_id == "doc-0" for node in edited)


def test_nodes_of_a_document_may_be_apart_and_in_many_batches(client, embedder):
    nodes = make_nodes()[:120]
    mixed = nodes[::2] + nodes[1::2]
    loader = QdrantLoader(client, "docs", embedder, batch_size=7)
    assert loader.load(mixed, prune=True).embedded == len(nodes)
    report = loader.load(mixed, prune=True)
    assert (report.embedded, report.refreshed, report.removed, report.pruned) == (0, 0, 0, 0)
    assert read_nodes(client) == {node.node_id: node for node in nodes}
    keep = [node for node in mixed if node.ref_doc_id == "doc-1"]
    report = loader.load(keep, prune=True)
    assert report.pruned == len(nodes) - len(keep)
    assert read_nodes(client) == {node.node_id: node for node in keep}


def test_auto_merging_finds_the_parents(client, embedder, embed_model):
    parser = HierarchicalNodeParser.from_defaults(chunk_sizes=[512, 64])
    nodes = parser.get_nodes_from_documents([make_document(0)])
    leaves = get_leaf_nodes(nodes)
    QdrantLoader(client, "docs", embedder).load(leaves)
    docstore = SimpleDocumentStore()
    docstore.add_documents(nodes)
    store = QdrantVectorStore(collection_name="docs", client=client)
    index = core.VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    retriever = AutoMergingRetriever(
        index.as_retriever(similarity_top_k=len(leaves)),
        core.StorageContext.from_defaults(docstore=docstore),
    )
    merged = retriever.retrieve("the miller's grain")
    assert {found.node_id for found in merged} == {n.node_id for n in nodes} - {
        n.node_id for n in leaves
    }


def test_private_metadata_stays_out_of_the_prompt(client, embedder):
    """Also of documents, which the loader splits."""
    nodes = SentenceSplitter(chunk_size=96, chunk_overlap=0).get_nodes_from_documents(
        [make_document(0)]
    )
    loader = QdrantLoader(client, "docs", embedder, chunk_size=300)
    loader.load([*nodes, make_document(1)])
    read = read_nodes(client).values()
    assert {node.ref_doc_id for node in read} == {"doc-0", "doc-1"}
    for node in read:
        prompt = node.get_content(metadata_mode=MetadataMode.LLM)
        assert "title: Title" in prompt
        assert "private" not in prompt
        assert "year" not in node.get_content(metadata_mode=MetadataMode.EMBED)


def test_a_document_is_split_as_llama_index_would_describe_it(client, embedder):
    document = make_document(0)
    loader = QdrantLoader(client, "docs", embedder, chunk_size=300, chunk_overlap=0)
    report = loader.load([document])
    assert report.embedded > 5
    chunks = read_nodes(client)
    for point, node in chunks.items():
        UUID(point)
        assert document.text[node.start_char_idx : node.end_char_idx] == node.text
        assert node.source_node == document.as_related_node_info()
        assert {**node.metadata, **document.metadata} == node.metadata
        embedded = node.get_content(metadata_mode=MetadataMode.EMBED)
        assert embedded == f"title: Title 0\nsecret: a private note\n\n{node.text}"
    assert verify(as_target(client, "docs"), embedder).passed
    document.set_content(f"{document.text} More.")
    report = loader.load([document])
    assert report.embedded == 1
    assert report.refreshed == report.skipped == report.chunks - 1  # the hash of their source


def test_keys_of_the_loader_are_not_embedded_or_reranked(client, embedder, tmp_path):
    path = tmp_path / "mills.md"
    path.write_text("# Mills\n\nA quern is a hand mill.", encoding="utf-8")
    from quernstone_qdrant import read_paths

    QdrantLoader(client, "docs", embedder).load(read_paths([path]))
    (node,) = read_nodes(client).values()
    assert {"source", "chunk", "headings"} <= node.metadata.keys()
    assert node.get_content(metadata_mode=MetadataMode.EMBED) == node.text


def test_an_older_collection_keeps_its_rule(client, embedder):
    settings = CollectionSettings(node_rule=1)
    nodes = make_nodes()[-20:]
    report = QdrantLoader(client, "docs", embedder, preset=settings).load(nodes)
    points, _ = client.scroll("docs", limit=100)
    assert report.embedded == len(points)
    assert all(point.payload["quernstone"]["key"].startswith("sha256:") for point in points)
    assert all("node" not in point.payload["quernstone"] for point in points)
    report = QdrantLoader(client, "docs", embedder).load(make_nodes()[-20:])
    assert report.embedded == 0
    assert verify(as_target(client, "docs"), embedder).passed


def test_two_nodes_with_one_id_are_refused(client, embedder):
    nodes = [TextNode(id_="same", text="one"), TextNode(id_="same", text="two")]
    with pytest.raises(ValueError, match="another record of this load has the same key"):
        QdrantLoader(client, "docs", embedder).load(nodes)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (TextNode(id_="n", text="t", metadata={"a": 1}, text_template="{nothing}"), "template"),
        (IndexNode(id_="n", text="t", index_id="i", obj=object()), "obj is not serial"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(client, embedder, node, reason):
    with pytest.raises(ValueError, match=reason):
        QdrantLoader(client, "docs", embedder).load([node])


def test_random_ids_of_documents_are_said(client, embedder):
    splitter = SentenceSplitter(chunk_size=96, chunk_overlap=0)
    documents = [Document(text=f"A quern {number}.") for number in range(3)]
    loader = QdrantLoader(client, "docs", embedder)
    (note,) = loader.load(splitter.get_nodes_from_documents(documents)).notes
    assert note.startswith("3 documents have random ids (UUID 4)")
    documents[0].set_content("An edited mill.")  # the ids stay in this process
    report = loader.load(splitter.get_nodes_from_documents(documents))
    assert (report.embedded, report.skipped) == (1, 2)
    assert loader.load(splitter.get_nodes_from_documents([make_document(0)])).notes == ()


def test_nodes_of_another_source_are_refused_as_a_whole(client, embedder):
    splitter = SentenceSplitter(chunk_size=96, chunk_overlap=0)
    documents = [make_document(0), make_document(1)]
    first = splitter.get_nodes_from_documents(documents)
    QdrantLoader(client, "docs", embedder).load(first, source="one")
    documents = [make_document(0, 12), make_document(1)]
    documents[0].set_content(f"Edited. {documents[0].text}")
    nodes = splitter.get_nodes_from_documents(documents)
    loader = QdrantLoader(client, "docs", embedder, batch_size=2, skip_errors=True)
    report = loader.load(nodes, source="two")
    assert (report.failed, report.removed) == (1, 0)
    kept = read_nodes(client)
    for node in first:
        if node.ref_doc_id == "doc-0":
            assert kept[node.node_id] == node
