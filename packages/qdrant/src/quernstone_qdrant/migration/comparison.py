"""Compare a filled collection with the old one before the switch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from quernstone.errors import MissingExtraError
from quernstone.types import Float32Array
from quernstone_qdrant.checks.vectors import VectorCheck
from quernstone_qdrant.embedders import TextEmbedder
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
    among its ten nearest in the new one. None of them is wrong by itself: models differ."""

    @property
    def overlap(self) -> float | None:
        """The mean of `overlaps`; None without any."""
        return float(np.mean(self.overlaps)) if self.overlaps else None


def check_filled(
    old: Target,
    new: Target,
    provenance: Provenance,
    old_vector: str,
    sample: Sequence[Rebuilt],
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
    comparison, wrong = _compare(old, new, provenance, old_vector, sample, embedder, retry)
    return comparison, problems + wrong


def _compare(
    old: Target,
    new: Target,
    provenance: Provenance,
    old_vector: str,
    sample: Sequence[Rebuilt],
    embedder: TextEmbedder,
    retry: Retry,
) -> tuple[Comparison, list[str]]:
    """Embed a sample again, and compare its neighbors in both collections.

    The stored vectors are the queries, so the model of the old collection is not needed.

    Returns:
        The figures, and descriptions of vectors that are wrong.
    """
    check, problems, cosines, overlaps = VectorCheck(provenance), [], [], []
    embeddings = embedder.embed_documents([point.text for point in sample])
    name = provenance.settings.vector
    for point, embedding in zip(sample, embeddings, strict=True):
        stored = _vectors(new, point.id, retry)
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
        here = _neighbors(old, old_vector, before, point.id, retry)
        there = _neighbors(new, name, stored[name], point.id, retry)
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
    target: Target, name: str, vector: Float32Array, point: str, retry: Retry
) -> set[str]:
    """Return the ids of the points nearest to a stored point, without itself."""
    request = SearchRequest(vector=vector, limit=_NEIGHBORS + 1, using=name)
    found = [one.id for one in retry.call(lambda: target.query(request))]
    return set([one for one in found if one != point][:_NEIGHBORS])


def plot_overlap(path: str | Path, comparison: Comparison, old: str, new: str) -> None:
    """Draw how many of the ten nearest points of each sampled text both collections share.

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
    shared = [round(_NEIGHBORS * overlap) for overlap in comparison.overlaps]
    counts = np.bincount(shared, minlength=_NEIGHBORS + 1)
    axes.bar(range(_NEIGHBORS + 1), counts)
    if comparison.overlap is not None:
        mean = _NEIGHBORS * comparison.overlap
        axes.axvline(mean, color="C1", linestyle="--", label=f"mean {mean:.1f}")
        axes.legend(fontsize=8)
    axes.set_xticks(range(_NEIGHBORS + 1))
    axes.set_xlabel("shared points among the ten nearest")
    axes.set_ylabel("sampled texts")
    axes.set_title(f"{old} and {new}", fontsize=10)
    figure.savefig(path, dpi=120, format="png")
