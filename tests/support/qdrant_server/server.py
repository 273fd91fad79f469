"""A server, or a cluster of them, on this machine's loopback."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import orjson
from qdrant_client import QdrantClient, models
from tests.support.qdrant_server.calls import Call, HangUp, Refusal, Request
from tests.support.qdrant_server.collection import Collection
from tests.support.qdrant_server.faults import POSTPONED, refuse
from tests.support.qdrant_server.grpc import GrpcFront
from tests.support.qdrant_server.rest import RestFront
from tests.support.qdrant_server.state import Machine


class Node:
    """One process of the cluster: its addresses and its part of the points."""

    def __init__(self, server: "Server", number: int):
        self.embedded = QdrantClient(":memory:")
        self.peer_id = 1687780968699476 + number
        self.running = False
        self._server, self._number = server, number
        self._rest_port = self._grpc_port = 0
        self._reserved: list[socket.socket] = []
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._rest_port}"

    @property
    def grpc_port(self) -> int:
        return self._grpc_port

    @property
    def peer_uri(self) -> str:
        return f"{self.url}/"

    def start(self) -> None:
        """Listen, at the addresses of last time; replicas that were marked dead catch up."""
        if self.running:
            return
        while self._reserved:
            self._reserved.pop().close()
        self._rest = RestFront(self._server, self._number, self._rest_port)
        self._grpc = GrpcFront(self._server, self._number, self._grpc_port)
        self._rest_port, self._grpc_port = self._rest.port, self._grpc.port
        self.running = True
        self._server.machine.restart(self._number)

    def kill(self) -> None:
        """Stop listening and cut every connection."""
        if not self.running:
            return
        self.running = False
        self._rest.close()
        self._grpc.close()
        self._reserved = [_reserve(self._rest_port), _reserve(self._grpc_port)]

    def close(self) -> None:
        self.kill()
        while self._reserved:
            self._reserved.pop().close()
        self.embedded.close()


class Server:
    """The server. Read and change its attributes while it runs."""

    def __init__(self, version: str, nodes: int, write_consistency: int):
        self.version = version
        self.replication = {
            "replication_factor": min(2, nodes),
            "write_consistency_factor": write_consistency,
        }
        """Values for collections that are created without them."""
        self.requests: list[Request] = []
        """Every request that was received."""
        self.keep_bodies = False
        """Keep their bodies as well."""
        self.script: list[str | None] = []
        """Faults of the next writes of points, one each; None: none."""
        self.chaos: Callable[[str, str], str | None] | None = None
        """Called with (method, path) of every request: the name of a fault, or None."""
        self.faults: Counter[str] = Counter()
        self.strict: dict[str, Any] | None = None
        """Settings of strict mode for every collection."""
        self.memory_percent = 0
        """Resident memory, for the setting `max_resident_memory_percent`."""
        self.status: str | list[str] = "green"
        """State of all collections; of a list, one for each answer. An update ends a grey one."""
        self.optimizer_error: str | None = None
        self.queued_writes = 0
        self.optimizations: dict[str, Any] | None = None
        """Answer about optimizations, in place of the one that `status` leads to."""
        self.float_noise = False
        """Doubles in payloads and metadata lose their last bits, as a real server's do."""
        self.shuffle_keys = False
        """Keys of payloads come back in random order by gRPC, and by REST on a cluster."""
        self.metadata_delay = 0.0
        """Seconds in which a collection is read with its older metadata."""
        self.request_bytes = {"rest": 32 << 20, "grpc": 64 << 20}
        self.too_large = 413
        """Status of a request by REST that is too large."""
        self.delay = 0.0
        """Seconds that an upsert takes."""
        self.slow = 1.5
        """Seconds of the fault `slow`; the client must wait for less."""
        self.writing = self.most_writing = 0
        """Upserts that run at the same time, and the most that did."""
        self.bugs: list[Exception] = []
        """Errors of this model; `running_server` raises the first at its end."""
        self._lock = threading.RLock()
        self._put_off: list[Callable[[], Any]] = []
        self._clients: list[QdrantClient] = []
        self.machine = Machine(self)
        self.nodes: list[Node] = []
        for number in range(nodes):
            self.nodes.append(Node(self, number))

    @property
    def url(self) -> str:
        return self.nodes[0].url

    @property
    def grpc_port(self) -> int:
        return self.nodes[0].grpc_port

    @property
    def collections(self) -> dict[str, Collection]:
        return self.machine.held

    @property
    def current_status(self) -> str:
        return self.status if isinstance(self.status, str) else self.status[0]

    def client(
        self, prefer_grpc: bool = False, timeout: int = 5, node: int = 0, **arguments: Any
    ) -> QdrantClient:
        """Return a client of one node, closed with the server. Its timeout is in whole seconds."""
        client = QdrantClient(
            url=self.nodes[node].url,
            grpc_port=self.nodes[node].grpc_port,
            prefer_grpc=prefer_grpc,
            timeout=timeout,
            check_compatibility=False,
            **arguments,
        )
        self._clients.append(client)
        return client

    def writes(self) -> list[Request]:
        """Return the requests that upserted points."""
        return [request for request in self.requests if request.method == "PUT" and request.points]

    def at_least(self, major: int, minor: int) -> bool:
        """Return True if the server is of this version or newer."""
        return tuple(map(int, self.version.split(".")[:2])) >= (major, minor)

    def next_status(self) -> str:
        """Return the state for one answer."""
        with self._lock:
            if isinstance(self.status, list) and len(self.status) > 1:
                return self.status.pop(0)
            return self.current_status

    def wake_optimizer(self) -> None:
        """End the grey state."""
        with self._lock:
            if self.status == "grey":
                self.status = "green"
            elif isinstance(self.status, list) and self.status[0] == "grey":
                self.status = self.status[1:] or "green"

    def handle(self, call: Call) -> Any:
        """Answer a request of either transport.

        Returns:
            The result, as `Machine.run` returns it.

        Raises:
            Refusal: The answer is an error.
            HangUp: There is no answer.
        """
        self._log(call)
        if call.size > self.request_bytes[call.transport]:
            limit = self.request_bytes[call.transport]
            raise Refusal(
                self.too_large,
                f"JSON payload ({call.size} bytes) is larger than allowed (limit: {limit} bytes)."
                if call.transport == "rest"
                else f"Error, decoded message length too large: found {call.size} bytes, the "
                f"limit is: {limit} bytes",
            )
        fault = call.fault = self._next_fault(call)
        refuse(fault)
        if fault == "drop":
            raise HangUp
        call.body = call.parse()
        if fault in POSTPONED and call.operation.kind == "write":
            if fault != "never":
                with self._lock:
                    self._put_off.append(partial(self.machine.run, call))
            status = models.UpdateStatus(POSTPONED[fault])
            return models.UpdateResult(operation_id=1, status=status)
        if call.operation.name == "upsert":
            self._take_time()
        result = self.machine.run(call)
        if fault == "lost":
            raise HangUp
        if fault == "slow":
            time.sleep(self.slow)
        return result

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for node in self.nodes:
            node.close()

    def _log(self, call: Call) -> None:
        content = call.content if self.keep_bodies else None
        if content and isinstance(content, bytes):
            content = orjson.loads(content)
        request = Request(
            call.method,
            call.path,
            call.size,
            call.points,
            call.transport,
            call.node,
            content or None,
        )
        with self._lock:
            while self._put_off:
                with suppress(Refusal):  # the client had its answer
                    self._put_off.pop(0)()
            self.requests.append(request)

    def _next_fault(self, call: Call) -> str | None:
        with self._lock:
            fault = None
            if self.chaos is not None:
                fault = self.chaos(call.method, call.path)
            elif call.operation.name == "upsert" and self.script:
                fault = self.script.pop(0)
            if fault:
                self.faults[fault] += 1
            return fault

    def _take_time(self) -> None:
        with self._lock:
            self.writing += 1
            self.most_writing = max(self.most_writing, self.writing)
        time.sleep(self.delay)
        with self._lock:
            self.writing -= 1


def _reserve(port: int) -> socket.socket:
    """Keep a port from being given to another process; connections to it are refused."""
    placeholder = socket.socket()
    placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    placeholder.bind(("127.0.0.1", port))
    return placeholder


@contextmanager
def running_server(
    version: str = "1.18.3", nodes: int = 1, write_consistency: int = 1
) -> Iterator[Server]:
    """Run a server, or a cluster, until the block ends.

    Args:
        version: The version that it has.
        nodes: Nodes of the cluster.
        write_consistency: Default of `write_consistency_factor`.
    """
    server = Server(version, nodes, write_consistency)
    try:
        yield server
    finally:
        server.close()
    if server.bugs:
        raise server.bugs[0]
