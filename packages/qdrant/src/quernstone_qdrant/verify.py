"""Verify a collection: check all payloads and a sample of the vectors, and embed some again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from quernstone.types import Float32Array
from quernstone_qdrant.checks.bm25 import is_bm25_of
from quernstone_qdrant.checks.chunks import ChunkSequences
from quernstone_qdrant.checks.indexes import wrong_indexes
from quernstone_qdrant.checks.payloads import CheckedPayload, PayloadCheck
from quernstone_qdrant.checks.vectors import VectorCheck
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.embedders import AnyEmbedder, TextEmbedder, as_embedder
from quernstone_qdrant.errors import CollectionError, ReplicaError
from quernstone_qdrant.identity import check_unchanged
from quernstone_qdrant.provenance import Provenance, check_provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import BM25
from quernstone_qdrant.store import PointStore
from quernstone_qdrant.targets import CollectionState, StoredPoint, Target

_MAX_PROBLEMS = 20
_MIN_COSINE = 0.99
"""Minimum cosine between a stored vector and the text embedded again; bfloat16 against float32
gives 0.999."""
_PROGRESS_INTERVAL = 1000
_REPLICA_PATIENCE = 5.0
"""Seconds to retry a read from every replica before one replica is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of a verification."""

    collection: str
    points: int
    """Points read. For each, the key, the id, the hash and every payload field are checked."""
    foreign: int
    """Points that no loader wrote; they are counted but not checked."""
    rounded: int = 0
    """Points whose floats Qdrant rounded, by at most one part in 2^50. That is not a failure."""
    unchecked: int = 0
    """Points that an older version loaded and whose hash does not match, perhaps only because
    Qdrant rounded their floats. They are not failures, but nothing confirms them either."""
    endless: int = 0
    """Points of an older version, which did not store which chunk is the last of its document. If
    such a document has lost its last chunks, that is not noticed."""
    vectors: int
    """Sampled points whose dense vectors were checked: names, sizes, lengths, finite numbers, and
    the short vector of an MRL pair against the full one."""
    bm25: int = 0
    """Points whose BM25 vector was computed again and compared; 0 without sparse vectors."""
    embedded: int
    """Sampled points whose text was embedded again and compared with the stored vector."""
    least_cosine: float | None
    """Lowest cosine between a stored vector and its text embedded again; None if none was."""
    unconfirmed: int = 0
    """Points that were read from one replica only, because another one did not answer."""
    failures: int
    problems: tuple[str, ...] = field(default=())
    """Descriptions of the first failures."""

    @property
    def passed(self) -> bool:
        """True if nothing failed, and every replica confirmed every point."""
        return not self.failures and not self.unconfirmed


def verify(
    target: Target,
    embedder: AnyEmbedder | None = None,
    *,
    sample: int = 256,
    re_embed: int = 16,
    seed: int = 0,
    patience: float = 300.0,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Check a collection against its own metadata, hashes and vectors.

    Looks for the payload indexes, reads every payload in bounded memory, looks for missing chunks
    inside documents, and computes all BM25 vectors again. For a random sample it also checks the
    dense vectors, and embeds some of the texts again to compare.

    Args:
        target: The collection.
        embedder: An embedder with the collection's model; None: do not embed anything.
        sample: Number of points to read with their vectors.
        re_embed: Number of sampled points whose text is embedded again.
        seed: Seed of the random sample.
        patience: See `QdrantLoader`.
        progress: Called after every thousand points with the number of points read so far.

    Raises:
        CollectionError: The collection does not record the model that it was created with.
        CollectionReplacedError: It was replaced meanwhile, so that two collections were read.
        ProvenanceError: The embedder has another model.
        TargetError: The collection cannot be read.
    """
    named, retry = target, Retry(patience)
    target = retry.call(named.pinned)
    state = retry.call(target.state)
    model: TextEmbedder | None = None if embedder is None else as_embedder(embedder)
    if model is None:
        provenance = Provenance.read(state)
        if provenance is None:
            raise CollectionError(
                target.collection,
                "nothing is recorded about the model that created it: only a collection created "
                "by `QdrantLoader` or `quern load` can be verified",
            )
    else:
        expected = Provenance.of(model, target.collection)
        provenance = check_provenance(state, target.collection, expected)
    check = _Check(
        target, provenance, patience=patience, sample=sample, seed=seed, replicas=state.replicas
    )
    check.indexes(state)
    check.all_points(progress)
    check.sampled_vectors(model, re_embed)
    retry.call(lambda: check_unchanged(named, target, provenance))
    return check.result()


