"""`quern collection info`, `verify` and `prune`."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.cli.options import (
    BatchTokens,
    Device,
    Dialect,
    DtypeName,
    Endpoint,
    Engine,
    on_terminal,
    open_embedder,
)
from quernstone.cli.table import new_app
from quernstone_qdrant.cli.options import (
    ApiKey,
    Collection,
    Edge,
    Folder,
    Grpc,
    Json,
    Url,
    existing_target_name,
    opened,
    print_json,
)

if TYPE_CHECKING:
    from quernstone_qdrant.verify import Verification

app = new_app(no_args_is_help=True, help="Look at, check and clean a collection in Qdrant.")


@app.command()
def info(
    collection: Collection,
    path: Folder = None,
    url: Url = None,
    edge: Edge = None,
    api_key: ApiKey = None,
    grpc: Grpc = False,
    as_json: Json = False,
) -> None:
    """Say what a collection is: its points, its vectors, and the model that made it."""
    from quernstone_qdrant.provenance import METADATA_KEY

    where = existing_target_name(path, url, edge)
    with opened(collection, where, url=url, edge=edge, api_key=api_key, prefer_grpc=grpc) as target:
        state = target.state()
        points = target.count()
    made = state.metadata.get(METADATA_KEY) or {}
    vectors = {name: dataclasses.asdict(vector) for name, vector in state.vectors.items()}
    value = {
        "collection": collection,
        "target": where,
        "points": points,
        "status": state.status,
        "vectors": vectors,
        "provenance": made or None,
    }
    if as_json:
        print_json(value)
        return
    typer.echo(f"{collection} in {where}: {points:,} points, {state.status}")
    for name, vector in state.vectors.items():
        label = f"vector {name}" if name else "vector"
        typer.echo(f"  {label}: {vector.size} numbers, {vector.distance}")
    if not made:
        typer.echo("  made by another program: nothing is recorded about its model")
    for name, entry in made.items():
        if entry:
            typer.echo(f"  {name}: {_flat(entry)}")


@app.command()
def verify(
    collection: Collection,
    path: Folder = None,
    url: Url = None,
    edge: Edge = None,
    api_key: ApiKey = None,
    grpc: Grpc = False,
    sample: Annotated[
        int, typer.Option(min=0, help="Points, chosen at random, whose vectors are read.")
    ] = 256,
    anew: Annotated[
        int,
        typer.Option(min=0, help="Of these, how many texts to embed again; 0 needs no model."),
    ] = 16,
    as_json: Json = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Embedding model. (default: the one that made the collection)",
            rich_help_panel="Model",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    dtype: DtypeName = "auto",
    engine: Engine = "auto",
    endpoint: Endpoint = None,
    dialect: Dialect = None,
    batch_tokens: BatchTokens = None,
) -> None:
    """Prove that a collection is what it says; exit code 1 when it is not.

    Counts the points, recomputes the id and the hash of every payload, checks a sample of the
    vectors (sizes, length 1, finite), and embeds some of the texts again.
    """
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.verify import verify as check

    where = existing_target_name(path, url, edge)
    with ExitStack() as stack:
        target = stack.enter_context(
            opened(collection, where, url=url, edge=edge, api_key=api_key, prefer_grpc=grpc)
        )
        made = Provenance.read(target.state())
        embedder = None
        if anew and made is not None:
            embedder = stack.enter_context(
                open_embedder(
                    model or made.model,
                    device=device,
                    dtype=dtype,
                    engine=engine,
                    endpoint=endpoint,
                    dialect=dialect,
                    dimensions=made.dimensions,
                    batch_tokens=batch_tokens,
                )
            )
        report = check(
            target,
            embedder,
            sample=sample,
            anew=anew,
            progress=_count_on_terminal if on_terminal() else None,
        )
    if as_json:
        print_json({"passed": report.passed, **dataclasses.asdict(report)})
    else:
        _print(report)
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def prune(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH", exists=True, help="The folders and files that were loaded, as they are."
        ),
    ],
    collection: Collection,
    path: Folder = None,
    url: Url = None,
    edge: Edge = None,
    api_key: ApiKey = None,
    grpc: Grpc = False,
    id_field: Annotated[
        str | None, typer.Option(help="Column of a unique id, as it was for the load.")
    ] = None,
    text_field: Annotated[
        str | None, typer.Option(help="Column of the text, as it was for the load.")
    ] = None,
    every_source: Annotated[
        bool,
        typer.Option(
            "--all", help="Delete all that is not in these folders and files, wherever it is from."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and delete nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Delete the documents that are gone from folders and files, without loading anything.

    Points from other folders stay, and so do points that no load wrote. Needs no model.
    """
    from quernstone_qdrant.documents.deadletter import refuse_to_prune_by
    from quernstone_qdrant.loading.prune import prune_missing
    from quernstone_qdrant.sources import read_paths

    refuse_to_prune_by(paths)
    where = existing_target_name(path, url, edge)
    with opened(collection, where, url=url, edge=edge, api_key=api_key, prefer_grpc=grpc) as target:
        records = read_paths(paths, text_field=text_field, id_field=id_field)
        deleted = prune_missing(target, records, every_source=every_source, dry_run=dry_run)
    if as_json:
        print_json({"collection": collection, "pruned": deleted, "dry_run": dry_run})
    else:
        done = "would be deleted" if dry_run else "deleted"
        typer.echo(f"{collection} in {where}: {deleted:,} points {done}")


def _flat(entry: object) -> str:
    if isinstance(entry, dict):
        return ", ".join(f"{name}={value!r}" for name, value in entry.items())
    if isinstance(entry, list):
        return "; ".join(_flat(part) for part in entry)
    return str(entry)


def _count_on_terminal(points: int) -> None:
    typer.echo(f"\r{points:,} points", nl=False, err=True)


def _print(report: Verification) -> None:
    cosine = "" if report.least_cosine is None else f" (least cosine {report.least_cosine:.4f})"
    typer.echo(
        f"{report.collection}: {report.points:,} points read, {report.vectors:,} vectors checked, "
        f"{report.embedded:,} texts embedded anew{cosine}"
    )
    if report.foreign:
        typer.echo(f"  {report.foreign:,} points were written by another program")
    for problem in report.problems:
        typer.echo(f"  {problem}")
    more = report.failures - len(report.problems)
    if more:
        typer.echo(f"  and {more:,} more")
    typer.echo("it is what it says" if report.passed else f"{report.failures:,} failures")
