"""Estimate what a migration needs, from a sample of the points."""

from __future__ import annotations

import time
from itertools import islice

import orjson

from quernstone_qdrant.embedders import TextEmbedder
from quernstone_qdrant.migration.contents import Rebuilt, Unreadable
from quernstone_qdrant.migration.destination import Source
from quernstone_qdrant.migration.report import MigrationPlan
from quernstone_qdrant.migration.switching import Pair
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import CollectionSettings

_TIMED = 64
"""Texts to embed for the estimate of the time."""


def plan_migration(
    pair: Pair,
    source: Source,
    new: Provenance,
    embedder: TextEmbedder,
    retry: Retry,
    sampled: int,
    *,
    replaces: bool,
) -> MigrationPlan:
    """Rebuild the first points and embed some of them; write nothing.

    Args:
        pair: The collections; the new one may be missing.
        source: The old collection.
        new: Provenance of the new collection.
        embedder: Embedder of the new collection.
        retry: Policy for failed requests.
        sampled: Number of points to read.
        replaces: True if the old collection is deleted at the switch.
    """
    contents = source.contents(new)
    points = retry.call(lambda: list(islice(pair.old.scroll(None, batch=sampled), sampled)))
    made: list[Rebuilt] = []
    for point in points:
        try:
            made.append(contents.rebuild(point))
        except Unreadable:  # noqa: PERF203
            continue
    total = retry.call(pair.old.count)
    fresh = [one.text for one in made if not one.reuses_vector]
    embedded = round(total * len(fresh) / max(len(points), 1))
    seconds = embedding_seconds(embedder, fresh, embedded)
    size = sum(len(orjson.dumps(one.payload)) for one in made) / max(len(made), 1)
    memory, disk = memory_and_disk(new.settings, new.dimensions, total, size)
    old = source.provenance
    return MigrationPlan(
        collection=pair.name,
        old=pair.old.collection,
        new=pair.new.collection,
        how=_how(pair, replaces=replaces),
        old_model="unknown" if old is None else old.model,
        new_model=new.model,
        points=total,
        embedded=embedded,
        dimensions=new.dimensions,
        memory_bytes=memory,
        disk_bytes=disk,
        seconds=seconds,
        notes=source.notes,
    )


def embedding_seconds(embedder: TextEmbedder, texts: list[str], total: int) -> float:
    """Estimate the seconds to embed `total` texts such as these, by embedding some of them."""
    timed = texts[:_TIMED]
    if not timed:
        return 0.0
    embedder.embed_documents(timed[:1])  # loads the model
    begun = time.monotonic()
    embedder.embed_documents(timed)
    return (time.monotonic() - begun) * total / len(timed)


def _how(pair: Pair, *, replaces: bool) -> str:
    filled = f"a new collection {pair.new.collection!r} is filled beside the old one"
    if pair.switched:
        return f"switched already: late writes to {pair.old.collection!r} are applied"
    if pair.old.kind == "edge":
        return f"{filled}, then their folders exchange names"
    if replaces:
        return f"{filled}, then {pair.name!r} is deleted and becomes an alias"
    return f"{filled}, then the alias {pair.name!r} is switched"


def memory_and_disk(
    settings: CollectionSettings, dimensions: int, points: int, payload_bytes: float
) -> tuple[int, int]:
    """Estimate the bytes of memory and disk of a collection on a server or in Edge.

    The memory is that of the vectors that are kept in RAM, times 1.5 for graph and segments, as in
    Qdrant's guide to capacity planning.

    Args:
        settings: Its settings.
        dimensions: Size of the embeddings.
        points: Number of points.
        payload_bytes: Mean size of a payload.
    """
    sizes = {"float32": 4.0, "float16": 2.0, "uint8": 1.0}
    bits = {"scalar": 8, "binary": 1, "turbo1": 1, "turbo2": 2, "turbo4": 4, "turbo8": 8}
    memory, disk = 0.0, payload_bytes
    for vector in settings.vectors(dimensions).values():
        full = vector.size * sizes[vector.datatype]
        quantized = vector.size * bits[vector.quantization] / 8 if vector.quantization else 0.0
        memory += quantized + (0.0 if vector.on_disk else full)
        disk += quantized + full
    if settings.bm25 == "sparse":
        disk += payload_bytes  # about one weight of 8 bytes per term
    return int(1.5 * memory * points), int(1.5 * disk * points)
