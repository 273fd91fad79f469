"""Repair a collection without embedding anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from quernstone.types import Float32Array
from quernstone_qdrant.checks.bm25 import is_bm25_of
from quernstone_qdrant.checks.indexes import wrong_indexes
from quernstone_qdrant.checks.payloads import CheckedPayload, PayloadCheck
from quernstone_qdrant.checks.vectors import VectorCheck
from quernstone_qdrant.documents.bm25 import Bm25Text
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.errors import CollectionError
from quernstone_qdrant.identity import check_identity, check_unchanged
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import OPENING_PATIENCE, Retry
from quernstone_qdrant.settings import BM25, PREFIX, VectorBatch
from quernstone_qdrant.store import PointStore
from quernstone_qdrant.targets import StoredPoint, Target

_BATCH = 100
_MAX_PROBLEMS = 20
_PROGRESS_INTERVAL = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """The result of a repair. With `dry_run`, the figures say what would be written."""

    collection: str
    points: int
    """Points read."""
    foreign: int
    """Points that no loader wrote. Their fields and vectors stay as they are."""
    completed: int
    """Foreign points that got what searches and the readers of the layout lacked: the fields of
    LangChain or LlamaIndex, or the BM25 vector."""
    payloads: int
    """Points whose copies of text and metadata were written again."""
    prefixes: int
    """Points whose short vector was computed again from the full one."""
    bm25: int
    """Points whose BM25 vector was computed again from the text."""
    indexes: tuple[str, ...]
    """Payload paths whose index was created, or replaced by one of the right type."""
    unchecked: int
    """Points of an older version whose floats may have been rounded; see `Verification`."""
    reloading: int
    """Points that cannot be repaired without their document. Their hash was cleared, so that the
    next load of the document replaces them."""
    broken: int
    """Points that cannot be repaired, and that no load replaces."""
    problems: tuple[str, ...] = field(default=())
    """Descriptions of the first points that cannot be repaired."""

    @property
    def complete(self) -> bool:
        """True if everything that was found was repaired."""
        return not self.reloading and not self.broken


def repair(
    target: Target,
    *,
    dry_run: bool = False,
    patience: float = 300.0,
    progress: Callable[[int], None] | None = None,
) -> Repair:
    """Rewrite what can be computed from the rest of a point, without embedding anything.

    This repairs BM25 vectors, the short vectors of MRL pairs, and payload fields that are copies of
    the text and metadata. Points that LangChain or LlamaIndex wrote get the fields by which the
    other one reads them, and a missing BM25 vector. It creates missing payload indexes. A text,
    metadata or full vector that is wrong cannot be repaired: the next load of the document replaces
    such a point, although the document did not change. Do not run this while a load
    writes to the collection.

    Args:
        target: The collection.
        dry_run: Count without writing.
        patience: See `QdrantLoader`.
        progress: Called after every thousand points with the number of points read so far.

    Raises:
        CollectionError: The collection does not record the model that it was created with.
        CollectionReplacedError: It was replaced meanwhile; nothing is written into the new one.
        TargetError: The collection cannot be read or written.
    """
    retry = Retry(patience)
    named, opening = target, Retry(min(patience, OPENING_PATIENCE))
    target = opening.call(named.pinned)
    state = opening.call(target.state)
    provenance = Provenance.read(state)
    if provenance is None:
        raise CollectionError(
            target.collection,
            "nothing is recorded about the model that created it: only a collection created by "
            "`QdrantLoader` or `quern load` can be repaired",
        )
    indexes = wrong_indexes(provenance.settings, state, target.kind)
    if indexes and not dry_run:
        change = partial(target.change, provenance.settings, provenance.dimensions, ["indexes"])
        retry.call(change)
    run = _Repair(target, provenance, retry, dry_run=dry_run, indexes=tuple(indexes))
    report = run.all_points(progress)
    retry.call(lambda: check_unchanged(named, target, provenance))
    return report


class _Repair:
    def __init__(
        self,
        target: Target,
        provenance: Provenance,
        retry: Retry,
        *,
        dry_run: bool,
        indexes: tuple[str, ...],
    ) -> None:
        self._settings, self._dry_run, self._indexes = provenance.settings, dry_run, indexes
        self._collection = target.collection
        check = partial(check_identity, target, provenance)
        self._store = PointStore(target, provenance.settings, retry, check=check)
        self._check_payload = PayloadCheck(provenance)
        self._check_vectors = VectorCheck(provenance)
        self._payloads: dict[str, dict[str, object]] = {}
        self._prefixes: dict[str, Float32Array] = {}
        self._texts: dict[str, Bm25Text] = {}
        self._counts = dict.fromkeys(
            (
                "foreign",
                "completed",
                "payloads",
                "prefixes",
                "bm25",
                "unchecked",
                "reloading",
                "broken",
            ),
            0,
        )
        self._problems: list[str] = []

    def all_points(self, progress: Callable[[int], None] | None) -> Repair:
        """Check every point, and write what can be repaired."""
        names = [BM25] if self._settings.bm25 == "sparse" else []
        if self._settings.prefix is not None:
            names += [self._settings.vector, PREFIX]
        points = 0
        for point in self._store.scroll(None, with_vectors=names or False):
            points += 1
            checked = self._check_payload(point)
            if checked is None:
                self._counts["foreign"] += 1
                self._complete(point)
            else:
                self._repair(point, checked)
            if progress is not None and points % _PROGRESS_INTERVAL == 0:
                progress(points)
        self._write(least=1)
        return Repair(
            collection=self._collection,
            points=points,
            indexes=self._indexes,
            problems=tuple(self._problems),
            **self._counts,
        )

    def _repair(self, point: StoredPoint, checked: CheckedPayload) -> None:
        if not checked.identified:
            self._give_up("broken", f"{checked.name}: {checked.problems[0]}; delete it")
            return
        if checked.content is None:
            if checked.unchecked:
                self._counts["unchecked"] += 1
            else:
                self._reload(point, checked, checked.problems[0])
            return
        if self._settings.prefix is not None:
            problem = self._check_vectors.problem(
                self._settings.vector, point.vectors.get(self._settings.vector)
            )
            if problem is not None:
                self._reload(point, checked, f"its vector `{self._settings.vector}` {problem}")
                return
            self._repair_prefix(point)
        if checked.changed:
            self._payloads[point.id] = checked.changed
            self._counts["payloads"] += 1
        text = checked.content.embedded
        if self._settings.bm25 == "sparse" and not is_bm25_of(
            text, point.sparse.get(BM25), self._settings
        ):
            self._texts[point.id] = self._settings.bm25_text(text)
            self._counts["bm25"] += 1
        self._write(least=_BATCH)

    def _complete(self, point: StoredPoint) -> None:
        """Add what LangChain or LlamaIndex did not write."""
        layout = self._settings.payloads
        missing = layout.missing_fields(point.payload, point.id)
        if missing:
            self._payloads[point.id] = dict(missing)
        text = layout.read(point.payload).text
        lacks_bm25 = bool(text) and self._settings.bm25 == "sparse" and BM25 not in point.sparse
        if lacks_bm25:
            self._texts[point.id] = self._settings.bm25_text(text)
        self._counts["completed"] += bool(missing) or lacks_bm25
        self._write(least=_BATCH)

    def _repair_prefix(self, point: StoredPoint) -> None:
        valid = self._check_vectors.problem(PREFIX, point.vectors.get(PREFIX)) is None
        if not valid or not self._check_vectors.is_prefix(point.vectors):
            full = point.vectors[self._settings.vector]
            self._prefixes[point.id] = self._check_vectors.prefix_of(full)
            self._counts["prefixes"] += 1

    def _reload(self, point: StoredPoint, checked: CheckedPayload, problem: str) -> None:
        """Clear the hash of a point, so that the next load of its document replaces it."""
        self._give_up("reloading", f"{checked.name}: {problem}; load its document again")
        self._payloads[point.id] = {OWN_KEY: {**point.payload[OWN_KEY], "hash": ""}}
        self._write(least=_BATCH)

    def _give_up(self, kind: str, problem: str) -> None:
        self._counts[kind] += 1
        if len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(problem)

    def _write(self, *, least: int) -> None:
        """Write each kind of update for which at least `least` points are collected."""
        if len(self._payloads) >= least:
            self._update(list(self._payloads), list(self._payloads.values()), {})
            self._payloads.clear()
        if len(self._prefixes) >= least:
            rows = np.stack(list(self._prefixes.values()))
            self._update(list(self._prefixes), [{}] * len(rows), {PREFIX: rows})
            self._prefixes.clear()
        if len(self._texts) >= least:
            texts = list(self._texts.values())
            self._update(list(self._texts), [{}] * len(texts), {BM25: texts})
            self._texts.clear()

    def _update(
        self, ids: list[str], payloads: list[dict[str, object]], vectors: Mapping[str, VectorBatch]
    ) -> None:
        if not self._dry_run:
            self._store.update(ids, payloads, vectors)
