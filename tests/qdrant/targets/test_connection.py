"""The gRPC port must belong to the server of the REST address, before it gets a key or points."""

from concurrent import futures

import grpc
import pytest
from qdrant_client import QdrantClient
from tests.support.qdrant_server import running_server

from quernstone.errors import ConfigError
from quernstone_qdrant import QdrantLoader, QdrantSearcher, TargetError
from quernstone_qdrant.targets import as_target, connect, connection

RECORDS = [{"id": f"d{n}", "text": f"Document {n} speaks of mills."} for n in range(5)]


@pytest.fixture(autouse=True)
def short_wait(monkeypatch):
    monkeypatch.setattr(connection, "_SETTLE_SECONDS", 0.2)


def opened(server, other, **arguments):
    return connect(url=server.url, prefer_grpc=True, grpc_port=other.grpc_port, **arguments)


@pytest.mark.parametrize("there", ["nothing", "loaded", "created"])
def test_another_server_gets_nothing(embedder, there):
    with running_server() as server, running_server() as other:
        if there == "loaded":
            QdrantLoader(other.client(), "docs", embedder).load([{"id": "a", "text": "Another."}])
        elif there == "created":
            QdrantLoader(other.client(), "docs", embedder)
        before = len(other.writes())
        loader = QdrantLoader(opened(server, other), "docs", embedder)
        with pytest.raises(TargetError, match=r"gRPC port \d+ .* another server .*--grpc-port"):
            loader.load(RECORDS)
        assert len(other.writes()) == before
        assert not server.writes()
        with pytest.raises(TargetError, match="another server"):
            QdrantSearcher(opened(server, other), "docs", embedder).search("mills")


def test_the_right_port_is_used_for_points(embedder):
    with running_server() as server:
        loader = QdrantLoader(opened(server, server), "docs", embedder)
        assert loader.load(RECORDS).embedded == 5
        assert {request.transport for request in server.writes()} == {"grpc"}
        assert as_target(opened(server, server), "docs").count() == 5


class Listener(grpc.GenericRpcHandler):
    """Answers every call with one status, and keeps the metadata that came with it."""

    def __init__(self, code):
        self.code, self.received = code, []

    def service(self, details):
        self.received.append((details.method, dict(details.invocation_metadata)))

        def refuse(_request, context):
            context.abort(self.code, "Must provide an API key")

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.mark.filterwarnings("ignore:Api key is used")
@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "UNIMPLEMENTED", "UNKNOWN"])
def test_a_stranger_does_not_get_the_key(embedder, code):
    with running_server() as server:
        listener = Listener(getattr(grpc.StatusCode, code))
        stranger = grpc.server(futures.ThreadPoolExecutor(1), handlers=[listener])
        port = stranger.add_insecure_port("127.0.0.1:0")
        stranger.start()
        client = connect(url=server.url, prefer_grpc=True, grpc_port=port, api_key="the secret")
        loader = QdrantLoader(client, "docs", embedder, patience=0)
        with pytest.raises(TargetError):
            loader.load(RECORDS)
        stranger.stop(0)
        assert listener.received
        assert not any("api-key" in metadata for _, metadata in listener.received)


@pytest.mark.parametrize(
    ("url", "port"),
    [("http://host:6333", 6334), ("http://host", 6334), ("https://host:6333/prefix", 6334)],
)
def test_the_default_pair_of_ports(url, port):
    assert connect(url=url, prefer_grpc=True)._client._grpc_port == port


@pytest.mark.parametrize("url", ["http://host:6343", "https://host:443", "http://127.0.0.1:80"])
def test_any_other_port_needs_the_grpc_port(url):
    with pytest.raises(ConfigError, match=r"gRPC port of .* `grpc_port` \(`--grpc-port`\)"):
        connect(url=url, prefer_grpc=True)
    assert connect(url=url, prefer_grpc=True, grpc_port=6400)._client._grpc_port == 6400
    connect(url=url)


def test_a_client_with_its_own_ports_is_checked(embedder):
    with running_server() as server, running_server() as other:
        client = QdrantClient(
            url=server.url,
            grpc_port=other.grpc_port,
            prefer_grpc=True,
            check_compatibility=False,
        )
        with pytest.raises(TargetError, match="another server"):
            QdrantLoader(client, "docs", embedder).load(RECORDS)
        assert not other.writes()
