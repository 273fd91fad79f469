"""Load records into a collection, incrementally: only new and changed chunks are embedded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike

from qdrant_client import QdrantClient

from quernstone.errors import ConfigError, QuernstoneError
from quernstone_qdrant.chunk_sizes import ChunkSize, record_sizes
from quernstone_qdrant.documents.chunking import Chunker
from quernstone_qdrant.documents.layouts import LayoutName
from quernstone_qdrant.embedders import (
    AnyEmbedder,
    FrameworkEmbedder,
    TextEmbedder,
    as_embedder,
    is_normalized,
)
from quernstone_qdrant.loading.precomputed import Vectors
from quernstone_qdrant.loading.run import Load, LoadPlan, Prune
from quernstone_qdrant.overrides import SettingsOverrides
from quernstone_qdrant.provenance import Provenance, prepare_collection
from quernstone_qdrant.report import Depths, LoadReport
from quernstone_qdrant.retry import OPENING_PATIENCE, Retry
from quernstone_qdrant.settings import CollectionSettings, DeferIndex, Preset
from quernstone_qdrant.sources.arrow import as_rows
from quernstone_qdrant.store import REQUEST_BYTES
from quernstone_qdrant.targets import Target, as_target


class QdrantLoader:
    """A loader that writes documents and their vectors into a collection.

    A point's id is derived from the collection, the key of the document and the number of the
    chunk, and its payload holds a hash of its content. The loader looks up the ids of a batch
    before embedding it and skips unchanged chunks. So a second run adds nothing, a run after a
    crash continues where the first one stopped, and an edited document is replaced.

    Args:
        client: A Qdrant client (remote or embedded) or a target. An embedded client is only used
            from the calling thread.
        collection: Name of the collection, which is created if it does not exist.
        embedder: Usually a `quernstone.Embedder`; or an embedding object of LangChain or
            LlamaIndex (see `FrameworkEmbedder`). It is called from several threads.
        preset: How the collection stores its points: the name of a preset, or your own settings;
            None: the settings of an existing collection, or `dense` for a new one. In a collection
            that holds points, settings in `settings.IN_PLACE` are changed, and others refused.
        settings: Single fields of `CollectionSettings` to change, by name, such as `{"m": 32}`.
        layout: Shape of the payload; None: that of an existing collection, or `universal`.
        hybrid: Add BM25 for hybrid search; None: as in an existing collection, or False.
        chunk_size: Maximum number of characters per chunk; None keeps each text whole; `auto`: as
            in earlier loads of the collection, or 1,200. What is given is recorded, and another
            value is refused later.
        chunk_overlap: Maximum number of characters that a chunk repeats from the previous one;
            None: as in earlier loads, or a tenth of `chunk_size`.
        batch_size: Maximum number of chunks per lookup, embedding call and write. Batches are
            smaller if the model would need more than a few seconds for one: a crash loses, and
            `progress` waits for, up to one batch.
        request_bytes: Approximate size limit of a write; larger batches are divided.
        patience: Seconds in which to retry a request that fails temporarily, because of a lost
            connection or a server that is overloaded or restarting; 0 never retries.
        defer_index: Whether a server builds its index only after the load; see `DeferIndex`. The
            last of several loads restores the original settings, after a crash the next one.
        index_timeout: Seconds to wait after the load until all points are indexed; None: a server
            continues in the background.
        replace_sources: Let records replace documents of the same key from another source.
            Otherwise such a record is an error.
        skip_errors: Skip and count items that cannot be read or embedded. Otherwise the load stops
            at the first such error, after writing everything that was read before it.
        dead_letter: File to which skipped items are written, with the reason. It implies
            `skip_errors`, is replaced by each load, and can itself be loaded.
        allow_mismatch: Load into a collection that another model created, and record this model.
            Existing points stay as they are.
        on_error: Called with each error that is skipped.
        progress: Called after each batch with the report so far.

    Raises:
        ConfigError: An argument is out of range, or earlier loads had other chunks.
        CollectionError: The collection cannot store these vectors, or has other settings.
        ProvenanceError: The collection was created with another model.
        TargetError: Qdrant cannot be reached.

    Examples:
        >>> from qdrant_client import QdrantClient
        >>> from quernstone import Embedder
        >>> loader = QdrantLoader(QdrantClient(":memory:"), "notes", Embedder("tiny"))
        >>> loader.load([{"id": "mill", "text": "A quern is a hand mill."}]).embedded
        1
    """

    def __init__(
        self,
        client: QdrantClient | Target,
        collection: str,
        embedder: AnyEmbedder,
        *,
        preset: Preset | CollectionSettings | None = None,
        settings: Mapping[str, object] | None = None,
        layout: LayoutName | None = None,
        hybrid: bool | None = None,
        chunk_size: ChunkSize = "auto",
        chunk_overlap: int | None = None,
        batch_size: int = 2048,
        request_bytes: int = REQUEST_BYTES,
        patience: float = 300.0,
        defer_index: DeferIndex = "none",
        index_timeout: float | None = None,
        replace_sources: bool = False,
        skip_errors: bool = False,
        dead_letter: str | PathLike[str] | None = None,
        allow_mismatch: bool = False,
        on_error: Callable[[QuernstoneError], None] | None = None,
        progress: Callable[[LoadReport], None] | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("request_bytes", request_bytes)):
            if value < 1:
                raise ConfigError(f"`{name}` is {value}; it must be at least 1")
        if patience < 0:
            raise ConfigError(f"`patience` is {patience}; it must be at least 0")
        named = as_target(client, collection)
        target = Retry(min(patience, OPENING_PATIENCE)).call(named.pinned)
        if chunk_size != "auto":
            Chunker(chunk_size, chunk_overlap)  # refuses invalid sizes before anything is created
        notes: list[str] = []
        model: TextEmbedder = as_embedder(embedder)
        if isinstance(model, FrameworkEmbedder):
            notes.append(model.note)
        if not is_normalized(model):
            notes.append(
                f"the vectors of `{model.model}` are not normalized: they are stored with length 1 "
                "and compared by cosine, also if the model was trained for dot products"
            )
        provenance = prepare_collection(
            target,
            model,
            SettingsOverrides(preset=preset, layout=layout, hybrid=hybrid, changes=settings or {}),
            allow_mismatch=allow_mismatch,
            note=notes.append,
            patience=patience,
        )
        sizes = record_sizes(target, chunk_size, chunk_overlap, Retry(patience), notes.append)
        self._plan = LoadPlan(
            target=target,
            named=named,
            provenance=provenance,
            embedder=model,
            chunker=Chunker(*sizes),
            batch_size=batch_size,
            request_bytes=request_bytes,
            patience=patience,
            defer_index=defer_index,
            index_timeout=index_timeout,
            notes=notes,
            replace_sources=replace_sources,
            skip_errors=skip_errors or dead_letter is not None,
            dead_letter=dead_letter,
            on_error=on_error,
            progress=progress,
        )
        self._load: Load | None = None

    @property
    def collection(self) -> str:
        """Name of the collection."""
        return self._plan.named.collection

    @property
    def provenance(self) -> Provenance:
        """The record of the model that the collection was created with."""
        return self._plan.provenance

    @property
    def report(self) -> LoadReport:
        """Report of the running load, or of the last one, even if it failed."""
        return self._load.report if self._load is not None else LoadReport()

    @property
    def depths(self) -> Depths:
        """Number of batches in or waiting for each stage of the running load."""
        return self._load.depths if self._load is not None else Depths()

    def load(
        self,
        records: Iterable[object],
        *,
        source: str = "",
        prune: Prune = False,
    ) -> LoadReport:
        """Load any number of records, in bounded memory.

        Args:
            records: An iterable of mappings, dataclasses, `Record`s, LangChain documents or
                LlamaIndex nodes (see `to_record`), or a table from Arrow, `datasets`, pandas or
                Polars (see `as_rows`). An error among them, as `read_paths` yields, is handled
                like an error of the loader. The iterable is consumed on a separate thread.
            source: Where the records come from, for `prune`. Records from `read_paths` already
                name their folder or file.
            prune: Afterwards delete documents that no longer exist. True: only of the sources
                named by these records. `collection`: of every source. Points that no loader wrote,
                or that one wrote after this load began, are never deleted. Nothing is deleted if
                anything failed or was skipped, if `stop` ended the load, or if there were no
                records.

        Returns:
            The report of this load.

        Raises:
            SourceError: A file or row cannot be read, and `skip_errors` is off.
            RecordError: A record cannot be loaded, and `skip_errors` is off.
            EngineError: The model failed.
            TargetError: Qdrant failed. Batches that it confirmed before remain stored.
        """
        self._load = Load(self._plan, as_rows(records), source=source, prune=_checked(prune))
        return self._load.run()

    def load_vectors(
        self,
        records: Iterable[object],
        vectors: Vectors = "embedding",
        *,
        source: str = "",
        prune: Prune = False,
    ) -> LoadReport:
        """Load records whose vectors were computed before; nothing is embedded, or split.

        The collection records the loader's embedder as the model of these vectors, which is what
        searches compare: pass the one that computed them. Its weights are not loaded. `verify` with
        the embedder embeds some of the texts again, and so shows whether they belong together.

        Args:
            records: See `load`.
            vectors: The field that holds a record's vector, which is not stored as metadata; a
                LlamaIndex node without this field has it as `embedding`. Or an array of one row
                per record, such as a file that `numpy.load(..., mmap_mode="r")` opened. Vectors are
                normalized. Shape of a vector: (dimensions,)
            source: See `load`.
            prune: See `load`.

        Raises:
            RecordError: A vector is missing, has another size, or is not finite, and `skip_errors`
                is off. See also `load`.
            ConfigError: The array has another shape.
        """
        self._load = Load(
            self._plan, as_rows(records), source=source, prune=_checked(prune), vectors=vectors
        )
        return self._load.run()

    def stop(self) -> None:
        """End the running load soon; call this from another thread or a signal handler.

        Reading stops. What the model returns within two seconds is still written; batches that
        take longer are abandoned. Running the same load again continues from there.
        """
        if self._load is not None:
            self._load.stop()


def _checked(prune: Prune) -> Prune:
    if prune not in (True, False, "collection"):
        raise ConfigError(f"`prune` is {prune!r}; it must be True, False or 'collection'")
    return prune
