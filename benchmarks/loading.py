"""Load 20,000 records into embedded Qdrants with Quernstone, LangChain and LlamaIndex.

    python -m benchmarks.loading                    # chunks of about 400 characters
    python -m benchmarks.loading --size 64          # the worst case: hardly anything to embed
    python -m benchmarks.loading --memory           # peak memory, 20,000 and 200,000 records

Expected, before the first run: the loader at 0.9 of the rate at which the engine alone embeds (the
rest overlaps with it), except into the embedded client's folder, which commits every point to
SQLite (1 ms each) and so is slower than the tiny model. Against `langchain_qdrant`'s `add_texts`
with `HuggingFaceEmbeddings`, and LlamaIndex's `IngestionPipeline` with `HuggingFaceEmbedding`: 3x.
Peak memory: the same for ten times as many records.

Expected of the worst case, after a profile: below 0.9 on two cores. The model then takes 0.3 ms of
both cores per record, so 0.9 leaves 70 us of one core for everything else, and Edge alone takes 85
us to turn a payload of eight strings and a vector of 256 numbers into its own types and store them.

Each side runs in its own process, one after another, with the tiny model in the same dtype and the
defaults of its framework. `--repeats` repeats the round, every second time in reverse order; ratios
are computed within a round, because the speed of a shared host varies, and their median is
reported. Timing starts with a loaded model and an open store, and ends when all points are stored.
Building Edge's graph, which no other side has, is reported separately.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.sink import running_sink
from benchmarks.texts import chunks_and_questions
from quernstone.types import EngineInfo, Float32Array

_COLLECTION = "records"
_MIB = 1 << 20
_TEXTS = "QUERN_BENCHMARK_TEXTS"
"""Environment variable: a file of texts."""


@dataclass(slots=True)
class Row:
    """The result of one side."""

    name: str
    records: int
    seconds: float
    index_seconds: float = 0.0
    peak_mib: float = 0.0
    """Peak resident memory of the process."""


def texts(count: int) -> list[str]:
    """Return distinct real texts; all processes read those that the first one found."""
    found: list[str] = json.loads(Path(os.environ[_TEXTS]).read_text())
    return found[:count]


def bare(count: int) -> Row:
    """Embed all texts in one call, without a store."""
    with _embedder() as embedder:
        records = texts(count)
        start = time.perf_counter()
        embedder.embed_documents(records)
        return Row("the engine alone", count, time.perf_counter() - start)


def into_edge(count: int) -> Row:
    """Load into Qdrant Edge."""
    from quernstone_qdrant import EdgeTarget

    with tempfile.TemporaryDirectory() as folder, _embedder() as embedder:
        return _load("loader, Edge", EdgeTarget(folder, _COLLECTION), texts(count), embedder)


def into_memory(count: int) -> Row:
    """Load into the embedded client without a folder."""
    from qdrant_client import QdrantClient

    with _embedder() as embedder:
        client = QdrantClient(":memory:")
        return _load("loader, embedded `:memory:`", client, texts(count), embedder)


def into_folder(count: int) -> Row:
    """Load into the embedded client with a folder."""
    from qdrant_client import QdrantClient

    with tempfile.TemporaryDirectory() as folder, _embedder() as embedder:
        client = QdrantClient(path=folder)
        return _load("loader, embedded `path=`", client, texts(count), embedder)


def langchain(count: int) -> Row:
    """Load with LangChain as its documentation shows."""
    from langchain_huggingface import HuggingFaceEmbeddings
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient, models

    folder, dtype = _checkpoint()
    embeddings = HuggingFaceEmbeddings(
        model_name=folder, model_kwargs={"device": "cpu", "model_kwargs": {"dtype": dtype}}
    )
    client = QdrantClient(":memory:")
    vectors = models.VectorParams(size=256, distance=models.Distance.COSINE)
    client.create_collection(_COLLECTION, vectors_config=vectors)
    store = QdrantVectorStore(client, _COLLECTION, embedding=embeddings)
    records = texts(count)
    start = time.perf_counter()
    store.add_texts(records)
    seconds = time.perf_counter() - start
    _check(client.count(_COLLECTION).count, count)
    return Row("langchain_qdrant, `:memory:`", count, seconds)


def llamaindex(count: int) -> Row:
    """Load with LlamaIndex as its documentation shows."""
    from llama_index.core.ingestion import IngestionPipeline
    from llama_index.core.schema import TextNode
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    folder, dtype = _checkpoint()
    model = HuggingFaceEmbedding(model_name=folder, device="cpu", model_kwargs={"dtype": dtype})
    client = QdrantClient(":memory:")
    store = QdrantVectorStore(_COLLECTION, client=client)
    pipeline = IngestionPipeline(transformations=[model], vector_store=store)
    nodes = [TextNode(text=text) for text in texts(count)]
    start = time.perf_counter()
    pipeline.run(nodes=nodes)
    seconds = time.perf_counter() - start
    _check(client.count(_COLLECTION).count, count)
    return Row("IngestionPipeline, `:memory:`", count, seconds)


def memory(count: int) -> Row:
    """Load over HTTP into a server that discards points, so that only the client uses memory."""
    with _embedder() as embedder:
        return _into_nothing(f"tiny model, {count:,} records", count, embedder)


def memory_without_model(count: int) -> Row:
    """Load like `remote`, with constant vectors, to measure the memory of the loader alone."""
    return _into_nothing(f"no model, {count:,} records", count, _Constant())


def _into_nothing(name: str, count: int, embedder: Any) -> Row:
    from qdrant_client import QdrantClient

    words = ("mill stone grain flour bread oven baker field wheel water quern hand sieve "
             "sack barn rye").split()  # fmt: skip
    records: Iterator[dict[str, Any]] = (
        {"id": str(n), "text": f"{n} {words[n % 16]} {words[n // 16 % 16]}"} for n in range(count)
    )
    with running_sink() as (url, _, _):
        client = QdrantClient(url=url, check_compatibility=False)
        return _load(name, client, records, embedder)


class _Constant:
    """An embedder that gives every text the same vector."""

    model, revision, dimensions = "constant", "1", 256

    def __init__(self) -> None:
        self.info = EngineInfo(
            engine="none", device="cpu", dtype="float32", attention="none", max_batch_tokens=1
        )

    def format_query(self, text: str, instruction: str | None = None) -> str:  # noqa: ARG002
        return text

    def embed_documents(self, batch: list[str]) -> Float32Array:
        return np.full((len(batch), self.dimensions), 1 / 16, dtype=np.float32)


SIDES: dict[str, Callable[[int], Row]] = {
    "bare": bare,
    "edge": into_edge,
    "memory-client": into_memory,
    "folder": into_folder,
    "langchain": langchain,
    "llamaindex": llamaindex,
}
MEMORY_SIDES: dict[str, Callable[[int], Row]] = {
    "memory": memory,
    "memory-without-model": memory_without_model,
}


def _embedder() -> Any:
    from quernstone import Embedder

    embedder = Embedder("tiny", device="cpu")
    embedder.embed_documents(["warm up"] * 64)
    return embedder


def _checkpoint() -> tuple[str, str]:
    """Return the folder of the tiny model and the dtype that our engine chooses on this machine."""
    import quernstone

    with _embedder() as embedder:
        return str(
            Path(quernstone.__file__).parent / "checkpoints" / "tiny" / "embedding"
        ), embedder.info.dtype


def _load(name: str, where: Any, records: Any, embedder: Any) -> Row:
    from quernstone_qdrant import QdrantLoader

    stored = [0.0, 0]

    def note(report: Any) -> None:
        stored[:] = report.seconds, report.embedded

    loader = QdrantLoader(where, _COLLECTION, embedder, progress=note)
    report = loader.load(records)
    where.close()
    _check(stored[1], report.seen)
    return Row(name, report.seen, stored[0], report.seconds - stored[0])


def _check(stored: float, wanted: int) -> None:
    if stored != wanted:
        raise RuntimeError(f"{stored} of {wanted} records are stored")


def _watched(side: Callable[[int], Row], count: int) -> Row:
    """Run a side and record the peak memory of this process."""
    process, done = psutil.Process(), threading.Event()
    peak = 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        row = side(count)
    finally:
        done.set()
        watcher.join()
    row.peak_mib = peak / _MIB
    return row


def _in_process(side: str, count: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.loading", "--side", side, "--records", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row = Row(**json.loads(done.stdout.splitlines()[-1]))
    print(f"{row.name}: {row.seconds:.1f} s", flush=True)
    return row


def _turn(sides: list[str], count: int, *, backwards: bool) -> list[Row]:
    """Run each side once; return the rows in the order of `sides`."""
    rows = [_in_process(name, count) for name in (sides[::-1] if backwards else sides)]
    return rows[::-1] if backwards else rows


def main(
    *,
    records: Annotated[int, typer.Option(help="How many each side loads.")] = 20_000,
    size: Annotated[int, typer.Option(help="Most characters per record.")] = 600,
    sides: Annotated[str, typer.Option(help="Some sides only, by commas.")] = ",".join(SIDES),
    repeats: Annotated[int, typer.Option(min=1, help="How often each side has its turn.")] = 1,
    only_memory: Annotated[
        bool, typer.Option("--memory", help="Measure peak memory instead of time.")
    ] = False,
    side: Annotated[str, typer.Option(hidden=True)] = "",
    folder: Annotated[Path, typer.Option(help="For results.")] = Path("benchmarks/results"),
) -> None:
    """Load the same records with every side; print, write and plot the durations."""
    if side:
        chosen = {**SIDES, **MEMORY_SIDES}[side]
        print(json.dumps(asdict(_watched(chosen, records))))
        return
    if only_memory:
        counts = (records, 10 * records)
        turns = [[_in_process(name, count) for name in MEMORY_SIDES for count in counts]]
    else:
        with tempfile.TemporaryDirectory() as work:
            kept = Path(work) / "texts.json"
            found, _ = chunks_and_questions(records, 0, size=size)
            kept.write_text(json.dumps(found))
            os.environ[_TEXTS] = str(kept)
            turns = [_turn(sides.split(","), records, backwards=n % 2 > 0) for n in range(repeats)]
    title = f"{records:,} records, tiny model"
    if not only_memory:
        title += f", {sum(map(len, found)) / records:.0f} characters each"
    _print(turns, title)
    folder.mkdir(parents=True, exist_ok=True)
    name = "memory" if only_memory else f"loading-{size}"
    (folder / f"{name}.json").write_text(
        json.dumps([asdict(row) for row in chain(*turns)], indent=2)
    )
    if not only_memory:
        _plot(_medians(turns), title, folder / f"{name}.png")
    return


def _medians(turns: list[list[Row]]) -> list[Row]:
    """Return the round with the median time, for each side."""
    return [
        sorted(rows, key=lambda row: row.seconds)[len(rows) // 2]
        for rows in zip(*turns, strict=True)
    ]


def _print(turns: list[list[Row]], title: str) -> None:
    table = Table(title=title)
    for column in ("side", "seconds", "records/s", "of the first", "then index, s", "peak MiB"):
        table.add_column(column, justify="left" if column == "side" else "right")
    firsts = [rows[0].seconds / rows[0].records for rows in turns]
    for row, rows in zip(_medians(turns), zip(*turns, strict=True), strict=True):
        paces = [each.seconds / each.records for each in rows]
        shares = [first / pace for first, pace in zip(firsts, paces, strict=True)]
        table.add_row(
            row.name,
            _range([each.seconds for each in rows], ".1f"),
            f"{row.records / row.seconds:,.0f}",
            _range(shares, ".2f"),
            f"{row.index_seconds:.1f}",
            f"{max(each.peak_mib for each in rows):,.0f}",
        )
    Console(width=120).print(table)


def _range(values: list[float], form: str) -> str:
    """Format the median, with the extremes if there are several values."""
    middle = f"{statistics.median_high(values):{form}}"  # as `_medians` has it
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):{form}} to {max(values):{form}})"


def _plot(rows: list[Row], title: str, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rates = [row.records / row.seconds for row in rows]
    colours = ["tab:green" if row.name.startswith("loader") else "tab:gray" for row in rows]
    figure, axis = plt.subplots(figsize=(8, 2.8))
    bars = axis.barh([row.name for row in rows], rates, color=colours)
    axis.bar_label(bars, [f" {rate:,.0f}" for rate in rates], fontsize=8)
    axis.set_xlim(0, max(rates) * 1.12)
    axis.set_xlabel("records per second, more is better", fontsize=8)
    axis.set_title(f"Loading {title}", fontsize=9, loc="left")
    axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    typer.run(main)
