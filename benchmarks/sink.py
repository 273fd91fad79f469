"""A Qdrant server that accepts everything and stores nothing: `python -m benchmarks.sink NAME`.

Prints its address and serves until it is terminated. Loading into it measures the loader alone.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Sink(BaseHTTPRequestHandler):
    """A handler that answers like an empty Qdrant and discards all writes."""

    protocol_version = "HTTP/1.1"
    collection: dict[str, Any] | None = None
    name = ""

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.split("?")[0]
        kind = type(self)
        result: Any = {"operation_id": 1, "status": "completed"}
        if path == "/":
            return self._send({"title": "forgetful", "version": "1.20.0"})
        if path.endswith("/exists"):
            result = {"exists": kind.collection is not None}
        elif path == f"/collections/{self.name}":
            if self.command == "PUT":
                kind.collection = json.loads(body)
                result = True
            else:
                result = self._state()
        elif self.command == "POST" and path.endswith("/points"):
            result = []
        return self._send({"result": result, "status": "ok", "time": 0.0})

    def _state(self) -> dict[str, Any]:
        collection = type(self).collection or {}
        optimizers = {
            "deleted_threshold": 0.2,
            "vacuum_min_vector_number": 1000,
            "default_segment_number": 0,
            "flush_interval_sec": 5,
        }
        config = {
            "params": {"vectors": collection.get("vectors")},
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
            "optimizer_config": optimizers,
            "metadata": collection.get("metadata"),
        }
        state = {"status": "green", "optimizer_status": "ok", "segments_count": 1}
        return {**state, "points_count": 0, "config": config, "payload_schema": {}}

    def _send(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_PATCH = _answer  # noqa: N815


def main(name: str) -> None:
    """Serve one collection on a free port of the loopback interface."""
    Sink.name = name
    with ThreadingHTTPServer(("127.0.0.1", 0), Sink) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
