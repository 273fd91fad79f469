"""Options that the commands share: which collection to use, and where it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.cli.options import EMBEDDING_MODEL, ModelOptions, default_model, model_option
from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from quernstone import Embedder
    from quernstone_qdrant.provenance import Provenance
    from quernstone_qdrant.targets import Target

DEFAULT_FOLDER = "qdrant-data"

_PLACES = ("path", "url", "edge")

_option = partial(typer.Option, rich_help_panel="Qdrant")

AllowMismatch = Annotated[
    bool, typer.Option("--allow-mismatch", help="Use a collection created with another model.")
]


def _unless_from_environment(
    context: typer.Context, parameter: typer.CallbackParam, value: str | None
) -> str | None:
    """Ignore the model of the environment: `open_embedder` uses it for new collections only."""
    source = context.get_parameter_source(parameter.name or "")
    return None if source and source.name == "ENVIRONMENT" else value


CollectionModel = Annotated[
    str | None,
    model_option(
        "--model",
        "-m",
        envvar="QUERN_MODEL",
        callback=_unless_from_environment,
        help="Embedding model. (default: that of the collection; of a new one QUERN_MODEL, or "
        f"{EMBEDDING_MODEL})",
    ),
]


def open_embedder(
    options: ModelOptions,
    model: str | None,
    dimensions: int | None,
    collection: str,
    provenance: Provenance | None,
    *,
    allow_mismatch: bool = False,
) -> Embedder:
    """Load the model of a collection, or the one that the command line names.

    Args:
        options: How the model runs.
        model: The model that the command line names.
        dimensions: Length of the vectors; None: as in the collection, else the model's own.
        collection: Name of the collection.
        provenance: That of the collection; None if it is new, or does not record its model.
        allow_mismatch: Accept another model than the collection's.

    Raises:
        ProvenanceError: The command line names another model than the collection's.
    """
    if provenance is None:
        return options.embedder(model or default_model(None), dimensions=dimensions)
    dimensions = dimensions or provenance.dimensions
    if allow_mismatch or model in (None, provenance.model):
        return options.embedder(model or provenance.model, dimensions=dimensions)
    # Compared at its full length, because it may not have that of the collection.
    with options.embedder(model) as full:
        wanted = replace(type(provenance).of(full, collection), dimensions=provenance.dimensions)
        provenance.check(wanted, collection)
        return options.embedder(model, dimensions=dimensions)


def _unless_overridden(
    context: typer.Context, parameter: typer.CallbackParam, value: str | None
) -> str | None:
    """Ignore a place from an environment variable if the command line names another one."""
    sources = {name: context.get_parameter_source(name) for name in _PLACES}
    # The enum is click's or, in newer versions, Typer's own.
    typed = {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    return value if parameter.name in typed or not typed else None


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """Where collections are."""

    path: Annotated[
        str | None,
        _option(
            envvar="QUERN_PATH",
            callback=_unless_overridden,
            help=f"Folder of an embedded Qdrant. (default: ./{DEFAULT_FOLDER})",
        ),
    ] = None
    url: Annotated[
        str | None,
        _option(
            envvar="QUERN_URL", callback=_unless_overridden, help="Address of a Qdrant server."
        ),
    ] = None
    edge: Annotated[
        str | None,
        _option(help="Folder of Qdrant Edge, which has an index: for more than 20,000 points."),
    ] = None
    api_key: Annotated[
        str | None,
        _option(
            envvar="QDRANT_API_KEY", help="API key of the server. Prefer the environment variable."
        ),
    ] = None
    grpc: Annotated[
        bool, _option("--grpc", help="Use gRPC for points, which transfers a third of the bytes.")
    ] = False
    grpc_port: Annotated[
        int | None,
        _option(
            min=1,
            max=65535,
            help="Port of gRPC; implies --grpc. (default: 6334 if the address has port 6333)",
        ),
    ] = None

    @property
    def where(self) -> str:
        """The address or the folder of Qdrant.

        Raises:
            ConfigError: More than one was given.
        """
        values = {"--path": self.path, "--url": self.url, "--edge": self.edge}
        given = [name for name, value in values.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} name different places; use one of them")
        return self.url or self.edge or self.path or DEFAULT_FOLDER

    @property
    def is_missing(self) -> bool:
        """True if the folder does not exist, so that there are no collections."""
        return self.url is None and not Path(self.where).is_dir()

    @contextmanager
    def place(self, *, create: bool = False) -> Iterator[Place]:
        """Open the server or the folder, and close it at the end.

        Args:
            create: Create a missing folder instead of raising.

        Raises:
            ConfigError: More than one place was given, the folder does not exist, or it is of
                another kind.
        """
        from quernstone_qdrant.targets import connect
        from quernstone_qdrant.targets.edge_files import refuse_folder_of

        where = self.where
        if not create and self.is_missing:
            raise ConfigError(f"the Qdrant folder {where!r} does not exist; load documents first")
        client = None
        if self.url is not None:
            client = connect(
                url=where,
                api_key=self.api_key,
                prefer_grpc=self.grpc or self.grpc_port is not None,
                grpc_port=self.grpc_port,
            )
        elif self.edge is None:
            client = connect(path=where)
        else:
            refuse_folder_of(where, "embedded")
        try:
            yield Place(client, where)
        finally:
            if client is not None:
                client.close()


@dataclass(frozen=True)
class Place:
    """An open server or folder."""

    client: QdrantClient | None
    """None for a folder of Edge."""
    where: str

    def names(self) -> list[str]:
        """Return the sorted names of the collections.

        Raises:
            TargetError: The server does not answer.
        """
        from quernstone_qdrant.retry import OPENING_PATIENCE, Retry
        from quernstone_qdrant.targets.access import collection_names
        from quernstone_qdrant.targets.edge_files import edge_collections

        if self.client is None:
            return edge_collections(self.where)
        client = self.client
        return Retry(OPENING_PATIENCE).call(lambda: collection_names(client))

    @contextmanager
    def target(self, name: str) -> Iterator[Target]:
        """Open a collection; the place stays open."""
        from quernstone_qdrant.targets import as_target

        if self.client is not None:
            yield as_target(self.client, name)
            return
        from quernstone_qdrant.targets.edge import EdgeTarget

        target = EdgeTarget(self.where, name)
        try:
            yield target
        finally:
            target.close()


@dataclass(frozen=True, kw_only=True)
class CollectionOptions(PlaceOptions):
    """Which collection to use, and where it is."""

    name: Annotated[
        str,
        _option("--collection", "-c", envvar="QUERN_COLLECTION", help="Name of the collection."),
    ]

    @contextmanager
    def open(self, *, create: bool = False) -> Iterator[Target]:
        """Open the collection's target, and close it at the end.

        Args:
            create: Create a missing folder instead of raising.

        Raises:
            ConfigError: More than one place was given, the folder does not exist, or it is of
                another kind.
        """
        with self.place(create=create) as place, place.target(self.name) as target:
            yield target
