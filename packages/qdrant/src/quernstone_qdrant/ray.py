"""The same load on many machines: Ray Data reads, splits, embeds on every accelerator, and writes.

    dataset -> read, split, look up -> embed (a pool of actors) -> write -> the driver counts

A row between the stages is a group of whole documents. Everything that a `QdrantLoader` relies on
is in the points: their ids, made of the document's key, and the hash of their content. So a task
that Ray runs again, because its machine is gone, does the same writes again, and a load that is
started again goes on where the first one stopped.

Importing this module needs the extra `ray`.
"""

from __future__ import annotations

import pickle
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa
from qdrant_client import QdrantClient

from quernstone.errors import ConfigError, MissingExtraError, QuernstoneError
from quernstone_qdrant.documents.chunking import Chunker
from quernstone_qdrant.documents.layouts import LayoutName, layout_of
from quernstone_qdrant.documents.points import Point, make_point
from quernstone_qdrant.loading.batches import BatchReader
from quernstone_qdrant.loading.pipeline import Batch
from quernstone_qdrant.loading.steps import embed, look_up, write
from quernstone_qdrant.provenance import Provenance, TextEmbedder, prepare_collection
from quernstone_qdrant.report import LoadReport
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import CollectionSettings, DeferIndex, Preset, SettingsWish
from quernstone_qdrant.store import REQUEST_BYTES, PointStore
from quernstone_qdrant.targets import Target, as_target

try:
    import ray
    from ray.data import ActorPoolStrategy, Dataset
    from ray.exceptions import RayTaskError
except ImportError as error:
    raise MissingExtraError("ray", "ray", "quernstone-qdrant") from error

Connect: TypeAlias = "Callable[[], QdrantClient | Target]"
OpenEmbedder: TypeAlias = "Callable[[], TextEmbedder]"

_COLUMN = "batches"
_TASK_CPUS = 0.5
"""Of reading and writing tasks, which wait for Qdrant half of the time."""
_BATCH_CHARS = 256_000
"""About 64,000 tokens, as many as an accelerator computes at once."""
_STORES: dict[str, PointStore] = {}
"""Of this process, by `_Plan.token`: Ray runs many tasks in one process, and a connection is not
made for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What every worker must know. It is pickled."""

    token: str
    connect: Connect
    collection: str
    open_embedder: OpenEmbedder
    provenance: Provenance
    max_points: int | None
    chunk_size: int | None
    chunk_overlap: int | None
    batch_size: int
    request_bytes: int
    patience: float


