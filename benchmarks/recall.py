"""Measure recall@10 against bytes in RAM for quantized and short vectors, on Qdrant Edge.

    python -m benchmarks.recall                      # 20,000 chunks: seven minutes on one core

Expected, before the first run: a pair finds 0.99 of what the full vectors find, in less than half
of the RAM; binary vectors with rescoring 0.97.

The texts are docstrings, embedded once by the tiny model (256 numbers). Each preset is loaded by
`QdrantLoader` and searched by `QdrantSearcher` with its defaults. A hit is right if its exact
cosine is among the ten highest. RAM is the size of those of Edge's own files that the preset keeps
there: vectors that are not on disk, quantized vectors, and graphs.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.texts import chunks_and_questions
from quernstone import Embedder
from quernstone.types import EngineInfo, Float32Array
from quernstone_qdrant import EdgeTarget, QdrantLoader, QdrantSearcher
from quernstone_qdrant.settings import PRESETS, CollectionSettings

SETTINGS: Mapping[str, CollectionSettings] = {
    "full": PRESETS["dense"],
    "float16": PRESETS["float16"],
    "scalar": PRESETS["scalar"],
    "turbo4": PRESETS["turbo"],
    "turbo2": replace(PRESETS["turbo"], quantization="turbo2"),
    "turbo1": replace(PRESETS["turbo"], quantization="turbo1"),
    "binary": PRESETS["binary"],
    "pair 64": PRESETS["mrl"],
    "pair 128": replace(PRESETS["mrl"], prefix=128),
    "pair 64, turbo4": replace(PRESETS["mrl"], quantization="turbo4"),
}
TOP = 10
_TIE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result for one preset."""

    name: str
    recall: float
    """Share of the ten nearest neighbours that is found."""
    ram: float
    """Bytes per vector in RAM."""
    disk: float
    """Bytes per vector on disk, read only for the hits."""
    milliseconds: float
    """Time per search, run one after another."""


class Precomputed:
    """An embedder with cached vectors, so that each preset is loaded with equal ones."""

    def __init__(self, embedder: Embedder, chunks: list[str], questions: list[str]) -> None:
        self.model, self.revision = embedder.model, embedder.revision
        self.dimensions, self.info = embedder.dimensions, embedder.info
        self.format_query = embedder.format_query
        self.documents = embedder.embed_documents(chunks, progress=True)
        self.queries = embedder.embed_queries(questions, progress=True)
        self._document = dict(zip(chunks, self.documents, strict=True))
        self._query = dict(zip(questions, self.queries, strict=True))

    model: str
    revision: str
    info: EngineInfo

    def embed_documents(self, texts: Sequence[str]) -> Float32Array:
        """Return the vectors. Shape: (len(texts), dimensions)."""
        return np.stack([self._document[text] for text in texts])

    def embed_query(self, text: str, instruction: str | None = None) -> Float32Array:  # noqa: ARG002
        """Return the vector. Shape: (dimensions,)."""
        return self._query[text]


def measure(
    name: str,
    settings: CollectionSettings,
    chunks: list[str],
    questions: list[str],
    embedder: Precomputed,
) -> Row:
    """Load and search one collection."""
    place = {text: number for number, text in enumerate(chunks)}
    with tempfile.TemporaryDirectory() as folder:
        target = EdgeTarget(folder, "chunks")
        loader = QdrantLoader(target, "chunks", embedder, preset=settings, chunk_size=None)
        loader.load(chunks)
        searcher = QdrantSearcher(target, "chunks", embedder)  # type: ignore[arg-type]
        stored = searcher.provenance.settings
        searcher.search(questions[0])
        start = time.perf_counter()
        found = [[hit.text for hit in searcher.search(text, TOP)] for text in questions]
        seconds = time.perf_counter() - start
        target.close()
        ram, disk = sizes(Path(folder), stored, embedder.dimensions)
    right = 0
    for query, texts in zip(embedder.queries, found, strict=True):
        cosines = embedder.documents @ query
        least = np.partition(cosines, -TOP)[-TOP] - _TIE
        right += sum(cosines[place[text]] >= least for text in texts)
    return Row(
        name=name,
        recall=right / (TOP * len(questions)),
        ram=ram / len(chunks),
        disk=disk / len(chunks),
        milliseconds=seconds / len(questions) * 1000,
    )


