"""Run one load, from the first record to the final report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Literal, TypeAlias

from quernstone.errors import QuernstoneError
from quernstone_qdrant.documents.chunking import Chunker
from quernstone_qdrant.documents.deadletter import DeadLetters
from quernstone_qdrant.documents.points import make_point
from quernstone_qdrant.documents.records import to_record
from quernstone_qdrant.embedders import TextEmbedder
from quernstone_qdrant.errors import CollectionReplacedError, TargetError
from quernstone_qdrant.identity import check_identity, check_unchanged, raise_if_replaced
from quernstone_qdrant.loading.batch_size import AdaptiveBatchSize
from quernstone_qdrant.loading.batches import BatchReader
from quernstone_qdrant.loading.garbage_collection import MANY_RECORDS, freeze_existing_objects
from quernstone_qdrant.loading.pipeline import Batch, Pipeline
from quernstone_qdrant.loading.precomputed import PrecomputedVectors, Vectors
from quernstone_qdrant.loading.prune import PruneCandidates, refuse_limited
from quernstone_qdrant.loading.seen import SeenHashes
from quernstone_qdrant.loading.source_guard import SourceGuard
from quernstone_qdrant.loading.steps import embed, look_up, write
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.report import Depths, LoadReport
from quernstone_qdrant.retry import OPENING_PATIENCE, Retry
from quernstone_qdrant.settings import DeferIndex
from quernstone_qdrant.sources import FileRecords
from quernstone_qdrant.store import PointStore
from quernstone_qdrant.targets import Target

Prune: TypeAlias = "bool | Literal['collection']"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """The settings shared by all loads of a loader; see `QdrantLoader`."""

    target: Target
    """The collection, which stays the same when an alias is switched."""
    named: Target
    """The collection by the name that the user gave."""
    provenance: Provenance
    embedder: TextEmbedder
    chunker: Chunker
    batch_size: int
    request_bytes: int
    patience: float
    defer_index: DeferIndex
    index_timeout: float | None
    """Seconds to wait for the index after the load; None: do not wait."""
    notes: Sequence[str]
    """Changes of the collection when it was opened, in words."""
    replace_sources: bool
    skip_errors: bool
    dead_letter: str | PathLike[str] | None
    on_error: Callable[[QuernstoneError], None] | None
    progress: Callable[[LoadReport], None] | None


class _Stopped(Exception):  # noqa: N818 - not an error
    """Ends the wait for the index after `stop`."""


class Load:
    """A single load. Call `run` once."""

    def __init__(
        self,
        plan: LoadPlan,
        records: Iterable[object],
        *,
        source: str,
        prune: Prune,
        vectors: Vectors | None = None,
    ) -> None:
        if prune:
            refuse_limited(records)
        self._plan = plan
        self._files = records if isinstance(records, FileRecords) else None
        self._prune_scope = prune
        self._stopping = self._indexing = self._frozen = False
        self._newest = -1
        """Number of the newest batch that was counted."""
        self._index = ""
        self._deferral_notes: list[str] = []
        """Notes of the deferred index."""
        self._started = time.monotonic()
        self.report = LoadReport(ignored=tuple(plan.target.ignored(plan.provenance.settings)))
        self._retry = Retry(plan.patience)
        provenance = plan.provenance
        layout = provenance.settings.payloads
        self._store = PointStore(
            plan.target,
            provenance.settings,
            self._retry,
            request_bytes=plan.request_bytes,
            check=partial(check_identity, plan.target, provenance),
        )
        self._letters: DeadLetters | None = None
        self._seen = SeenHashes() if prune else None
        self._candidates = PruneCandidates(provenance.namespace) if prune else None
        self._batch_size = AdaptiveBatchSize()
        dimensions = provenance.dimensions
        convert = partial(
            to_record, node_rule=layout.node_rule, record_rule=provenance.settings.record_rule
        )
        self._reader = BatchReader(
            plan.chunker,
            partial(make_point, provenance.namespace, provenance.fingerprint, layout=layout),
            size=plan.batch_size,
            batch_chars=lambda: self._batch_size.chars,
            skip_errors=plan.skip_errors,
            source=source,
            seen=self._seen,
            indexes=provenance.settings.indexes,
            convert=convert
            if vectors is None
            else PrecomputedVectors(convert, vectors, dimensions),
        )
        self._pipeline = Pipeline(
            self._reader.batches(records),
            look_up=partial(
                look_up,
                store=self._store,
                namespace=provenance.namespace,
                guard=SourceGuard(
                    collection=plan.named.collection,
                    namespace=provenance.namespace,
                    fingerprint=provenance.fingerprint,
                    replace_sources=plan.replace_sources,
                    allow_renames=bool(prune),
                    skip_errors=plan.skip_errors,
                ),
            ),
            embed=self._embed,
            write=partial(write, store=self._store, skip_errors=plan.skip_errors),
            count=self._count_batch,
            give_up=self._retry.stop,
            writers=plan.target.writers,
        )

    @property
    def depths(self) -> Depths:
        """Number of batches in or waiting for each stage."""
        if self._indexing:
            return Depths(indexing=True, index=self._index)
        return self._pipeline.depths

    def stop(self) -> None:
        """End the load early; see `QdrantLoader.stop`."""
        self._stopping = True
        self._pipeline.stop()

    def run(self) -> LoadReport:
        """Load, prune, and wait for the index; see `QdrantLoader.load`."""
        plan = self._plan
        with ExitStack() as stack:
            self._stack = stack
            if plan.dead_letter is not None:
                self._letters = stack.enter_context(DeadLetters(plan.dead_letter))
            if self._seen is not None and self._candidates is not None:
                stack.enter_context(self._seen)
                stack.enter_context(self._candidates)
            self._deferral_notes = stack.enter_context(plan.target.deferred_index(plan.defer_index))
            try:
                if self._candidates is not None:
                    self._candidates.collect(self._store, lambda: self._stopping)
                self._pipeline.run()
                if self._seen is not None and self._candidates is not None:
                    self._prune(self._seen, self._candidates)
                self._retry.call(lambda: check_unchanged(plan.named, plan.target, plan.provenance))
            except CollectionReplacedError:
                raise
            except TargetError as error:
                raise_if_replaced(error, plan.named, plan.target, plan.provenance)
                raise
            except QuernstoneError:
                self._count(failed=1)
                raise
            finally:
                self._count(stopped=self._stopping)
        timeout = plan.index_timeout
        if timeout is None and plan.target.kind == "edge":
            timeout = math.inf  # unlike a server, Edge only indexes while this call waits
        if timeout is not None and not self._stopping:
            self._indexing = True
            with suppress(_Stopped):
                plan.target.wait_for_index(timeout, self._show_index)
            self._indexing = False
        with suppress(TargetError):  # the load is complete, even without these figures
            state = Retry(min(plan.patience, OPENING_PATIENCE)).call(plan.target.state)
            self.report = replace(self.report, points=state.points, status=state.status)
        self._count(stopped=self._stopping)
        return self.report

    def _show_index(self, progress: str) -> None:
        self._index = progress
        if self._stopping:
            raise _Stopped

    def _embed(self, batch: Batch) -> None:
        with self._batch_size.measure(sum(len(point.text) for point in batch.points)):
            embed(batch, self._plan.embedder, skip_errors=self._plan.skip_errors)

    def _count_batch(self, batch: Batch) -> None:
        """Add a confirmed batch to the report, and report its errors to the caller."""
        if batch.number > self._newest:
            self._newest = batch.number
            self.report = replace(self.report, unread=batch.unread)
        self._count(
            seen=batch.seen,
            chunks=batch.chunks,
            embedded=len(batch.points),
            skipped=batch.skipped,
            refreshed=len(batch.refreshed),
            unconfirmed=batch.unconfirmed,
            replaced=batch.replaced,
            removed=0 if batch.lost else len(batch.stale),
        )
        if not self._frozen and self.report.seen >= MANY_RECORDS:
            self._frozen = True
            self._stack.enter_context(freeze_existing_objects())
        for failure in batch.failures:
            if not self._plan.skip_errors:
                raise failure.error
            self._count(failed=1)
            if self._letters is not None:
                self._letters.add(failure)
            if self._plan.on_error is not None:
                self._plan.on_error(failure.error)
        if self._plan.progress is not None:
            self._plan.progress(self.report)

    def _prune(self, seen: SeenHashes, candidates: PruneCandidates) -> None:
        if self.report.failed or not self.report.seen:
            return
        if self._files is not None and self._files.files.unfollowed:
            return
        sources = None if self._prune_scope == "collection" else self._reader.sources
        for ids in candidates.gone(self._store, seen, sources):
            if self._stopping:
                return
            self._store.delete(ids)
            self._count(pruned=len(ids))
            if self._plan.progress is not None:
                self._plan.progress(self.report)

    def _count(self, *, stopped: bool = False, **increments: int) -> None:
        sums = {name: getattr(self.report, name) + n for name, n in increments.items()}
        self.report = replace(
            self.report,
            seconds=time.monotonic() - self._started,
            retries=self._retry.retries,
            stopped=stopped,
            files=self._files.files if self._files is not None else None,
            notes=(*self._plan.notes, *self._deferral_notes, *self._reader.notes),
            **sums,
        )
