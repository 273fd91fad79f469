"""`quern migrate`: migrate a collection to another model or other settings."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quernstone.cli.expand import expand_options
from quernstone.cli.options import Dimensions, Json, ModelOptions, model_option
from quernstone.cli.printing import print_json
from quernstone.errors import ConfigError
from quernstone.progress import progress_bar
from quernstone_qdrant.cli.collections import StorageOptions
from quernstone_qdrant.cli.options import CollectionOptions

if TYPE_CHECKING:
    from quernstone import Embedder
    from quernstone_qdrant.migration.migrate import QdrantMigration
    from quernstone_qdrant.migration.report import MigrationPlan, MigrationReport
    from quernstone_qdrant.targets import Target

_option = partial(typer.Option, rich_help_panel="Migration")


@dataclass(frozen=True)
class MigrationOptions:
    """Options for what a migration reads, and when it switches."""

    in_place: Annotated[
        bool,
        _option(
            "--in-place",
            help="Add a vector of the new model to the collection, instead of filling a second "
            "collection. --rollback and --finish need not repeat this.",
        ),
    ] = False
    to: Annotated[
        str | None,
        _option(
            help="Name of the new collection, or vector with --in-place. (default: with the "
            "model's name)"
        ),
    ] = None
    text_field: Annotated[
        str | None, _option(help="Payload field of the text, for points of other programs.")
    ] = None
    vector_name: Annotated[
        str | None, _option(help="Dense vector of another program's collection with several.")
    ] = None
    alias: Annotated[
        str | None,
        _option(
            help="If the collection's name is not an alias: an alias to create now and to switch."
        ),
    ] = None
    replace: Annotated[
        bool,
        _option(
            "--replace",
            help="If the collection's name is not an alias: delete it at the switch, and make its "
            "name an alias. This cannot be undone.",
        ),
    ] = False
    switch: Annotated[
        Literal["now", "later"],
        _option(help="Switch to the new collection once it is verified, or in another run."),
    ] = "now"
    skip_errors: Annotated[
        bool, _option("--skip-errors", help="Leave out points that cannot be embedded.")
    ] = False
    batch_size: Annotated[int, _option(min=1, help="Points per embedding call.")] = 256
    sample: Annotated[
        int, _option(min=0, help="Points to embed again and compare before the switch.")
    ] = 100
    queries: Annotated[
        Path | None,
        _option(
            metavar="FILE",
            help="File with a query per line, or - for standard input; their ten nearest points by "
            "both models are compared before the switch.",
        ),
    ] = None
    old_model: Annotated[
        str | None,
        _option(
            help="The model before the migration: for --queries (default: the recorded one), and "
            "for --rollback if points were written since a switch in place."
        ),
    ] = None
    state_folder: Annotated[
        Path, _option(exists=True, help="Folder for what the migration has to remember.")
    ] = Path()
    plot: Annotated[
        Path | None, _option(help="Draw the overlap of old and new neighbors to a PNG file.")
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `QdrantMigration`."""
        own = dataclasses.asdict(self)
        del own["switch"], own["plot"], own["queries"], own["old_model"]
        return own

    def query_texts(self) -> list[str]:
        """Return the lines of the file of queries, without empty ones.

        Raises:
            ConfigError: There is none.
            SourceError: A line is not UTF-8.
        """
        from quernstone_qdrant.cli.questions import QuestionFile

        return [] if self.queries is None else QuestionFile(self.queries).texts()