class _Check:
    def __init__(
        self,
        target: Target,
        provenance: Provenance,
        *,
        patience: float,
        sample: int,
        seed: int,
        replicas: int,
    ) -> None:
        self._target, self._provenance = target, provenance
        self._settings = provenance.settings
        self._replicas, self._retry = replicas, Retry(patience)
        self._replica_retry = Retry(patience if replicas == 1 else min(patience, _REPLICA_PATIENCE))
        self._store = PointStore(target, provenance.settings, self._retry)
        self._layout = provenance.settings.payloads
        self._check_payload = PayloadCheck(provenance)
        self._check_vectors = VectorCheck(provenance)
        self._size, self._rng = sample, random.Random(seed)
        self._sample: list[tuple[StoredPoint, CheckedPayload]] = []
        self._points = self._own = self._rounded = self._unchecked = self._unconfirmed = 0
        self._endless = 0
        self._every_replica = True
        self._bm25 = self._embedded = self._failures = 0
        self._least_cosine: float | None = None
        self._problems: list[str] = []

    def indexes(self, state: CollectionState) -> None:
        """Look for the payload indexes of the settings."""
        for path, problem in wrong_indexes(self._settings, state, self._target.kind).items():
            self._fail(
                f"the payload index of `{path}` {problem}: filters on it are slow, or refused"
            )

    def all_points(self, progress: Callable[[int], None] | None) -> None:
        """Check every payload, BM25 vector and chunk sequence, and draw the sample."""
        names = [BM25] if self._settings.bm25 == "sparse" else False
        with ChunkSequences(self._provenance.namespace) as sequences:
            for point in self._read(None, names):
                self._points += 1
                self._unconfirmed += not self._every_replica
                checked = self._check_payload(point)
                if checked is not None:
                    self._count(checked)
                    self._draw(point, checked)
                    if names and checked.content is not None:
                        self._compare_bm25(point, checked, checked.content.embedded)
                    if checked.identified:
                        sequences.add(checked.key, checked.number, checked.last)
                if progress is not None and self._points % _PROGRESS_INTERVAL == 0:
                    progress(self._points)
            failures = self._failures
            for key, numbers in sequences.gaps(partial(self._read, [OWN_KEY])):
                one = len(numbers) == 1
                runs = (
                    f"chunk {numbers[0]} is" if one else f"chunks {numbers[0]} to {numbers[-1]} are"
                )
                self._fail(f"record {key!r}: {runs} missing, but chunk {numbers.stop} is stored")
            for key, number in sequences.cut(partial(self._read, [OWN_KEY])):
                self._fail(f"record {key!r}: its last chunks are missing, after chunk {number}")
            if not sequences.complete and self._failures == failures:
                self._fail(
                    "chunks were missing when the points were read, but not when they were read "
                    "again: if a load is running, verify again after it"
                )
            self._endless = sequences.endless
        counted = self._retry.call(self._target.count)
        if counted != self._points:
            differ = "; otherwise its replicas differ: load all documents again"
            self._fail(
                f"{self._points:,} points were read, but the target counts {counted:,}: if a load "
                f"is running, verify again after it{differ if self._replicas > 1 else ''}"
            )

    def _read(
        self, fields: list[str] | None, with_vectors: bool | list[str] = False
    ) -> Iterator[StoredPoint]:
        """Read all points from every replica; from one replica once another does not answer."""
        last = None
        if self._every_replica:
            store = PointStore(self._target, self._settings, self._replica_retry)
            try:
                for point in store.scroll(fields, with_vectors=with_vectors):
                    last = point.id
                    yield point
                return
            except ReplicaError:
                self._every_replica = False
        yield from self._store.scroll(
            fields, with_vectors=with_vectors, start=last, every_replica=False
        )

    def sampled_vectors(self, embedder: TextEmbedder | None, re_embed: int) -> None:
        """Check the dense vectors of the sample, and embed some of its texts again."""
        self._rng.shuffle(self._sample)
        valid: list[tuple[StoredPoint, Mapping[str, Float32Array]]] = []
        confirmed = self._every_replica
        for point, checked in self._sample:
            vectors = self._vectors_of(point.id, confirmed=confirmed)
            problems = self._check_vectors.problems(vectors)
            for problem in problems:
                self._fail(f"{checked.name}: {problem}")
            if not problems and (checked.content or checked.unchecked):
                valid.append((point, vectors))
        if embedder is not None and valid[:re_embed]:
            self._embed_again(embedder, valid[:re_embed])

    def result(self) -> Verification:
        """Return the figures and problems so far."""
        return Verification(
            collection=self._target.collection,
            points=self._points,
            foreign=self._points - self._own,
            rounded=self._rounded,
            unchecked=self._unchecked,
            endless=self._endless,
            vectors=len(self._sample),
            bm25=self._bm25,
            embedded=self._embedded,
            least_cosine=self._least_cosine,
            unconfirmed=self._unconfirmed,
            failures=self._failures,
            problems=tuple(self._problems),
        )

    def _fail(self, problem: str) -> None:
        self._failures += 1
        if len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(problem)

    def _count(self, checked: CheckedPayload) -> None:
        self._own += 1
        self._rounded += checked.rounded
        self._unchecked += checked.unchecked
        for problem in checked.problems:
            self._fail(f"{checked.name}: {problem}")

    def _compare_bm25(self, point: StoredPoint, checked: CheckedPayload, text: str) -> None:
        self._bm25 += 1
        if not is_bm25_of(text, point.sparse.get(BM25), self._settings):
            self._fail(f"{checked.name}: its vector `{BM25}` is not that of its text")

    def _draw(self, point: StoredPoint, checked: CheckedPayload) -> None:
        """Choose each point of the loader with the same probability (reservoir sampling)."""
        i = len(self._sample)
        if i >= self._size:
            i = self._rng.randrange(self._own)
        if i < self._size:
            self._sample[i : i + 1] = [(point, checked)]

    def _embed_again(
        self, embedder: TextEmbedder, points: list[tuple[StoredPoint, Mapping[str, Float32Array]]]
    ) -> None:
        """Embed texts again and compare the result with the stored vectors."""
        texts = [self._layout.read(point.payload).embedded for point, _ in points]
        embeddings = embedder.embed_documents(texts)
        for (point, vectors), embedding, text in zip(points, embeddings, texts, strict=True):
            self._embedded += 1
            for name, cosine in self._check_vectors.cosines(vectors, embedding, text).items():
                least = self._least_cosine
                self._least_cosine = cosine if least is None else min(cosine, least)
                if cosine < _MIN_COSINE:
                    label = f"the stored vector{f' `{name}`' if name else ''}"
                    self._fail(
                        f"point {point.id}: its text embedded again has a cosine of {cosine:.3f} "
                        f"to {label} (at least {_MIN_COSINE} expected): another model computed "
                        "the vector, or the text was changed"
                    )

    def _vectors_of(self, point: str, *, confirmed: bool) -> Mapping[str, Float32Array]:
        """Read the vectors of a point.

        `confirmed` is True if every replica had confirmed its payload: if one no longer answers,
        the point counts as unconfirmed.
        """
        read = partial(self._target.scroll, [OWN_KEY], with_vectors=True, batch=1, start=point)
        if self._every_replica:
            try:
                found = self._replica_retry.call(lambda: next(read(), None))
            except ReplicaError:
                self._every_replica = False
        if not self._every_replica:
            self._unconfirmed += confirmed
            found = self._retry.call(lambda: next(read(every_replica=False), None))
        return found.vectors if found is not None and found.id == point else {}
