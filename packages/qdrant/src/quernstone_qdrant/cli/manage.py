"""`quern collection list`, `delete` and `sources`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import Json
from quernstone.cli.printing import print_json
from quernstone_qdrant.cli.options import CollectionOptions, PlaceOptions

_PATIENCE = 60.0
"""Seconds in which reads are retried."""


@expand_options
def list_collections(*, place: PlaceOptions, as_json: Json = False) -> None:
    """List the collections in a folder or on a server, with their points and models."""
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.retry import Retry

    rows: list[dict[str, Any]] = []
    retry = Retry(_PATIENCE)
    with place.place() as opened:
        for name in opened.names():
            with opened.target(name) as target:
                state = retry.call(target.state)
                provenance = Provenance.read(state)
                rows.append(
                    {
                        "collection": name,
                        "points": state.points,
                        "model": provenance.model if provenance else None,
                    }
                )
    if as_json:
        print_json(rows)
        return
    for row in rows:
        model = row["model"] or "created by another program"
        typer.echo(f"{row['collection']}: {row['points']:,} points, {model}")
    if not rows:
        typer.echo(f"there are no collections in {place.where}")


@expand_options
def delete(
    *,
    collection: CollectionOptions,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a collection with all its points. Asks first."""
    from quernstone_qdrant.errors import CollectionNotFoundError
    from quernstone_qdrant.retry import OPENING_PATIENCE, Retry

    with collection.place() as place, place.target(collection.name) as target:
        retry = Retry(OPENING_PATIENCE)
        if not retry.call(target.exists):
            raise CollectionNotFoundError(collection.name, place.names())
        where = f"collection {collection.name!r} in {collection.where}"
        if not yes:
            points = retry.call(target.count)
            typer.confirm(f"Delete the {where} with {points:,} points?", abort=True)
        retry.call(target.drop)
    typer.echo(f"deleted the {where}")


@expand_options
def sources(*, collection: CollectionOptions, as_json: Json = False) -> None:
    """List the sources of a collection, with their documents and points.

    A source is the folder or file that documents were loaded from, which `--prune` goes by.
    """
    from quernstone_qdrant.documents.layouts import OWN_KEY

    documents: Counter[str | None] = Counter()
    points: Counter[str | None] = Counter()
    with collection.open() as target:
        for point in target.scroll([OWN_KEY]):
            own = point.payload.get(OWN_KEY)
            if not isinstance(own, dict):
                points[None] += 1
                continue
            source: str | None = str(own.get("source", ""))
            points[source] += 1
            documents[source] += own.get("chunk") == 0
    ordered = sorted(points, key=lambda source: (source is None, source or ""))
    if as_json:
        rows = [
            {"source": source, "documents": documents[source], "points": points[source]}
            for source in ordered
        ]
        print_json(rows)
        return
    for source in ordered:
        name = "(written by another program)" if source is None else source or "(without a source)"
        typer.echo(f"{name}: {documents[source]:,} documents, {points[source]:,} points")
