"""The requests that a Qdrant server understands, whichever transport carries them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from qdrant_client import models

Kind = Literal["service", "collection", "read", "write"]


class Refusal(Exception):
    """An answer with an error: `status` as in REST, which gRPC translates to a code of its own."""

    def __init__(self, status: int, message: str, retry_after: str | None = None):
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


class HangUp(Exception):
    """The connection ends without an answer."""


@dataclass(frozen=True)
class Operation:
    """One kind of request."""

    name: str
    """Name of the method of `Machine` that runs it."""
    method: str
    path: str
    kind: Kind = "service"
    body: Any = None
    """Type of the request's body, from `qdrant_client.models`."""


@dataclass(frozen=True)
class Upsert:
    """The body of an upsert, from any of its forms."""

    points: list[models.PointStruct]
    update_filter: models.Filter | None = None
    update_mode: models.UpdateMode | None = None


@dataclass
class Call:
    """One request."""

    operation: Operation
    names: dict[str, str]
    """The variable parts of the path."""
    transport: Literal["rest", "grpc"]
    node: int = 0
    """Number of the node that received it."""
    size: int = 0
    """Bytes of the body."""
    points: int = 0
    """Points that the body carries or names."""
    content: Any = None
    """The body as it came: bytes of JSON, or a message of gRPC."""
    parse: Callable[[], Any] = lambda: None
    """Returns the body; raises a `Refusal`."""
    body: Any = None
    params: dict[str, str] = field(default_factory=dict)
    """Parameters besides the body: wait, ordering, consistency, timeout."""
    fault: str | None = None

    @property
    def method(self) -> str:
        return self.operation.method

    @property
    def path(self) -> str:
        return self.operation.path.format(**self.names)

    @property
    def wait(self) -> bool:
        return self.params.get("wait") == "true"


@dataclass(frozen=True)
class Request:
    """One line of `Server.requests`."""

    method: str
    path: str
    bytes: int
    points: int
    transport: str
    node: int
    body: Any = None
    """JSON, or a message of gRPC, if `Server.keep_bodies` is set."""


_COLLECTION = "/collections/{collection}"
_POINTS = _COLLECTION + "/points"

OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("info", "GET", "/"),
        Operation("telemetry", "GET", "/telemetry"),
        Operation("metrics", "GET", "/metrics"),
        Operation("healthz", "GET", "/healthz"),
        Operation("readyz", "GET", "/readyz"),
        Operation("livez", "GET", "/livez"),
        Operation("cluster", "GET", "/cluster"),
        Operation("collections", "GET", "/collections"),
        Operation("aliases", "GET", "/aliases"),
        Operation(
            "change_aliases", "POST", "/collections/aliases", body=models.ChangeAliasesOperation
        ),
        Operation("exists", "GET", _COLLECTION + "/exists"),
        Operation("create", "PUT", _COLLECTION, body=models.CreateCollection),
        Operation("drop", "DELETE", _COLLECTION),
        Operation("describe", "GET", _COLLECTION, "collection"),
        Operation("update", "PATCH", _COLLECTION, "collection", models.UpdateCollection),
        Operation("collection_aliases", "GET", _COLLECTION + "/aliases", "collection"),
        Operation("collection_cluster", "GET", _COLLECTION + "/cluster", "collection"),
        Operation("optimizations", "GET", _COLLECTION + "/optimizations", "collection"),
        Operation("list_snapshots", "GET", _COLLECTION + "/snapshots", "collection"),
        Operation("create_snapshot", "POST", _COLLECTION + "/snapshots", "collection"),
        Operation("delete_snapshot", "DELETE", _COLLECTION + "/snapshots/{item}", "collection"),
        Operation(
            "recover", "PUT", _COLLECTION + "/snapshots/recover", body=models.SnapshotRecover
        ),
        Operation(
            "create_index", "PUT", _COLLECTION + "/index", "collection", models.CreateFieldIndex
        ),
        Operation("delete_index", "DELETE", _COLLECTION + "/index/{item}", "collection"),
        Operation(
            "create_vector",
            "PUT",
            _COLLECTION + "/vectors/{item}",
            "collection",
            models.VectorNameConfig,
        ),
        Operation("delete_vector", "DELETE", _COLLECTION + "/vectors/{item}", "collection"),
        Operation("upsert", "PUT", _POINTS, "write", Upsert),
        Operation("delete", "POST", _POINTS + "/delete", "write", models.PointsSelector),
        Operation("update_vectors", "PUT", _POINTS + "/vectors", "write", models.UpdateVectors),
        Operation(
            "delete_vectors", "POST", _POINTS + "/vectors/delete", "write", models.DeleteVectors
        ),
        Operation("set_payload", "POST", _POINTS + "/payload", "write", models.SetPayload),
        Operation("overwrite_payload", "PUT", _POINTS + "/payload", "write", models.SetPayload),
        Operation(
            "delete_payload", "POST", _POINTS + "/payload/delete", "write", models.DeletePayload
        ),
        Operation(
            "clear_payload", "POST", _POINTS + "/payload/clear", "write", models.PointsSelector
        ),
        Operation("batch", "POST", _POINTS + "/batch", "write", models.UpdateOperations),
        Operation("retrieve", "POST", _POINTS, "read", models.PointRequest),
        Operation("point", "GET", _POINTS + "/{item}", "read"),
        Operation("scroll", "POST", _POINTS + "/scroll", "read", models.ScrollRequest),
        Operation("count", "POST", _POINTS + "/count", "read", models.CountRequest),
        Operation("query", "POST", _POINTS + "/query", "read", models.QueryRequest),
        Operation(
            "query_batch", "POST", _POINTS + "/query/batch", "read", models.QueryRequestBatch
        ),
        Operation(
            "query_groups", "POST", _POINTS + "/query/groups", "read", models.QueryGroupsRequest
        ),
        Operation(
            "matrix_pairs",
            "POST",
            _POINTS + "/search/matrix/pairs",
            "read",
            models.SearchMatrixRequest,
        ),
        Operation(
            "matrix_offsets",
            "POST",
            _POINTS + "/search/matrix/offsets",
            "read",
            models.SearchMatrixRequest,
        ),
        Operation("facet", "POST", _COLLECTION + "/facet", "read", models.FacetRequest),
    )
}
