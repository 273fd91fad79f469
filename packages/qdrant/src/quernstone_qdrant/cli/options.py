"""What the commands share: options, where the collection is, and how they print JSON.

`quern --help` imports the modules of all commands, so what is heavy is imported inside functions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from quernstone_qdrant.targets import Target

DEFAULT_FOLDER = "qdrant-data"

_PANEL = "Qdrant"
Collection = Annotated[
    str, typer.Option("--collection", "-c", help="Name of the collection.", rich_help_panel=_PANEL)
]
Folder = Annotated[
    str | None,
    typer.Option(
        "--path",
        help=f"Folder of an embedded Qdrant. (default: ./{DEFAULT_FOLDER})",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Edge = Annotated[
    str | None,
    typer.Option(
        "--edge",
        help="Folder of Qdrant Edge, which has an index: for more than 20,000 points.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Address of a Qdrant server, instead of a folder.",
        rich_help_panel=_PANEL,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="QDRANT_API_KEY",
        help="Key of the server; better given in the environment.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
Grpc = Annotated[
    bool,
    typer.Option(
        "--grpc",
        help="Talk to the server by gRPC (port 6334), which takes a third of the bytes.",
        rich_help_panel=_PANEL,
    ),
]
AllowMismatch = Annotated[
    bool,
    typer.Option("--allow-mismatch", help="Use a collection that another model made."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def target_name(path: str | None, url: str | None, edge: str | None) -> str:
    """The folder or the address that was given.

    Raises:
        ConfigError: More than one was.
    """
    given = {"--path": path, "--url": url, "--edge": edge}
    options = [name for name, value in given.items() if value is not None]
    if len(options) > 1:
        raise ConfigError(f"{' and '.join(options)} name different places; use one of them")
    return url or edge or path or DEFAULT_FOLDER


def existing_target_name(path: str | None, url: str | None, edge: str | None) -> str:
    """Like `target_name`, and a folder must be there: looking must not create one.

    Raises:
        ConfigError: More than one was given, or there is no such folder.
    """
    where = target_name(path, url, edge)
    if url is None and not Path(where).is_dir():
        raise ConfigError(f"there is no Qdrant folder {where!r}; load documents into it first")
    return where


@contextmanager
def opened(
    collection: str,
    where: str,
    *,
    url: str | None,
    edge: str | None,
    api_key: str | None,
    prefer_grpc: bool = False,
) -> Iterator[Target]:
    """Open a collection's target, and close it in the end.

    Args:
        collection: Its name.
        where: What `target_name` returned.
        url: Given when that is an address.
        edge: Given when that is a folder of Qdrant Edge.
        api_key: For the server.
        prefer_grpc: Talk gRPC to it.
    """
    from quernstone_qdrant.targets import as_target, connect

    target: Target
    if edge is not None:
        from quernstone_qdrant.targets.edge import EdgeTarget

        target = EdgeTarget(where, collection)
    else:
        if url is None:
            client = connect(path=where)
        else:
            client = connect(url=url, api_key=api_key, prefer_grpc=prefer_grpc)
        target = as_target(client, collection)
    try:
        yield target
    finally:
        target.close()


def print_json(value: object) -> None:
    """Write one line of JSON to standard output."""
    import orjson

    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()
