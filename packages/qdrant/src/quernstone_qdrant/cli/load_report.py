"""Report a load: the JSON report, notes and the summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from quernstone.cli.printing import print_json
from quernstone_qdrant.cli.files import describe_files, describe_skipped, describe_unfollowed
from quernstone_qdrant.cli.options import CollectionOptions
from quernstone_qdrant.cli.progress import figures

if TYPE_CHECKING:
    from quernstone.errors import QuernstoneError
    from quernstone_qdrant.loader import QdrantLoader
    from quernstone_qdrant.report import LoadReport


def write_report(
    path: Path, loader: QdrantLoader, where: str, error: QuernstoneError | None
) -> None:
    """Write the JSON report of a load."""
    import orjson

    from quernstone_qdrant.targets.base import METADATA_KEY

    value = {
        "collection": loader.collection,
        "target": where,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **dataclasses.asdict(loader.report),
        "error": None if error is None else f"{type(error).__name__}: {error}",
        "provenance": loader.provenance.metadata()[METADATA_KEY],
    }
    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def print_notes(report: LoadReport, *, pruning: bool) -> None:
    """Print what a load changed, guessed or did not do."""
    notes = [*report.notes]
    if report.ignored:
        ignored = ", ".join(report.ignored)
        notes.insert(0, f"this target does not support {ignored}; a Qdrant server does")
    if report.files is not None:
        notes += [f"{count:,} values: {what}" for what, count in report.files.values.items()]
    if pruning and report.failed:
        notes.append("nothing was pruned, because something was left out")
    elif pruning and report.files is not None and report.files.unfollowed:
        notes.append(f"nothing was pruned: {describe_unfollowed(report.files)}")
    for note in notes:
        typer.echo(f"quern: {note}", err=True)


def print_summary(report: LoadReport, collection: CollectionOptions, *, as_json: bool) -> None:
    """Print the figures of a load."""
    from quernstone_qdrant.targets.index_report import STATUS_WORDS

    name, where = collection.name, collection.where
    if as_json:
        print_json({"collection": name, "target": where, **dataclasses.asdict(report)})
        return
    typer.echo(f"{name} in {where}: {figures(report)}, {report.seconds:.1f} s")
    if collection.url is not None and report.points is not None:
        typer.echo(f"  {report.points:,} points, {STATUS_WORDS[report.status]}")
    if report.files is not None:
        typer.echo(f"  {describe_files(report.files)}")


def fail_without_documents(paths: Sequence[Path], report: LoadReport) -> None:
    """End the command with exit code 1, because there was nothing to load."""
    skipped = describe_skipped(report.files) if report.files is not None else ""
    typer.echo(
        f"quern: there are no documents in {', '.join(map(str, paths))}"
        f"{f' (skipped: {skipped})' if skipped else ''}; check the paths, or pass --allow-empty",
        err=True,
    )
    raise typer.Exit(1)
