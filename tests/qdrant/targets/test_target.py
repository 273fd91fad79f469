"""What a server answers, as our errors. The server here is a stub over loopback."""

import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import orjson
import pytest
from qdrant_client import QdrantClient

from quernstone_qdrant import CollectionError, QdrantLoader, TargetError, provenance
from quernstone_qdrant.targets import connect


@contextmanager
def server(answer):
    """Serve `answer(method, path) -> (status, JSON)`; yield a client."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, value = answer(self.command, self.path)
            body = value if isinstance(value, bytes) else orjson.dumps(value)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        client = QdrantClient(url=f"http://127.0.0.1:{http.server_port}", check_compatibility=False)
        yield client
        client.close()
        http.shutdown()
        thread.join()


def collection(metadata, points):
    """What a server says about a collection."""
    config = {
        "params": {"vectors": {"size": 64, "distance": "Cosine"}},
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
        "optimizer_config": {
            "deleted_threshold": 0.2,
            "vacuum_min_vector_number": 1000,
            "default_segment_number": 0,
            "flush_interval_sec": 5,
        },
        "metadata": metadata,
    }
    return {
        "status": "green",
        "optimizer_status": "ok",
        "segments_count": 1,
        "points_count": points,
        "config": config,
        "payload_schema": {},
    }


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (403, b"Must provide an API key", "status 403: Must provide an API key"),
        (500, {"status": {"error": "disk full"}}, "status 500: .*disk full"),
        (200, b"not JSON", "Qdrant failed at looking for the collection"),
    ],
)
def test_an_answer_that_is_no_success(embedder, monkeypatch, status, body, message):
    monkeypatch.setattr("quernstone_qdrant.loader.OPENING_PATIENCE", 0.2)  # instead of 5 s
    with server(lambda *_: (status, body)) as client, pytest.raises(TargetError, match=message):
        QdrantLoader(client, "docs", embedder)


def test_a_server_that_is_too_old_for_metadata_says_so(embedder, monkeypatch):
    def answer(method, path):
        if path.endswith("/exists"):
            return 200, {"result": {"exists": True}}
        if method == "GET":
            return 200, {"result": collection(None, 0)}
        if path.endswith("/count"):
            return 200, {"result": {"count": 0}}
        done = {"operation_id": 1, "status": "completed"}
        return 200, {"result": done if "/index" in path else True}

    monkeypatch.setattr(provenance, "METADATA_PATIENCE", 0)
    with (
        server(answer) as client,
        pytest.raises(CollectionError, match="does not store collection metadata"),
    ):
        QdrantLoader(client, "docs", embedder)


def test_a_write_that_a_server_only_queued_is_not_done(embedder):
    asked = []
    metadata = {}

    def answer(method, path):
        asked.append((method, path))
        if path.endswith("/exists"):
            return 200, {"result": {"exists": True}}
        if path == "/collections/docs":
            return 200, {"result": collection(metadata, 0) if method == "GET" else True}
        if method == "POST":
            return 200, {"result": []}
        return 200, {"result": {"operation_id": 7, "status": "wait_timeout"}}

    from quernstone_qdrant.provenance import Provenance

    metadata.update(replace(Provenance.of(embedder, "docs"), identity="1").metadata())
    with server(answer) as client:
        loader = QdrantLoader(client, "docs", embedder, patience=0)
        with pytest.raises(TargetError, match="answered 'wait_timeout' instead of 'completed'"):
            loader.load([{"id": "a", "text": "text"}])
    assert asked[-1] == ("PUT", "/collections/docs/points?wait=true")


def test_an_address_that_is_none():
    with pytest.raises(TargetError, match="cannot open"):
        connect(url="http://[half")
