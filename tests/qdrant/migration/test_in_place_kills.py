"""Migrations in place that are killed at random moments while a writer changes the collection."""

from contextlib import closing, suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient
from tests.qdrant.migration.test_kills import FEW, WRITES, Killed, killed_at, texts
from tests.support.qdrant_server import running_server

from quernstone_qdrant import CollectionError, EdgeTarget, QdrantLoader, QdrantMigration
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.targets import ClientTarget
from quernstone_qdrant.verify import verify

GUARDED = ("describe", "add_vector", "update", "scroll", "count", "payloads", "drop_vector")
RUNS = st.lists(
    st.tuples(
        st.sampled_from(["run", "run", "rollback"]),
        st.integers(1, 25),
        st.booleans(),
        WRITES,
        WRITES,
    ),
    max_size=5,
)
EVERY = [("run", n, after, [], [(n % 8, "oats")]) for n in range(1, 13) for after in (False, True)]
"""Kills at each request of a migration, before and after it."""


@settings(max_examples=6, **FEW)
@example(runs=EVERY[::3])
@given(runs=RUNS)
def test_every_point_has_the_vector_of_its_present_text(make_embedder, runs):
    with closing(QdrantClient(":memory:")) as client:
        check(make_embedder, ClientTarget(client, "docs"), runs)


@pytest.mark.slow
@settings(max_examples=5, **FEW)
@example(runs=EVERY)
@given(runs=RUNS)
def test_it_has_in_edge(make_embedder, tmp_path_factory, runs):
    with closing(EdgeTarget(tmp_path_factory.mktemp("edge"), "docs")) as target:
        check(make_embedder, target, runs)


@pytest.mark.slow
@settings(max_examples=5, **FEW)
@example(runs=EVERY)
@given(runs=RUNS)
def test_it_has_on_a_server(make_embedder, runs):
    with running_server() as server, closing(server.client()) as client:
        check(make_embedder, ClientTarget(client, "docs"), runs)


def check_vectors(target, embedder, name):
    """Compare the vector of every point with its present text."""
    points = list(target.scroll(None, with_vectors=True))
    for point in points:
        expected = embedder.embed_documents([point.payload["page_content"]])[0]
        np.testing.assert_allclose(point.vectors[name], expected, atol=1e-5)
    checked = verify(target, embedder, sample=100, re_embed=100)
    assert checked.passed, checked.problems
    return len(points)


def check(make_embedder, target, runs):
    """Migrate with kills, rollbacks and a writer that follows the switch."""
    models = make_embedder(), make_embedder(model="other", dimensions=48, revision="2")
    embedder, other = models
    expected = {str(n): f"mill {n} grinds" for n in range(6)}
    loader = QdrantLoader(target, "docs", embedder)
    loader.load({"id": key, "text": text} for key, text in expected.items())

    def write(steps):
        recorded = target.state().metadata["quernstone"]["model"]
        loader = QdrantLoader(target, "docs", next(m for m in models if m.model == recorded))
        for number, text in steps:
            key = str(number)
            if text is not None:
                expected[key] = f"mill {key} grinds {text}"
                loader.load([{"id": key, "text": expected[key]}])
                continue
            expected.pop(key, None)
            points = target.scroll([OWN_KEY])
            if ids := [p.id for p in points if p.payload[OWN_KEY]["key"] == key]:
                target.delete(ids)

    def migration():
        return QdrantMigration(
            target, "docs", other, in_place=True, old_embedder=embedder, sample=2, batch_size=4
        )

    for action, request, after, before, late in runs:
        write(before)
        with suppress(Killed), killed_at(request, after=after, kind=type(target), guarded=GUARDED):
            if action == "run":
                migration().run()
            elif target.state().metadata.get("quernstone_migration"):
                migration().rollback()
        write(late)
    assert migration().run().switched
    assert texts(target) == expected
    assert check_vectors(target, other, "other") == len(expected)
    migration().rollback()
    assert check_vectors(target, embedder, "") == len(expected)
    migration().run()
    for request in range(1, 8):
        with (
            suppress(Killed, CollectionError),
            killed_at(request, after=bool(request % 2), kind=type(target), guarded=GUARDED),
        ):
            migration().finish()
    with pytest.raises(CollectionError, match="no migration"):
        migration().finish()
    assert texts(target) == expected
    assert check_vectors(target, other, "other") == len(expected)
    assert not any("" in point.vectors for point in target.scroll([], with_vectors=True))
