"""Report a load: the JSON report, notes and the summary."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from quernstone.cli.printing import print_json
from quernstone.cli.wording import in_options
from quernstone_qdrant.cli.files import describe_files, describe_skipped, describe_unfollowed
from quernstone_qdrant.cli.options import CollectionOptions
from quernstone_qdrant.cli.progress import Snapshot, WatchedLoad, figures

if TYPE_CHECKING:
    from quernstone_qdrant.report import LoadReport

_STALE_SECONDS = 60.0


class ReportFiles:
    """The JSON reports of a load. Each file is complete at any time.

    Args:
        loader: The loader.
        collection: Its collection. For a collection in a folder, a report is written next to it
            until the load ends: `quern collection info` reads that, because it cannot open the
            folder meanwhile.
        path: The report that the user asked for; None for none.
        is_dry_run: Nothing is stored, so no report is written next to the collection.
    """

    def __init__(
        self,
        loader: WatchedLoad,
        collection: CollectionOptions,
        path: Path | None,
        *,
        is_dry_run: bool = False,
    ) -> None:
        self._loader, self._collection, self._path = loader, collection, path
        self._started = _now()
        self._is_dry_run = is_dry_run
        self._running = None if is_dry_run else running_report(collection)
        self._complained = False

    def update(self, snapshot: Snapshot) -> None:
        """Write the reports of the running load. A failure is printed once."""
        from quernstone_qdrant.targets.edge_files import replace_file

        content = self._content("indexing" if self._loader.depths.indexing else "running", snapshot)
        try:
            if self._running is not None:
                replace_file(self._running, content)
            if self._path is not None and _is_replaceable(self._path):
                replace_file(self._path.resolve(), content)
        except OSError as error:
            if not self._complained:
                self._complained = True
                reason = error.strerror or error
                typer.echo(f"quern: the report cannot be written: {reason}", err=True)

    def finish(self, snapshot: Snapshot, error: BaseException | None) -> None:
        """Write the last version of the report."""
        from quernstone_qdrant.targets.edge_files import replace_file

        if self._running is not None:
            self._running.unlink(missing_ok=True)
        if self._path is None:
            return
        stopped = self._loader.report.stopped
        state = "stopped" if stopped else "finished" if error is None else "failed"
        content = self._content(state, snapshot, error)
        if _is_replaceable(self._path):
            replace_file(self._path.resolve(), content)
        else:
            self._path.write_bytes(content)

    def _content(self, state: str, snapshot: Snapshot, error: BaseException | None = None) -> bytes:
        import orjson

        from quernstone_qdrant.targets.base import METADATA_KEY

        now = _now()
        value = {
            "collection": self._loader.collection,
            "target": self._collection.where,
            "dry_run": self._is_dry_run,
            "state": state,
            "started": self._started,
            "updated": now,
            "finished": None if state in ("running", "indexing") else now,
            "total": snapshot.total,
            "percent": None if snapshot.percent is None else round(snapshot.percent, 2),
            "chunks_per_second": round(snapshot.chunk_rate, 1),
            "seconds_left": None if snapshot.seconds_left is None else round(snapshot.seconds_left),
            **_fields(self._loader.report),
            "error": None if error is None else _described(error),
            "provenance": self._loader.provenance.metadata()[METADATA_KEY],
        }
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def running_report(collection: CollectionOptions) -> Path | None:
    """Return the path of the report next to a collection in a folder; None for a server."""
    from quernstone_qdrant.targets.edge_files import folder_name

    if collection.url is not None:
        return None
    return Path(collection.where) / f".load-{folder_name(collection.name)}.json"


def read_running_report(collection: CollectionOptions) -> dict[str, Any] | None:
    """Return the report of the load that uses a folder; None if there is none.

    A report that was not renewed for a minute belongs to a load that was killed.
    """
    import orjson

    path = running_report(collection)
    try:
        content = path.read_bytes() if path is not None else b""
        age = time.time() - path.stat().st_mtime if path is not None else 0.0
    except FileNotFoundError:
        return None
    if not content or age > _STALE_SECONDS:
        return None
    report: dict[str, Any] = orjson.loads(content)
    return report


def describe_running(report: dict[str, Any]) -> str:
    """Describe the report of a running load in one line."""
    snapshot = Snapshot(
        done=report["seen"] - report["unread"],
        total=report["total"],
        chunks=report["chunks"],
        failed=report["failed"],
        chunk_rate=report["chunks_per_second"],
        seconds_left=report["seconds_left"],
    )
    return f"a load is {report['state']} since {report['started']}: {snapshot.line()}"


def _is_replaceable(path: Path) -> bool:
    """Return False for pipes and devices, which get only the last version."""
    return path.is_file() or not path.exists()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def print_notes(report: LoadReport, *, pruning: bool) -> None:
    """Print notes on what a load changed, guessed or skipped."""
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
        typer.echo(f"quern: {in_options(note, {}, bare=False)}", err=True)


def _fields(report: LoadReport) -> dict[str, Any]:
    """Return the fields of a report, with options instead of arguments in its notes."""
    notes = tuple(in_options(note, {}, bare=False) for note in report.notes)
    return dataclasses.asdict(dataclasses.replace(report, notes=notes))


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {in_options(str(error), {}, bare=False)}"


def print_summary(report: LoadReport, collection: CollectionOptions, *, as_json: bool) -> None:
    """Print the figures of a load."""
    from quernstone_qdrant.targets.index_report import STATUS_WORDS

    name, where = collection.name, collection.where
    if as_json:
        print_json({"collection": name, "target": where, **_fields(report)})
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
