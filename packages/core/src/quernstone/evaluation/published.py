"""The tables that Qwen published, to stand beside one's own results."""

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
    """One model in one table, scores times 100."""

    model: str
    by_type: Mapping[str, float]
    mean_task: float | None = None
    mean_type: float | None = None


def published_rows(benchmark: str, *, reranking: bool = False) -> list[PublishedRow]:
    """The rows of a benchmark, in the order of the table; none if there is no table.

    Args:
        benchmark: For example `MTEB(eng, v2)`.
        reranking: The rerankers' rows, which have retrieval tasks only.
    """
    rows = _tables().get(benchmark, {}).get("reranking" if reranking else "rows", [])
    return [PublishedRow(**row) for row in rows]


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = orjson.loads(TABLES.read_bytes())
    return tables
