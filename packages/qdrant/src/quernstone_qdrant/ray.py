"""Load a Ray dataset on many machines: read, split, embed on every accelerator, and write.

    dataset -> read, split, look up -> embed (a pool of actors) -> write -> the driver counts

Each row between the stages is a group of whole documents. As for `QdrantLoader`, ids and hashes in
the points are the only state. So a task that Ray retries after losing a machine repeats the same
writes, and a restarted load continues where the first one stopped.

This module requires the extra `ray`.
"""

from __future__ import annotations

import pickle
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa
from qdrant_client import QdrantClient

from quernstone.errors import ConfigError, MissingExtraError, QuernstoneError
from quernstone_qdrant.documents.chunking import Chunker
from quernstone_qdrant.documents.layouts import LayoutName
from quernstone_qdrant.documents.points import make_point
from quernstone_qdrant.embedders import AnyEmbedder, as_embedder
from quernstone_qdrant.errors import RecordError, TargetError
from quernstone_qdrant.identity import check_identity, check_unchanged, raise_if_replaced
from quernstone_qdrant.loading.batches import BatchReader
from quernstone_qdrant.loading.pipeline import Batch
from quernstone_qdrant.loading.source_guard import SourceGuard
from quernstone_qdrant.loading.steps import embed, look_up, write
from quernstone_qdrant.overrides import SettingsOverrides
from quernstone_qdrant.provenance import Provenance, prepare_collection
from quernstone_qdrant.report import LoadReport
from quernstone_qdrant.retry import OPENING_PATIENCE, Retry
from quernstone_qdrant.settings import CollectionSettings, DeferIndex, Preset
from quernstone_qdrant.store import REQUEST_BYTES, PointStore
from quernstone_qdrant.targets import Target, as_target

try:
    import ray
    from ray.data import ActorPoolStrategy, Dataset

    from quernstone_qdrant.ray_rows import (
        COLUMN,
        GroupResult,
        original_errors,
        result_or_error,
        unpacked,
    )
except ImportError as error:
    raise MissingExtraError("ray", "ray", "quernstone-qdrant") from error

Connect: TypeAlias = "Callable[[], QdrantClient | Target]"
OpenEmbedder: TypeAlias = "Callable[[], AnyEmbedder]"

_TASK_CPUS = 0.5
"""CPUs per reading or writing task, which waits for Qdrant half of the time."""
_BATCH_CHARS = 256_000
"""About 64,000 tokens, as many as an accelerator computes in one call."""
_STORES: dict[str, PointStore] = {}
"""Open stores of this process, by `_Plan.token`, so that its tasks share one connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The settings that every worker needs. It is pickled."""

    token: str
    connect: Connect
    collection: str
    open_embedder: OpenEmbedder
    provenance: Provenance
    notes: list[str]
    """Changes of the collection when it was opened, in words."""
    chunk_size: int | None
    chunk_overlap: int | None
    batch_size: int
    request_bytes: int
    patience: float
    source: str
    replace_sources: bool


