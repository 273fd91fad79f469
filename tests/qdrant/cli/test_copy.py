"""`quern copy`: from place to place, and which destinations are refused."""

import json

from qdrant_client import QdrantClient, models
from tests.support.qdrant_server import running_server


def test_a_collection_moves_from_place_to_place_and_back(quern, docs):
    quern("load", docs, "-c", "docs", "--hybrid")
    copied = "4 points copied, 0 unchanged"
    with running_server() as server:
        for arguments in (
            ("--to-edge", "edge"),
            ("--to-url", server.url),
            ("--to-path", "elsewhere"),
            ("--to-collection", "twin"),
            ("--edge", "edge", "--to-collection", "twin"),
            ("--url", server.url, "--to-grpc-port", server.grpc_port, "--to-collection", "twin"),
        ):
            result = quern("copy", "-c", "docs", *map(str, arguments))
            assert copied in result.output, result.output
        for place in (("--edge", "edge"), ("--url", server.url), ("--path", "elsewhere"), ()):
            result = quern("collection", "verify", "-c", "docs", *place)
            assert "matches its records" in result.output, result.output
        result = quern(
            "copy", "-c", "docs", "--url", server.url, "--to-path", "elsewhere", "--json"
        )
        assert json.loads(result.stdout)["unchanged"] == 4


def test_points_that_only_the_destination_has_are_kept_or_deleted(quern, docs):
    quern("load", docs, "-c", "docs")
    quern("copy", "-c", "docs", "--to-path", "copy")
    (docs / "a.txt").unlink()
    quern("load", docs, "-c", "docs", "--prune")
    kept = quern("copy", "-c", "docs", "--to-path", "copy")
    assert "1 points that only the destination has: kept (--delete removes them)" in kept.output
    deleted = quern("copy", "-c", "docs", "--to-path", "copy", "--delete")
    assert "1 points that only the destination has: deleted" in deleted.output
    client = QdrantClient(path="copy")
    assert client.count("docs").count == 3
    client.close()


def test_the_source_is_refused_as_destination(quern, docs):
    quern("load", docs, "-c", "docs")
    for arguments in ((), ("--to-path", "./qdrant-data"), ("--to-collection", "docs")):
        result = quern("copy", "-c", "docs", *arguments)
        assert result.exit_code != 0
        assert "the destination is the source" in result.output


def test_a_collection_of_another_program_moves_as_it_is(quern):
    size = models.VectorParams(size=2, distance=models.Distance.DOT)
    numbers = models.VectorParams(size=2, distance="Dot", datatype=models.Datatype.UINT8)
    client = QdrantClient(path="theirs")
    client.create_collection("notes", {"meaning": size}, metadata={"owner": "millers"})
    client.create_collection("bytes", numbers)
    vector = {"meaning": [0.5, 2.0]}
    client.upsert("notes", [models.PointStruct(id=7, vector=vector, payload={"f": 1 / 7})])
    client.upsert("bytes", [models.PointStruct(id=1, vector=[0.25, 1.0])])
    client.close()
    with running_server() as server:
        first = quern("copy", "-c", "notes", "--path", "theirs", "--to-url", server.url)
        assert first.exit_code == 0, first.output
        assert f"notes in {server.url}: 1 points copied, 0 unchanged" in first.output
        back = ("copy", "-c", "notes", "--url", server.url, "--to-path", "copy", "--json")
        report = json.loads(quern(*back).stdout)
        assert (report["copied"], report["compared"], report["different"]) == (1, 1, 0)
        assert json.loads(quern(*back).stdout)["unchanged"] == 1
        lossy = quern("copy", "-c", "bytes", "--path", "theirs", "--to-edge", "edge")
        assert lossy.exit_code == 1
        assert "1 points of the copy differ from the source" in lossy.stdout
    client = QdrantClient(path="copy")
    (point,) = client.retrieve("notes", [7], with_vectors=True)
    assert (point.vector, point.payload) == (vector, {"f": 1 / 7})
    assert client.get_collection("notes").config.metadata == {"owner": "millers"}
    client.close()
