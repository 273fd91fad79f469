"""llama.cpp from its own environment, through its C interface, which has more options.

It runs with its best settings: full batches of texts packed end to end in one unified cache, flash
attention, all cores. It gets token ids, so that it reads the same input as the others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from tokenizers import Tokenizer

from benchmarks.gguf_file import write_gguf
from quernstone.encoding.prompts import (
    DEFAULT_INSTRUCTION,
    RERANK_PREFIX,
    query_frame,
    render_pair,
    rerank_head,
)

_AT_ONCE = 512
"""Tokens per batch. 128 are slower, 2,048 are not faster."""
_LONGEST = 8192
"""Tokens of a text. Texts longer than `_AT_ONCE` are computed in pieces."""
_SEQUENCES = 64
"""Texts per batch."""
_ERROR = 4
"""Source: `ggml_log_level` in ggml.h. The binding's own filter uses other numbers."""


@llama_cpp.llama_log_callback
def _print_errors(level: int, text: bytes, _: object) -> None:
    if level == _ERROR:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


llama_cpp.llama_log_set(_print_errors, None)


class Embedding:
    """Pooling of the last token.

    No setting skips the product of every token with the output head.
    """

    def __init__(self, model: str, dtype: str) -> None:
        self._context = _Context(model, dtype, pooling=llama_cpp.LLAMA_POOLING_TYPE_LAST)
        self._tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Shape: (texts, hidden)."""
        encoded = self._tokenizer.encode_batch(list(texts))
        vectors: list[np.ndarray] = []
        for batch in _batches([one.ids for one in encoded]):
            self._context.forget(0)
            self._context.decode(batch)
            vectors += [self._context.pooled(number) for number in range(len(batch))]
        return np.array(vectors)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Shape: (texts, hidden)."""
        return self.documents([query_frame(DEFAULT_INSTRUCTION) + text for text in texts])

    def version(self) -> str:
        """Version of the binding, which contains llama.cpp."""
        return llama_cpp.__version__


class Reranking:
    """Logits of the last token, after a prefix that is computed once and shared by all texts.

    Its pooling for rerankers would compute the prefix for each text, and logits of all tokens.
    """

    def __init__(self, model: str, dtype: str) -> None:
        self._context = _Context(model, dtype, pooling=llama_cpp.LLAMA_POOLING_TYPE_NONE)
        self._tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
        self._yes_no = [self._tokenizer.token_to_id(word) for word in ("yes", "no")]

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """P(yes) of each document."""
        prompts = [render_pair(query, document, DEFAULT_INSTRUCTION) for document in documents]
        ids = [one.ids for one in self._tokenizer.encode_batch(prompts)]
        head = RERANK_PREFIX + rerank_head(query, DEFAULT_INSTRUCTION, "card")
        prefix = self._tokenizer.encode(head).ids
        self._context.forget(0)
        self._context.decode([prefix])
        self._context.share()
        logits: list[np.ndarray] = []
        for batch in _batches([one[len(prefix) :] for one in ids]):
            self._context.forget(len(prefix))
            places = self._context.decode(batch, start=len(prefix))
            logits += [self._context.logits(place)[self._yes_no] for place in places]
        yes, no = np.array(logits).T
        return 1 / (1 + np.exp(no - yes))

    def version(self) -> str:
        """Version of the binding, which contains llama.cpp."""
        return llama_cpp.__version__


class _Context:
    """A loaded model and its cache."""

    def __init__(self, model: str, dtype: str, pooling: int) -> None:
        file = str(write_gguf(Path(model), dtype))
        settings = llama_cpp.llama_model_default_params()
        loaded = llama_cpp.llama_model_load_from_file(file.encode(), settings)
        if loaded is None:
            raise RuntimeError(f"llama.cpp cannot load {file}; see above")
        self._width = llama_cpp.llama_model_n_embd(loaded)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
        self._pools = pooling != llama_cpp.LLAMA_POOLING_TYPE_NONE
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = _LONGEST
        params.n_ubatch = _AT_ONCE
        params.n_seq_max = _SEQUENCES
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = len(os.sched_getaffinity(0))
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.pooling_type = pooling
        params.embeddings = self._pools
        self._context = llama_cpp.llama_init_from_model(loaded, params)
        if self._context is None:
            raise RuntimeError(f"llama.cpp makes no context for {file}; see above")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(_LONGEST, 0, 1)

    def decode(self, texts: Sequence[Sequence[int]], start: int = 0) -> list[int]:
        """Compute texts, the n-th as a continuation of sequence n from position `start`.

        Returns:
            The position of each text's last token in the batch.

        Raises:
            ValueError: A text is too long.
            RuntimeError: llama.cpp reports that it failed.
        """
        if start + sum(map(len, texts)) > _LONGEST:
            raise ValueError(f"a text has more than {_LONGEST} tokens")
        batch, place = self._batch, 0
        lasts: list[int] = []
        for number, ids in enumerate(texts):
            for position, token in enumerate(ids, start):
                batch.token[place] = token
                batch.pos[place] = position
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = number
                batch.logits[place] = self._pools  # pooling needs all tokens
                place += 1
            batch.logits[place - 1] = True
            lasts.append(place - 1)
        batch.n_tokens = place
        code = llama_cpp.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama_decode returns {code}")
        return lasts

    def pooled(self, number: int) -> np.ndarray:
        """Return the embedding of a sequence. Shape: (hidden,)."""
        row = llama_cpp.llama_get_embeddings_seq(self._context, number)
        return np.ctypeslib.as_array(row, (self._width,)).copy()

    def logits(self, place: int) -> np.ndarray:
        """Return the logits of a last token. Shape: (vocabulary,)."""
        row = llama_cpp.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(row, (self._vocab,))

    def share(self) -> None:
        """Share the cache of sequence 0 with all sequences, without copying."""
        for number in range(1, _SEQUENCES):
            llama_cpp.llama_memory_seq_cp(self._memory, 0, number, -1, -1)

    def forget(self, start: int) -> None:
        """Remove the cache of all sequences from position `start`."""
        llama_cpp.llama_memory_seq_rm(self._memory, -1, start, -1)


def _batches(texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Yield consecutive texts that fit in one batch."""
    batch: list[Sequence[int]] = []
    for ids in texts:
        tokens = sum(map(len, batch)) + len(ids)
        if batch and (tokens > _AT_ONCE or len(batch) == _SEQUENCES):
            yield batch
            batch = []
        batch.append(ids)
    yield batch