class RayLoader:
    """A loader that writes a Ray dataset into a collection; see `QdrantLoader` for how loads work.

    It takes functions instead of a client and an embedder, because each worker creates its own.
    They must be picklable: use `functools.partial`.

    Args:
        connect: Returns a client of a server that all workers can reach (not an embedded one).
        collection: Name of the collection, which is created if it does not exist.
        open_embedder: Returns the embedder of a worker.
        workers: Number of actors that embed.
        gpus: Accelerators per actor, possibly a fraction; 0: the actors use the CPU.
        cpus: CPU cores per actor.
        preset: See `QdrantLoader` for this and all later arguments except `documents`.
        settings: Single fields of `CollectionSettings` to change, by name.
        layout: Shape of the payload.
        hybrid: Add BM25 for hybrid search.
        chunk_size: Maximum number of characters per chunk.
        chunk_overlap: Maximum number of characters that a chunk repeats from the previous one.
        documents: Rows per group. A lost machine costs a few groups for each of its workers.
        batch_size: Maximum number of chunks per lookup and embedding call.
        request_bytes: Approximate size limit of a write.
        patience: Seconds in which to retry a request that fails temporarily.
        defer_index: Whether the server builds its index only after the load.
        index_timeout: Seconds to wait after the load until all points are indexed.
        replace_sources: Let rows replace documents of the same key from another source.
        skip_errors: Skip and count errors; otherwise the first one stops the load.
        on_error: Called on the driver with each error that is skipped.
        progress: Called on the driver with the report so far after each group of documents.

    Raises:
        ConfigError: An argument is out of range.

    Examples:
        >>> from functools import partial
        >>> from quernstone import Embedder
        >>> from quernstone_qdrant.ray import RayLoader
        >>> from quernstone_qdrant.targets import connect
        >>> loader = RayLoader(
        ...     partial(connect, url="http://qdrant:6333", prefer_grpc=True),
        ...     "papers",
        ...     partial(Embedder, "Qwen/Qwen3-Embedding-0.6B"),
        ...     workers=16,
        ...     gpus=1,
        ... )  # doctest: +SKIP
        >>> loader.load(ray.data.read_parquet("s3://bucket/papers/"))  # doctest: +SKIP
    """

    def __init__(
        self,
        connect: Connect,
        collection: str,
        open_embedder: OpenEmbedder,
        *,
        workers: int,
        gpus: float = 0,
        cpus: float = 1,
        preset: Preset | CollectionSettings | None = None,
        settings: Mapping[str, object] | None = None,
        layout: LayoutName | None = None,
        hybrid: bool | None = None,
        chunk_size: int | None = 1200,
        chunk_overlap: int | None = None,
        documents: int = 256,
        batch_size: int = 256,
        request_bytes: int = REQUEST_BYTES,
        patience: float = 300.0,
        defer_index: DeferIndex = "none",
        index_timeout: float | None = None,
        replace_sources: bool = False,
        skip_errors: bool = False,
        on_error: Callable[[QuernstoneError], None] | None = None,
        progress: Callable[[LoadReport], None] | None = None,
    ) -> None:
        sizes = {"workers": workers, "documents": documents, "batch_size": batch_size}
        sizes["request_bytes"] = request_bytes
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"`{name}` is {value}; it must be at least 1")
        Chunker(chunk_size, chunk_overlap)  # validates the sizes before any worker starts
        self._connect, self._collection = connect, collection
        self._open_embedder = open_embedder
        self._workers, self._gpus, self._cpus = workers, gpus, cpus
        self._overrides = SettingsOverrides(
            preset=preset, layout=layout, hybrid=hybrid, changes=settings or {}
        )
        self._chunking = {"chunk_size": chunk_size, "chunk_overlap": chunk_overlap}
        self._documents, self._batch_size = documents, batch_size
        self._request_bytes, self._patience = request_bytes, patience
        self._defer_index, self._index_timeout = defer_index, index_timeout
        self._replace_sources = replace_sources
        self._skip_errors, self._on_error, self._progress = skip_errors, on_error, progress

    def load(self, dataset: Dataset, *, source: str = "") -> LoadReport:
        """Load a dataset, starting Ray if it is not running.

        Args:
            dataset: Its rows are mappings that `to_record` accepts: a text, optionally an id, and
                metadata. Ids must be unique in the whole dataset: each worker sees only its own
                rows, so of two documents with one id, the second silently overwrites the first.
            source: Where the rows come from: documents of other sources are not replaced, unless
                `replace_sources` is set.

        Returns:
            The report of this load. Its `retries` is always 0: workers do not report retries.

        Raises:
            ConfigError: The workers would reserve every core of the cluster.
            RecordError: A row cannot be loaded, and `skip_errors` is off.
            CollectionError: The collection cannot store these vectors.
            ProvenanceError: The collection was created with another model.
            EngineError: The model failed.
            TargetError: Qdrant failed. Groups that it confirmed before remain stored.
        """
        if not ray.is_initialized():
            ray.init()
        self._check_cores()
        started = time.monotonic()
        with original_errors(), ExitStack() as stack:
            plan = self._plan(source)
            named = stack.enter_context(closing(as_target(self._connect(), self._collection)))
            target = stack.enter_context(closing(as_target(self._connect(), plan.collection)))
            report = LoadReport(ignored=tuple(target.ignored(plan.provenance.settings)))
            with target.deferred_index(self._defer_index) as deferral:
                try:
                    for row in self._stages(dataset, plan).iter_rows():
                        done = pickle.loads(row[COLUMN])
                        if isinstance(done, QuernstoneError):
                            raise done
                        report = done.added_to(report, time.monotonic() - started)
                        self._notify(done, report)
                except (TargetError, RecordError) as error:
                    raise_if_replaced(error, named, target, plan.provenance)
                    raise
                Retry(self._patience).call(lambda: check_unchanged(named, target, plan.provenance))
            if self._index_timeout is not None:
                target.wait_for_index(self._index_timeout)
            with suppress(TargetError):  # the load is complete, even without these figures
                state = Retry(min(self._patience, OPENING_PATIENCE)).call(target.state)
                report = replace(report, points=state.points, status=state.status)
        return replace(report, notes=(*plan.notes, *deferral), seconds=time.monotonic() - started)

    def _notify(self, done: GroupResult, report: LoadReport) -> None:
        for failure in done.failures:
            if not self._skip_errors:
                raise failure
            if self._on_error is not None:
                self._on_error(failure)
        if self._progress is not None:
            self._progress(report)

    def _check_cores(self) -> None:
        cores = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
        if self._workers * self._cpus > cores - 2 * _TASK_CPUS:
            raise ConfigError(
                f"{self._workers} workers with {self._cpus:g} cores each would leave none of the "
                f"cluster's {cores:g} cores for reading and writing, and the load would wait "
                "forever; lower `workers` or `cpus` (which may be a fraction)"
            )

    def _plan(self, source: str) -> _Plan:
        """Prepare the collection, on a worker because the driver may not have an accelerator."""
        prepare = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(_prepare)
        name, provenance, notes = ray.get(
            prepare.remote(
                self._connect,
                self._collection,
                self._open_embedder,
                self._overrides,
                self._patience,
            )
        )
        return _Plan(
            token=uuid.uuid4().hex,
            connect=self._connect,
            collection=name,
            open_embedder=self._open_embedder,
            provenance=provenance,
            notes=notes,
            batch_size=self._batch_size,
            request_bytes=self._request_bytes,
            patience=self._patience,
            source=source,
            replace_sources=self._replace_sources,
            **self._chunking,
        )

    def _stages(self, dataset: Dataset, plan: _Plan) -> Dataset:
        task: dict[str, Any] = {"batch_format": "pyarrow", "num_cpus": _TASK_CPUS}
        read = dataset.map_batches(partial(_read, plan=plan), batch_size=self._documents, **task)
        embedded = read.map_batches(
            _Embed,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(plan,),
            compute=ActorPoolStrategy(size=self._workers),
            num_cpus=self._cpus,
            num_gpus=self._gpus,
        )
        return embedded.map_batches(partial(_write, plan=plan), batch_size=1, **task)


