"""The REST front: JSON over HTTP/1.1, one thread for each connection."""

import re
import socket
import threading
from contextlib import suppress
from enum import Enum
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from qdrant_client import models
from tests.support.qdrant_server.calls import OPERATIONS, Call, HangUp, Operation, Refusal, Upsert
from tests.support.qdrant_server.floats import reread_floats
from tests.support.qdrant_server.limits import check_depth

if TYPE_CHECKING:
    from tests.support.qdrant_server.server import Server

_FORMAT_ERROR = "Format error in JSON body: "


class RestFront(ThreadingHTTPServer):
    """The listener of one node. Port 0 takes a free one."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, server: "Server", node: int, port: int):
        self.model, self.node = server, node
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), RestHandler)
        self.port = self.server_port
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening and cut the connections."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        for connection in list(self._open):
            _cut(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that leave before their answer."""


class RestHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one packet
    server: RestFront

    def log_message(self, *_: Any) -> None:
        pass

    def handle_any(self) -> None:
        """Answer a request of any method."""
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            operation, names = _route(self.command, url.path)
            call = Call(operation, names, "rest", self.server.node, len(body))
            call.params = dict(parse_qsl(url.query))
            call.content, call.points = body, _count_points(body, operation)
            call.parse = partial(self._parse, operation, body)
            result = self.server.model.handle(call)
        except Refusal as refusal:
            headers = {"Retry-After": refusal.retry_after} if refusal.retry_after else {}
            error = {"status": {"error": refusal.message}, "time": 0.0}
            self.answer(refusal.status, error if refusal.message else None, headers)
        except HangUp:
            self.close_connection = True
            _cut(self.connection)
        except Exception as error:  # noqa: BLE001 - `running_server` raises it
            self.server.model.bugs.append(error)
            self.answer(500, {"status": {"error": f"bug of the model: {error!r}"}, "time": 0.0})
        else:
            if isinstance(result, str | models.VersionInfo):
                self.answer(200, as_json(result))
            else:
                self.answer(200, {"result": as_json(result), "status": "ok", "time": 0.0})

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

    def _parse(self, operation: Operation, body: bytes) -> Any:
        if operation.body is None:
            return None
        check_depth(body)
        try:
            data = orjson.loads(body)
            if self.server.model.float_noise:
                data = reread_floats(data)
            if not self.server.model.at_least(1, 19):
                _refuse_slices(data)
            if operation.body is Upsert:
                return _upsert(data)
            return _adapter(operation.body).validate_python(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise Refusal(400, f"{_FORMAT_ERROR}{first['loc']}: {first['msg']}") from error
        except (orjson.JSONDecodeError, LookupError, TypeError, ValueError) as error:
            raise Refusal(400, f"{_FORMAT_ERROR}{error!r}") from error

    def answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        plain = isinstance(value, str)
        body = b"" if value is None else value.encode() if plain else _dumps(value)
        self.send_response(status)
        self.send_header("content-type", "text/plain" if plain else "application/json")
        self.send_header("content-length", str(len(body)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)


def as_json(value: Any) -> Any:
    """Return a result as REST sends it: fields that are not set are left out."""
    if isinstance(value, BaseModel):
        return {
            name: np.float32(part)
            if name == "score"
            else part
            if name == "payload"
            else as_json(part)
            for name, part in value
            if part is not None or name == "next_page_offset"
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        numbers = value and isinstance(value[0], float)
        return np.asarray(value, np.float32) if numbers else [as_json(part) for part in value]
    if isinstance(value, dict):
        return {key: as_json(part) for key, part in value.items()}
    return value


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _route(method: str, path: str) -> tuple[Operation, dict[str, str]]:
    for operation in OPERATIONS.values():
        if operation.method == method and (found := _pattern(operation.path).fullmatch(path)):
            return operation, {key: unquote(text) for key, text in found.groupdict().items()}
    raise Refusal(404, "")


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path))


@cache
def _adapter(body: Any) -> TypeAdapter[Any]:
    return TypeAdapter(body)


def _count_points(body: bytes, operation: Operation) -> int:
    if operation.kind not in ("read", "write"):
        return 0
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return 0  # the request is refused when it is parsed
    if not isinstance(data, dict):
        return 0
    batch = data.get("batch")
    named = batch.get("ids") if isinstance(batch, dict) else data.get("points", data.get("ids"))
    return len(named) if isinstance(named, list) else 0


def _upsert(data: Any) -> Upsert:
    """Return the points of an upsert without the validation of each number."""
    if "batch" in data:
        batch = data["batch"]
        count, vectors = len(batch["ids"]), batch["vectors"]
        columns = (
            [{name: column[row] for name, column in vectors.items()} for row in range(count)]
            if isinstance(vectors, dict)
            else vectors
        )
        payloads = batch.get("payloads") or [None] * count
        rows = list(zip(batch["ids"], columns, payloads, strict=True))
    else:
        rows = [(row["id"], row["vector"], row.get("payload")) for row in data["points"]]
    where, mode = data.get("update_filter"), data.get("update_mode")
    return Upsert(
        [
            models.PointStruct.model_construct(id=point, vector=_vectors(vector), payload=payload)
            for point, vector, payload in rows
        ],
        models.Filter.model_validate(where) if where else None,
        models.UpdateMode(mode) if mode else None,
    )


def _vectors(value: Any) -> Any:
    if not isinstance(value, dict) or ({"indices", "text"} & value.keys() and "model" in value):
        return _vector(value)
    return {name: _vector(vector) for name, vector in value.items()}


def _vector(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "indices" in value:
        return models.SparseVector.model_validate(value)
    return models.Document.model_validate(value)


def _refuse_slices(data: Any) -> None:
    """Refuse a condition that came with version 1.19."""
    if isinstance(data, list):
        for part in data:
            if isinstance(part, dict):
                _refuse_slices(part)
    elif isinstance(data, dict):
        if isinstance(data.get("slice"), dict) and "total" in data["slice"]:
            raise Refusal(
                400,
                f"{_FORMAT_ERROR}Expected some form of condition, which can be a field condition "
                '(like {"key": ..., "match": ... }), or some other mentioned in the documentation: '
                "https://qdrant.tech/documentation/concepts/filtering/#filtering-conditions",
            )
        for name, part in data.items():
            if name not in ("payload", "payloads"):
                _refuse_slices(part)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # the client closed it first
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
