"""Every spelling of the adapters' constructors, as users of other classes write them."""

from pathlib import Path

import torch
from langchain_core.documents import Document
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import MetadataMode, NodeWithScore

from langchain_quernstone import (
    QuernstoneCrossEncoder,
    QuernstoneEmbeddings,
    QuernstoneReranker,
)
from llama_index.embeddings.quernstone import QuernstoneEmbedding
from llama_index.postprocessor.quernstone import QuernstoneRerank
from quernstone import RemoteOptions, Usage


def langchain_embeddings() -> list[QuernstoneEmbeddings]:
    return [
        QuernstoneEmbeddings(),
        QuernstoneEmbeddings("tiny"),
        QuernstoneEmbeddings(Path("folder")),
        QuernstoneEmbeddings(model="tiny"),
        QuernstoneEmbeddings(model_name="tiny"),
        QuernstoneEmbeddings(
            "tiny",
            engine="torch",
            device=torch.device("cpu"),
            dtype=torch.float32,
            dimensions=None,
            instruction=None,
            max_length=None,
            truncate=False,
            max_batch_tokens=None,
            deterministic=False,
            revision=None,
            adapter=None,
            cache_folder=Path("cache"),
            show_progress=True,
            engine_options=RemoteOptions(endpoint="http://localhost"),
        ),
        QuernstoneEmbeddings("tiny", device=None, dtype=None, cache_folder="cache"),
    ]


def llama_index_embeddings() -> list[QuernstoneEmbedding]:
    return [
        QuernstoneEmbedding(),
        QuernstoneEmbedding("tiny"),
        QuernstoneEmbedding(Path("folder")),
        QuernstoneEmbedding(model="tiny"),
        QuernstoneEmbedding(model_name="tiny"),
        QuernstoneEmbedding(
            "tiny",
            device=torch.device("cpu"),
            dtype=torch.float32,
            dimensions=64,
            max_length=None,
            cache_folder=None,
            show_progress=True,
            embed_batch_size=64,
            num_workers=None,
            callback_manager=CallbackManager([]),
            engine_options={"backend": "onnx"},
        ),
    ]


def rerankers() -> list[QuernstoneReranker | QuernstoneCrossEncoder | QuernstoneRerank]:
    return [
        QuernstoneReranker("tiny", top_n=None, score_threshold=0.5, show_progress=True),
        QuernstoneReranker(model_name="tiny", device=None, max_length=None),
        QuernstoneReranker(model=Path("folder"), template="eval", prefix_sharing=False),
        QuernstoneCrossEncoder("tiny", device=torch.device("cpu")),
        QuernstoneCrossEncoder(model_name=Path("folder"), instruction="Find"),
        QuernstoneRerank("tiny", top_n=None, score_threshold=0.5, show_progress=True),
        QuernstoneRerank(model_name="tiny", keep_retrieval_score=True),
        QuernstoneRerank(model="tiny", metadata_mode=MetadataMode.NONE, callback_manager=None),
    ]


def use(documents: list[Document], nodes: list[NodeWithScore]) -> Usage:
    embeddings, reranker = QuernstoneEmbeddings("tiny"), QuernstoneReranker("tiny")
    embeddings.warm_up()
    names: tuple[str, str] = (embeddings.model, embeddings.model_name)
    size: int = embeddings.resolved_dimensions + QuernstoneEmbedding("tiny").resolved_dimensions
    wanted: int | None = embeddings.dimensions
    vector: list[float] = embeddings.embed_query(f"{names} {size} {wanted}")
    best: list[Document] = reranker.compress_documents(documents, str(vector))
    kept = QuernstoneRerank("tiny").postprocess_nodes(nodes, query_str=str(best))
    usage: Usage = QuernstoneEmbedding("tiny").usage
    reranker.close()
    return usage if kept else reranker.usage


def mistakes() -> None:
    """Errors that a type checker has to find; mypy reports unused ignores."""
    QuernstoneEmbeddings(modle="tiny")  # type: ignore[call-arg]
    QuernstoneEmbedding(dimensions="64")  # type: ignore[arg-type]
    QuernstoneRerank(top_n="3")  # type: ignore[arg-type]
    QuernstoneReranker(engine="onnx")  # type: ignore[arg-type]
    QuernstoneCrossEncoder(top_n=3)  # type: ignore[call-arg]
