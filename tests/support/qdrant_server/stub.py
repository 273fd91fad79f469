"""A small Qdrant server over loopback: it keeps points, answers slowly or wrongly when told to.

It speaks the part of the REST API that the loader uses, with the answers of Qdrant 1.16 and newer.
"""

import email.utils
import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson
from qdrant_client import QdrantClient

FAULTS = {
    "429": "asks to come back, and says when",
    "429-bare": "asks to come back",
    "429-date": "asks to come back at a time of day, which the client cannot read",
    "500": "fails",
    "503": "is not there, and says for how long",
    "drop": "closes the connection without doing anything",
    "lost": "does it, and closes the connection without saying so",
    "slow": "does it, and answers later than the client waits",
    "late": "says `wait_timeout`, and does it when the next request comes",
    "never": "says `wait_timeout`, and does nothing",
    "acknowledged": "says `acknowledged`, and does it when the next request comes",
}


@dataclass
class Collection:
    config: dict
    metadata: dict
    indexes: dict = field(default_factory=dict)
    points: dict = field(default_factory=dict)
    """Id: (payload, vector)"""


class Stub(ThreadingHTTPServer):
    """The server. Read and write its attributes while it runs."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.RLock()
        self.collections = {}
        self.script = []
        """Faults of the next writes of points, one each; None: none."""
        self.chaos = None
        """Called with (method, path) of every request: the name of a fault, or None."""
        self.request_bytes = 32 << 20
        self.too_large = 413
        self.strict = None
        self.delay = 0.0
        """Seconds that a write takes."""
        self.slow = 1.5
        """Seconds of the fault `slow`; the client must wait for less."""
        self.put_off = []
        """(collection, data) of writes that were answered and not done yet."""
        self.requests = []
        """(method, path, bytes, points)"""
        self.faults = Counter()
        self.writing = self.most_writing = 0

    def handle_error(self, request, client_address):
        """A client that does not wait for its answer is no error of the server's."""

    def writes(self):
        return [request for request in self.requests if request[0] == "PUT" and request[3]]

    def next_fault(self, method, path):
        with self.lock:
            fault = None
            if self.chaos is not None:
                fault = self.chaos(method, path)
            elif method == "PUT" and path.endswith("/points") and self.script:
                fault = self.script.pop(0)
            if fault:
                self.faults[fault] += 1
            return fault


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def log_message(self, *_):
        pass

    def handle_any(self):
        stub = self.server
        path = self.path.split("?")[0]
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        data = orjson.loads(body) if body else {}
        sent = data.get("batch", {}).get("ids") or data.get("points") or []
        with stub.lock:
            while stub.put_off:
                self.write(*stub.put_off.pop(0))
            stub.requests.append((self.command, path, len(body), len(sent)))
        if len(body) > stub.request_bytes:
            reason = f"JSON payload ({len(body)} bytes) is larger than allowed"
            return self.answer(stub.too_large, {"status": {"error": reason}})
        fault = stub.next_fault(self.command, path)
        is_write = self.command == "PUT" and path.endswith("/points")
        if fault in ("429", "503"):
            return self.fail(int(fault), {"Retry-After": "1"})
        if fault == "429-date":
            return self.fail(429, {"Retry-After": email.utils.formatdate(time.time() + 1)})
        if fault in ("429-bare", "500", "400", "403"):
            return self.fail(int(fault[:3]), {})
        if fault == "drop":
            return self.hang_up()
        if fault in ("late", "acknowledged", "never") and is_write:
            if fault != "never":
                with stub.lock:
                    stub.put_off.append((stub.collections[path.split("/")[2]], data))
            status = "acknowledged" if fault == "acknowledged" else "wait_timeout"
            return self.answer(200, {"result": {"operation_id": 1, "status": status}})
        if is_write:
            with stub.lock:
                stub.writing += 1
                stub.most_writing = max(stub.most_writing, stub.writing)
            time.sleep(stub.delay)
            with stub.lock:
                stub.writing -= 1
        status, result = self.run(path, data)
        if fault == "lost":
            return self.hang_up()
        if fault == "slow":
            time.sleep(stub.slow)
        return self.answer(status, result if status >= 400 else {"result": result, "status": "ok"})

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

    def fail(self, status, headers):
        self.answer(status, {"status": {"error": f"fault {status}"}, "time": 0.0}, headers)

    def hang_up(self):
        self.close_connection = True
        self.connection.close()

    def answer(self, status, value, headers=()):
        body = orjson.dumps(value)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for name, text in dict(headers).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def run(self, path, data):
        """Do what a request asks: (status, result)."""
        stub = self.server
        parts = path.strip("/").split("/")
        with stub.lock:
            if path == "/":
                return 200, {"title": "stub", "version": "1.20.0"}
            if parts == ["collections"]:
                return 200, {"collections": [{"name": name} for name in stub.collections]}
            name, rest = parts[1], parts[2:]
            if rest == ["exists"]:
                return 200, {"exists": name in stub.collections}
            if not rest and self.command == "PUT":
                metadata = data.pop("metadata", None) or {}
                stub.collections[name] = Collection(data, metadata)
                return 200, True
            found = stub.collections.get(name)
            if found is None:
                return 404, {"status": {"error": f"Collection `{name}` doesn't exist!"}}
            return getattr(self, "on_" + ("_".join(rest) or "collection"))(found, data)

    def on_collection(self, found, data):
        if self.command == "PATCH":
            found.metadata.update(data.get("metadata") or {})
            return 200, True
        config = {
            "params": {"vectors": found.config["vectors"]},
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
            "metadata": found.metadata,
        }
        if self.server.strict:
            config["strict_mode_config"] = {"enabled": True, **self.server.strict}
        return 200, {
            "status": "green",
            "optimizer_status": "ok",
            "segments_count": 1,
            "points_count": len(found.points),
            "config": config,
            "payload_schema": {},
        }

    def on_index(self, found, data):
        found.indexes[data["field_name"]] = data.get("field_schema")
        return 200, {"operation_id": 1, "status": "completed"}

    def on_points(self, found, data):
        if self.command == "PUT":
            return self.write(found, data)
        fields = data["with_payload"]
        return 200, [
            {"id": i, "payload": _chosen(found.points[i][0], fields)}
            for i in data["ids"]
            if i in found.points
        ]

    def write(self, found, data):
        batch = data["batch"]
        limit = (self.server.strict or {}).get("upsert_max_batchsize")
        if limit is not None and len(batch["ids"]) > limit:
            return 400, {"status": {"error": f"Upsert batch size limit is {limit}"}}
        rows = zip(batch["ids"], batch["payloads"], batch["vectors"], strict=True)
        found.points.update({i: (payload, vector) for i, payload, vector in rows})
        return 200, {"operation_id": 1, "status": "completed"}

    def on_points_delete(self, found, data):
        for i in data["points"]:
            found.points.pop(i, None)
        return 200, {"operation_id": 1, "status": "completed"}

    def on_points_count(self, found, data):
        return 200, {"count": len(found.points)}

    def on_points_scroll(self, found, data):
        ids = sorted(i for i in found.points if i >= (data.get("offset") or ""))
        page, after = ids[: data["limit"]], ids[data["limit"] :]
        points = []
        for i in page:
            payload, vector = found.points[i]
            point = {"id": i, "payload": _chosen(payload, data["with_payload"])}
            points.append(point | ({"vector": vector} if data.get("with_vector") else {}))
        return 200, {"points": points, "next_page_offset": after[0] if after else None}


def _chosen(payload, fields):
    if fields is True:
        return payload
    return {name: payload[name] for name in fields if name in payload}


def random_faults(seed, share, names=tuple(FAULTS)):
    """A `Stub.chaos` that fails a share of the requests for points, by the seed."""
    dice = random.Random(seed)

    def choose(method, path):
        chance, name = dice.random(), dice.choice(names)
        return name if chance < share and "/points" in path else None

    return choose


@contextmanager
def running_stub():
    """Serve on a thread, until the block ends."""
    with Stub() as stub:
        thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield stub
        finally:
            stub.shutdown()
            thread.join()


def connected(stub, timeout=1):
    """A client of the stub. Its patience with one answer is a whole number of seconds."""
    return QdrantClient(url=stub.url, check_compatibility=False, timeout=timeout)
