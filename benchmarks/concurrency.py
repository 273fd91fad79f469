"""Queries that arrive together against the same queries one after another."""

from __future__ import annotations

import asyncio

from benchmarks.timing import Result, Side, compare
from quernstone import Embedder

QUERIES = [f"how do I sort a list of {n} records by two keys?" for n in range(64)]


def run(model: str, title: str, *, expected: float, repeats: int) -> Result:
    """64 `aembed_query` calls, concurrent and sequential, which should take `expected` as long."""
    with Embedder(model, device="cpu") as embedder:

        async def together() -> None:
            await asyncio.gather(*(embedder.aembed_query(query) for query in QUERIES))

        async def one_by_one() -> None:
            for query in QUERIES:
                await embedder.aembed_query(query)

        asyncio.run(together())
        return compare(
            f"{len(QUERIES)} queries at a time, {title}",
            [
                Side("concurrent", lambda: asyncio.run(together())),
                Side("sequential", lambda: asyncio.run(one_by_one()), expected),
            ],
            unit="queries",
            amount=len(QUERIES),
            repeats=repeats,
        )
