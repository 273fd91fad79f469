"""The page for readers of Qwen's repository: each of its calls and scripts has a counterpart."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from-qwen3-embedding.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith("|---")
]


def test_no_cell_is_empty():
    assert len(ROWS) > 50
    assert all(all(row) for row in ROWS)


@pytest.mark.parametrize(
    "original",
    """Qwen3Embedding( Qwen3EmbeddingVllm( is_query=True dim= use_fp16 use_cuda last_token_pool
    get_detailed_instruct Qwen3Reranker( Qwen3Rerankervllm( compute_scores format_instruction
    process_inputs compute_logits .stop() AutoModel` AutoModelForCausalLM task="embed"
    SentenceTransformer( prompt_name="query" similarity( qwen3_embedding_transformers.py
    qwen3_embedding_vllm.py qwen3_reranker_transformers.py qwen3_reranker_vllm.py run_mteb.sh
    run_mteb.py run_mteb_reranking.sh run_mteb_reranking.py summary.py task_prompts.json
    qwen3_embedding_model.py qwen3_reranker_model.py utils.py mtebdata requirements.txt""".split(),
)
def test_every_call_and_script_has_a_row(original):
    assert any(original in row[0] for row in ROWS)
