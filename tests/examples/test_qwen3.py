"""The examples with the names of Qwen's, and the output that those have."""

import ast
import importlib
import importlib.util

import pytest

from quernstone import Embedder, MissingExtraError, Reranker


def test_embedding_by_transformers(capsys):
    example = importlib.import_module("qwen3_embedding_transformers")
    example.main("tiny")
    printed = capsys.readouterr().out
    assert printed.startswith("query outputs [[")
    assert "\ndoc outputs [[" in printed
    scores = ast.literal_eval(printed.splitlines()[-1])
    with Embedder("tiny", dtype="float32") as embedder:
        queries = embedder.embed_queries(example.QUERIES)
        expected = queries @ embedder.embed_documents(example.DOCUMENTS).T * 100
    assert scores == [pytest.approx(row, abs=1) for row in expected.tolist()]
    assert scores[0][0] > scores[0][1]
    assert scores[1][1] > scores[1][0]


def test_reranking_by_transformers(capsys):
    example = importlib.import_module("qwen3_reranker_transformers")
    example.main("tiny")
    label, scores = capsys.readouterr().out.split(maxsplit=1)
    assert label == "scores"
    with Reranker("tiny", dtype="float32", instruction=example.INSTRUCTION) as reranker:
        expected = reranker.score(example.PAIRS).tolist()
    assert ast.literal_eval(scores) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("name", ["qwen3_embedding_vllm", "qwen3_reranker_vllm"])
def test_vllm_is_asked_for(name):
    """Where vLLM is installed, tests/vllm runs them."""
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    with pytest.raises(MissingExtraError, match=r"quernstone\[vllm\]"):
        importlib.import_module(name).main("tiny")
