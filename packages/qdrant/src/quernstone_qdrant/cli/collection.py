"""`quern collection`: list, show, verify, repair, prune and delete collections."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import Json, ModelOptions, on_terminal
from quernstone.cli.printing import print_json
from quernstone.cli.table import new_app
from quernstone_qdrant.cli.files import FileOptions, existing
from quernstone_qdrant.cli.index import index
from quernstone_qdrant.cli.info import info
from quernstone_qdrant.cli.manage import delete, list_collections, sources
from quernstone_qdrant.cli.options import CollectionModel, CollectionOptions, open_embedder
from quernstone_qdrant.cli.recorded_options import RecordedOptions

if TYPE_CHECKING:
    from quernstone_qdrant.repair import Repair
    from quernstone_qdrant.verify import Verification

app = new_app(no_args_is_help=True, help="List, show, verify, repair, prune, delete collections.")
app.command()(info)
app.command()(index)
app.command("list")(list_collections)
app.command()(delete)
app.command()(sources)


@app.command()
@expand_options
def verify(
    *,
    collection: CollectionOptions,
    sample: Annotated[
        int, typer.Option(min=0, help="Number of random points whose vectors are checked.")
    ] = 256,
    re_embed: Annotated[
        int,
        typer.Option(min=0, help="How many texts of the sample to embed again; 0 needs no model."),
    ] = 16,
    as_json: Json = False,
    model: CollectionModel = None,
    options: ModelOptions,
) -> None:
    """Check that a collection matches its own records; exit with code 1 if not.

    Looks for the payload indexes, counts the points, recomputes the id, the hash and the BM25
    vector of each, looks for missing chunks, checks the dense vectors of a sample, and embeds some
    of its texts again.
    """
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.retry import OPENING_PATIENCE, Retry
    from quernstone_qdrant.targets.deferred_indexing import deferring_loads
    from quernstone_qdrant.verify import verify as check

    with ExitStack() as stack:
        target = stack.enter_context(collection.open())
        state = Retry(OPENING_PATIENCE).call(target.state)
        provenance = Provenance.read(state)
        embedder = None
        if re_embed and provenance is not None:
            embedder = stack.enter_context(
                open_embedder(options, model, None, collection.name, provenance)
            )
        report = check(
            target,
            embedder,
            sample=sample,
            re_embed=re_embed,
            progress=_show_count if on_terminal() else None,
        )
    if as_json:
        deferred = [load.describe() for load in deferring_loads(state)]
        print_json({"passed": report.passed, "deferred": deferred, **dataclasses.asdict(report)})
    else:
        _print(report)
        for load in deferring_loads(state):
            typer.echo(f"indexing is deferred by {load.describe()}")
    if not report.passed:
        raise typer.Exit(1)


@app.command()
@expand_options
def repair(
    *,
    collection: CollectionOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count without writing.")] = False,
    as_json: Json = False,
) -> None:
    """Rewrite what is wrong, without a model; exit with code 1 if something remains.

    Computes BM25 vectors and short MRL vectors again, rewrites changed copies of text and metadata,
    adds the fields by which LangChain and LlamaIndex read each other's points, and creates missing
    payload indexes. Other damaged points are marked, so that the next load of
    their documents replaces them.
    """
    from quernstone_qdrant.repair import repair as mend

    with collection.open() as target:
        report = mend(target, dry_run=dry_run, progress=_show_count if on_terminal() else None)
    if as_json:
        print_json({"complete": report.complete, "dry_run": dry_run, **dataclasses.asdict(report)})
    else:
        _print_repair(report, dry_run=dry_run)
    if not report.complete:
        raise typer.Exit(1)


@app.command()
@expand_options
def prune(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH", callback=existing, help="The folders and files that were loaded."
        ),
    ],
    *,
    collection: CollectionOptions,
    files: FileOptions,
    every_source: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Delete every document that is not in these folders and files, including those "
            "loaded from elsewhere.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count without deleting.")] = False,
    as_json: Json = False,
) -> None:
    """Delete documents that are gone from folders and files, without loading anything.

    Points from other folders stay, and so do points that no load wrote. Needs no model.
    """
    from quernstone_qdrant.documents.deadletter import refuse_to_prune_by
    from quernstone_qdrant.loading.prune import prune_missing
    from quernstone_qdrant.sources import read_paths

    refuse_to_prune_by(paths)
    reading = files.reading()
    with collection.open() as target:
        id_field = RecordedOptions.read(target).id_field(reading.id_field, reading.namespace)
        records = read_paths(paths, options=dataclasses.replace(reading, id_field=id_field))
        deleted = prune_missing(target, records, every_source=every_source, dry_run=dry_run)
    if as_json:
        print_json({"collection": collection.name, "pruned": deleted, "dry_run": dry_run})
    else:
        done = "would be deleted" if dry_run else "deleted"
        typer.echo(f"{collection.name} in {collection.where}: {deleted:,} points {done}")


def _show_count(points: int) -> None:
    typer.echo(f"\r{points:,} points", nl=False, err=True)


def _print_repair(report: Repair, *, dry_run: bool) -> None:
    done = "would be rewritten" if dry_run else "rewritten"
    typer.echo(
        f"{report.collection}: {report.points:,} points read; {report.payloads:,} payloads, "
        f"{report.bm25:,} BM25 vectors and {report.prefixes:,} short vectors {done}"
    )
    if report.indexes:
        typer.echo(f"  payload indexes {done}: {', '.join(report.indexes)}")
    for count, what in (
        (report.foreign, "were written by another program"),
        (report.completed, f"of these lacked fields or BM25 vectors: {done}"),
        (
            report.unchecked,
            "cannot be checked: Qdrant may have rounded the floats of an older load",
        ),
        (report.reloading, "need their documents: load these again"),
        (report.broken, "cannot be repaired"),
    ):
        if count:
            typer.echo(f"  {count:,} points {what}")
    for problem in report.problems:
        typer.echo(f"  {problem}")
    more = report.reloading + report.broken - len(report.problems)
    if more:
        typer.echo(f"  and {more:,} more")


def _print(report: Verification) -> None:
    cosine = "" if report.least_cosine is None else f" (least cosine {report.least_cosine:.4f})"
    typer.echo(
        f"{report.collection}: {report.points:,} points read, {report.vectors:,} vectors checked, "
        f"{report.embedded:,} texts embedded again{cosine}"
    )
    if report.bm25:
        typer.echo(f"  {report.bm25:,} BM25 vectors computed again")
    if report.foreign:
        typer.echo(f"  {report.foreign:,} points were written by another program")
    if report.rounded:
        typer.echo(f"  {report.rounded:,} points have floats that Qdrant rounded; counted as equal")
    if report.unchecked:
        typer.echo(
            f"  {report.unchecked:,} points cannot be checked: an older version loaded them, and "
            "Qdrant may have rounded their floats"
        )
    if report.endless:
        typer.echo(
            f"  {report.endless:,} points do not say which chunk is the last, as an older version "
            "loaded them: missing last chunks of their documents are not noticed"
        )
    if report.unconfirmed:
        typer.echo(
            f"  {report.unconfirmed:,} points were read from one replica only, because another one "
            "did not answer: verify again when all nodes run"
        )
    for problem in report.problems:
        typer.echo(f"  {problem}")
    more = report.failures - len(report.problems)
    if more:
        typer.echo(f"  and {more:,} more")
    if report.passed:
        typer.echo("the collection matches its records")
    else:
        typer.echo(f"{report.failures:,} failures, {report.unconfirmed:,} points not confirmed")
