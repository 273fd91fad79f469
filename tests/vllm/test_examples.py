"""The examples for vLLM print what those for transformers print."""

import ast
import runpy
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs this")
pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


def printed(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]("tiny")
    return capsys.readouterr().out


def test_embedding(capsys):
    found, expected = (
        ast.literal_eval(printed(f"qwen3_embedding_{engine}", capsys).splitlines()[-1])
        for engine in ("vllm", "transformers")
    )
    assert found == [pytest.approx(row, abs=1.0) for row in expected]


def test_reranking(capsys):
    [line] = [one for one in printed("qwen3_reranker_vllm", capsys).splitlines() if "scores" in one]
    scores = ast.literal_eval(line.removeprefix("scores "))
    assert len(scores) == 2
    assert all(0 <= score <= 1 for score in scores)
