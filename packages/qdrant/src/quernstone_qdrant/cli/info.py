"""`quern collection info`: describe a collection, also while a load has its folder open."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import Json
from quernstone.cli.printing import print_json
from quernstone_qdrant.cli.index import index_lines
from quernstone_qdrant.cli.load_report import describe_running, read_running_report
from quernstone_qdrant.cli.options import CollectionOptions

if TYPE_CHECKING:
    from quernstone_qdrant.targets.base import CollectionState
    from quernstone_qdrant.targets.index_report import IndexReport

_PATIENCE = 60.0
"""Seconds in which reads are retried."""


@expand_options
def info(*, collection: CollectionOptions, as_json: Json = False) -> None:
    """Show the points, vectors and index of a collection, and the model it was created with.

    While a load has the folder open, show the progress of the load instead.
    """
    from quernstone_qdrant.errors import TargetError
    from quernstone_qdrant.targets.base import METADATA_KEY

    try:
        state, points, report = _read(collection)
    except TargetError:
        running = read_running_report(collection)
        if running is None:
            raise
        _print_running(running, collection, as_json=as_json)
        return
    size = _size(collection)
    provenance = state.metadata.get(METADATA_KEY) or {}
    if as_json:
        print_json(
            {
                "collection": collection.name,
                "target": collection.where,
                "points": points,
                "bytes": size,
                "status": state.status,
                "vectors": {
                    name: dataclasses.asdict(vector) for name, vector in state.vectors.items()
                },
                "index": dataclasses.asdict(report),
                "provenance": provenance or None,
            }
        )
        return
    on_disk = "" if size is None else f", {size / 1e6:,.2f} MB on disk"
    typer.echo(
        f"{collection.name} in {collection.where}: {points:,} points, {state.status}{on_disk}"
    )
    for name, vector in state.vectors.items():
        label = f"vector {name}" if name else "vector"
        typer.echo(f"  {label}: {vector.size} numbers, {vector.distance}")
    for line in index_lines(report, points):
        typer.echo(f"  {line}")
    if not provenance:
        typer.echo("  created by another program: nothing is recorded about its model")
    for name, entry in provenance.items():
        if entry:
            typer.echo(f"  {name}: {_flat(entry)}")


def _size(collection: CollectionOptions) -> int | None:
    """Return the bytes that a collection takes on disk; None for one on a server."""
    from quernstone_qdrant.targets.edge_files import folder_name, size_on_disk

    if collection.url is not None:
        return None
    where = Path(collection.where)
    if collection.edge is not None:
        return size_on_disk(where / folder_name(collection.name))
    return size_on_disk(where / "collection" / collection.name)


def _read(collection: CollectionOptions) -> tuple[CollectionState, int, IndexReport]:
    from quernstone_qdrant.retry import OPENING_PATIENCE, Retry
    from quernstone_qdrant.targets.index_report import index_report

    with collection.open() as target:
        state = Retry(OPENING_PATIENCE).call(target.state)
        retry = Retry(_PATIENCE)
        return state, retry.call(target.count), retry.call(lambda: index_report(target))


def _print_running(report: dict[str, Any], collection: CollectionOptions, *, as_json: bool) -> None:
    if as_json:
        print_json(report)
    else:
        typer.echo(f"{collection.name} in {collection.where}: {describe_running(report)}")


def _flat(entry: object) -> str:
    if isinstance(entry, dict):
        return ", ".join(f"{name}={value!r}" for name, value in entry.items())
    if isinstance(entry, list):
        return "; ".join(_flat(part) for part in entry)
    return str(entry)
