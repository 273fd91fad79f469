"""sentence-transformers 6, with its defaults and with its best batch size.

Its defaults: batches of 32 texts, sorted by length, padded, `sdpa` attention, no cache. Only
the batch size can be tuned. With flash-attn, which needs a GPU, it packs texts without padding.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer

_BATCHES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (8, 16, 32, 64, 128, 256)}
"""Sizes to try. Larger batches pad more, and keep a GPU busier."""

# Renders the card's prompt. Jinja drops the last newline of a file, hence the expression.
CHAT_TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that "
    "answer the query\n"
    "<Query>: {{ (messages | selectattr('role', 'eq', 'query') | first).content }}\n"
    "<Document>: {{ (messages | selectattr('role', 'eq', 'document') | first).content }}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>{{ '\\n\\n' }}"
)


class _Batched:
    """The common base, with a batch size that can be tuned."""

    _batch = 32
    """The default of both classes."""
    _device: str

    def tune(self, method: str, *arguments: object) -> int:
        """Choose the fastest batch size for a call, and return it."""

        def seconds(size: int) -> float:
            self._batch = size
            start = time.perf_counter()
            getattr(self, method)(*arguments)
            return time.perf_counter() - start

        self._batch = min(_BATCHES[self._device.partition(":")[0]], key=seconds)
        return self._batch


class Embedding(_Batched):
    """`SentenceTransformer`."""

    def __init__(self, model: str, dtype: str, device: str) -> None:
        self._device, weights = device, _weights(dtype, device)
        self._model = SentenceTransformer(model, device=device, model_kwargs=weights)

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Shape: (texts, hidden)."""
        return np.asarray(self._model.encode_document(list(texts), batch_size=self._batch))

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Shape: (texts, hidden)."""
        return np.asarray(self._model.encode_query(list(texts), batch_size=self._batch))


class Reranking(_Batched):
    """`CrossEncoder`. Its folder needs `CHAT_TEMPLATE` as `chat_template.jinja`."""

    def __init__(self, model: str, dtype: str, device: str) -> None:
        self._device, weights = device, _weights(dtype, device)
        self._model = CrossEncoder(model, device=device, model_kwargs=weights)

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """P(yes) of each document."""
        pairs = [(query, document) for document in documents]
        return np.asarray(self._model.predict(pairs, batch_size=self._batch))


def _weights(dtype: str, device: str) -> dict[str, Any]:
    if device != "cpu" and importlib.util.find_spec("flash_attn"):
        return {"dtype": dtype, "attn_implementation": "flash_attention_2"}
    return {"dtype": dtype}
