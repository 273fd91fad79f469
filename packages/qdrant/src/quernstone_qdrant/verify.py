"""Verify a collection: check every payload and a sample of the vectors, and embed some again."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from quernstone.types import Float32Array
from quernstone_qdrant.checks.payloads import CheckedPayload, PayloadCheck
from quernstone_qdrant.documents.layouts import OWN_KEY, Layout, layout_of
from quernstone_qdrant.errors import CollectionError
from quernstone_qdrant.provenance import Provenance, TextEmbedder, check_provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.store import PointStore
from quernstone_qdrant.targets import StoredPoint, Target

_MAX_PROBLEMS = 20
_LENGTH_TOLERANCE = 0.01
"""Tolerance for the length of a unit vector: float16 storage rounds each number to three digits."""
_MIN_COSINE = 0.99
"""Minimum cosine between a stored vector and the text embedded again; bfloat16 against float32
gives 0.999."""
_PROGRESS_INTERVAL = 1000


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
    vectors: int
    """Sampled points whose vectors were checked: names, sizes, lengths, and finite numbers."""
    embedded: int
    """Sampled points whose text was embedded again and compared with the stored vector."""
    least_cosine: float | None
    """Lowest cosine between a stored vector and its text embedded again; None if none was."""
    failures: int
    problems: tuple[str, ...] = field(default=())
    """Descriptions of the first failures."""

    @property
    def passed(self) -> bool:
        """True if nothing failed."""
        return not self.failures


def verify(
    target: Target,
    embedder: TextEmbedder | None = None,
    *,
    sample: int = 256,
    anew: int = 16,
    seed: int = 0,
    patience: float = 300.0,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Check a collection against its own metadata, hashes and vectors.

    Reads every payload, in bounded memory. For a random sample it also checks the vectors, and
    embeds some of the texts again to compare.

    Args:
        target: The collection.
        embedder: An embedder with the collection's model; None: do not embed anything.
        sample: Number of points to read with their vectors.
        anew: Number of sampled points whose text is embedded again.
        seed: Seed of the random sample.
        patience: See `QdrantLoader`.
        progress: Called after every thousand points with the number of points read so far.

    Raises:
        CollectionError: The collection does not record the model that it was created with.
        ProvenanceError: The embedder has another model.
        TargetError: The collection cannot be read.
    """
    state = target.state()
    if embedder is None:
        provenance = Provenance.read(state)
        if provenance is None:
            raise CollectionError(
                target.collection,
                "nothing is recorded about the model that created it: only a collection created "
                "by `QdrantLoader` or `quern load` can be verified",
            )
    else:
        expected = Provenance.of(embedder, target.collection)
        provenance = check_provenance(state, target.collection, expected)
    check = _Check(provenance)
    store = PointStore(target, provenance.settings, Retry(patience))
    sampled: list[tuple[StoredPoint, CheckedPayload]] = []
    rng = random.Random(seed)
    points = 0
    for point in store.scroll(None):
        points += 1
        if (checked := check.payload(point)) is not None:
            # Reservoir sampling: each point of the loader is chosen with the same probability.
            i = len(sampled) if len(sampled) < sample else rng.randrange(check.own)
            if i < sample:
                sampled[i : i + 1] = [(point, checked)]
        if progress is not None and points % _PROGRESS_INTERVAL == 0:
            progress(points)
    counted = target.count()
    if counted != points:
        check.fail(
            f"{points:,} points were read, but the target counts {counted:,}: if a load is "
            "running, verify again after it"
        )
    rng.shuffle(sampled)
    vectors = {point.id: _vectors_of(target, point.id) for point, _ in sampled}
    valid = [
        point
        for point, checked in sampled
        if check.vectors(point.id, vectors[point.id])
        and (checked.content is not None or checked.unchecked)
    ]
    if embedder is not None:
        check.embed_again(embedder, valid[:anew], vectors)
    return Verification(
        collection=target.collection,
        points=points,
        foreign=points - check.own,
        rounded=check.rounded,
        unchecked=check.unchecked,
        vectors=len(sampled),
        embedded=check.embedded,
        least_cosine=check.least_cosine,
        failures=check.failures,
        problems=tuple(check.problems),
    )


def _vectors_of(target: Target, point: str) -> Mapping[str, Float32Array]:
    found = next(target.scroll([OWN_KEY], with_vectors=True, batch=1, start=point), None)
    return found.vectors if found is not None and found.id == point else {}


class _Check:
    def __init__(self, provenance: Provenance) -> None:
        self._provenance = provenance
        self._layout: Layout = layout_of(provenance.settings.layout)
        self._check_payload = PayloadCheck(provenance)
        self.own = self.failures = self.embedded = self.rounded = self.unchecked = 0
        self.least_cosine: float | None = None
        self.problems: list[str] = []

    def fail(self, problem: str) -> None:
        self.failures += 1
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)

    def payload(self, point: StoredPoint) -> CheckedPayload | None:
        """Check a payload; return None if no loader wrote the point."""
        checked = self._check_payload(point)
        if checked is None:
            return None
        self.own += 1
        self.rounded += checked.rounded
        self.unchecked += checked.unchecked
        for problem in checked.problems:
            self.fail(f"{checked.name}: {problem}")
        return checked

    def vectors(self, point: str, vectors: Mapping[str, Float32Array]) -> bool:
        """Check the vectors of a point against the settings; return True if all are valid."""
        before = self.failures
        for name, expected in self._provenance.settings.vectors(
            self._provenance.dimensions
        ).items():
            label = f"point {point}: its vector" + (f" `{name}`" if name else "")
            vector = vectors.get(name)
            if vector is None:
                self.fail(f"{label} is missing")
            elif vector.shape != (expected.size,):
                self.fail(f"{label} has {vector.size} numbers instead of {expected.size}")
            elif not np.isfinite(vector).all():
                self.fail(f"{label} contains NaN or infinity")
            elif expected.distance == "Cosine":
                length = float(np.linalg.norm(vector))
                if abs(length - 1) > _LENGTH_TOLERANCE:
                    self.fail(f"{label} has length {length:.3f} instead of 1")
        return self.failures == before

    def embed_again(
        self,
        embedder: TextEmbedder,
        points: list[StoredPoint],
        vectors: Mapping[str, Mapping[str, Float32Array]],
    ) -> None:
        """Embed texts again and compare the result with the stored vectors."""
        if not points:
            return
        settings = self._provenance.settings
        texts = [self._layout.read(point.payload).text for point in points]
        for point, vector in zip(points, embedder.embed_documents(texts), strict=True):
            cosine = settings.cosine(vector, vectors[point.id][settings.vector])
            self.embedded += 1
            self.least_cosine = (
                cosine if self.least_cosine is None else min(cosine, self.least_cosine)
            )
            if cosine < _MIN_COSINE:
                self.fail(
                    f"point {point.id}: its text embedded again has a cosine of {cosine:.3f} to "
                    f"the stored vector (at least {_MIN_COSINE} expected): another model computed "
                    "the vector, or the text was changed"
                )
