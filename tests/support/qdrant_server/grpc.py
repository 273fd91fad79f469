"""The gRPC front: messages translated to the requests of REST, and results back."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError, Message
from pydantic import BaseModel
from qdrant_client import models
from qdrant_client.conversions.conversion import GrpcToRest
from tests.support.qdrant_server.calls import OPERATIONS, Call, HangUp, Refusal, Upsert
from tests.support.qdrant_server.grpc_calls import RPCS, Rpc

if TYPE_CHECKING:
    from tests.support.qdrant_server.server import Server

_THREADS = 16
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    413: grpc.StatusCode.OUT_OF_RANGE,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""Code of each status; INTERNAL for the others."""


class GrpcFront(grpc.GenericRpcHandler):
    """The listener of one node. Port 0 takes a free one."""

    def __init__(self, server: "Server", node: int, port: int):
        self._model, self._node = server, node
        options = [
            ("grpc.max_receive_message_length", -1),  # `Server.request_bytes` is the limit
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        self._grpc = grpc.server(ThreadPoolExecutor(_THREADS), [self], options=options)
        self.port = self._grpc.add_insecure_port(f"127.0.0.1:{port}")
        self._grpc.start()

    def close(self) -> None:
        """Stop listening and cut the connections."""
        self._grpc.stop(None).wait()

    def service(self, details: Any) -> Any:
        rpc = RPCS.get(details.method)
        if rpc is None:
            return None  # the client gets UNIMPLEMENTED
        return grpc.unary_unary_rpc_method_handler(partial(self.answer, rpc))

    def answer(self, rpc: Rpc, data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            message = _decoded(rpc, data)
            call = Call(OPERATIONS[rpc.operation], _names(rpc, message), "grpc", self._node)
            call.size, call.points, call.content = len(data), _count_points(message), message
            call.params = _params(message)
            call.parse = partial(self._parse, rpc, message)
            result = self._model.handle(call)
            return _encoded(rpc, result)
        except Refusal as refusal:
            if refusal.retry_after:
                context.set_trailing_metadata((("retry-after", refusal.retry_after),))
            context.abort(_CODES.get(refusal.status, grpc.StatusCode.INTERNAL), refusal.message)
        except HangUp:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        except Exception as error:  # noqa: BLE001 - `running_server` raises it
            self._model.bugs.append(error)
            context.abort(grpc.StatusCode.INTERNAL, f"bug of the model: {error!r}")

    def _parse(self, rpc: Rpc, message: Any) -> Any:
        body = rpc.body(message)
        if not self._model.at_least(1, 19):
            _ignore_slices(body)
        return body


def _decoded(rpc: Rpc, data: bytes) -> Any:
    try:
        return rpc.request.FromString(data)
    except DecodeError as error:  # protobuf also limits the nesting
        raise Refusal(500, "failed to decode Protobuf message: recursion limit reached") from error


def _encoded(rpc: Rpc, result: Any) -> bytes:
    try:
        return rpc.answer(result).SerializeToString()
    except DecodeError as error:  # a server sends it, and the client cannot read it
        raise Refusal(500, "Exception deserializing response!") from error


def _names(rpc: Rpc, message: Any) -> dict[str, str]:
    names = {"collection": getattr(message, "collection_name", "")}
    if rpc.operation == "query_batch" and not names["collection"]:
        names["collection"] = message.query_points[0].collection_name
    return names | ({"item": getattr(message, rpc.item)} if rpc.item else {})


def _count_points(message: Message) -> int:
    points = getattr(message, "points", getattr(message, "ids", ()))
    if hasattr(points, "points"):  # a selector
        points = points.points.ids
    return len(points)


def _params(message: Message) -> dict[str, str]:
    """Return the parameters that REST has in its query string."""
    given = {field.name: value for field, value in message.ListFields()}
    params = {"wait": "true"} if given.get("wait") else {}
    if "timeout" in given:
        params["timeout"] = str(given["timeout"])
    if "read_consistency" in given:
        consistency = GrpcToRest.convert_read_consistency(given["read_consistency"])
        params["consistency"] = str(getattr(consistency, "value", consistency))
    return params


def _ignore_slices(value: Any) -> None:
    """Remove conditions that came with version 1.19: an older server does not see the field."""
    if isinstance(value, list):
        value[:] = [part for part in value if not isinstance(part, models.SliceCondition)]
        if value and not isinstance(value[0], int | float | str):
            for part in value:
                _ignore_slices(part)
    elif isinstance(value, Upsert):
        _ignore_slices(value.update_filter)
    elif isinstance(value, BaseModel):
        for _, part in value:
            _ignore_slices(part)
