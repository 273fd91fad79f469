"""Every public name of quernstone-qdrant, as a user with a strict type checker writes it."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient, models

from quernstone import Embedder, QuernstoneError, Reranker
from quernstone_qdrant import (
    CollectionError,
    CollectionNotFoundError,
    CollectionSettings,
    Feedback,
    LoadReport,
    Popularity,
    ProvenanceError,
    QdrantLoader,
    QdrantSearcher,
    Recency,
    Record,
    RecordError,
    SearchHit,
    SourceError,
    TargetError,
    read_paths,
)
from quernstone_qdrant.settings import PRESETS


def show(report: LoadReport) -> None:
    figures: dict[str, Any] = asdict(report)
    assert figures["seen"] == report.seen


def keep(error: QuernstoneError) -> None:
    if isinstance(error, SourceError):
        path: str = error.path
        row: int | None = error.row
        reason: str = error.reason
        assert path, (row, reason)
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


def store(client: QdrantClient) -> CollectionSettings:
    own = replace(PRESETS["mrl"], prefix=128, indexes={"year": "integer"}, language="german")
    QdrantLoader(client, "own", Embedder("tiny"), preset=own, hybrid=True)
    loader = QdrantLoader(
        client,
        "named",
        Embedder("tiny"),
        preset="binary",
        layout="langchain",
        hybrid=False,
        defer_index="m0",
        index_timeout=60,
    )
    ignored: tuple[str, ...] = loader.load([]).ignored
    assert ignored
    return loader.provenance.settings


async def asearch(client: QdrantClient) -> list[SearchHit]:
    searcher = QdrantSearcher(client, "docs", Embedder("tiny"), Reranker("tiny"))
    many: list[list[SearchHit]] = await searcher.asearch_many(["what?"], 5, candidates=9)
    assert many == searcher.search_many(("a", "b"), prefetch=300)
    return await searcher.asearch("what?", 5, hybrid=True, query_filter={"year": 1200})


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
        "what?",
        5,
        hybrid=False,
        query_filter=models.Filter(),
        candidates=20,
        prefetch=500,
        instruction="Find",
        boost=[Recency("day", timedelta(days=30)), Popularity("views", half=100, weight=0.2)],
        per_document=1,
    )
    again = searcher.search("what?", diversity=models.Mmr(diversity=0.5), group_by=None)
    again = searcher.search("what?", feedback=Feedback(a=1, b=0.5, c=0.2, seeds=4))
    assert again[0].group, again[0].boosted_score
    scores: list[tuple[float, float | None, float | None, int]] = [
        (hit.score, hit.fused_score, hit.rerank_score, hit.retrieval_rank) for hit in hits
    ]
    assert scores
    return hits