@expand_options
def migrate(
    *,
    collection: CollectionOptions,
    migration: MigrationOptions,
    dry_run: Annotated[
        bool, _option("--dry-run", help="Say what would be done, and what it would take.")
    ] = False,
    rollback: Annotated[
        bool, _option("--rollback", help="Switch back to the old collection.")
    ] = False,
    delete: Annotated[
        bool, _option("--delete", help="With --rollback: also delete the new collection.")
    ] = False,
    finish: Annotated[
        bool, _option("--finish", help="Delete the old collection after the switch.")
    ] = False,
    as_json: Json = False,
    storage: StorageOptions,
    model: Annotated[
        str | None,
        model_option("--model", "-m", help="The new embedding model. (default: the present one)"),
    ] = None,
    dimensions: Dimensions = None,
    options: ModelOptions,
) -> None:
    """Migrate a collection to another model, dimension, preset or layout, while it is in use.

    A new collection, or with --in-place a new vector of the same one, is filled from the texts in
    the payloads, verified, and switched to. Run the command again to continue after a kill, to
    switch later, or to apply late writes.
    """
    from quernstone_qdrant.migration.comparison import plot_overlap
    from quernstone_qdrant.migration.migrate import QdrantMigration

    if sum((dry_run, rollback, finish)) > 1 or (delete and not rollback):
        raise ConfigError(
            "--dry-run, --rollback and --finish exclude each other, and --delete needs --rollback"
        )
    embeds = not (rollback or finish)
    if migration.queries is not None and (dry_run or not embeds):
        raise ConfigError(
            "--queries are compared before the switch: leave out --dry-run, --rollback or --finish"
        )
    queries = migration.query_texts()
    with ExitStack() as stack:
        target = stack.enter_context(collection.open())
        embedder = old = None
        if embeds:
            embedder = stack.enter_context(_embedder(options, model, dimensions, target))
        if queries:
            old = stack.enter_context(_old_embedder(target, migration.old_model, options))
        elif rollback and migration.old_model is not None:
            old = stack.enter_context(_former_embedder(target, migration.old_model, options))
        run = partial(
            QdrantMigration,
            target,
            collection.name,
            embedder,
            queries=queries,
            old_embedder=old,
            **migration.arguments(),
            **_settings(storage),
        )
        if dry_run:
            _print_plan(run().plan(), as_json=as_json)
            return
        if rollback:
            report = run().rollback(delete=delete)
        elif finish:
            report = run().finish()
        else:
            total = target.state().points if target.exists() else None
            report = _shown(run, total, switch=migration.switch == "now", as_json=as_json)
    if migration.plot is not None and report.comparison is not None:
        labels = report.old, report.new
        if report.vector is not None:
            labels = "the old vector", f"the vector {report.vector}"
        plot_overlap(migration.plot, report.comparison, *labels)
    if as_json:
        print_json({"target": collection.where, **_fields(report)})
        return
    show = _print if embeds else partial(_print_end, deleted=delete, finish=finish)
    show(report)


def _embedder(
    options: ModelOptions, model: str | None, dimensions: int | None, target: Target
) -> Embedder:
    """Load the new model, or the present one.

    Raises:
        ConfigError: No model is named, and the collection does not record its own.
    """
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.retry import OPENING_PATIENCE, Retry

    if model is not None:
        return options.embedder(model, dimensions=dimensions)
    recorded = Provenance.read(Retry(OPENING_PATIENCE).call(target.state))
    if recorded is None:
        raise ConfigError("name the new embedding model by --model")
    return options.embedder(recorded.model, dimensions=dimensions or recorded.dimensions)


def _old_embedder(target: Target, model: str | None, options: ModelOptions) -> Embedder:
    """Load the model of the collection as it is before the migration.

    Raises:
        ConfigError: The collection does not record it.
    """
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.retry import OPENING_PATIENCE, Retry

    state = Retry(OPENING_PATIENCE).call(target.state)
    recorded = Provenance.read(state)
    if recorded is None:
        if model is None:
            raise ConfigError(
                f"collection {target.collection!r} does not record its model: name it by "
                "--old-model, or leave out --queries"
            )
        sizes = {vector.size for vector in state.vectors.values()}
        return options.embedder(model, dimensions=sizes.pop() if len(sizes) == 1 else None)
    own = dataclasses.replace(options, adapter=recorded.adapter or None)
    return own.embedder(model or recorded.model, dimensions=recorded.dimensions)


def _former_embedder(target: Target, model: str, options: ModelOptions) -> Embedder:
    """Load the model of the collection as it was before a migration in place.

    Raises:
        ConfigError: No migration in place is under way.
    """
    from quernstone_qdrant.migration.in_place_record import InPlaceRecord
    from quernstone_qdrant.retry import OPENING_PATIENCE, Retry

    record = InPlaceRecord.read(Retry(OPENING_PATIENCE).call(lambda: target.pinned().state()))
    if record is None:
        raise ConfigError(
            "--old-model with --rollback is for migrations in place, and none is under way: leave "
            "it out"
        )
    own = dataclasses.replace(options, adapter=record.old.adapter or None)
    return own.embedder(model, dimensions=record.old.dimensions)


