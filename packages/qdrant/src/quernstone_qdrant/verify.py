"""Proves that a collection is what it says: every payload, a sample of the vectors, some anew."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quernstone.types import Float32Array
from quernstone_qdrant.documents.layouts import OWN_KEY, Layout, layout_of
from quernstone_qdrant.documents.points import content_hash, point_id
from quernstone_qdrant.errors import CollectionError
from quernstone_qdrant.provenance import Provenance, TextEmbedder, check_provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.store import PointStore
from quernstone_qdrant.targets import StoredPoint, Target

_MOST_PROBLEMS = 20
_LENGTH_TOLERANCE = 0.01
"""Of a unit vector: float16 storage rounds each number to three digits."""
_LEAST_COSINE = 0.99
"""Of a stored vector and the same text embedded anew: bfloat16 against float32 gives 0.999."""
_EVERY = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was checked, and what is wrong."""

    collection: str
    points: int
    """Read, one by one: the key, the id, the hash and every field of the payload."""
    foreign: int
    """Of these, points that no loader wrote; they are not checked any further."""
    vectors: int
    """Of the sample: their names, sizes, lengths, and that they are finite."""
    embedded: int
    """Of the sample: embedded anew and compared."""
    least_cosine: float | None
    """Of what was embedded anew with what is stored."""
    failures: int
    problems: tuple[str, ...] = field(default=())
    """The first of the failures, for people."""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
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
    """Check a collection against what its metadata and its points say of themselves.

    Every payload is read, in bounded memory. For a sample the vectors are read, too, and some of
    these texts are embedded again.

    Args:
        target: The collection.
        embedder: Of the model that made the collection; None: nothing is embedded anew.
        sample: How many points, chosen at random, to read with their vectors.
        anew: How many of these to embed.
        seed: Of the choice.
        patience: See `QdrantLoader`.
        progress: Called every thousand points with the number so far.

    Raises:
        CollectionError: Nothing is recorded about the model that made it.
        ProvenanceError: The embedder is of another model.
        TargetError: It cannot be read.
    """
    state = target.state()
    if embedder is None:
        made = Provenance.read(state)
        if made is None:
            raise CollectionError(target.collection, "nothing is recorded about what made it")
    else:
        wanted = Provenance.of(embedder, target.collection)
        made = check_provenance(state, target.collection, wanted)
    check = _Check(made)
    store = PointStore(target, made.settings, Retry(patience))
    chosen: list[StoredPoint] = []
    dice = random.Random(seed)
    points = 0
    for point in store.scroll(None):
        points += 1
        own = check.payload(point)
        if own:  # reservoir sampling: each point is in the sample with the same chance
            place = len(chosen) if len(chosen) < sample else dice.randrange(check.own)
            if place < sample:
                chosen[place : place + 1] = [point]
        if progress is not None and points % _EVERY == 0:
            progress(points)
    counted = target.count()
    if counted != points:
        check.fail(f"{points:,} points were read, but the target counts {counted:,}")
    dice.shuffle(chosen)
    vectors = {point.id: _with_vectors(target, point.id) for point in chosen}
    good = [p for p in chosen if check.vectors(p.id, vectors[p.id])]
    if embedder is not None:
        check.anew(embedder, good[:anew], vectors)
    return Verification(
        collection=target.collection,
        points=points,
        foreign=points - check.own,
        vectors=len(chosen),
        embedded=check.embedded,
        least_cosine=check.least_cosine,
        failures=check.failures,
        problems=tuple(check.problems),
    )


def _with_vectors(target: Target, point: str) -> Mapping[str, Float32Array]:
    found = next(target.scroll([OWN_KEY], with_vectors=True, batch=1, start=point), None)
    return found.vectors if found is not None and found.id == point else {}


class _Check:
    def __init__(self, made: Provenance) -> None:
        self._made = made
        self._layout: Layout = layout_of(made.settings.layout)
        self.own = self.failures = self.embedded = 0
        self.least_cosine: float | None = None
        self.problems: list[str] = []

    def fail(self, problem: str) -> None:
        self.failures += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)

    def payload(self, point: StoredPoint) -> bool:
        """Whether a loader wrote the point. What is wrong with it is noted."""
        own = point.payload.get(OWN_KEY)
        if not isinstance(own, dict):
            return False
        self.own += 1
        key, number = own.get("key"), own.get("chunk")
        if not isinstance(key, str) or not isinstance(number, int):
            self.fail(f"point {point.id}: its field `{OWN_KEY}` is damaged")
            return True
        name = f"point {point.id} (record {key!r}, chunk {number})"
        if point.id != point_id(self._made.namespace, key, number):
            self.fail(f"{name}: its id is not that of its record and chunk")
        content = self._layout.read(point.payload)
        hashed = content_hash(
            self._layout,
            self._made.fingerprint,
            key,
            number,
            content.text,
            content.metadata,
            str(own.get("source", "")),
        )
        if hashed != own.get("hash"):
            self.fail(f"{name}: its text, metadata or source is not what was loaded")
        else:
            self._copies(name, point, own, content.text, content.metadata)
        return True

    def _copies(
        self, name: str, point: StoredPoint, own: dict[str, Any], text: str, metadata: Any
    ) -> None:
        """Compare what the frameworks read with what was hashed: the layout repeats itself."""
        plain = {field: own[field] for field in own if field != "metadata"}
        expected = self._layout.payload(
            point=point.id, key=own["key"], text=text, metadata=metadata, own=plain
        )
        wrong = [field for field in expected if point.payload.get(field) != expected[field]]
        if wrong:
            self.fail(f"{name}: {', '.join(f'`{field}`' for field in wrong)} was changed")

    def vectors(self, point: str, vectors: Mapping[str, Float32Array]) -> bool:
        """Whether the vectors of a point are as the settings say."""
        before = self.failures
        for name, wanted in self._made.settings.vectors(self._made.dimensions).items():
            label = f"point {point}: its vector" + (f" `{name}`" if name else "")
            vector = vectors.get(name)
            if vector is None:
                self.fail(f"{label} is missing")
            elif vector.shape != (wanted.size,):
                self.fail(f"{label} has {vector.size} numbers instead of {wanted.size}")
            elif not np.isfinite(vector).all():
                self.fail(f"{label} is not finite")
            elif wanted.distance == "Cosine":
                length = float(np.linalg.norm(vector))
                if abs(length - 1) > _LENGTH_TOLERANCE:
                    self.fail(f"{label} has length {length:.3f} instead of 1")
        return self.failures == before

    def anew(
        self,
        embedder: TextEmbedder,
        points: list[StoredPoint],
        vectors: Mapping[str, Mapping[str, Float32Array]],
    ) -> None:
        """Embed texts again and compare."""
        if not points:
            return
        settings = self._made.settings
        texts = [self._layout.read(point.payload).text for point in points]
        for point, vector in zip(points, embedder.embed_documents(texts), strict=True):
            cosine = settings.cosine(vector, vectors[point.id][settings.vector])
            self.embedded += 1
            self.least_cosine = min(cosine, self.least_cosine or 1.0)
            if cosine < _LEAST_COSINE:
                self.fail(
                    f"point {point.id}: its text embedded anew is at a cosine of {cosine:.3f} "
                    "to its vector: another model made it, or the text was changed"
                )
