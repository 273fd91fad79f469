"""Migrate a collection to another model, dimension, preset or layout, while it is in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import LayoutName
from quernstone_qdrant.embedders import AnyEmbedder, TextEmbedder, as_embedder
from quernstone_qdrant.errors import CollectionError
from quernstone_qdrant.migration.comparison import Queries, check_filled
from quernstone_qdrant.migration.destination import Source, open_destination
from quernstone_qdrant.migration.joining import MIGRATION_KEY
from quernstone_qdrant.migration.passes import Passes, Sample
from quernstone_qdrant.migration.planning import plan_migration
from quernstone_qdrant.migration.record import Journal, RecordWriter
from quernstone_qdrant.migration.report import MigrationPlan, MigrationReport, RunningReport
from quernstone_qdrant.migration.switching import Pair, open_pair
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.retry import OPENING_PATIENCE, Retry
from quernstone_qdrant.settings import CollectionSettings, Preset
from quernstone_qdrant.store import REQUEST_BYTES
from quernstone_qdrant.targets import Target, as_target
from quernstone_qdrant.wish import SettingsWish


class QdrantMigration:
    """A migration of one collection to another model or other settings.

    A second collection is filled from the texts in the payloads of the first, while programs
    continue to write to it and search it. Passes over both compare every payload and embed what is
    missing or differs, until a pass finds nothing. Then the new collection is verified, the name is
    switched to it, and one more pass applies what was written to the old collection meanwhile. A
    migration that was killed continues when it is started again.

    On a server and in an embedded Qdrant the name must be an alias, which one request switches; see
    `alias` and `replace` for the name of a collection. In Edge, two folders exchange their names.

    Points that `QdrantLoader` wrote keep their ids, and later loads into the new collection skip
    them. Points of other programs keep their ids and payloads.

    Args:
        client: A Qdrant client (remote or embedded) or a target.
        collection: The name that programs use.
        embedder: Embedder of the new collection; see `QdrantLoader`. None: only for `rollback` and
            `finish`.
        to: Name of the new collection; None: derived from the model.
        preset: See `QdrantLoader`; None: the settings of the old collection.
        settings: See `QdrantLoader`, such as `{"bm25_rule": 2}` for newer rules.
        layout: See `QdrantLoader`; None: that of the old collection.
        hybrid: Add BM25 for hybrid search; None: as in the old collection.
        text_field: Payload path of the text, for points of programs that are not recognized.
        vector_name: Dense vector of a collection of another program that has several.
        alias: If `collection` is not an alias: an alias to create for it now, and to switch later.
        replace: If `collection` is not an alias: delete it at the switch, and make its name an
            alias. This cannot be undone.
        batch_size: Number of points per embedding call and per write.
        request_bytes: See `QdrantLoader`.
        patience: See `QdrantLoader`.
        state_folder: Folder for the record of the old collection, by which late writes are found:
            49 bytes per point. It must outlive a kill, and is deleted by `finish`.
        sample: Number of points to embed again and to compare the neighbors of before the switch.
        queries: Queries whose ten nearest points in both collections are compared as well.
        old_embedder: Embedder of the old collection, for `queries`.
        skip_errors: Leave points without text, or that cannot be embedded, in the old collection.
        most_passes: Passes before the switch, if each finds points that were written meanwhile.
        index_timeout: Seconds to wait until the new collection is indexed, before the switch.
        progress: Called after each batch and at each change of the phase with the report so far.

    Raises:
        ConfigError: An argument is not valid.
    """

    def __init__(
        self,
        client: QdrantClient | Target,
        collection: str,
        embedder: AnyEmbedder | None = None,
        *,
        to: str | None = None,
        preset: Preset | CollectionSettings | None = None,
        settings: Mapping[str, Any] | None = None,
        layout: LayoutName | None = None,
        hybrid: bool | None = None,
        text_field: str | None = None,
        vector_name: str | None = None,
        alias: str | None = None,
        replace: bool = False,
        batch_size: int = 256,
        request_bytes: int = REQUEST_BYTES,
        patience: float = 300.0,
        state_folder: str | Path = ".",
        sample: int = 100,
        queries: Sequence[str] = (),
        old_embedder: AnyEmbedder | None = None,
        skip_errors: bool = False,
        most_passes: int = 10,
        index_timeout: float = 3600.0,
        progress: Callable[[MigrationReport], None] = lambda _: None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("most_passes", most_passes)):
            if value < 1:
                raise ConfigError(f"`{name}` is {value}; it must be at least 1")
        if alias is not None and replace:
            raise ConfigError("`alias` and `replace` exclude each other: choose one")
        self._queries = Queries.of(queries, old_embedder)
        self._target = as_target(client, collection)
        self._embedder: TextEmbedder | None = None if embedder is None else as_embedder(embedder)
        self._wish = SettingsWish(
            preset=preset, layout=layout, hybrid=hybrid, changes=dict(settings or {})
        )
        self._to, self._alias, self._replace = to, alias, replace
        self._text_field, self._vector_name = text_field, vector_name
        self._batch_size, self._request_bytes = batch_size, request_bytes
        self._retry, self._index_timeout = Retry(patience), index_timeout
        self._folder, self._sample_size = Path(state_folder), sample
        self._skip_errors, self._most_passes = skip_errors, most_passes
        self._running = RunningReport(collection, self._retry, progress)

    @property
    def report(self) -> MigrationReport:
        """The report so far."""
        return self._running.report

    def run(self, *, switch: bool = True) -> MigrationReport:
        """Fill the new collection, verify it, switch to it, and apply late writes.

        Run it again to continue after a kill, to switch later, or to apply what was written to the
        old collection after the switch.

        Args:
            switch: False: stop before the switch.

        Raises:
            ConfigError: The collection has this model and these settings already, or its name
                cannot be switched.
            CollectionError: The new collection failed its verification, or another migration is
                under way. The name leads to the old collection still.
            TargetError: A request failed. Run the migration again to continue.
        """
        embedder = self._model()
        pair = self._open(embedder.model)
        if pair.gone:
            return self._finished(pair)
        if not pair.switched and (switch or self._alias is not None):
            pair.check_switchable()
        source = Source.read(pair, self._retry, self._text_field, self._vector_name)
        if not pair.switched:
            self._queries.check(source.provenance, source.dimensions, pair.old.collection)
        wanted = source.wanted(embedder, self._wish, pair.name)
        found = open_destination(pair, source, wanted, self._retry)
        record = self._record(found)
        self._running.update(notes=source.notes)
        if not pair.switched:
            sample = self._fill(self._passes(pair, source, found), record)
            self._verify(pair, source, found, sample)
            if not switch:
                return self._finished(pair)
            self._running.update(phase="switching")
            if self._replace:
                self._late(self._passes(pair, source, found), record)
            pair.switch()
            self._name(pair)
        elif self._queries.texts:
            self._running.note("the queries were not compared: the switch was before this run")
        if not pair.gone:
            self._late(self._passes(pair, source, found), record)
        return self._finished(pair)

    async def arun(self, *, switch: bool = True) -> MigrationReport:
        """Like `run`, without blocking the event loop.

        An embedded client can only be used from the thread that created it, so there it does block.
        """
        if self._target.writers == 1:
            return self.run(switch=switch)
        return await asyncio.to_thread(self.run, switch=switch)

    def plan(self) -> MigrationPlan:
        """Describe what `run` would do, from a sample of the points. Writes nothing.

        Raises:
            ConfigError: See `run`.
            CollectionError: See `run`.
        """
        embedder = self._model()
        pair = self._open(embedder.model)
        source = Source.read(pair, self._retry, self._text_field, self._vector_name)
        new = source.wanted(embedder, self._wish, pair.name)
        return plan_migration(
            pair, source, new, embedder, self._retry, self._batch_size, replaces=self._replace
        )

    def rollback(self, *, delete: bool = False) -> MigrationReport:
        """Let the name lead to the old collection again, at once.

        What was written to the new collection since the switch is not in the old one. The report
        counts these points as `conflicts`.

        Args:
            delete: Also delete the new collection, which abandons the migration. Otherwise `run`
                continues it.

        Raises:
            CollectionError: There is no migration, or the old collection was deleted.
        """
        pair = self._existing()
        found = self._provenance(pair)
        if pair.switched:
            pair.switch_back()
            self._name(pair)
            source = Source.read(pair, self._retry, self._text_field, self._vector_name)
            self._running.update(conflicts=self._passes(pair, source, found).differences())
        if delete:
            self._retry.call(lambda: pair.old.describe({MIGRATION_KEY: {}}))
            pair.drop(pair.new)
            self._forget(found)
        return self._finished(pair)

    def finish(self) -> MigrationReport:
        """Delete the old collection after the switch.

        Raises:
            CollectionError: There is no migration, it is not switched, or the old collection was
                written to since the last pass: run the migration again first.
        """
        pair = self._existing()
        if not pair.switched:
            raise CollectionError(
                pair.name, "it leads to the old collection still: switch it before you finish"
            )
        found = self._provenance(pair)
        if not pair.gone and pair.old.exists():
            source = Source.read(pair, self._retry, self._text_field, self._vector_name)
            if self._record(found).exists():
                passes = self._passes(pair, source, found)
                late = passes.late(self._record(found), apply=False).outstanding
                if late:
                    raise CollectionError(
                        pair.old.collection,
                        f"{late:,} points were written or deleted since the last pass: run the "
                        "migration again to apply them, then finish",
                    )
            pair.drop(pair.old)
        self._retry.call(lambda: pair.new.describe({MIGRATION_KEY: {}}))
        self._forget(found)
        return self._finished(pair)

    # -------------------------------------------------------------------------------- the steps

    def _fill(self, passes: Passes, record: Path) -> Sample:
        self._running.update(phase="filling")
        while True:
            sample = Sample(self._sample_size)
            with RecordWriter(record) as writer:
                counts = passes.fill(writer, sample)
                writer.complete()
            self._running.count(counts)
            if not counts.outstanding:
                return sample
            if self.report.passes == self._most_passes:
                self._running.note(
                    f"pass {self.report.passes} still wrote {counts.outstanding:,} points: the "
                    "last pass applies what is written meanwhile"
                )
                return sample

    def _verify(self, pair: Pair, source: Source, found: Provenance, sample: Sample) -> None:
        """Check the new collection before programs use it."""
        self._running.update(phase="verifying")
        new, report = pair.new, self.report
        if report.left_out and not self._skip_errors:
            raise CollectionError(
                pair.old.collection,
                f"{report.left_out:,} of {report.points:,} points cannot be migrated, such as "
                f"{report.problems[0]}; delete or repair them, or pass `skip_errors` "
                "(--skip-errors) to leave them out",
            )
        new.wait_for_index(self._index_timeout)
        comparison, problems = check_filled(
            pair.old,
            new,
            found,
            source.vector,
            sample.points,
            self._queries,
            self._model(),
            self._retry,
            expected=report.points - report.left_out,
            has_own_points=source.provenance is not None,
        )
        self._running.update(comparison=comparison)
        if problems:
            raise CollectionError(
                new.collection,
                f"it failed its verification and was not switched to: {'; '.join(problems[:3])}",
            )

    def _late(self, passes: Passes, record: Path) -> None:
        self._running.update(phase="late")
        if record.exists():
            before = self.report
            self._running.count(passes.late(record, apply=True))
            self._running.update(
                left_out=before.left_out + self.report.left_out,
                changed=before.changed + self.report.changed,
                problems=(*before.problems, *self.report.problems),
            )
            return
        different = passes.differences()
        self._running.note(
            f"the record {str(record)!r} is missing, so writes to the old collection after the "
            "switch cannot be distinguished from writes to the new one and were not applied; the "
            f"collections differ in {different:,} points"
        )

    # ------------------------------------------------------------------------------- the parts

    def _model(self) -> TextEmbedder:
        if self._embedder is None:
            raise ConfigError("`embedder` is None: pass the model of the new collection")
        return self._embedder

    def _open(self, suffix: str) -> Pair:
        self._running.restart()
        if self._target.kind == "server":
            Retry(min(self._retry.patience, OPENING_PATIENCE)).call(self._target.exists)
        pair = self._retry.call(
            lambda: open_pair(
                self._target,
                wanted=self._to,
                suffix=Path(suffix).name,
                alias=self._alias,
                replace=self._replace,
            )
        )
        self._name(pair)
        return pair

    def _existing(self) -> Pair:
        pair = self._open("migrated")
        if not pair.new.exists() or not (pair.new.state().metadata.get(MIGRATION_KEY) or {}):
            raise CollectionError(pair.name, "no migration of it is under way")
        return pair

    def _provenance(self, pair: Pair) -> Provenance:
        found = Provenance.read(self._retry.call(pair.new.state))
        if found is None:
            raise CollectionError(pair.new.collection, "it does not record its model")
        return found

    def _passes(self, pair: Pair, source: Source, found: Provenance) -> Passes:
        return Passes(
            pair.old,
            pair.new,
            found,
            source.vector,
            source.contents(found),
            self._embedder,
            self._retry,
            batch_size=self._batch_size,
            request_bytes=self._request_bytes,
            progress=self._running.show,
        )

    def _record(self, found: Provenance) -> Path:
        return self._folder / f"quern-migration-{found.identity}.record"

    def _forget(self, found: Provenance) -> None:
        record = self._record(found)
        record.unlink(missing_ok=True)
        Journal.path(record).unlink(missing_ok=True)

    def _name(self, pair: Pair) -> None:
        self._running.update(
            collection=pair.name,
            old=pair.old.collection,
            new=pair.new.collection,
            switched=pair.switched,
        )

    def _finished(self, pair: Pair) -> MigrationReport:
        self._name(pair)
        self._running.update(phase="done")
        return self.report
