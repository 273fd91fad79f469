"""Reranking the documents of one query: ours against the model card's transformers recipe."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.texts import docstrings
from benchmarks.timing import Result, Side, compare
from quernstone import Reranker
from quernstone.prompts import DEFAULT_INSTRUCTION, RERANK_PREFIX, RERANK_SUFFIXES

QUERY = "How do I configure the learning rate when training with several parameter groups?"
# The card scores all pairs in one padded batch with all logits, which for 100 documents needs
# more memory than most machines have; eight at a time is kinder to it.
CARD_BATCH = 8


class CardRecipe:
    """`process_inputs` and `compute_logits` of the card of Qwen/Qwen3-Reranker-0.6B."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self._prefix = self._tokenizer.encode(RERANK_PREFIX, add_special_tokens=False)
        self._suffix = self._tokenizer.encode(RERANK_SUFFIXES["card"], add_special_tokens=False)
        self._yes_no = [self._tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]

    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """P(yes) of each document."""
        scores: list[float] = []
        for start in range(0, len(documents), CARD_BATCH):
            pairs = [
                f"<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
                for document in documents[start : start + CARD_BATCH]
            ]
            inputs = self._tokenizer(
                pairs,
                padding=False,
                truncation="longest_first",
                return_attention_mask=False,
                max_length=8192 - len(self._prefix) - len(self._suffix),
            )
            inputs["input_ids"] = [self._prefix + ids + self._suffix for ids in inputs["input_ids"]]
            batch = self._tokenizer.pad(inputs, padding=True, return_tensors="pt")
            with torch.no_grad():
                logits = self._model(**batch).logits[:, -1, self._yes_no]
            scores += torch.nn.functional.log_softmax(logits, dim=1)[:, 1].exp().tolist()
        return scores


def run(folder: Path, *, dtype: str, documents: int, repeats: int) -> Result:
    """Both sides read the same checkpoint in the same dtype."""
    texts = docstrings(documents, seed=1)
    card = CardRecipe(folder, getattr(torch, dtype))
    with Reranker(str(folder), device="cpu", dtype=dtype) as reranker:
        ours = reranker.score([(QUERY, text) for text in texts[:8]])
        theirs = np.array(card.score(QUERY, texts[:8]))
        before = reranker.usage.tokens
        reranker.rerank(QUERY, texts)
        tokens = reranker.usage.tokens - before
        # a new query for each run, so that no run finds its prefix computed
        queries = (f"{QUERY} ({number})" for number in itertools.count())
        return compare(
            f"Reranking {documents} documents of one query, 0.6B shape, {dtype}",
            [
                Side("quernstone", lambda: reranker.rerank(next(queries), texts)),
                Side("the model card's recipe", lambda: card.score(QUERY, texts)),
            ],
            unit="documents",
            amount=documents,
            repeats=repeats,
            notes=[
                f"{tokens / documents:.0f} tokens a pair, template included",
                f"largest difference of a score: {np.abs(ours - theirs).max():.4f}",
            ],
        )
