"""vLLM from its own environment, used as in its own examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import vllm
from vllm.platforms import current_platform

from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, query_frame, render_pair

ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}

# The reranker as one class whose weights are those of `yes` less those of `no`.
_RERANKER = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}


class Embedding:
    """`LLM.embed`. A prefix cache would only take time here."""

    def __init__(self, model: str, dtype: str) -> None:
        self._llm = vllm.LLM(convert="embed", **_settings(model, dtype, prefix_caching=False))

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Shape: (texts, hidden)."""
        outputs = self._llm.embed(texts, use_tqdm=False)
        return np.array([output.outputs.embedding for output in outputs])

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Shape: (texts, hidden)."""
        return self.documents([query_frame(DEFAULT_INSTRUCTION) + text for text in texts])

    def version(self) -> str:
        """Version of vLLM."""
        return vllm.__version__


class Reranking:
    """`LLM.classify` of the card's prompts, with its prefix cache."""

    def __init__(self, model: str, dtype: str) -> None:
        settings = _settings(model, dtype, prefix_caching=True)
        self._llm = vllm.LLM(convert="classify", hf_overrides=_RERANKER, **settings)

    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """P(yes) of each document."""
        prompts = [render_pair(query, document, DEFAULT_INSTRUCTION) for document in documents]
        outputs = self._llm.classify(prompts, use_tqdm=False)
        return [output.outputs.probs[0] for output in outputs]

    def version(self) -> str:
        """Version of vLLM."""
        return vllm.__version__


def _settings(model: str, dtype: str, *, prefix_caching: bool) -> dict[str, Any]:
    settings = {
        "model": model,
        "dtype": dtype,
        "runner": "pooling",
        "pooler_config": {"seq_pooling_type": "LAST"},
        "max_model_len": 8192,
        "enable_prefix_caching": prefix_caching,
    }
    if not current_platform.is_cpu():
        # its default leaves no GPU memory for the other sides
        settings["gpu_memory_utilization"] = 0.4
    else:
        # 18,000 tokens of the 0.6B model; its default is nearly all of the memory
        settings["kv_cache_memory_bytes"] = 2 << 30
        if prefix_caching:
            # its default of 128 tokens exceeds the prompt up to a short query
            settings["block_size"] = 32
    return settings
