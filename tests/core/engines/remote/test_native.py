"""A model behind `quern serve` against the same model in this process, for every kind of model."""

import asyncio
import shutil

import numpy as np
import pytest
from tests.core.serve.conftest import running
from tests.support.rerankers import CHAT, MESSAGES, PAIRS, TINY, classifier, logit_score

from quernstone import ConfigError, Embedder, PairTemplate, Reranker
from quernstone.errors import RemoteRequestError
from quernstone.serve.models import Models
from quernstone.serve.options import ServeOptions

CUSTOM = PairTemplate(
    prefix="Task: {instruction}\nQuery: {query}\nDocument: ",
    suffix="\nAnswer: ",
    score="logit",
    temperature=2.0,
    instruction="Find mills",
    strip=True,
)
IDENTITY = ("model", "revision", "digest", "instruction", "max_length", "fingerprint")


def serving(embedder=None, reranker=None):
    return running(load=lambda: Models(embedder, reranker, ServeOptions()))


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(TINY, tmp_path / "model")


def same_scores(url, local, **settings):
    """Compare a reranker at an address with one of this process."""
    with Reranker(url, **settings) as remote:
        for name in (*IDENTITY, "template"):
            assert getattr(remote, name) == getattr(local, name), name
        assert remote.format_pair("a", "b") == local.format_pair("a", "b")
        np.testing.assert_array_equal(remote.score(PAIRS), local.score(PAIRS))
        found = asyncio.run(remote.arerank("grinding grain", [text for _, text in PAIRS]))
        assert found == local.rerank("grinding grain", [text for _, text in PAIRS])
        assert remote.usage.tokens == local.usage.tokens


@pytest.mark.parametrize("template", ["eval", CUSTOM, CHAT], ids=["eval", "custom", "chat"])
def test_a_template_of_the_client(template):
    settings = {"dtype": "float32", "device": "cpu"}
    with (
        Reranker("tiny", **settings) as served,
        Reranker("tiny", template=template, **settings) as local,
        serving(reranker=served) as url,
    ):
        same_scores(url, local, template=template)


@pytest.mark.parametrize("kind", ["head", "answers"])
def test_a_template_of_the_model(folder, kind):
    """A classification head with a template of the server, and stored answers and messages."""
    settings = {"dtype": "float32", "device": "cpu"}
    if kind == "head":
        classifier(folder, 2, id2label={"0": "no", "1": "yes"})
        settings["template"] = CHAT
    else:
        logit_score(folder, "1", "0", MESSAGES.replace(" CONTENT", ""))
    with (
        Reranker(str(folder), **settings) as served,
        Reranker(str(folder), **settings) as local,
        serving(reranker=served) as url,
    ):
        assert served._session.head_rows
        same_scores(url, local)


def test_a_cross_encoder_of_a_library(cross_encoder):
    with (
        Reranker(cross_encoder(), dtype="float32") as served,
        Reranker(cross_encoder(), dtype="float32") as local,
        serving(reranker=served) as url,
    ):
        same_scores(url, local)
        with pytest.raises(ConfigError, match="reads only the query and the document"):
            Reranker(url, template="eval")


def test_an_embedding_model_of_a_library(minilm):
    name = minilm({"query": "query: ", "passage": "passage: "})
    with (
        Embedder(name, dtype="float32") as served,
        Embedder(name, dtype="float32") as local,
        serving(served) as url,
        Embedder(url) as remote,
    ):
        for field in (*IDENTITY, "dimensions", "normalized"):
            assert getattr(remote, field) == getattr(local, field), field
        texts = ["the quick brown fox", "a mill", "grain " * 500]
        np.testing.assert_array_equal(remote.embed_queries(texts), local.embed_queries(texts))
        np.testing.assert_array_equal(remote.embed_documents(texts), local.embed_documents(texts))
        # Another limit needs another copy of the weights, which a client cannot make it load.
        for settings in ({"max_length": 16}, {"truncate": False}):
            with pytest.raises(
                RemoteRequestError, match=r"`max_length` .* cannot be changed; leave"
            ):
                Embedder(url, **settings)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (PairTemplate(prefix="{query}: ", positive="1", negative="0"), "answers of the template"),
        (PairTemplate(prefix="{query}: ", positive="quernstones grind"), "tokens"),
    ],
    ids=["other answers", "several tokens"],
)
def test_a_template_that_the_server_cannot_have_is_refused_at_once(template, words):
    with Reranker("tiny", dtype="float32") as served, serving(reranker=served) as url:
        with pytest.raises(ConfigError, match=words):
            Reranker(url, template=template)
        with Reranker(url) as remote:
            assert remote.score(PAIRS[:1]).shape == (1,)
