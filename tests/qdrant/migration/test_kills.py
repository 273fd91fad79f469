"""Migrations that are killed at random moments while a writer changes the old collection."""

from contextlib import ExitStack, closing, contextmanager, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient
from tests.support.qdrant_server import running_server

from quernstone_qdrant import QdrantLoader, QdrantMigration
from quernstone_qdrant.documents.layouts import OWN_KEY
from quernstone_qdrant.targets import ClientTarget
from quernstone_qdrant.verify import verify

GUARDED = ("create", "describe", "upsert", "delete", "scroll", "count", "take_alias")
WRITES = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from([None, "oats", "rye", "wheat"])), max_size=4
)
RUNS = st.lists(st.tuples(st.integers(1, 30), st.booleans(), WRITES, WRITES), max_size=5)


class Killed(BaseException):
    pass


@contextmanager
def killed_at(request, *, after, kind=ClientTarget, guarded=GUARDED):
    """Raise `Killed` at a request: before it is sent, or after it was answered."""
    left = request

    def guard(original):
        def call(self, *arguments, **named):
            nonlocal left
            left -= 1
            if left == 0 and not after:
                raise Killed
            result = original(self, *arguments, **named)
            if left == 0 and after:
                raise Killed
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in guarded:
            patch.setattr(kind, name, guard(getattr(kind, name)))
        yield


def texts(target):
    """Return the text of each document."""
    return {p.payload[OWN_KEY]["key"]: p.payload["page_content"] for p in target.scroll(None)}


FEW = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=10, **FEW)
@given(runs=RUNS)
def test_every_point_has_the_new_vector_of_its_present_text(make_embedder, tmp_path_factory, runs):
    check(make_embedder, tmp_path_factory, "embedded", runs)


@pytest.mark.slow
@settings(max_examples=5, **FEW)
@given(runs=RUNS)
def test_it_has_on_a_server(make_embedder, tmp_path_factory, runs):
    check(make_embedder, tmp_path_factory, "rest", runs)


def check(make_embedder, tmp_path_factory, kind, runs):
    """Migrate with kills and a writer; every point has the new vector of its present text."""
    folder = tmp_path_factory.mktemp("state")
    embedder = make_embedder()
    other = make_embedder(model="other", dimensions=48, revision="2")
    with ExitStack() as stack:
        if kind == "embedded":
            client = QdrantClient(":memory:")
        else:
            client = stack.enter_context(running_server()).client()
        with closing(client):
            old = ClientTarget(client, "docs-1")
            loader = QdrantLoader(old, "docs-1", embedder)
            loader.load({"id": str(n), "text": f"mill {n} grinds"} for n in range(6))
            old.take_alias("docs")

            def write(steps):
                for key, text in steps:
                    if text is not None:
                        loader.load([{"id": str(key), "text": f"mill {key} grinds {text}"}])
                        continue
                    points = old.scroll([OWN_KEY])
                    ids = [p.id for p in points if p.payload[OWN_KEY]["key"] == str(key)]
                    if ids:
                        old.delete(ids)

            def migration():
                return QdrantMigration(client, "docs", other, state_folder=folder, sample=2)

            for request, after, before, late in runs:
                write(before)
                with suppress(Killed), killed_at(request, after=after):
                    migration().run()
                write(late)
            report = migration().run()
            assert report.switched
            assert report.conflicts == 0
            new = ClientTarget(client, report.new)
            assert texts(new) == texts(old)
            checked = verify(new, other, sample=100, re_embed=100)
            assert checked.passed, checked.problems
            assert checked.embedded == len(texts(old))
            migration().rollback()
            assert verify(ClientTarget(client, "docs"), embedder, sample=100, re_embed=100).passed
