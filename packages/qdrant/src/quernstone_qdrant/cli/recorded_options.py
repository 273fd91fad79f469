"""Options of earlier loads, which `quern load` reads from the collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from quernstone.errors import ConfigError
from quernstone_qdrant.chunk_sizes import KEY, ChunkSize, chosen_sizes
from quernstone_qdrant.cli.load_options import BatchOptions
from quernstone_qdrant.errors import CollectionNotFoundError, ProvenanceError

if TYPE_CHECKING:
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.targets import Target


@dataclass(frozen=True)
class RecordedOptions:
    """The options of earlier loads of a collection. A new collection has none."""

    collection: str
    provenance: Provenance | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, target: Target) -> RecordedOptions:
        """Read the options that are recorded in a collection, if it exists.

        Raises:
            TargetError: Qdrant cannot be reached.
        """
        from quernstone_qdrant.provenance import Provenance
        from quernstone_qdrant.retry import OPENING_PATIENCE, Retry

        try:
            state = Retry(OPENING_PATIENCE).call(lambda: target.pinned().state())
        except CollectionNotFoundError:
            return cls(target.collection)
        options = state.metadata.get(KEY)
        return cls(target.collection, Provenance.read(state), options or {})

    def dimensions(self, given: int | None, *, allow_mismatch: bool) -> int | None:
        """Return the length of the vectors; None: the model's own.

        Raises:
            ProvenanceError: The collection has another one.
        """
        if self.provenance is None:
            return given
        recorded = self.provenance.dimensions
        if given not in (None, recorded) and not allow_mismatch:
            raise ProvenanceError(self.collection, "dimensions", recorded, given)
        return given or recorded

    def batches(self, given: BatchOptions) -> BatchOptions:
        """Return the options with the recorded chunk size and overlap where none is given.

        Raises:
            ConfigError: The collection has other chunks.
        """
        size: ChunkSize = "auto" if given.chunk_size is None else given.chunk_size or None
        size, overlap = chosen_sizes(self.collection, self.options, size, given.chunk_overlap)
        return replace(given, chunk_size=size or 0, chunk_overlap=overlap)

    def id_field(self, given: str | None, namespace: str) -> str | None:
        """Return the field of the ids of rows in a namespace.

        Raises:
            ConfigError: Rows of this namespace were loaded with other ids.
        """
        recorded = self.options.get("id_fields", {}).get(namespace)
        if given is not None and recorded not in (None, given):
            raise ConfigError(
                f"collection {self.collection!r} has the ids of rows from the field "
                f"{recorded!r}, but --id-field is {given!r}: leave it out, or pass --namespace "
                "NAME for rows with other ids"
            )
        return given or recorded

    def record(
        self, target: Target, batches: BatchOptions, id_field: str | None, namespace: str
    ) -> None:
        """Write the options of this load into the collection, if they are not recorded yet.

        Raises:
            TargetError: Qdrant failed.
        """
        fields = dict(self.options.get("id_fields", {}))
        if id_field is not None:
            fields[namespace] = id_field
        options = {
            "chunk_size": batches.chunk_size,
            "chunk_overlap": batches.chunk_overlap,
            "id_fields": fields,
        }
        if options != self.options:
            from quernstone_qdrant.retry import Retry

            Retry(batches.patience).call(lambda: target.pinned().describe({KEY: options}))
