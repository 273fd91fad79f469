"""`quern copy`: copy a collection to another place."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import Json
from quernstone.cli.printing import print_json
from quernstone.errors import ConfigError
from quernstone.progress import progress_bar
from quernstone_qdrant.cli.options import CollectionOptions

if TYPE_CHECKING:
    from quernstone_qdrant.migration.copy import CopyReport
    from quernstone_qdrant.targets import Target

_option = partial(typer.Option, rich_help_panel="Destination")


@dataclass(frozen=True)
class DestinationOptions:
    """Where to copy a collection to."""

    to_collection: Annotated[
        str | None, _option(help="Name of the copy. (default: that of the source)")
    ] = None
    to_path: Annotated[str | None, _option(help="Folder of an embedded Qdrant.")] = None
    to_url: Annotated[str | None, _option(help="Address of a Qdrant server.")] = None
    to_edge: Annotated[str | None, _option(help="Folder of Qdrant Edge.")] = None
    to_api_key: Annotated[
        str | None,
        _option(
            envvar="QDRANT_TO_API_KEY",
            help="API key of the server. Prefer the environment variable.",
        ),
    ] = None
    to_grpc: Annotated[bool, _option("--to-grpc", help="Use gRPC for points.")] = False
    to_grpc_port: Annotated[
        int | None, _option(min=1, max=65535, help="Port of gRPC; implies --to-grpc.")
    ] = None

    def options(self, source: CollectionOptions) -> CollectionOptions:
        """Return the destination, which is in the place of the source if none is named.

        Raises:
            ConfigError: It is the source.
        """
        given = {
            "path": self.to_path,
            "url": self.to_url,
            "edge": self.to_edge,
            "api_key": self.to_api_key,
            "grpc": self.to_grpc,
            "grpc_port": self.to_grpc_port,
        }
        name = self.to_collection or source.name
        if any((self.to_path, self.to_url, self.to_edge)):
            return CollectionOptions(name=name, **given)  # type: ignore[arg-type]
        if name == source.name:
            raise ConfigError(
                "the destination is the source; name another place with --to-path, --to-url or "
                "--to-edge, or another collection with --to-collection"
            )
        return dataclasses.replace(source, name=name)


@expand_options
def copy(
    *,
    collection: CollectionOptions,
    destination: DestinationOptions,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete points that only the destination has.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy a collection to another Qdrant, without embedding anything.

    Between embedded, server and Edge, in every direction: ids, vectors, payloads, indexes and
    metadata, also of a collection of LangChain, LlamaIndex or another program. What is there
    already is not written again, so a copy that was stopped continues.
    """
    from quernstone_qdrant.migration.copy import copy_collection

    to = destination.options(collection)
    with ExitStack() as stack:
        source, target = _open(stack, collection, to)
        total = source.state().points
        bar = stack.enter_context(progress_bar("copying", total, show=not as_json))
        done = 0

        def show(report: CopyReport) -> None:
            nonlocal done
            now = report.compared or report.points  # the bar starts again with the comparison
            bar(now - done)
            done = now

        report = copy_collection(source, target, delete=delete, progress=show)
    if as_json:
        print_json({"collection": to.name, "target": to.where, **dataclasses.asdict(report)})
    else:
        _print(report, to)
    if report.different:
        raise typer.Exit(1)


def _print(report: CopyReport, to: CollectionOptions) -> None:
    typer.echo(
        f"{to.name} in {to.where}: {report.copied:,} points copied, {report.unchanged:,} unchanged "
        f"in {report.seconds:.1f} s"
    )
    if report.extra:
        fate = "deleted" if report.deleted else "kept (--delete removes them)"
        typer.echo(f"  {report.extra:,} points that only the destination has: {fate}")
    if report.ignored:
        typer.echo(f"  this kind of Qdrant ignores: {', '.join(report.ignored)}")
    for note in report.notes:
        typer.echo(f"  {note}")
    if report.different:
        typer.echo(
            f"  {report.different:,} points of the copy differ from the source: if it was written "
            "to meanwhile, copy again"
        )


def _open(
    stack: ExitStack, source: CollectionOptions, destination: CollectionOptions
) -> tuple[Target, Target]:
    """Open both sides; only one client can use the folder of an embedded Qdrant."""
    from quernstone_qdrant.targets import ClientTarget

    opened = stack.enter_context(source.open())
    same = Path(source.where).resolve() == Path(destination.where).resolve()
    if same and isinstance(opened, ClientTarget) and opened.kind == "embedded":
        if destination.name == source.name:
            raise ConfigError(
                f"the destination is the source: collection {source.name!r} in {source.where}"
            )
        return opened, ClientTarget(opened.client, destination.name)
    return opened, stack.enter_context(destination.open(create=True))
