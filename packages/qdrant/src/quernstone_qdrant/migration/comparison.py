"""Compare a filled collection with the old one before the switch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from quernstone.errors import ConfigError, MissingExtraError
from quernstone.types import Float32Array, unit_prefix
from quernstone_qdrant.checks.vectors import VectorCheck
from quernstone_qdrant.embedders import AnyEmbedder, TextEmbedder, as_embedder
from quernstone_qdrant.errors import ProvenanceError
from quernstone_qdrant.migration.contents import Rebuilt
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.targets import SearchRequest, StoredPoint, Target
from quernstone_qdrant.verify import verify

MIN_COSINE = 0.99
"""Minimum cosine between a stored vector and the text embedded again, as in `verify`."""
_NEIGHBORS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Figures of a sample of the points."""

    sampled: int
    """Points whose text was embedded again and compared with their new vectors."""
    least_cosine: float | None
    """Lowest cosine of a new vector and its text embedded again; None without points."""
    overlaps: tuple[float, ...] = ()
    """For each sampled text, the share of its ten nearest points in the old collection that are
    among its ten nearest in the new one. None of them is wrong by itself: models differ. If strict
    mode allows fewer than eleven hits (`max_query_limit`), one less than it allows is used."""

    query_overlaps: tuple[float, ...] = ()
    """For each given query, the share of the ten points nearest to it in the old collection that
    are among the ten nearest in the new one."""

    @property
    def overlap(self) -> float | None:
        """The mean of `overlaps`; None without any."""
        return float(np.mean(self.overlaps)) if self.overlaps else None

    @property
    def query_overlap(self) -> float | None:
        """The mean of `query_overlaps`; None without any."""
        return float(np.mean(self.query_overlaps)) if self.query_overlaps else None


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries to compare, and the embedder of the old collection."""

    texts: tuple[str, ...] = ()
    embedder: TextEmbedder | None = None

    @classmethod
    def of(cls, texts: Sequence[str], embedder: AnyEmbedder | None) -> Queries:
        """Check the arguments of a migration.

        Raises:
            ConfigError: There are queries, and no embedder.
        """
        if isinstance(texts, str):
            raise ConfigError("`queries` is one text; pass a list of texts")
        if texts and embedder is None:
            raise ConfigError(
                "`queries` are compared by both models: pass that of the old collection as "
                "`old_embedder` (--old-model)"
            )
        return cls(tuple(texts), None if embedder is None else as_embedder(embedder))

    def check(self, old: Provenance | None, dimensions: int, collection: str) -> None:
        """Raise an error if the embedder is not that of the old collection.

        Args:
            old: Provenance of the old collection; None if another program created it.
            dimensions: Size of its vectors.
            collection: Its name.

        Raises:
            ProvenanceError: The model, revision or vector size differs.
        """
        if self.embedder is None:
            return
        given = Provenance.of(self.embedder, collection)
        if old is not None:
            old.check(given, collection)
        elif given.dimensions != dimensions:
            raise ProvenanceError(collection, "dimensions", dimensions, given.dimensions)

    def overlaps(
        self,
        old: Target,
        old_vector: str,
        old_provenance: Provenance | None,
        new: Target,
        provenance: Provenance,
        embedder: TextEmbedder,
        retry: Retry,
        count: int,
    ) -> Iterator[float]:
        """Yield the share of common points among the `count` nearest of each query.

        See `check_filled` for the other arguments.
        """
        if self.embedder is None or count < 1:
            return
        for text in self.texts:
            before = unit_prefix(self.embedder.embed_query(text), self.embedder.dimensions)
            if old_provenance is not None:
                before = old_provenance.settings.encode(before)
            after = unit_prefix(embedder.embed_query(text), embedder.dimensions)
            settings = provenance.settings
            here = _nearest(old, old_vector, before, retry, count)
            there = _nearest(new, settings.vector, settings.encode(after), retry, count)
            if here:
                yield len({*here} & {*there}) / len(here)


def check_filled(
    old: Target,
    new: Target,
    provenance: Provenance,
    old_vector: str,
    sample: Sequence[Rebuilt],
    queries: Queries,
    embedder: TextEmbedder,
    retry: Retry,
    *,
    expected: int,
    has_own_points: bool,
) -> tuple[Comparison, list[str]]:
    """Check the number of points, the payloads of loaders, and a sample of the vectors.

    Args:
        old: The old collection.
        new: The new collection.
        provenance: Provenance of the new collection.
        old_vector: Name of the old collection's dense vector.
        sample: Points to embed again.
        queries: Queries to compare.
        embedder: Embedder of the new collection.
        retry: Policy for failed requests.
        expected: Number of points that the new collection must have.
        has_own_points: True if a loader wrote points of the old collection.

    Returns:
        The figures of the sample, and descriptions of the problems.
    """
    problems: list[str] = []
    stored = retry.call(new.count)
    if stored != expected:
        problems.append(f"it has {stored:,} points instead of {expected:,}")
    if has_own_points:
        problems += verify(new, patience=retry.patience).problems
    comparison, wrong = compare(old, new, provenance, old_vector, sample, queries, embedder, retry)
    return comparison, problems + wrong


def compare(
    old: Target,
    new: Target,
    provenance: Provenance,
    old_vector: str,
    sample: Sequence[Rebuilt],
    queries: Queries,
    embedder: TextEmbedder,
    retry: Retry,
    read: Callable[[Rebuilt], Mapping[str, Float32Array] | None] | None = None,
) -> tuple[Comparison, list[str]]:
    """Embed a sample again, and compare its neighbors in both collections, or by both vectors.

    The stored vectors are the queries, so the model of the old collection is not needed.

    Args:
        old: See `check_filled`, also for the next seven.
        new: The same collection if the migration is in place.
        provenance: It names the new vector.
        old_vector: Name of the old vector.
        sample: Points to embed again.
        queries: Queries to compare.
        embedder: Embedder of the new vectors.
        retry: Policy for failed requests.
        read: Returns the vectors of a sampled point, or None to leave it out because it was written
            meanwhile. None: read them from `new`, which nothing else writes to.

    Returns:
        The figures, and descriptions of vectors that are wrong.
    """
    allowed = [retry.call(place.state).limits.query or _NEIGHBORS + 1 for place in (old, new)]
    count = min(_NEIGHBORS, *(most - 1 for most in allowed))
    comparison, problems = _compare(
        old,
        new,
        provenance,
        old_vector,
        sample,
        embedder,
        retry,
        count,
        read or (lambda point: _vectors(new, point.id, retry)),
    )
    recorded = Provenance.read(retry.call(old.state))
    overlaps = queries.overlaps(old, old_vector, recorded, new, provenance, embedder, retry, count)
    return replace(comparison, query_overlaps=tuple(overlaps)), problems


def _compare(
    old: Target,
    new: Target,
    provenance: Provenance,
    old_vector: str,
    sample: Sequence[Rebuilt],
    embedder: TextEmbedder,
    retry: Retry,
    count: int,
    read: Callable[[Rebuilt], Mapping[str, Float32Array] | None],
) -> tuple[Comparison, list[str]]:
    check, problems, cosines, overlaps = VectorCheck(provenance), [], [], []
    embeddings = embedder.embed_documents([point.text for point in sample])
    name = provenance.settings.vector
    for point, embedding in zip(sample, embeddings, strict=True):
        stored = read(point)
        if stored is None:
            continue
        wrong = check.problems(stored)
        if wrong:
            problems.append(f"point {point.id}: {'; '.join(wrong)}")
            continue
        least = min(check.cosines(stored, embedding, point.text).values())
        cosines.append(least)
        if least < MIN_COSINE:
            problems.append(
                f"point {point.id}: its text embedded again has a cosine of {least:.3f} to its "
                f"vector (at least {MIN_COSINE} expected)"
            )
        before = _vectors(old, point.id, retry).get(old_vector)
        if before is None:  # deleted meanwhile
            continue
        here = _neighbors(old, old_vector, before, point.id, retry, count)
        there = _neighbors(new, name, stored[name], point.id, retry, count)
        if here:
            overlaps.append(len(here & there) / len(here))
    return (
        Comparison(
            sampled=len(cosines),
            least_cosine=min(cosines, default=None),
            overlaps=tuple(overlaps),
        ),
        problems,
    )


def _vectors(target: Target, point: str, retry: Retry) -> dict[str, Float32Array]:
    read = partial(target.scroll, [], with_vectors=True, batch=1, start=point)
    found: StoredPoint | None = retry.call(lambda: next(read(), None))
    return dict(found.vectors) if found is not None and found.id == point else {}


def _neighbors(
    target: Target, name: str, vector: Float32Array, point: str, retry: Retry, count: int
) -> set[str]:
    """Return the ids of the points nearest to a stored point, without itself."""
    found = _nearest(target, name, vector, retry, count + 1)
    return set([one for one in found if one != point][:count])


def _nearest(
    target: Target, name: str, vector: Float32Array, retry: Retry, limit: int
) -> list[str]:
    request = SearchRequest(vector=vector, limit=limit, using=name)
    return [one.id for one in retry.call(lambda: target.query(request))]


def plot_overlap(path: str | Path, comparison: Comparison, old: str, new: str) -> None:
    """Draw how many of the ten nearest points of each text both collections share.

    The texts are the given queries, or the sampled ones if there are no queries.

    Args:
        path: PNG file to write.
        comparison: The figures.
        old: Label of the old collection, such as its model.
        new: Label of the new collection.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "eval")
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    queries = comparison.query_overlaps
    overlaps = queries or comparison.overlaps
    mean = comparison.query_overlap if queries else comparison.overlap
    shared = [round(_NEIGHBORS * overlap) for overlap in overlaps]
    counts = np.bincount(shared, minlength=_NEIGHBORS + 1)
    axes.bar(range(_NEIGHBORS + 1), counts)
    if mean is not None:
        place = _NEIGHBORS * mean
        axes.axvline(place, color="C1", linestyle="--", label=f"mean {place:.1f}")
        axes.legend(fontsize=8)
    axes.set_xticks(range(_NEIGHBORS + 1))
    axes.set_xlabel("shared points among the ten nearest")
    axes.set_ylabel("queries" if queries else "sampled texts")
    axes.set_title(f"{old} and {new}", fontsize=10)
    figure.savefig(path, dpi=120, format="png")
