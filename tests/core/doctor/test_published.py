"""Which published scores a model is compared with, and how near it must come."""

import numpy as np
import pytest

from quernstone.doctor.published import PUBLISHED, compare_with_published, published_for


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3-Embedding-0.6B",
        "modelscope:Qwen/Qwen3-Embedding-0.6B",
        "/data/models/Qwen3-Embedding-0.6B/",
        "qwen3-embedding-0.6b",
    ],
)
def test_a_model_is_known_by_the_end_of_its_name(name):
    known = published_for("embed", name, 1024)
    assert known is PUBLISHED["embed"]["qwen3-embedding-0.6b"]
    assert published_for("embed", name, None) is known
    assert published_for("embed", name, 64) is None  # a small random one in its place
    assert published_for("rerank", name, 1024) is None


def scores(rows):
    def compute(queries, documents):
        found = np.array(rows, dtype=np.float32)
        assert found.shape == (queries, documents)
        return found

    return compute


# what vLLM gives for the same example, in bfloat16: QwenLM/Qwen3-Embedding, README
VLLM = ((0.7620252966880798, 0.14078938961029053), (0.1358368694782257, 0.6013815999031067))


def test_what_another_engine_published_is_near_enough():
    known = published_for("embed", "Qwen/Qwen3-Embedding-0.6B", 1024)
    for dtype in ("float32", "bfloat16", "unknown"):
        outcome = compare_with_published(known, dtype, scores(VLLM))
        assert outcome.verdict == "ok"
        assert "0.7620 0.1408; 0.1358 0.6014 against 0.7646 0.1414" in outcome.finding


def test_scores_without_the_query_prompt_are_not():
    known = published_for("embed", "Qwen/Qwen3-Embedding-8B", 4096)
    outcome = compare_with_published(known, "bfloat16", scores(((0.81, 0.21), (0.2, 0.67))))
    assert outcome.verdict == "fail"
    assert "0.1349 apart at most, but at most 0.015 is expected in bfloat16" in outcome.finding


def test_a_reranker_without_its_template_is_not():
    """vllm-project/vllm#21681: without the template both documents score above 0.8."""
    known = published_for("rerank", "Qwen/Qwen3-Reranker-8B", 4096)
    right = compare_with_published(known, "bfloat16", scores([[0.99437, 6.876e-07]]))
    wrong = compare_with_published(known, "bfloat16", scores([[0.8156, 0.8016]]))
    assert (right.verdict, wrong.verdict) == ("ok", "fail")


def test_unknown_models_are_skipped():
    outcome = compare_with_published(None, "float32", scores([[0.0]]))
    assert outcome.verdict == "skipped"