class RayLoader:
    """Writes a Ray dataset into one collection. See `QdrantLoader` for what a load means.

    It takes functions instead of a client and an embedder, because every worker makes its own.
    They must pickle: use `functools.partial`.

    Args:
        connect: Makes a client of a server that all workers reach. (A folder has one opener.)
        collection: Created when missing.
        open_embedder: Makes the embedder of one worker.
        workers: Actors that embed.
        gpus: Accelerators for each of them, which may be a fraction; 0: they use the CPU.
        cpus: Cores for each of them.
        preset: See `QdrantLoader`; so are all that follow, except `documents`.
        layout: Shape of the payload.
        hybrid: Whether there is BM25.
        chunk_size: Most characters per chunk.
        chunk_overlap: Most characters that a chunk repeats of the one before.
        documents: Rows of the dataset that go through the stages together. What is lost with a
            machine is a few times this for each of its workers.
        batch_size: Chunks per look-up and embedding call.
        request_bytes: About how large a write may become.
        patience: Seconds for which a request is repeated that fails in passing.
        defer_index: Whether the server builds its index only when a load has ended.
        index_timeout: Wait so many seconds, at the end of a load, until all is indexed.
        skip_errors: Leave out what cannot be embedded, count it, and go on. Otherwise the load
            stops; what other workers have in hand may still be written.
        on_error: Called, in this process, with each error that is left out.
        progress: Called, in this process, with the report so far after each group of documents.

    Raises:
        ConfigError: A size that can never work, or workers that would reserve every core.

    Example:
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
        skip_errors: bool = False,
        on_error: Callable[[QuernstoneError], None] | None = None,
        progress: Callable[[LoadReport], None] | None = None,
    ) -> None:
        for name, value in (
            ("workers", workers),
            ("documents", documents),
            ("batch_size", batch_size),
            ("request_bytes", request_bytes),
        ):
            if value < 1:
                raise ConfigError(f"`{name}` is {value}; it must be at least 1")
        Chunker(chunk_size, chunk_overlap)  # an error in here is better than one on a worker
        self._connect, self._collection = connect, collection
        self._open_embedder = open_embedder
        self._workers, self._gpus, self._cpus = workers, gpus, cpus
        self._wish = SettingsWish(preset=preset, layout=layout, hybrid=hybrid)
        self._chunking = {"chunk_size": chunk_size, "chunk_overlap": chunk_overlap}
        self._documents, self._batch_size = documents, batch_size
        self._request_bytes, self._patience = request_bytes, patience
        self._defer_index, self._index_timeout = defer_index, index_timeout
        self._skip_errors = skip_errors
        self._on_error, self._progress = on_error, progress

    def load(self, dataset: Dataset) -> LoadReport:
        """Load a dataset. Ray is started when it does not run.

        Args:
            dataset: Its rows are what `to_record` takes: a text column, perhaps an id, and
                metadata. Keys must be unique in the whole dataset: no worker sees the rows of all
                others, so a second document of a key is not noticed, and overwrites the first.

        Returns:
            The figures of this call, without `retries`: the workers do not tell of them.

        Raises:
            RecordError: A row cannot be loaded, and `skip_errors` is off.
            CollectionError: The collection cannot take these vectors.
            ProvenanceError: The collection was made with another model.
            EngineError: The model failed.
            TargetError: Qdrant failed; what was confirmed before stays.
        """
        if not ray.is_initialized():
            ray.init()
        self._check_cores()
        started = time.monotonic()
        with _unwrapped():
            plan = self._plan()
            target = as_target(self._connect(), self._collection)
            report = LoadReport(ignored=tuple(target.ignored(plan.provenance.settings)))
            with target.deferred_index(self._defer_index):
                for row in self._stages(dataset, plan).iter_rows():
                    done = pickle.loads(row[_COLUMN])
                    if isinstance(done, QuernstoneError):
                        raise done
                    report = done.added_to(report, time.monotonic() - started)
                    self._tell(done, report)
            if self._index_timeout is not None:
                target.wait_for_index(self._index_timeout)
            target.close()
        return replace(report, seconds=time.monotonic() - started)

    def _tell(self, done: _Done, report: LoadReport) -> None:
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
                f"{self._workers} workers with {self._cpus:g} cores each leave none of the "
                f"cluster's {cores:g} cores for reading and writing, and the load would wait "
                "forever; lower `workers` or `cpus`, which may be a fraction"
            )

    def _plan(self) -> _Plan:
        """Make sure of the collection, on a worker: the driver may have no accelerator."""
        prepare = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(_prepare)
        provenance, max_points = ray.get(
            prepare.remote(self._connect, self._collection, self._open_embedder, self._wish)
        )
        return _Plan(
            token=uuid.uuid4().hex,
            connect=self._connect,
            collection=self._collection,
            open_embedder=self._open_embedder,
            provenance=provenance,
            max_points=max_points,
            batch_size=self._batch_size,
            request_bytes=self._request_bytes,
            patience=self._patience,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What became of one group of documents."""

    seen: int
    chunks: int
    embedded: int
    skipped: int
    removed: int
    failures: tuple[QuernstoneError, ...]

    @classmethod
    def of(cls, batches: list[Batch]) -> _Done:
        return cls(
            seen=sum(batch.seen for batch in batches),
            chunks=sum(batch.chunks for batch in batches),
            embedded=sum(len(batch.points) for batch in batches),
            skipped=sum(batch.skipped for batch in batches),
            removed=sum(len(batch.stale) for batch in batches),
            failures=tuple(failure.error for batch in batches for failure in batch.failures),
        )

    def added_to(self, report: LoadReport, seconds: float) -> LoadReport:
        return replace(
            report,
            seen=report.seen + self.seen,
            chunks=report.chunks + self.chunks,
            embedded=report.embedded + self.embedded,
            skipped=report.skipped + self.skipped,
            removed=report.removed + self.removed,
            failed=report.failed + len(self.failures),
            seconds=seconds,
        )


