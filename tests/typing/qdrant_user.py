"""Every public name of quernstone-qdrant, as a user with a strict type checker writes it."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient, models

from quernstone import Embedder, QuernstoneError, Reranker
from quernstone_qdrant import (
    CollectionError,
    CollectionNotFoundError,
    LoadReport,
    ProvenanceError,
    QdrantLoader,
    QdrantSearcher,
    Record,
    RecordError,
    SearchHit,
    SourceError,
    TargetError,
    read_paths,
)


def show(report: LoadReport) -> None:
    figures: dict[str, Any] = asdict(report)
    assert figures["seen"] == report.seen


def keep(error: QuernstoneError) -> None:
    if isinstance(error, SourceError):
        place: tuple[str, int | None, str] = (error.path, error.row, error.reason)
        assert place
    elif isinstance(error, RecordError):
        key: str = error.key
        assert key


def load(client: QdrantClient) -> LoadReport:
    loader = QdrantLoader(
        client,
        "docs",
        Embedder("tiny"),
        chunk_size=None,
        chunk_overlap=10,
        batch_size=64,
        skip_errors=True,
        on_error=keep,
        progress=show,
    )
    model: str = loader.provenance.model
    assert model
    found: Iterator[Record | SourceError] = read_paths(
        [Path("docs"), "more"], text_field="body", id_field="id"
    )
    loader.load(found)
    loader.load([{"text": "a mapping"}, Record("key", "text", {"year": 1200}, "markdown")])
    return loader.load("a b c".split())


def search(client: QdrantClient) -> list[SearchHit]:
    try:
        searcher = QdrantSearcher(client, "docs", Embedder("tiny"), Reranker("tiny"))
    except CollectionNotFoundError as error:
        names: str = ", ".join(error.available)
        raise SystemExit(names) from error
    except ProvenanceError as error:
        raise SystemExit(f"{error.collection}: {error.recorded} {error.wanted}") from error
    except (CollectionError, TargetError) as error:
        raise SystemExit(str(error)) from error
    hits = searcher.search(
        "what?", 5, candidates=20, instruction="Find", query_filter=models.Filter()
    )
    scores: list[tuple[float, float | None, int]] = [
        (hit.score, hit.rerank_score, hit.retrieval_rank) for hit in hits
    ]
    assert scores
    return hits
