"""Migrate a collection to another model inside the collection, with a second, named vector.

The collection's metadata hold both states, and one request switches from one to the other. The
content hashes keep the fingerprint of the first model (`Provenance.hash_salt`), so that no payload
changes, and a loader with the new model skips unchanged documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from uuid import uuid4

from quernstone.types import Float32Array
from quernstone_qdrant.checks.payloads import PayloadCheck
from quernstone_qdrant.documents.layouts import HASH_FIELD
from quernstone_qdrant.embedders import TextEmbedder
from quernstone_qdrant.errors import CollectionError
from quernstone_qdrant.migration.backfill import Backfill, try_update
from quernstone_qdrant.migration.comparison import compare
from quernstone_qdrant.migration.contents import Rebuilt
from quernstone_qdrant.migration.counts import PassCounts
from quernstone_qdrant.migration.in_place_record import InPlaceRecord, planned_record
from quernstone_qdrant.migration.joining import MIGRATION_KEY
from quernstone_qdrant.migration.options import MigrationOptions
from quernstone_qdrant.migration.passes import Sample
from quernstone_qdrant.migration.planning import embedding_seconds, memory_and_disk
from quernstone_qdrant.migration.report import MigrationPlan, MigrationReport, Phase
from quernstone_qdrant.provenance import Provenance
from quernstone_qdrant.store import PointStore
from quernstone_qdrant.targets import CollectionState, Target
from quernstone_qdrant.targets.base import IDENTITY_PREFIX, UNUSED_KEY

_MAX_SHOWN = 3


class InPlaceMigration:
    """A migration to a second vector of the same collection.

    Args:
        options: The arguments.
        target: The collection itself, if the name is an alias.
    """

    def __init__(self, options: MigrationOptions, target: Target) -> None:
        self._options, self._target = options, target
        self._running, self._retry = options.running, options.retry

    @classmethod
    def open(cls, options: MigrationOptions) -> InPlaceMigration:
        """Open the collection that the name leads to."""
        options.running.restart()
        options.check_reachable()
        return cls(options, options.retry.call(options.target.pinned))

    def run(self, *, switch: bool = True) -> MigrationReport:
        """See `QdrantMigration.run`."""
        embedder, state = self._options.model(), self._state()
        record = self._wanted(state, embedder)
        switched = record.is_switched(state)
        self._name(record, switched=switched)
        if not switched:
            self._options.queries.check(record.old, record.old.dimensions, self._target.collection)
            if InPlaceRecord.read(state) is None:
                self._begin(record, state)
            new = record.new
            self._retry.call(lambda: self._target.add_vector(new.settings, new.dimensions))
            self._fill(new, embedder, "filling")
            self._verify(record)
            if not switch:
                return self._finished(record)
            self._running.update(phase="switching")
            record = self._switch(record)
        elif self._options.queries.texts:
            self._running.note("the queries were not compared: the switch was before this run")
        before = self._running.report
        self._fill(record.new, embedder, "late")
        self._running.update(points=before.points or self._running.report.points)
        if self._target.kind == "edge":
            self._target.wait_for_index(self._options.index_timeout)
        return self._finished(record)

    def plan(self) -> MigrationPlan:
        """See `QdrantMigration.plan`."""
        embedder, state = self._options.model(), self._state()
        record = self._wanted(state, embedder)
        old, new, name = record.old, record.new, self._target.collection
        size = self._options.batch_size
        read = self._retry.call(lambda: list(islice(self._target.scroll(None, batch=size), size)))
        total = missing = self._retry.call(self._target.count)
        backfill = self._backfill(new, None)
        if new.settings.vector in state.vectors:
            missing = backfill.missing()
        texts = [one.text for one in backfill.texts(read, PassCounts())]
        memory, disk = memory_and_disk(
            replace(new.settings, bm25=None), new.dimensions, total, payload_bytes=0
        )
        how = f"a new vector {new.settings.vector!r} is filled in the same collection, in place"
        if record.is_switched(state):
            how = f"switched already: points without {new.settings.vector!r} get it"
        return MigrationPlan(
            collection=self._options.target.collection,
            old=name,
            new=name,
            how=how,
            old_model=old.model,
            new_model=new.model,
            points=total,
            embedded=missing,
            dimensions=new.dimensions,
            memory_bytes=memory,
            disk_bytes=disk,
            seconds=embedding_seconds(embedder, texts, missing),
        )

    def rollback(self, *, delete: bool = False) -> MigrationReport:
        """See `QdrantMigration.rollback`."""
        state = self._state()
        record = self._existing(state)
        old, embedder = record.old, self._options.queries.embedder
        self._options.queries.check(old, old.dimensions, self._target.collection)
        missing = self._backfill(old, None).missing()
        if missing and embedder is not None:
            self._fill(old, embedder, "filling")
        elif missing:
            raise CollectionError(
                self._target.collection,
                f"{missing:,} points were written without the vector of {old.model!r} since the "
                "switch: pass this model as `old_embedder` (--old-model) to embed their texts",
            )
        if record.is_switched(state):
            self._running.update(phase="switching")
            record = self._switch_back(record)
            late = self._backfill(old, None).missing()
            if late and embedder is not None:
                self._fill(old, embedder, "late")
            elif late:
                self._running.note(
                    f"{late:,} points were written without the old vector during the rollback: "
                    "roll back again with `old_embedder` (--old-model)"
                )
        if delete:
            self._drop(record.new, old)
        return self._finished(record, switched=False)

    def finish(self) -> MigrationReport:
        """See `QdrantMigration.finish`."""
        state = self._state()
        record = self._existing(state)
        if not record.is_switched(state):
            raise CollectionError(
                self._target.collection,
                "it records the old model still: switch it before you finish",
            )
        missing = self._backfill(record.new, None).missing()
        if missing and not self._options.skip_errors:
            raise CollectionError(
                self._target.collection,
                f"{missing:,} points lack the new vector: run the migration again to embed them, "
                "then finish, or pass `skip_errors` (--skip-errors)",
            )
        self._drop(record.old, self._recorded(state))
        return self._finished(record, switched=True)

    # -------------------------------------------------------------------------------- the steps

    def _begin(self, record: InPlaceRecord, state: CollectionState) -> None:
        """Record the migration before its vector is added: loaders refuse unrecorded vectors."""
        if self._target.kind == "server":
            try_update(self._target, record.old.settings.vector, self._retry)
        unused = sorted({*state.unused, record.new.settings.vector})
        identified = {} if state.identity else record.old.metadata()
        metadata = {**identified, **record.metadata(), UNUSED_KEY: unused}
        self._retry.call(lambda: self._target.describe(metadata))

    def _fill(self, model: Provenance, embedder: TextEmbedder, phase: Phase) -> None:
        """Fill in passes until one finds nothing to embed."""
        self._running.update(phase=phase)
        backfill = self._backfill(model, embedder)
        for number in range(1, self._options.most_passes + 1):
            counts = backfill.fill()
            self._running.count(counts)
            if not counts.embedded:
                break
            if number == self._options.most_passes:
                self._running.note(
                    f"pass {number} still embedded {counts.embedded:,} points, which programs "
                    "write meanwhile: run the migration again"
                )
        if counts.left_out and phase != "late" and not self._options.skip_errors:
            raise CollectionError(
                self._target.collection,
                f"{counts.left_out:,} points cannot get the new vector, such as "
                f"{counts.problems[0]}; delete or repair them, migrate to a second collection, or "
                "pass `skip_errors` (--skip-errors) to leave them without it, so that searches do "
                "not find them",
            )

    def _verify(self, record: InPlaceRecord) -> None:
        """Check all payloads and a sample of the new vectors before programs use them."""
        self._running.update(phase="verifying")
        if self._target.kind != "edge":  # another thread may use Edge's files
            self._target.wait_for_index(self._options.index_timeout)
        check, layout = PayloadCheck(record.old), record.old.settings.payloads
        sample, problems, points = Sample(self._options.sample), [], 0
        for point in PointStore(self._target, record.old.settings, self._retry).scroll(None):
            points += 1
            checked = check(point)
            if checked is None:
                continue
            problems += [f"{checked.name}: {problem}" for problem in checked.problems]
            if not checked.problems:
                text = layout.read(point.payload).embedded
                sample.draw(Rebuilt(id=point.id, text=text, payload={}))
        self._running.update(points=points)
        if problems:
            raise CollectionError(
                self._target.collection,
                f"{len(problems):,} payloads are damaged, so the new model was not switched to: "
                f"{'; '.join(problems[:_MAX_SHOWN])}. Repair the collection first (`quern "
                "collection repair`), or migrate to a second collection",
            )

        def read(sampled: Rebuilt) -> Mapping[str, Float32Array] | None:
            return self._vectors_of(sampled, record)

        comparison, wrong = compare(
            self._target,
            self._target,
            record.new,
            record.old.settings.vector,
            sample.points,
            self._options.queries,
            self._options.model(),
            self._retry,
            read,
        )
        self._running.update(comparison=comparison)
        if wrong:
            raise CollectionError(
                self._target.collection,
                "its new vectors failed their verification and were not switched to: "
                f"{'; '.join(wrong[:_MAX_SHOWN])}",
            )

    def _vectors_of(
        self, sampled: Rebuilt, record: InPlaceRecord
    ) -> Mapping[str, Float32Array] | None:
        """Return the vectors of a sampled point; None if a program wrote it meanwhile."""
        scroll = self._target.scroll
        found = self._retry.call(
            lambda: next(scroll(None, with_vectors=True, batch=1, start=sampled.id), None)
        )
        if found is None or found.id != sampled.id:
            return None
        same = record.old.settings.payloads.read(found.payload).embedded == sampled.text
        return found.vectors if same and record.new.settings.vector in found.vectors else None

    def _switch(self, record: InPlaceRecord) -> InPlaceRecord:
        """Record the new model, in one request; return the record of the migration from now on."""
        state = self._state()
        old = self._recorded(state)  # a loader may have changed settings since the beginning
        settings = replace(old.settings, vector=record.new.settings.vector)
        new = replace(record.new, settings=settings, identity=uuid4().hex)
        if settings != record.new.settings:
            self._retry.call(lambda: self._target.add_vector(settings, new.dimensions))
        switched = InPlaceRecord(old=old, new=new)
        self._describe(state, switched, now=new, unused=old)
        return switched

    def _switch_back(self, record: InPlaceRecord) -> InPlaceRecord:
        """Record the old model again, in one request."""
        state = self._state()
        new = self._recorded(state)
        settings = replace(new.settings, vector=record.old.settings.vector)
        old = replace(record.old, settings=settings, identity=uuid4().hex)
        back = InPlaceRecord(old=old, new=new)
        self._describe(state, back, now=old, unused=new)
        return back

    def _describe(
        self, state: CollectionState, record: InPlaceRecord, *, now: Provenance, unused: Provenance
    ) -> None:
        """Record a model as that of the collection.

        The collection gets a new identity, so that loaders and searchers notice the change.
        """
        names = {*state.unused, unused.settings.vector} - {now.settings.vector}
        former = {name: None for name in state.metadata if name.startswith(IDENTITY_PREFIX)}
        metadata = {**former, **record.metadata(), **now.metadata(), UNUSED_KEY: sorted(names)}
        self._retry.call(lambda: self._target.describe(metadata))
        self._name(record, switched=now is record.new)

    def _drop(self, one: Provenance, kept: Provenance) -> None:
        """Delete the vector of one model, and end the migration."""
        name = one.settings.vector
        deleted = self._retry.call(
            lambda: self._target.drop_vector(name, kept.settings, kept.dimensions)
        )
        if not deleted:
            self._running.note(
                "the vectors without a name are deleted; their empty definition stays, because a "
                "server cannot delete it"
            )
        left = sorted(self._state().unused - {name} | (set() if deleted else {name}))
        self._retry.call(lambda: self._target.describe({MIGRATION_KEY: {}, UNUSED_KEY: left}))

    # ------------------------------------------------------------------------------- the parts

    def _state(self) -> CollectionState:
        return self._retry.call(self._target.state)

    def _recorded(self, state: CollectionState) -> Provenance:
        found = Provenance.read(state)
        if found is None:
            raise CollectionError(self._target.collection, "it does not record its model")
        return found

    def _wanted(self, state: CollectionState, embedder: TextEmbedder) -> InPlaceRecord:
        """Return the record of the migration under way, or of a new one.

        Raises:
            ConfigError: A new one is not possible.
            CollectionError: The one under way leads to another model.
        """
        record = InPlaceRecord.read(state)
        options, name = self._options, self._target.collection
        if record is None:
            return planned_record(self._target, state, embedder, options.overrides, options.to)
        if not record.new.has_vectors_of(Provenance.of(embedder, name)):
            raise CollectionError(
                name,
                f"a migration in place to {record.new.model!r} with {record.new.dimensions} "
                "dimensions is under way: continue it with the same model, finish it, or abandon "
                "it by `rollback(delete=True)` (--rollback --delete)",
            )
        return record

    def _existing(self, state: CollectionState) -> InPlaceRecord:
        record = InPlaceRecord.read(state)
        if record is None:
            raise CollectionError(self._target.collection, "no migration of it is under way")
        self._name(record, switched=record.is_switched(state))
        return record

    def _backfill(self, model: Provenance, embedder: TextEmbedder | None) -> Backfill:
        return Backfill(
            self._target,
            model,
            embedder,
            self._retry,
            batch_size=self._options.batch_size,
            request_bytes=self._options.request_bytes,
            progress=self._running.show,
        )

    def _name(self, record: InPlaceRecord, *, switched: bool) -> None:
        self._running.update(
            collection=self._options.target.collection,
            old=self._target.collection,
            new=self._target.collection,
            vector=record.new.settings.vector,
            switched=switched,
        )

    def _finished(self, record: InPlaceRecord, *, switched: bool | None = None) -> MigrationReport:
        self._name(record, switched=self._running.report.switched if switched is None else switched)
        if HASH_FIELD in self._state().payload_indexes:
            self._running.note(
                f"the strict mode of the collection required a payload index of `{HASH_FIELD}`, "
                "which is deleted when the migration is finished or abandoned"
            )
        self._running.update(phase="done")
        return self._running.report