def _prepare(
    connect: Connect, collection: str, open_embedder: OpenEmbedder, wish: SettingsWish
) -> tuple[Provenance, int | None]:
    target = as_target(connect(), collection)
    provenance = prepare_collection(target, open_embedder(), wish)
    max_points = target.state().max_batch
    target.close()
    return provenance, max_points


def _carrying(work: Callable[[], object]) -> pa.Table:
    """The result of a stage, or the error that ended it, which the driver raises.

    Ray Data wraps what a stage raises in an error of its own, and the original is lost on the way.
    """
    try:
        return _packed(work())
    except QuernstoneError as error:
        return _packed(error)


def _read(rows: pa.Table, plan: _Plan) -> pa.Table:
    """Split a group of documents, and look up what is stored of them."""
    return _carrying(lambda: _looked_up(rows, plan))


def _looked_up(rows: pa.Table, plan: _Plan) -> list[Batch]:
    made = plan.provenance
    layout = layout_of(made.settings.layout)
    reader = BatchReader(
        Chunker(plan.chunk_size, plan.chunk_overlap),
        lambda chunk: make_point(made.namespace, made.fingerprint, chunk, layout),
        size=plan.batch_size,
        batch_chars=lambda: _BATCH_CHARS,  # how fast the model is, another machine knows
        skip_errors=True,  # whether an error stops the load is the driver's business
    )
    batches = list(reader.batches(rows.to_pylist()))
    for batch in batches:
        look_up(batch, _store(plan), made.namespace)
    return [_lightened(batch) for batch in batches]


class _Embed:
    """An actor with a model."""

    def __init__(self, plan: _Plan) -> None:
        self._embedder = plan.open_embedder()

    def __call__(self, row: pa.Table) -> pa.Table:
        return _carrying(lambda: self._embedded(_unpacked(row)))

    def _embedded(self, batches: list[Batch]) -> list[Batch]:
        for batch in batches:
            embed(batch, self._embedder, skip_errors=True)
        return batches


def _write(row: pa.Table, plan: _Plan) -> pa.Table:
    """Store a group of documents, each from its first chunk to its last."""
    return _carrying(lambda: _written(_unpacked(row), plan))


def _written(batches: list[Batch], plan: _Plan) -> _Done:
    for batch in batches:
        write(batch, _store(plan))
    return _Done.of(batches)


def _store(plan: _Plan) -> PointStore:
    store = _STORES.get(plan.token)
    if store is None:
        target = as_target(plan.connect(), plan.collection)
        store = _STORES[plan.token] = PointStore(
            target,
            plan.provenance.settings,
            Retry(plan.patience),
            max_points=plan.max_points,
            request_bytes=plan.request_bytes,
        )
    return store


def _lightened(batch: Batch) -> Batch:
    """Without what the later stages do not need: every chunk knows its whole document."""
    points = [_without_document(point) for point in batch.points]
    return replace(batch, points=points, previous=None, follower=None)


def _without_document(point: Point) -> Point:
    chunk = point.chunk
    return replace(point, chunk=replace(chunk, record=replace(chunk.record, text="")))


def _packed(value: object) -> pa.Table:
    column = pa.array([pickle.dumps(value)], type=pa.large_binary())
    return pa.table({_COLUMN: column})


def _unpacked(row: pa.Table) -> list[Batch]:
    """Raises the error that an earlier stage hands on in the place of batches."""
    value: list[Batch] | QuernstoneError = pickle.loads(row[_COLUMN][0].as_py())
    if isinstance(value, QuernstoneError):
        raise value
    return value


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise what a worker raised, instead of Ray's error about it."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, QuernstoneError):
            raise error.cause from error
        raise
