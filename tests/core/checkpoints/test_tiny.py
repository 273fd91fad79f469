"""The bundled models, measured by the product's own engine on texts they were not trained on."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

import quernstone
from quernstone import Embedder, Reranker

TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny"
HELD_OUT = Path(__file__).parents[2] / "data" / "tiny_heldout.jsonl.gz"


@pytest.fixture(scope="module")
def held_out():
    with gzip.open(HELD_OUT, "rt") as file:
        rows = [json.loads(line) for line in file]
    return [row["query"] for row in rows], [row["document"] for row in rows]


@pytest.fixture(scope="module")
def vectors(held_out):
    queries, documents = held_out
    with Embedder("tiny") as embedder:
        return embedder.embed_queries(queries), embedder.embed_documents(documents)


def ndcg_at_10(ranks):
    """One right document per query; `ranks` from 0."""
    return float(np.where(ranks < 10, 1 / np.log2(2 + ranks), 0).mean())


def similarities(vectors, dimensions):
    queries, documents = (
        each[:, :dimensions] / np.linalg.norm(each[:, :dimensions], axis=1, keepdims=True)
        for each in vectors
    )
    return queries @ documents.T


def ranks(scores):
    return (scores > np.diag(scores)[:, None]).sum(axis=1)


@pytest.mark.parametrize("model", ["embedding", "reranker"])
def test_the_files_are_small_and_official_in_form(model):
    folder = TINY / model
    assert (folder / "model.safetensors").stat().st_size <= 24 * 1024**2
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]


@pytest.mark.slow
@pytest.mark.parametrize(("dimensions", "least"), [(256, 0.79), (128, 0.77), (64, 0.71)])
def test_embedding_quality(dimensions, least, vectors):
    assert ndcg_at_10(ranks(similarities(vectors, dimensions))) >= least


@pytest.mark.slow
def test_reranking_improves_the_first_stage(held_out, vectors):
    """The first 400 queries; `training/evaluate.py` measures all 3,000."""
    queries, documents = held_out
    scores = similarities(vectors, 64)[:400]
    top = np.argsort(-scores, axis=1)[:, :20]
    with Reranker("tiny") as reranker:
        pairs = [(queries[q], documents[d]) for q, row in enumerate(top) for d in row]
        reranked = reranker.score(pairs).reshape(len(top), 20)
    right = top == np.arange(len(top))[:, None]
    before = np.where(right.any(axis=1), right.argmax(axis=1), 99)
    order = np.argsort(-reranked, axis=1, kind="stable")
    after = np.where(right.any(axis=1), np.take_along_axis(right, order, axis=1).argmax(axis=1), 99)
    assert ndcg_at_10(after) - ndcg_at_10(before) >= 0.03


def test_the_tiny_models_answer_questions():
    documents = [
        "The blue whale is the largest animal that has ever lived.",
        "Beijing is the capital of China and one of the largest cities in the world.",
        "Milk is pasteurised by heating it, which kills most harmful germs.",
        "Gravity is the attraction between masses and holds the planets in their orbits.",
    ]
    questions = {"What is the capital of China?": 1, "Explain gravity": 3}
    with Embedder("tiny") as embedder, Reranker("tiny") as reranker:
        vectors = embedder.embed_documents(documents)
        for question, right in questions.items():
            assert (vectors @ embedder.embed_query(question)).argmax() == right
            ranked = reranker.rerank(question, documents)
            assert ranked[0].index == right
            assert ranked[0].score > 0.5 > ranked[-1].score


def test_the_embedding_model_is_what_sentence_transformers_makes_of_it():
    from sentence_transformers import SentenceTransformer

    texts = ["a hand mill for grain", "it rains <b>", "Ünïcode 汉字"]
    peer = SentenceTransformer(
        str(TINY / "embedding"), device="cpu", model_kwargs={"dtype": "float32"}
    )
    with Embedder("tiny", dtype="float32") as embedder:
        theirs = peer.encode(texts, convert_to_numpy=True)
        np.testing.assert_allclose(embedder.embed_documents(texts), theirs, atol=2e-5)
        theirs = peer.encode(texts, prompt_name="query", convert_to_numpy=True)
        np.testing.assert_allclose(embedder.embed_queries(texts), theirs, atol=2e-5)