def _prepare(
    connect: Connect,
    collection: str,
    open_embedder: OpenEmbedder,
    overrides: SettingsOverrides,
    patience: float,
) -> tuple[str, Provenance, list[str]]:
    named = as_target(connect(), collection)
    target = Retry(min(patience, OPENING_PATIENCE)).call(named.pinned)
    notes: list[str] = []
    provenance = prepare_collection(
        target, as_embedder(open_embedder()), overrides, note=notes.append, patience=patience
    )
    target.close()
    return target.collection, provenance, notes


def _read(rows: pa.Table, plan: _Plan) -> pa.Table:
    """Split a group of documents into chunks, and look them up."""
    return result_or_error(lambda: _looked_up(rows, plan))


def _looked_up(rows: pa.Table, plan: _Plan) -> list[Batch]:
    provenance = plan.provenance
    layout = provenance.settings.payloads
    reader = BatchReader(
        Chunker(plan.chunk_size, plan.chunk_overlap),
        lambda chunk: make_point(provenance.namespace, provenance.fingerprint, chunk, layout),
        size=plan.batch_size,
        batch_chars=lambda: _BATCH_CHARS,  # fixed: the speed of the model is not known here
        skip_errors=True,  # the driver decides whether an error stops the load
        source=plan.source,
        indexes=provenance.settings.indexes,
    )
    guard = SourceGuard(
        collection=plan.collection,
        namespace=provenance.namespace,
        fingerprint=provenance.fingerprint,
        replace_sources=plan.replace_sources,
        allow_renames=False,
        skip_errors=True,
    )
    batches = list(reader.batches(rows.to_pylist()))
    for batch in batches:
        look_up(batch, _store(plan), provenance.namespace, guard)
    return [_without_texts(batch) for batch in batches]


class _Embed:
    """An actor that holds a model."""

    def __init__(self, plan: _Plan) -> None:
        self._embedder = as_embedder(plan.open_embedder())

    def __call__(self, row: pa.Table) -> pa.Table:
        return result_or_error(lambda: self._embedded(unpacked(row)))

    def _embedded(self, batches: list[Batch]) -> list[Batch]:
        for batch in batches:
            embed(batch, self._embedder, skip_errors=True)
        return batches


def _write(row: pa.Table, plan: _Plan) -> pa.Table:
    """Write a group of documents in the order of their chunks."""
    return result_or_error(lambda: _written(unpacked(row), plan))


def _written(batches: list[Batch], plan: _Plan) -> GroupResult:
    for batch in batches:
        write(batch, _store(plan), skip_errors=True)
    return GroupResult.of(batches)


def _store(plan: _Plan) -> PointStore:
    store = _STORES.get(plan.token)
    if store is None:
        target = as_target(plan.connect(), plan.collection)
        store = _STORES[plan.token] = PointStore(
            target,
            plan.provenance.settings,
            Retry(plan.patience),
            request_bytes=plan.request_bytes,
            check=partial(check_identity, target, plan.provenance),
        )
    return store


def _without_texts(batch: Batch) -> Batch:
    """Drop the texts of whole documents, to which chunks refer: later stages do not need them."""
    points = [
        replace(p, chunk=replace(p.chunk, record=replace(p.chunk.record, text="")))
        for p in batch.points
    ]
    return replace(batch, points=points, previous=None, follower=None)
