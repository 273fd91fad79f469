"""Results that Qwen published, for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

TABLES = Path(__file__).parent / "data" / "published.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """Scores of one model in one table, times 100."""

    model: str
    by_type: Mapping[str, float]
    mean_task: float | None = None
    mean_type: float | None = None


def published_rows(benchmark: str, *, reranking: bool = False) -> list[PublishedRow]:
    """Return the published rows of a benchmark in their order; empty if there are none.

    Args:
        benchmark: A benchmark such as `MTEB(eng, v2)`.
        reranking: Return the rows of rerankers, which only include retrieval tasks.
    """
    rows = _tables().get(benchmark, {}).get("reranking" if reranking else "rows", [])
    return [PublishedRow(**row) for row in rows]


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = orjson.loads(TABLES.read_bytes())
    return tables
