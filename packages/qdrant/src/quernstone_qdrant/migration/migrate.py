"""Migrate a collection to another model, dimension, preset or layout, while it is in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient

from quernstone.errors import ConfigError
from quernstone_qdrant.documents.layouts import LayoutName
from quernstone_qdrant.embedders import AnyEmbedder, as_embedder
from quernstone_qdrant.errors import CollectionError, CollectionNotFoundError
from quernstone_qdrant.migration.blue_green import BlueGreenMigration
from quernstone_qdrant.migration.comparison import Queries
from quernstone_qdrant.migration.in_place import InPlaceMigration
from quernstone_qdrant.migration.in_place_record import InPlaceRecord
from quernstone_qdrant.migration.options import MigrationOptions
from quernstone_qdrant.migration.report import MigrationPlan, MigrationReport, RunningReport
from quernstone_qdrant.overrides import SettingsOverrides
from quernstone_qdrant.retry import Retry
from quernstone_qdrant.settings import CollectionSettings, Preset
from quernstone_qdrant.store import REQUEST_BYTES
from quernstone_qdrant.targets import Target, as_target


class QdrantMigration:
    """A migration of one collection to another model or other settings.

    A second collection is filled from the texts in the payloads of the first, while programs
    continue to write to it and search it. Passes over both compare every payload and embed what is
    missing or differs, until a pass finds nothing. Then the new collection is verified, the name is
    switched to it, and one more pass applies what was written to the old collection meanwhile. A
    migration that was killed continues when it is started again.

    On a server and in an embedded Qdrant the name must be an alias, which one request switches; see
    `alias` and `replace` for the name of a collection. In Edge, two folders exchange their names.

    With `in_place`, the collection gets a second, named vector instead, and no payload changes: its
    record names the new model from the switch on. This needs a collection that `QdrantLoader`
    created, Edge, the embedded client or a server from 1.18 on, and only the model, its revision or
    the dimensions may change. Points are not stored twice; the old vectors stay until `finish`.

    Points that `QdrantLoader` wrote keep their ids, and later loads into the new collection skip
    them. Points of other programs keep their ids and payloads.

    Args:
        client: A Qdrant client (remote or embedded) or a target.
        collection: The name that programs use.
        embedder: Embedder of the new collection; see `QdrantLoader`. None: only for `rollback` and
            `finish`.
        to: Name of the new collection, or of the new vector with `in_place`; None: derived from the
            model.
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
        old_embedder: Embedder of the old collection, for `queries`, and for the `rollback` of a
            migration in place after which points were written.
        skip_errors: Leave points without text, or that cannot be embedded, in the old collection.
        most_passes: Passes before the switch, if each finds points that were written meanwhile.
        index_timeout: Seconds to wait until the new collection is indexed, before the switch.
        in_place: Migrate inside the collection; see above. `rollback` and `finish` recognize such a
            migration by themselves.
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
        in_place: bool = False,
        progress: Callable[[MigrationReport], None] = lambda _: None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("most_passes", most_passes)):
            if value < 1:
                raise ConfigError(f"`{name}` is {value}; it must be at least 1")
        if alias is not None and replace:
            raise ConfigError("`alias` and `replace` exclude each other: choose one")
        excluded = {
            "text_field": text_field,
            "vector_name": vector_name,
            "alias": alias,
            "replace": replace,
        }
        given = [name for name, value in excluded.items() if value]
        if in_place and given:
            raise ConfigError(
                f"`in_place` excludes {', '.join(f'`{name}`' for name in given)}: the collection "
                "keeps its name, and its texts are where a loader wrote them"
            )
        self._running = RunningReport(collection, Retry(patience), progress)
        self._options = MigrationOptions(
            target=as_target(client, collection),
            embedder=None if embedder is None else as_embedder(embedder),
            overrides=SettingsOverrides(
                preset=preset, layout=layout, hybrid=hybrid, changes=dict(settings or {})
            ),
            queries=Queries.of(queries, old_embedder),
            to=to,
            batch_size=batch_size,
            request_bytes=request_bytes,
            retry=self._running.retry,
            sample=sample,
            skip_errors=skip_errors,
            most_passes=most_passes,
            index_timeout=index_timeout,
            running=self._running,
        )
        self._in_place = in_place
        self._blue_green = BlueGreenMigration(
            self._options,
            text_field=text_field,
            vector_name=vector_name,
            alias=alias,
            replaces=replace,
            state_folder=Path(state_folder),
        )

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
        return self._chosen().run(switch=switch)

    async def arun(self, *, switch: bool = True) -> MigrationReport:
        """Like `run`, without blocking the event loop.

        An embedded client can only be used from the thread that created it, so there it does block.
        """
        if self._options.target.writers == 1:
            return self.run(switch=switch)
        return await asyncio.to_thread(self.run, switch=switch)

    def plan(self) -> MigrationPlan:
        """Describe what `run` would do, from a sample of the points. Writes nothing.

        Raises:
            ConfigError: See `run`.
            CollectionError: See `run`.
        """
        return self._chosen().plan()

    def rollback(self, *, delete: bool = False) -> MigrationReport:
        """Let the name lead to the old collection again, at once.

        What was written to the new collection since the switch is not in the old one. The report
        counts these points as `conflicts`. Of a migration in place, such points lack the old vector
        and are embedded by `old_embedder` first.

        Args:
            delete: Also delete the new collection, which abandons the migration. Otherwise `run`
                continues it.

        Raises:
            CollectionError: No migration is under way, the old collection was deleted, or points
                lack the old vector and `old_embedder` was not passed.
        """
        return self._under_way().rollback(delete=delete)

    def finish(self) -> MigrationReport:
        """Delete the old collection after the switch, or the old vector.

        Raises:
            CollectionError: No migration is under way, it has not switched yet, or points were
                written to the old collection, or without the new vector, since the last pass: run
                the migration again first.
        """
        return self._under_way().finish()

    def _chosen(self) -> BlueGreenMigration | InPlaceMigration:
        """Return the kind of migration that is requested.

        Raises:
            CollectionError: A migration of the other kind is under way.
        """
        if self._in_place:
            return InPlaceMigration.open(self._options)
        record = self._record()
        if record is not None:
            raise CollectionError(
                self._options.target.collection,
                f"a migration in place to {record.new.model!r} is under way: continue it with "
                "`in_place` (--in-place), finish it, or abandon it by `rollback(delete=True)` "
                "(--rollback --delete)",
            )
        return self._blue_green

    def _under_way(self) -> BlueGreenMigration | InPlaceMigration:
        if self._in_place or self._record() is not None:
            return InPlaceMigration.open(self._options)
        return self._blue_green

    def _record(self) -> InPlaceRecord | None:
        """Return the record of a migration in place; None also if the name leads nowhere."""
        self._options.check_reachable()
        retry, target = self._options.retry, self._options.target
        try:
            return InPlaceRecord.read(retry.call(lambda: target.pinned().state()))
        except CollectionNotFoundError:
            return None
