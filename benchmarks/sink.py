"""A Qdrant server that stores no points: `python -m benchmarks.sink`.

Prints its address and its gRPC port, and serves until it is terminated. It answers each write of
points once it was read, without decoding it, so that only the client's work counts.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from qdrant_client import grpc as messages
from tests.support.qdrant_server import running_server
from tests.support.qdrant_server.grpc import GrpcFront
from tests.support.qdrant_server.rest import RestHandler

_WRITTEN = {"result": {"operation_id": 1, "status": "completed"}, "status": "ok", "time": 0.0}
_WRITTEN_MESSAGE = messages.PointsOperationResponse(
    result=messages.UpdateResult(operation_id=1, status=messages.UpdateStatus.Completed)
).SerializeToString()


def _put(handler: Any) -> None:
    if not handler.path.split("?")[0].endswith("/points"):
        handler.handle_any()
        return
    handler.rfile.read(int(handler.headers.get("content-length", 0)))
    handler.answer(200, _WRITTEN)


def _answer(front: Any, rpc: Any, data: bytes, context: Any, usual: Any = GrpcFront.answer) -> Any:
    return _WRITTEN_MESSAGE if rpc.operation == "upsert" else usual(front, rpc, data, context)


@contextmanager
def running_sink() -> Iterator[tuple[str, int, psutil.Process]]:
    """Run the server in a process of its own; yield its address, its gRPC port and its process."""
    command = [sys.executable, "-m", "benchmarks.sink"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        if server.stdout is None:
            raise RuntimeError("the server has no output")
        url, port = server.stdout.readline().split()
        yield url, int(port), psutil.Process(server.pid)
        server.terminate()


def main() -> None:
    """Serve on free ports of the loopback interface until standard input ends."""
    RestHandler.do_PUT = _put  # type: ignore[method-assign]
    GrpcFront.answer = _answer  # type: ignore[method-assign]
    with running_server("1.20.0") as server:
        print(server.url, server.grpc_port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
