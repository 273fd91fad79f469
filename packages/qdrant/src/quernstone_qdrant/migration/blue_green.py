"""Migrate by filling a second collection and switching to it; see `QdrantMigration`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quernstone_qdrant.errors import CollectionError
from quernstone_qdrant.migration.comparison import check_filled
from quernstone_qdrant.migration.destination import Source, open_destination
from quernstone_qdrant.migration.in_place_record import in_place_note
from quernstone_qdrant.migration.joining import MIGRATION_KEY
from quernstone_qdrant.migration.options import MigrationOptions
from quernstone_qdrant.migration.passes import Passes, Sample
from quernstone_qdrant.migration.planning import plan_migration
from quernstone_qdrant.migration.record import Journal, RecordWriter
from quernstone_qdrant.migration.report import MigrationPlan, MigrationReport
from quernstone_qdrant.migration.switching import Pair, open_pair
from quernstone_qdrant.provenance import Provenance


class BlueGreenMigration:
    """A blue-green migration: a second collection is filled, then the name is switched to it."""

    def __init__(
        self,
        options: MigrationOptions,
        *,
        text_field: str | None,
        vector_name: str | None,
        alias: str | None,
        replaces: bool,
        state_folder: Path,
    ) -> None:
        self._options, self._running, self._retry = options, options.running, options.retry
        self._text_field, self._vector_name = text_field, vector_name
        self._alias, self._replaces, self._folder = alias, replaces, state_folder

    def run(self, *, switch: bool = True) -> MigrationReport:
        """See `QdrantMigration.run`."""
        embedder = self._options.model()
        pair = self._open(embedder.model)
        if pair.gone:
            return self._finished(pair)
        if not pair.switched and (switch or self._alias is not None):
            pair.check_switchable()
        source = Source.read(pair, self._retry, self._text_field, self._vector_name)
        if not pair.switched:
            self._options.queries.check(source.provenance, source.dimensions, pair.old.collection)
        wanted = source.wanted(embedder, self._options.overrides, pair.name)
        found = open_destination(pair, source, wanted, self._retry)
        record = self._record(found)
        self._running.update(notes=source.notes)
        if not pair.switched:
            sample = self._fill(self._passes(pair, source, found), record)
            self._verify(pair, source, found, sample)
            if not switch:
                return self._finished(pair)
            self._running.update(phase="switching")
            if self._replaces:
                self._late(self._passes(pair, source, found), record)
            pair.switch()
            self._name(pair)
        elif self._options.queries.texts:
            self._running.note("the queries were not compared: the switch was before this run")
        if not pair.gone:
            self._late(self._passes(pair, source, found), record)
        return self._finished(pair)

    def plan(self) -> MigrationPlan:
        """See `QdrantMigration.plan`."""
        embedder = self._options.model()
        pair = self._open(embedder.model)
        source = Source.read(pair, self._retry, self._text_field, self._vector_name)
        new = source.wanted(embedder, self._options.overrides, pair.name)
        plan = plan_migration(
            pair,
            source,
            new,
            embedder,
            self._retry,
            self._options.batch_size,
            replaces=self._replaces,
        )
        if pair.switched:
            return plan
        note = in_place_note(pair.old, source.state, self._options.overrides)
        return replace(plan, notes=(*plan.notes, note))

    def rollback(self, *, delete: bool = False) -> MigrationReport:
        """See `QdrantMigration.rollback`."""
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
        """See `QdrantMigration.finish`."""
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
            sample = Sample(self._options.sample)
            with RecordWriter(record) as writer:
                counts = passes.fill(writer, sample)
                writer.complete()
            self._running.count(counts)
            if not counts.outstanding:
                return sample
            number = self._running.report.passes
            if number == self._options.most_passes:
                self._running.note(
                    f"pass {number} still wrote {counts.outstanding:,} points: the last pass "
                    "applies what is written meanwhile"
                )
                return sample

    def _verify(self, pair: Pair, source: Source, found: Provenance, sample: Sample) -> None:
        """Check the new collection before programs use it."""
        self._running.update(phase="verifying")
        new, report = pair.new, self._running.report
        if report.left_out and not self._options.skip_errors:
            raise CollectionError(
                pair.old.collection,
                f"{report.left_out:,} of {report.points:,} points cannot be migrated, such as "
                f"{report.problems[0]}; delete or repair them, or pass `skip_errors` "
                "(--skip-errors) to leave them out",
            )
        new.wait_for_index(self._options.index_timeout)
        comparison, problems = check_filled(
            pair.old,
            new,
            found,
            source.vector,
            sample.points,
            self._options.queries,
            self._options.model(),
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
            before = self._running.report
            self._running.count(passes.late(record, apply=True))
            self._running.update(
                left_out=before.left_out + self._running.report.left_out,
                changed=before.changed + self._running.report.changed,
                problems=(*before.problems, *self._running.report.problems),
            )
            return
        different = passes.differences()
        self._running.note(
            f"the record {str(record)!r} is missing, so writes to the old collection after the "
            "switch cannot be distinguished from writes to the new one and were not applied; the "
            f"collections differ in {different:,} points"
        )

    # ------------------------------------------------------------------------------- the parts

    def _open(self, suffix: str) -> Pair:
        self._running.restart()
        self._options.check_reachable()
        pair = self._retry.call(
            lambda: open_pair(
                self._options.target,
                wanted=self._options.to,
                suffix=Path(suffix).name,
                alias=self._alias,
                replace=self._replaces,
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
            self._options.embedder,
            self._retry,
            batch_size=self._options.batch_size,
            request_bytes=self._options.request_bytes,
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
        return self._running.report