def sizes(folder: Path, settings: CollectionSettings, dimensions: int) -> tuple[int, int]:
    """Return the bytes of vectors and graphs in RAM and on disk.

    Raises:
        ValueError: The index is missing: Edge builds one only above 10 MB of vectors.
    """
    ram = disk = 0
    for name, vector in settings.vectors(dimensions).items():
        suffix = f"-{name}" if name else ""
        storage, index = f"vector_storage{suffix}", f"vector_index{suffix}"
        full = _bytes(folder, f"{storage}/matrix.dat")
        if not full:
            raise ValueError(f"{name!r} is not indexed; take more chunks")
        ram += _bytes(folder, f"{storage}/quantized.data")
        if vector.graph:
            ram += _bytes(folder, f"{index}/links*") + _bytes(folder, f"{index}/graph.bin")
        if vector.on_disk:
            disk += full
        else:
            ram += full
    return ram, disk


def _bytes(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.glob(f"*/shard/segments/*/{pattern}"))


def main(
    *,
    chunks: Annotated[int, typer.Option(help="Texts in the collection.")] = 20_000,
    questions: Annotated[int, typer.Option(help="Searches.")] = 1_000,
    folder: Annotated[Path, typer.Option(help="For results.")] = Path("benchmarks/results"),
) -> None:
    """Measure every preset; print, write and plot the results."""
    texts, asked = chunks_and_questions(chunks, questions)
    asked = list(dict.fromkeys(asked))
    with Embedder("tiny", dtype="float32") as model:
        embedder = Precomputed(model, texts, asked)
    rows = [
        measure(name, settings, texts, asked, embedder)
        for name, settings in track(SETTINGS.items(), "presets")
    ]
    full = rows[0]
    table = Table(
        title=f"{len(texts):,} chunks, {len(asked):,} questions, {embedder.dimensions} numbers"
    )
    for column in ("preset", f"recall@{TOP}", "of full", "RAM, bytes", "of full", "disk", "ms"):
        table.add_column(column, justify="left" if column == "preset" else "right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.recall:.4f}",
            f"{row.recall / full.recall:.4f}",
            f"{row.ram:.0f}",
            f"{row.ram / full.ram:.2f}",
            f"{row.disk:.0f}",
            f"{row.milliseconds:.2f}",
        )
    Console(width=110).print(table)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recall.json").write_text(json.dumps([asdict(row) for row in rows], indent=2))
    _plot(rows, len(texts), folder / "recall.png")


def _plot(rows: list[Row], chunks: int, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.5))
    for row in rows:
        pair = row.name.startswith("pair")
        ours = pair or row.name == "binary"
        axis.scatter(row.ram, row.recall, color="tab:green" if ours else "tab:gray", zorder=3)
        axis.annotate(
            row.name,
            (row.ram, row.recall),
            xytext=(0, 7 if pair else -13),  # apart: pairs lie on top of others
            textcoords="offset points",
            fontsize=8,
            ha="center",
        )
    axis.axhline(rows[0].recall * 0.99, color="tab:gray", linestyle=":", linewidth=1)
    axis.annotate(
        "0.99 of the full vectors", (rows[0].ram, rows[0].recall * 0.99), fontsize=7, ha="right",
        xytext=(0, -9), textcoords="offset points",
    )  # fmt: skip
    axis.margins(y=0.15)
    axis.set_xscale("log", base=2)
    ticks = [64, 128, 256, 512, 1024]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xlim(56, 1400)
    axis.set_xlabel("bytes per vector in RAM (vectors, quantized vectors, graph)")
    axis.set_ylabel(f"recall@{TOP}")
    axis.grid(alpha=0.3)
    axis.set_title(f"{chunks:,} docstrings, tiny model (256 numbers), Qdrant Edge", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    typer.run(main)
