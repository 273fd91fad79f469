"""Every entry point takes a fine-tune that differs from Qwen's models in everything.

It has bidirectional attention, mean pooling, prompts of its own, a dense layer and a LoRA adapter.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from qdrant_client import QdrantClient
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tests.support.adapters import TINY, write_adapter
from typer.testing import CliRunner

from langchain_quernstone import QuernstoneEmbeddings
from llama_index.embeddings.quernstone import QuernstoneEmbedding
from quernstone import Embedder
from quernstone.cli import app
from quernstone_qdrant import QdrantLoader, QdrantSearcher

TEXTS = ["a quern grinds grain", "it rains", "bread is baked from flour"]
QUERY = "grinding grain"


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Write the model. Its adapter is `retrieval`."""
    folder = shutil.copytree(TINY, tmp_path_factory.mktemp("fine-tune") / "model")
    change(folder / "config.json", use_bidirectional_attention=True)
    change(folder / "1_Pooling" / "config.json", pooling_mode="mean")
    prompts = {"query": "query: ", "document": "passage: "}
    change(folder / "config_sentence_transformers.json", prompts=prompts)
    dense = folder / "2_Dense"
    dense.mkdir()
    config = {"in_features": 256, "out_features": 96, "bias": False}
    (dense / "config.json").write_text(json.dumps(config))
    weight = torch.randn(96, 256, generator=torch.Generator().manual_seed(1)) / 16
    save_file({"linear.weight": weight}, dense / "model.safetensors")
    modules = json.loads((folder / "modules.json").read_text())[:2]
    for place, name in enumerate(("Dense", "Normalize"), 2):
        kind = f"sentence_transformers.models.{name}"
        path = f"{place}_{name}"
        modules.append({"idx": place, "name": str(place), "path": path, "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    write_adapter(folder / "adapters" / "retrieval")
    write_adapter(folder / "adapters" / "clustering", seed=1)
    return str(folder)


@pytest.fixture(scope="module")
def settings(model):
    return {"model": model, "adapter": "retrieval", "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def embedder(settings):
    with Embedder(**settings) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def vectors(embedder):
    """The vectors of the texts and of the query, after a check of what they depend on."""
    documents, query = embedder.embed_documents(TEXTS), embedder.embed_query(QUERY)
    assert documents.shape == (3, 96)
    assert embedder.info.engine == "torch"
    for name in ("bidirectional", "mean", "dense", "LORA"):
        assert name in embedder.info.reason
    with Embedder(embedder.model, adapter="", dtype="float32", device="cpu") as base:
        assert abs(base.embed_documents(TEXTS) - documents).max() > 1e-3
        causal = SentenceTransformer(base.model, device="cpu")
        assert abs(causal.encode(TEXTS, normalize_embeddings=True) - documents).max() > 1e-3
    return documents, query


def test_langchain(settings, vectors):
    embeddings = QuernstoneEmbeddings(**settings)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), vectors[0], atol=2e-6)
    np.testing.assert_allclose(embeddings.embed_query(QUERY), vectors[1], atol=2e-6)


def test_llamaindex(settings, vectors):
    named = {"model_name": settings["model"], **settings}
    del named["model"]
    embedding = QuernstoneEmbedding(**named)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), vectors[0], atol=2e-6)
    np.testing.assert_allclose(embedding.get_query_embedding(QUERY), vectors[1], atol=2e-6)
    other = QuernstoneEmbedding(**{**named, "adapter": "clustering"})
    assert other.to_dict() != embedding.to_dict()  # the key of a pipeline's cache


def test_loader_and_searcher(embedder, vectors):
    client = QdrantClient(":memory:")
    rows = [{"id": str(n), "text": text} for n, text in enumerate(TEXTS)]
    QdrantLoader(client, "texts", embedder).load(rows)
    hits = QdrantSearcher(client, "texts", embedder).search(QUERY, limit=3)
    best = int(np.argmax(vectors[0] @ vectors[1]))
    assert hits[0].text == TEXTS[best]
    assert hits[0].score == pytest.approx(float(vectors[0][best] @ vectors[1]), abs=1e-5)
    client.close()


def quern(*arguments):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def options(settings):
    names = ("adapter", "dtype", "device")
    return [part for name in names for part in (f"--{name}", settings[name])]


def test_quern_embed(settings, vectors, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    output = tmp_path / "vectors.npy"
    arguments = ("-m", settings["model"], "-o", output, *options(settings))
    quern("embed", tmp_path / "texts.txt", *arguments)
    np.testing.assert_allclose(np.load(output), vectors[0], atol=2e-6)


@pytest.mark.slow
def test_quern_bench(settings):
    report = json.loads(
        quern("bench", settings["model"], "--seconds", "0.01", "--json", *options(settings))
    )
    assert report["environment"]["engine"] == "torch"
    assert report["budgets"]


def test_quern_doctor(settings):
    report = json.loads(quern("doctor", settings["model"], "--json", *options(settings)))
    found = {finding["name"]: finding["finding"] for finding in report["checks"]}
    assert "`auto` chose torch" in found["model files"]
    assert "it is an adapter" in found["model files"]
