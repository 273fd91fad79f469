"""Loads any number of records into a collection: exactly once, however often it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike

from qdrant_client import QdrantClient

from quernstone.errors import ConfigError, QuernstoneError
from quernstone_qdrant.documents.chunking import Chunker
from quernstone_qdrant.documents.layouts import LayoutName
from quernstone_qdrant.loading.run import Load, LoadPlan, Prune
from quernstone_qdrant.provenance import Provenance, TextEmbedder, prepare_collection
from quernstone_qdrant.report import Depths, LoadReport
from quernstone_qdrant.settings import CollectionSettings, DeferIndex, Preset, SettingsWish
from quernstone_qdrant.sources.arrow import as_rows
from quernstone_qdrant.store import REQUEST_BYTES
from quernstone_qdrant.targets import Target, as_target


class QdrantLoader:
    """Writes documents into one collection, with everything needed to find them again.

    A point's id is made of the collection, the document's key and the chunk's number, and its
    payload holds a hash of its content. Before a batch is embedded its ids are looked up, and what
    is there unchanged is skipped. So a second run adds nothing, a run after a crash goes on where
    the first one stopped, and an edited document is replaced.

    Args:
        client: Of any kind, or a target. An embedded client is used on the calling thread only.
        collection: Created when missing.
        embedder: Usually a `quernstone.Embedder`. It is called from several threads.
        preset: How a new collection stores its points: a preset's name, or settings of your own;
            None: `dense`, or what the collection was made with.
        layout: Shape of the payload; None: `universal`, or what the collection was made with.
        hybrid: Whether there is BM25 for hybrid search; None: no, or what the collection was made
            with.
        chunk_size: Most characters per chunk; None keeps every text whole.
        chunk_overlap: Most characters that a chunk repeats of the one before; None: a tenth of
            `chunk_size`.
        batch_size: Most chunks per lookup, embedding call and write. A batch is smaller when the
            model needs longer than some seconds for it: a crash loses, and progress waits for,
            about that much.
        request_bytes: About how large a write may become; larger batches are divided.
        patience: Seconds for which a request is repeated that fails in passing: a lost connection,
            a server that is overloaded or restarts. 0 repeats nothing.
        defer_index: Whether a server builds its index only when a load has ended; see `DeferIndex`.
            It is put back in any case, after a crash by the next load.
        index_timeout: Wait so many seconds, at the end of a load, until all is indexed; None: the
            target goes on by itself.
        skip_errors: Leave out what cannot be read or embedded, count it, and go on. Otherwise the
            load stops at the first such error, after writing all that was read before it.
        dead_letter: File to which goes what is left out, with the reason; it implies
            `skip_errors`, is replaced by each load, and can itself be loaded.
        allow_mismatch: Load into a collection that another model made, and record that. Points
            that are there stay as they are.
        on_error: Called with each error that is left out.
        progress: Called after each batch with the report so far.

    Raises:
        ConfigError: A size that can never work.
        CollectionError: The collection cannot take these vectors, or was made with other settings.
        ProvenanceError: The collection was made with another model.
        TargetError: Qdrant cannot be reached.

    Example:
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
        embedder: TextEmbedder,
        *,
        preset: Preset | CollectionSettings | None = None,
        layout: LayoutName | None = None,
        hybrid: bool | None = None,
        chunk_size: int | None = 1200,
        chunk_overlap: int | None = None,
        batch_size: int = 2048,
        request_bytes: int = REQUEST_BYTES,
        patience: float = 300.0,
        defer_index: DeferIndex = "none",
        index_timeout: float | None = None,
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
        target = as_target(client, collection)
        chunker = Chunker(chunk_size, chunk_overlap)
        provenance = prepare_collection(
            target,
            embedder,
            SettingsWish(preset=preset, layout=layout, hybrid=hybrid),
            allow_mismatch=allow_mismatch,
        )
        self._plan = LoadPlan(
            target=target,
            provenance=provenance,
            embedder=embedder,
            chunker=chunker,
            batch_size=batch_size,
            request_bytes=request_bytes,
            most_points=target.state().max_batch,
            patience=patience,
            defer_index=defer_index,
            index_timeout=index_timeout,
            skip_errors=skip_errors or dead_letter is not None,
            dead_letter=dead_letter,
            on_error=on_error,
            progress=progress,
        )
        self._load: Load | None = None

    @property
    def collection(self) -> str:
        """Name of the collection."""
        return self._plan.target.collection

    @property
    def provenance(self) -> Provenance:
        """What the collection records about its model."""
        return self._plan.provenance

    @property
    def report(self) -> LoadReport:
        """The figures of the load that runs, or of the last one, also if it failed."""
        return self._load.report if self._load is not None else LoadReport()

    @property
    def depths(self) -> Depths:
        """How full the stages of the running load are."""
        return self._load.depths if self._load is not None else Depths()

    def load(
        self,
        records: Iterable[object],
        *,
        source: str = "",
        prune: Prune = False,
    ) -> LoadReport:
        """Load records, in bounded memory.

        Args:
            records: Of any length: mappings, dataclasses, `Record`s, LangChain documents,
                LlamaIndex nodes (see `to_record`); or a table: of Arrow, `datasets`, pandas,
                Polars (see `as_rows`). An error among them, as `read_paths` yields, is treated
                like an error of the loader's own. They are read on a thread of their own.
            source: Names where the records are from, for `prune`; records of `read_paths` bring
                the name of their folder or file.
            prune: Afterwards delete the documents that are gone. True: of the sources that these
                records name; points of other sources are left alone. `collection`: of every
                source. Points that no loader wrote stay. Nothing is deleted when something failed
                or was left out, when `stop` ended the load, or when there was no record at all.

        Returns:
            The figures of this call.

        Raises:
            SourceError: A file or row cannot be read, and `skip_errors` is off.
            RecordError: A record cannot be loaded, and `skip_errors` is off.
            EngineError: The model failed.
            TargetError: Qdrant failed; what was confirmed before stays.
        """
        if prune not in (True, False, "collection"):
            raise ConfigError(f"`prune` is {prune!r}; it must be True, False or 'collection'")
        self._load = Load(self._plan, as_rows(records), source=source, prune=prune)
        return self._load.run()

    def stop(self) -> None:
        """End the running load soon, from another thread or from a signal handler.

        Nothing more is read; what is being embedded is still written. Running the same load again
        goes on from there.
        """
        if self._load is not None:
            self._load.stop()
