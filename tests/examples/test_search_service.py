"""The program of docs/search-service.md: one model serves both frameworks to many users."""

import asyncio
import importlib

import httpx
import pytest
from tests.support.pages import write_program

import quernstone.runtime.session
from quernstone.engines.torch.engine import TorchEngine

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")
TOPICS = ["edit a photo", "an SQL database", "record sound", "copy files to another host"]
QUERIES = [f"{topic} {number}" for number in range(50) for topic in TOPICS]


@pytest.fixture
def loads(monkeypatch):
    """The tasks of the engines loaded from now on."""
    seen = []
    load_engine = quernstone.runtime.session.load_engine

    def recording(config, *args):
        seen.append(config.task)
        return load_engine(config, *args)

    monkeypatch.setattr(quernstone.runtime.session, "load_engine", recording)
    return seen


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    write_program("search-service.md", folder, "search_service")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module("search_service").app


@pytest.fixture
async def client(app, loads):
    lifespan = app.router.lifespan_context(app)
    transport = httpx.ASGITransport(app)
    async with lifespan, httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        yield client


async def search(client, framework, query, **params):
    response = await client.get(f"/{framework}/search", params={"query": query, **params})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("framework", ["langchain", "llamaindex"])
async def test_search(client, framework):
    hits = await search(client, framework, "edit a photo")
    assert len(hits) == 3
    reranked = await search(client, framework, "edit a photo", rerank=True, limit=5)
    assert len(reranked) == 5
    for results in (hits, reranked):
        scores = [hit["score"] for hit in results]
        assert scores == sorted(scores, reverse=True)
    assert reranked[0]["package"] == "gimp"


async def test_both_frameworks_find_the_same(client):
    for topic in TOPICS:
        for params in ({}, {"rerank": True}):
            one, other = [
                await search(client, framework, topic, **params)
                for framework in ("langchain", "llamaindex")
            ]
            assert [hit["package"] for hit in one] == [hit["package"] for hit in other]
            for left, right in zip(one, other, strict=True):
                assert left["score"] == pytest.approx(right["score"], abs=0.01)


@pytest.fixture
def batches(monkeypatch):
    """Sequences of each batch that our engine runs."""
    sizes = []
    run = TorchEngine.run

    def counting(self, batch, **settings):
        sizes.append(len(batch))
        return run(self, batch, **settings)

    monkeypatch.setattr(TorchEngine, "run", counting)
    return sizes


async def test_200_concurrent_queries(client, loads, batches):
    """Nothing lost, each answer its own, one model loaded, and in few batches."""
    frameworks = ["langchain", "llamaindex"] * (len(QUERIES) // 2)
    for framework in ("langchain", "llamaindex"):
        await search(client, framework, "warm up")
    batches.clear()
    alone = [await search(client, *job) for job in zip(frameworks, QUERIES, strict=True)]
    assert batches == [1] * 200

    batches.clear()
    together = await asyncio.gather(
        *(search(client, *job) for job in zip(frameworks, QUERIES, strict=True))
    )

    assert len(together) == 200
    for expected, hits in zip(alone, together, strict=True):
        wanted = {hit["package"]: hit["score"] for hit in expected}
        found = {hit["package"]: hit["score"] for hit in hits}
        assert len(found.keys() & wanted.keys()) >= 2, "but for near ties, the same results"
        for package in found.keys() & wanted.keys():
            assert found[package] == pytest.approx(wanted[package], abs=0.01)
    assert loads.count("embed") <= 1
    assert sum(batches) == 200
    assert len(batches) < 100


async def test_concurrent_reranking(client, loads):
    alone = [await search(client, "langchain", query, rerank=True) for query in QUERIES[:12]]
    together = await asyncio.gather(
        *(search(client, "langchain", query, rerank=True) for query in QUERIES[:12])
    )
    for expected, hits in zip(alone, together, strict=True):
        for left, right in zip(expected, hits, strict=True):
            assert left["score"] == pytest.approx(right["score"], abs=0.02)
    assert loads.count("rerank") <= 1