def _settings(storage: StorageOptions) -> dict[str, Any]:
    return {
        "preset": storage.preset,
        "settings": storage.changes(),
        "layout": storage.layout,
        "hybrid": storage.hybrid,
    }


def _shown(
    run: partial[QdrantMigration], total: int | None, *, switch: bool, as_json: bool
) -> MigrationReport:
    """Migrate with a bar per pass."""
    if not as_json:
        typer.echo(
            "until the switch, programs write with the old model as before; after it, they write "
            "with the new one",
            err=True,
        )
    with progress_bar("migrating", total, show=not as_json) as bar:
        done = passes = 0

        def show(report: MigrationReport) -> None:
            nonlocal done, passes
            if report.passes != passes:
                bar(-done)
                done, passes = 0, report.passes
            bar(report.points - done)
            done = report.points

        return run(progress=show).run(switch=switch)


def _fields(report: MigrationReport) -> dict[str, Any]:
    compared = report.comparison
    return {
        **dataclasses.asdict(report),
        "overlap": None if compared is None else compared.overlap,
        "query_overlap": None if compared is None else compared.query_overlap,
    }


def _print_plan(plan: MigrationPlan, *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(plan))
        return
    typer.echo(
        f"{plan.collection}: from {plan.old_model} to {plan.new_model}, {plan.points:,} points\n"
        f"  {plan.how}\n"
        f"  {plan.embedded:,} texts to embed: about {plan.seconds:,.0f} s on this machine\n"
        f"  about {plan.memory_bytes / 2**20:,.0f} MiB of memory and "
        f"{plan.disk_bytes / 2**20:,.0f} MiB of disk beside the old "
        f"{'vectors' if plan.old == plan.new else 'collection'}"
    )
    for note in plan.notes:
        typer.echo(f"  {note}")


def _print_end(report: MigrationReport, *, deleted: bool, finish: bool) -> None:
    """Report a rollback, or what `--finish` did."""
    inside = report.vector is not None
    if finish:
        which = "vectors are" if inside else "collection is"
        typer.echo(f"{report.collection}: finished; the old {which} deleted")
    else:
        what = f"the vector {report.vector}" if inside else report.new
        fate = "deleted" if deleted else "kept"
        typer.echo(f"{report.collection} {_leads(report)}; {what} is {fate}")
        if inside and report.embedded:
            typer.echo(f"  {report.embedded:,} points got their old vector again")
        if report.conflicts:
            typer.echo(f"  {report.conflicts:,} points of {report.new} differ from {report.old}")
    for note in report.notes:
        typer.echo(f"  {note}")


def _leads(report: MigrationReport) -> str:
    if report.vector is not None:
        return f"records the {'new' if report.switched else 'old'} model"
    return f"leads to {report.new if report.switched else report.old}"


def _print(report: MigrationReport) -> None:
    inside = report.vector is not None
    typer.echo(
        f"{report.collection} {_leads(report)}: {report.points:,} points in {report.passes} passes "
        f"({report.embedded:,} embedded, {report.reused:,} vectors copied) in "
        f"{report.seconds:.1f} s"
    )
    both = "by both models" if inside else "in both collections"
    compared = report.comparison
    if compared is not None and compared.overlap is not None:
        typer.echo(
            f"  of the ten nearest points of {len(compared.overlaps):,} sampled texts, "
            f"{compared.overlap:.0%} are the same {both}"
        )
    if compared is not None and compared.query_overlap is not None:
        typer.echo(
            f"  of the ten points nearest to {len(compared.query_overlaps):,} queries, "
            f"{compared.query_overlap:.0%} are the same {both}"
        )
    for name in ("deleted", "left_out", "changed", "conflicts"):
        count = getattr(report, name)
        if count:
            typer.echo(f"  {count:,} points: {name.replace('_', ' ')}")
    for line in (*report.problems, *report.notes):
        typer.echo(f"  {line}")
    if report.switched:
        which = "vectors" if inside else "collection"
        typer.echo(f"  --rollback switches back; --finish deletes the old {which}")
    else:
        typer.echo("  run the command again to switch")
