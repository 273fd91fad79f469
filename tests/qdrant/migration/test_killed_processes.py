"""Migrations in processes that are killed while a writer changes the old collection."""

import random
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.qdrant.conftest import WordEmbedder
from tests.support.qdrant_server import running_server

from quernstone_qdrant import CollectionReplacedError, EdgeTarget, QdrantLoader, QdrantMigration
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.targets import ClientTarget, as_target, connect
from quernstone_qdrant.verify import verify

ROOT = Path(__file__).parents[3]
KILLS = 10
WAYS = pytest.mark.parametrize("way", ["beside", "in-place"])
SIZES = [pytest.param(2_000, marks=pytest.mark.slow), pytest.param(20_000, marks=pytest.mark.soak)]


def models():
    return WordEmbedder(), WordEmbedder(model="other", dimensions=48, revision="2")


def change(target, loader, rng, documents):
    """Change, add or delete a few documents."""
    numbers = rng.sample(range(documents + documents // 10), 5)
    loader.load(
        {"id": str(n), "text": f"mill {n} grinds {rng.randrange(1000)}"} for n in numbers[:4]
    )
    if rng.random() < 0.5:
        points = target.scroll([OWN_KEY], batch=50)
        target.delete([next(points).id])


def migrate_edge(folder, documents, seed, way):
    """Migrate in Edge, with a writer thread that stops at the switch."""
    embedder, other = models()
    with closing(EdgeTarget(Path(folder) / "edge", "docs")) as target:
        stop = threading.Event()

        def write():
            loader = QdrantLoader(target, "docs", embedder)
            rng = random.Random(seed)
            while not stop.is_set():
                change(target, loader, rng, documents)

        def show(report):
            if report.phase == "switching":
                stop.set()
                if writer.is_alive():
                    writer.join()

        migration = QdrantMigration(
            target,
            "docs",
            other,
            in_place=way == "in-place",
            state_folder=folder,
            sample=5,
            most_passes=4,
            progress=show,
        )
        writer = threading.Thread(target=write, daemon=True)
        if target.state().metadata["quernstone"]["model"] == embedder.model:
            writer.start()
        try:
            migration.run()
        finally:
            stop.set()


def migrate_server(url, folder, way):
    """Migrate on a server; the writer is in another process."""
    with closing(connect(url=url)) as client:
        arguments = {"in_place": way == "in-place", "state_folder": folder, "sample": 5}
        QdrantMigration(client, "docs", models()[1], **arguments).run()


def killed(arguments, rng, longest):
    """Run this file in a process, and kill it after a random time. Return True if it ended."""
    command = [sys.executable, "-m", "tests.qdrant.migration.test_killed_processes", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        process.wait(rng.uniform(0.5, longest))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    assert process.returncode == 0, process.communicate()[1]
    process.communicate()
    return True


def texts(target):
    points = target.scroll(None)
    return {p.id: (p.payload[OWN_KEY]["key"], p.payload["page_content"]) for p in points}


def check(old, new):
    """Compare the collections, and every new vector with its text."""
    assert texts(new) == texts(old)
    check_vectors(new, "")


def check_vectors(new, name):
    """Compare every new vector with its text."""
    other = models()[1]
    checked = verify(new, other, sample=10, re_embed=10)
    assert checked.passed, checked.problems
    for point in new.scroll(None, with_vectors=True):
        vector = other.embed_documents([point.payload["page_content"]])[0]
        np.testing.assert_allclose(point.vectors[name], vector, atol=1e-5)


def records(count):
    return ({"id": str(n), "text": f"mill {n} grinds"} for n in range(count))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("documents", SIZES)
@WAYS
def test_a_migration_in_edge_survives_kills(tmp_path, documents, way):
    with closing(EdgeTarget(tmp_path / "edge", "docs")) as target:
        QdrantLoader(target, "docs", models()[0]).load(records(documents))
    rng = random.Random(documents)
    longest = 3 + documents / 1000
    for seed in range(KILLS):
        killed(["edge", str(tmp_path), str(documents), str(seed), way], rng, longest)
    with closing(EdgeTarget(tmp_path / "edge", "docs")) as target:
        if way == "in-place":
            QdrantMigration(target, "docs", models()[1], in_place=True).run()
            check_vectors(target, "other")
            return
        report = QdrantMigration(target, "docs", models()[1], state_folder=tmp_path).run()
        with closing(EdgeTarget(tmp_path / "edge", report.old)) as old:
            check(old, target)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("documents", SIZES)
@WAYS
def test_a_migration_on_a_server_survives_kills(tmp_path, documents, way):
    with running_server() as server, closing(server.client()) as client:
        old = ClientTarget(client, "docs-1")
        loader = QdrantLoader(old, "docs-1", models()[0])
        loader.load(records(documents))
        old.take_alias("docs")
        rng, stop = random.Random(documents), threading.Event()

        def write():
            changes, writer = random.Random(1), loader
            while not stop.is_set():
                try:
                    change(old, writer, changes, documents)
                except CollectionReplacedError:  # in place, a program changes the model
                    assert way == "in-place"
                    writer = QdrantLoader(old, "docs-1", models()[1])
                time.sleep(0.05)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(KILLS):
                killed(["server", server.url, str(tmp_path), way], rng, 3 + documents / 1000)
        finally:
            stop.set()
            writer.join()
        if way == "in-place":
            QdrantMigration(client, "docs", models()[1], in_place=True).run()
            check_vectors(old, "other")
            return
        report = QdrantMigration(client, "docs", models()[1], state_folder=tmp_path).run()
        assert report.conflicts == 0
        check(old, as_target(client, report.new))


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "edge":
        migrate_edge(rest[0], int(rest[1]), int(rest[2]), rest[3])
    else:
        migrate_server(*rest)
