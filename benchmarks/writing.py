"""Processor time of a write: the loader against `QdrantClient.upload_points`.

    python -m benchmarks.writing

Expected: at most 1.15 times the time of `upload_points`, by REST and by gRPC. The loader does more:
it splits, hashes and looks up each chunk, and retries; but it encodes float32 rows as they are.

Both write the same points: vectors of 1,024 numbers, which are ready, and payloads of the layout
`universal`. The server is a process that reads each write and answers at once, so the client's own
processor time, of all its threads, is what differs. Each side runs in a process of its own, in
turn, every second time in reverse order; medians are reported.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.sink import running_sink
from quernstone.types import EngineInfo, Float32Array

_COLLECTION = "written"
_DIMENSIONS = 1024
_SIDES = ("loader", "upload_points")
_TRANSPORTS = ("rest", "grpc")
_WORDS = "mill stone grain flour bread oven baker field wheel water quern hand sieve sack".split()


class _Ready:
    """An embedder whose vectors are ready."""

    model, revision, dimensions = "ready", "1", _DIMENSIONS

    def __init__(self) -> None:
        self.info = EngineInfo(
            engine="none", device="cpu", dtype="float32", attention="none", max_batch_tokens=1
        )
        rows = np.random.default_rng(0).standard_normal((4096, _DIMENSIONS)).astype(np.float32)
        self._rows: Float32Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def format_query(self, text: str, instruction: str | None = None) -> str:  # noqa: ARG002
        return text

    def embed_documents(self, batch: list[str]) -> Float32Array:
        return self._rows[: len(batch)]


def _records(count: int) -> Iterator[dict[str, Any]]:
    """Yield records of about 400 characters, with three fields of metadata."""
    for n in range(count):
        words = " ".join(_WORDS[(n * 7 + i * i) % len(_WORDS)] for i in range(70))
        yield {"id": f"record-{n}", "text": f"{n} {words}", "year": n % 500, "kind": "note"}


def _load(client: Any, count: int) -> None:
    from quernstone_qdrant import QdrantLoader

    report = QdrantLoader(client, _COLLECTION, _Ready()).load(_records(count))
    if report.embedded != count:
        raise RuntimeError(f"{report.embedded} of {count} records were written")


def _upload(client: Any, count: int) -> None:
    from qdrant_client import models

    vectors = models.VectorParams(size=_DIMENSIONS, distance=models.Distance.COSINE)
    client.create_collection(_COLLECTION, vectors)
    rows = _Ready().embed_documents([""] * 4096)
    points = (
        models.PointStruct(id=point, vector=rows[n % 4096].tolist(), payload=payload)
        for n, (point, payload) in enumerate(_points(count))
    )
    client.upload_points(_COLLECTION, points, batch_size=256, wait=True)


def _points(count: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the ids and payloads that the loader writes, before the time starts."""
    from functools import partial

    from quernstone_qdrant.documents.chunking import Chunker
    from quernstone_qdrant.documents.points import collection_namespace, make_point
    from quernstone_qdrant.documents.records import to_record
    from quernstone_qdrant.settings import CollectionSettings

    make = partial(make_point, collection_namespace(_COLLECTION), "ready;1024")
    layout = CollectionSettings().payloads
    chunker = Chunker(1200)
    chunks = (
        chunk
        for n, record in enumerate(_records(count))
        for chunk in chunker.split(to_record(record, n))
    )
    made = (make(chunk, layout=layout) for chunk in chunks)
    return [(point.id, point.payload()) for point in made]


def _measure(side: str, transport: str, count: int) -> dict[str, float]:
    from qdrant_client import QdrantClient

    with running_sink() as (url, port, sink):
        client = QdrantClient(
            url=url, grpc_port=port, prefer_grpc=transport == "grpc", check_compatibility=False
        )
        if side == "loader":
            _load(client, 256)
            client.delete_collection(_COLLECTION)
        work = {"loader": _load, "upload_points": _upload}[side]
        before, served = time.process_time(), sum(sink.cpu_times()[:2])
        start = time.perf_counter()
        work(client, count)
        return {
            "own": (time.process_time() - before) / count * 1e6,
            "sink": (sum(sink.cpu_times()[:2]) - served) / count * 1e6,
            "wall": (time.perf_counter() - start) / count * 1e6,
        }


def main(
    *,
    points: Annotated[int, typer.Option(help="How many each side writes.")] = 20_000,
    repeats: Annotated[int, typer.Option(min=1, help="How often each side has its turn.")] = 3,
    side: Annotated[str, typer.Option(hidden=True)] = "",
    transport: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print the processor time per point of both sides, by REST and by gRPC."""
    if side:
        print(json.dumps(_measure(side, transport, points)))
        return
    table = Table(title=f"{points:,} points of {_DIMENSIONS} numbers: us per point")
    for column in ("transport", "side", "own CPU", "of upload_points", "sink's CPU", "wall clock"):
        table.add_column(column, justify="left" if column in ("transport", "side") else "right")
    for each in _TRANSPORTS:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in _SIDES}
        for turn in range(repeats):
            for name in _SIDES[:: -1 if turn % 2 else 1]:
                found[name].append(_in_process(name, each, points))
        own = {name: statistics.median(run["own"] for run in runs) for name, runs in found.items()}
        for name, runs in found.items():
            others = (statistics.median(run[key] for run in runs) for key in ("sink", "wall"))
            figures = [own[name], *others]
            texts = [f"{figure:.0f}" for figure in figures]
            ratio = f"{own[name] / own['upload_points']:.2f}"
            table.add_row(each, name, texts[0], ratio, *texts[1:])
    Console(width=110).print(table)


def _in_process(side: str, transport: str, points: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.writing", "--points", str(points)]
    command += ["--side", side, "--transport", transport]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{transport} {side}: {found['own']:.0f} us", flush=True)
    return found


if __name__ == "__main__":
    typer.run(main)
