"""The transformers snippets of the model cards, which say how the models are meant to be used.

The cards compute all texts in one padded batch, which for a hundred documents needs more memory
than most machines have. These compute eight at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from quernstone.encoding.prompts import (
    DEFAULT_INSTRUCTION,
    RERANK_PREFIX,
    RERANK_SUFFIXES,
    query_frame,
)

_BATCH = 8
_MAX_LENGTH = 8192


class Embedding:
    """The snippet of Qwen/Qwen3-Embedding-0.6B."""

    def __init__(self, model: str, dtype: str, device: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        self._model = AutoModel.from_pretrained(model, dtype=dtype).to(device).eval()

    @torch.no_grad()
    def documents(self, texts: Sequence[str]) -> Tensor:
        """Shape: (texts, hidden)."""
        pooled = []
        for some in _batches(texts):
            inputs = self._tokenizer(
                list(some),
                padding=True,
                truncation=True,
                max_length=_MAX_LENGTH,
                return_tensors="pt",
            ).to(self._model.device)
            pooled.append(self._model(**inputs).last_hidden_state[:, -1])
        return F.normalize(torch.cat(pooled), p=2, dim=1).float().cpu()

    def queries(self, texts: Sequence[str]) -> Tensor:
        """Shape: (texts, hidden)."""
        return self.documents([query_frame(DEFAULT_INSTRUCTION) + text for text in texts])


class Reranking:
    """`process_inputs` and `compute_logits` of Qwen/Qwen3-Reranker-0.6B."""

    def __init__(self, model: str, dtype: str, device: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(device).eval()
        self._prefix = self._tokenizer.encode(RERANK_PREFIX, add_special_tokens=False)
        self._suffix = self._tokenizer.encode(RERANK_SUFFIXES["card"], add_special_tokens=False)
        self._yes_no = [self._tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]

    @torch.no_grad()
    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """P(yes) of each document."""
        scores: list[float] = []
        for some in _batches(documents):
            pairs = [
                f"<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
                for document in some
            ]
            inputs = self._tokenizer(
                pairs,
                padding=False,
                truncation="longest_first",
                return_attention_mask=False,
                max_length=_MAX_LENGTH - len(self._prefix) - len(self._suffix),
            )
            inputs["input_ids"] = [self._prefix + ids + self._suffix for ids in inputs["input_ids"]]
            batch = self._tokenizer.pad(inputs, padding=True, return_tensors="pt")
            logits = self._model(**batch.to(self._model.device)).logits[:, -1, self._yes_no]
            scores += F.log_softmax(logits, dim=1)[:, 1].exp().tolist()
        return scores


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
