"""What the commands share: options, where the collection is, and how they print JSON.

`quern --help` imports the modules of all commands, so what is heavy is imported inside functions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from quernstone.errors import ConfigError

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

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
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def target_name(path: str | None, url: str | None) -> str:
    """The folder or the address that was given.

    Raises:
        ConfigError: Both were.
    """
    if path is not None and url is not None:
        raise ConfigError(
            f"both a folder ({path}) and a server ({url}) are given; use one of --path and --url"
        )
    return url or path or DEFAULT_FOLDER


@contextmanager
def connected(where: str, url: str | None, api_key: str | None) -> Iterator[QdrantClient]:
    """Open the client, and close it in the end."""
    from quernstone_qdrant.targets import connect

    client = connect(url=url, api_key=api_key) if url else connect(path=where)
    try:
        yield client
    finally:
        client.close()


def print_json(value: object) -> None:
    """Write one line of JSON to standard output."""
    import orjson

    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()
