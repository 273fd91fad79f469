"""Connect to Qdrant, and check that a gRPC port belongs to the server of the REST address.

The two ports of a client are set independently, so that gRPC may lead to another server: it would
get the API key and the points. The check reads the collection through both ports. The key is sent
through gRPC only if both ports refuse to answer without one.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Mapping
from typing import Any

import grpc
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.qdrant_remote import QdrantRemote
from urllib3.util import parse_url

from quernstone.errors import ConfigError
from quernstone_qdrant.errors import TargetError
from quernstone_qdrant.targets.base import METADATA_KEY
from quernstone_qdrant.targets.edge_files import refuse_folder_of

logger = logging.getLogger("quernstone")

_TIMEOUT = 60
"""Seconds. The client's default of 5 s is too short for a bulk write that waits for completion."""
_REST_PORT, _GRPC_PORT = 6333, 6334
_SETTLE_SECONDS = 5.0
"""Time for a node of a cluster to learn of a collection that was created through another one."""
_REFUSED_STATUS = frozenset({401, 403})
_REFUSED_CODES = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


def connect(
    *,
    path: str | None = None,
    url: str | None = None,
    api_key: str | None = None,
    prefer_grpc: bool = False,
    grpc_port: int | None = None,
) -> QdrantClient:
    """Open an embedded Qdrant in a folder, or connect to a server.

    Args:
        path: Folder of the embedded Qdrant, created if missing; `:memory:` stores nothing on disk.
        url: Address of a server. Pass exactly one of `path` and `url`.
        api_key: API key for the server.
        prefer_grpc: Use gRPC, which sends a third of the bytes, for points. Its port must be
            reachable in addition to that of `url`. Before the API key or a point is sent through
            it, the collection is read through both ports, so that another server gets neither.
        grpc_port: Port of gRPC; None: 6334, if the port of `url` is 6333.

    Raises:
        ConfigError: `prefer_grpc` needs a `grpc_port`, because the port of `url` is not 6333; or
            the folder belongs to Qdrant Edge.
        TargetError: Another process has the folder open, or the address is not valid.
    """
    try:
        if url is not None:
            if api_key is not None and url.lower().startswith("http://"):
                logger.warning("the API key is sent unencrypted to %s: use https://", url)
            with warnings.catch_warnings():  # the client says this with the path of a source file
                warnings.filterwarnings("ignore", "Api key is used with an insecure connection")
                return QdrantClient(
                    url=url,
                    api_key=api_key,
                    prefer_grpc=prefer_grpc,
                    grpc_port=grpc_port or (_grpc_port_of(url) if prefer_grpc else _GRPC_PORT),
                    timeout=_TIMEOUT,
                    check_compatibility=False,
                )
        if path == ":memory:":
            return QdrantClient(":memory:")
        if path is not None:
            refuse_folder_of(path, "edge")
        return QdrantClient(path=path)
    except RuntimeError as error:
        raise TargetError(
            f"the folder {path!r} is in use by another process: end that process, or run a Qdrant "
            "server and pass its address (`--url`)"
        ) from error
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise TargetError(f"cannot open {url or path!r}: {error}") from error


def _grpc_port_of(url: str) -> int:
    """Return the gRPC port of a server that has both ports by default: 6333 and 6334.

    Raises:
        ConfigError: The address has another port, which says nothing about the gRPC port.
    """
    port = parse_url(url).port or _REST_PORT
    if port != _REST_PORT:
        raise ConfigError(
            f"the gRPC port of {url!r} is not known, because its port is not {_REST_PORT}: pass it "
            "as `grpc_port` (`--grpc-port`)"
        )
    return _GRPC_PORT


def rest_only(remote: QdrantRemote) -> QdrantRemote:
    """Return a copy that shares the connections of `remote` and never uses gRPC."""
    rest = copy.copy(remote)
    rest._prefer_grpc = False
    return rest


def check_grpc_port(remote: QdrantRemote, collection: str) -> None:
    """Check that both ports of a client lead to the server with the same collection.

    Args:
        remote: A client that prefers gRPC.
        collection: A collection that exists on the server of the REST address.

    Raises:
        TargetError: The gRPC port belongs to another server.
        ApiException: The server failed, or `grpc.RpcError`.
    """
    anonymous = _without_key(remote)
    try:
        refused = [_refuses(side, collection) for side in (rest_only(anonymous), anonymous)]
        if refused == [True, True]:
            rest_version, grpc_version = rest_only(anonymous).info(), anonymous.info()
            if rest_version != grpc_version:
                raise _other_server(
                    remote, f"it runs {grpc_version.version}, not {rest_version.version}"
                )
            _compare(remote, remote, collection)
        elif refused == [False, False]:
            _compare(remote, anonymous, collection)
        else:
            raise _other_server(remote, "only one of the two requires an API key")
    finally:
        anonymous.close()


def _without_key(remote: QdrantRemote) -> QdrantRemote:
    return QdrantRemote(
        host=remote._host,
        port=remote._port,
        https=remote._https,
        prefix=remote._prefix,
        grpc_port=remote._grpc_port,
        prefer_grpc=True,
        timeout=remote._timeout,
        check_compatibility=False,
        pool_size=1,
    )


def _refuses(side: QdrantRemote, collection: str) -> bool:
    """Return True if a port does not answer without an API key."""
    try:
        side.collection_exists(collection)
    except UnexpectedResponse as error:
        if error.status_code not in _REFUSED_STATUS:
            raise
    except grpc.RpcError as error:
        if not hasattr(error, "code") or error.code() not in _REFUSED_CODES:
            raise
    else:
        return False
    return True


def _compare(remote: QdrantRemote, through: QdrantRemote, collection: str) -> None:
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        expected, found = _record(rest_only(remote), collection), _record(through, collection)
        if expected == found:
            return
        if (expected and found) or time.monotonic() > deadline:
            there = "another collection" if found else "no collection"
            raise _other_server(remote, f"it has {there} {collection!r} that this package loaded")
        time.sleep(0.1)


def _record(side: QdrantRemote, collection: str) -> Mapping[str, Any] | None:
    """Return the part of the collection's metadata that holds its identity; None if missing."""
    if not side.collection_exists(collection):
        return None
    metadata = side.get_collection(collection).config.metadata or {}
    record = metadata.get(METADATA_KEY)
    if isinstance(record, dict) and record.get("identity"):
        return {"identity": record["identity"]}
    return {"record": record}


def _other_server(remote: QdrantRemote, difference: str) -> TargetError:
    return TargetError(
        f"the gRPC port {remote._grpc_port} of {remote._host} belongs to another server than "
        f"{remote.rest_uri}: {difference}; pass the right port as `grpc_port` (`--grpc-port`), or "
        "do not use gRPC"
    )
