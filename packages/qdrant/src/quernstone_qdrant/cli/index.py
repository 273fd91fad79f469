"""`quern collection index`: show, change and restore the index of a collection."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import Json
from quernstone.cli.printing import print_json
from quernstone_qdrant.cli.collections import SET_HELP, assigned
from quernstone_qdrant.cli.options import CollectionOptions

if TYPE_CHECKING:
    from quernstone_qdrant.targets.index_report import IndexReport


@expand_options
def index(
    *,
    collection: CollectionOptions,
    restore: Annotated[
        bool,
        typer.Option(
            "--restore",
            help="Restore the index settings that a load saved before it deferred indexing. Use it "
            "after a load was killed.",
        ),
    ] = False,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=SET_HELP)
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Wait up to this long for the index."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the index of a collection, change its settings in place, or resume its indexing."""
    from quernstone_qdrant.overrides import SettingsOverrides
    from quernstone_qdrant.provenance import change_settings
    from quernstone_qdrant.retry import OPENING_PATIENCE, Retry
    from quernstone_qdrant.targets.client import ClientTarget
    from quernstone_qdrant.targets.deferred_indexing import restore_index
    from quernstone_qdrant.targets.index_report import index_report

    done: list[str] = []
    with collection.open() as target:
        retry = Retry(OPENING_PATIENCE)
        if restore and isinstance(target, ClientTarget):
            ended = retry.call(lambda: restore_index(target))
            done += [f"restored what was deferred by {one.describe()}" for one in ended]
        if restore and not done:
            done.append("nothing to restore: no load defers indexing")
        if assignments:
            overrides = SettingsOverrides(changes=assigned(assignments))
            changes: dict[str, None] = {}  # once each, also if one is retried
            retry.call(lambda: change_settings(target, overrides, note=changes.setdefault))
            done += changes
        if wait is not None:
            target.wait_for_index(wait, lambda running: typer.echo(running or "waiting", err=True))
        report = retry.call(lambda: index_report(target))
        points = retry.call(target.count)
    if as_json:
        place = {"collection": collection.name, "target": collection.where}
        print_json({**place, "points": points, "done": done, **dataclasses.asdict(report)})
        return
    for line in done:
        typer.echo(line)
    typer.echo(f"{collection.name} in {collection.where}: {points:,} points")
    for line in index_lines(report, points):
        typer.echo(f"  {line}")


def index_lines(report: IndexReport, points: int) -> list[str]:
    """Describe an index in lines of text."""
    from quernstone_qdrant.targets.index_report import STATUS_WORDS

    if report.segments is None:
        return [f"index: none, the embedded client ({report.version}) compares all points"]
    lines = [f"index: {STATUS_WORDS[report.status]}, {report.segments} segments"]
    if report.graph is not None:
        lines += [
            f"vector {name}: {count:,} of {points:,} in the graph"
            if name
            else f"vector: {count:,} of {points:,} in the graph"
            for name, count in report.graph.items()
        ]
    elif report.indexed is not None:
        lines.append(f"{report.indexed:,} vectors indexed, by the server's count")
    lines += [f"indexing is deferred by {load}" for load in report.deferred]
    if report.deferred:
        lines.append("if no load runs, `quern collection index --restore` resumes indexing")
    if report.version:
        lines.append(f"Qdrant {report.version}")
    return [*lines, *(f"warning: {warning}" for warning in report.warnings)]
