"""Adapters from `Embedder` and `Reranker` to the encoders and cross-encoders of mteb."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.models import SearchCrossEncoderWrapper
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction

from quernstone import Embedder, Reranker
from quernstone.errors import ConfigError
from quernstone.evaluation.protocol import Protocol
from quernstone.progress import progress_bar
from quernstone.types import Float32Array

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import (
        BatchedInput,
        PromptType,
        QueryDatasetType,
        RetrievalOutputType,
        TopRankedDocumentsType,
    )
    from torch.utils.data import DataLoader

MAX_EXHAUSTIVE = 1000
"""Maximum number of documents in a corpus that is scored completely for every query."""

PART = 8192
"""Pairs to prepare at once: two windows of the reranker."""

SHOWN = 1000
"""A call with fewer texts shows no progress: many tasks make dozens of short calls."""

logger = logging.getLogger("quernstone")


class Encoder(AbsEncoder):
    """mteb encoder that uses an `Embedder`."""

    mteb_model_meta: ModelMeta

    def __init__(self, embedder: Embedder, protocol: Protocol, *, progress: bool = False) -> None:
        self._embedder = embedder
        self._protocol = protocol
        self._progress = progress
        self.mteb_model_meta = model_meta(embedder)

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,  # noqa: ARG002 - mteb passes it
        hf_subset: str,  # noqa: ARG002
        prompt_type: PromptType | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> Float32Array:
        """Embed texts with the instruction of the protocol.

        Returns:
            Unit vectors. Shape: (texts, dimensions)
        """
        instruction = self._protocol.embedding_instruction(task_metadata, prompt_type)
        return self.embed(list(_column(inputs, "text")), instruction)

    def embed(self, texts: Sequence[str], instruction: str) -> Float32Array:
        """Embed texts with an instruction. Shape: (len(texts), dimensions)."""
        # many tasks repeat texts in pairs and candidates: embed each only once
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        progress = self._progress and len(places) >= SHOWN
        vectors = self._embedder.embed_queries(list(places), instruction, progress=progress)
        return vectors[[places[text] for text in texts]]


class CrossEncoder:
    """mteb cross-encoder that uses a `Reranker`."""

    def __init__(self, reranker: Reranker, protocol: Protocol) -> None:
        self._reranker = reranker
        self._protocol = protocol
        self.mteb_model_meta = model_meta(reranker)

    def predict(
        self,
        inputs1: DataLoader[BatchedInput],
        inputs2: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,  # noqa: ARG002 - mteb passes it
        hf_subset: str,  # noqa: ARG002
        prompt_type: PromptType | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> Float32Array:
        """Score the pairs of a query and a document at the same position.

        Returns:
            P(yes) of each pair. Shape: (pairs,)
        """
        columns = getattr(inputs1.dataset, "column_names", [])
        # If a query has its own instruction, mteb's `text` contains both, and its wrapper then
        # repeats the instruction.
        text = "query" if self._protocol.name == "official" and "query" in columns else "text"
        queries = list(_column(inputs1, text))
        documents = list(_column(inputs2, "text"))
        if "instruction" in columns and not self._protocol.bare:
            instructions = list(_column(inputs1, "instruction"))
        else:
            default = self._protocol.reranking_instruction(task_metadata)
            instructions = [default] * len(queries)
        return self.score(queries, documents, instructions)

    def score(
        self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str]
    ) -> Float32Array:
        """Score pairs, each with its instruction. Shape: (len(queries),)."""
        asked = groupby(zip(queries, instructions, strict=True))
        heads = [(query, instruction, len(list(group))) for (query, instruction), group in asked]
        ends = list(accumulate(count for _, _, count in heads))
        ranked = self._reranker.rerank_many(
            [query for query, _, _ in heads],
            [documents[end - count : end] for end, (_, _, count) in zip(ends, heads, strict=True)],
            instruction=[instruction for _, instruction, _ in heads],
        )
        scores = np.empty(len(queries), dtype=np.float32)
        for end, own in zip(ends, ranked, strict=True):
            for one in own:
                scores[end - len(own) + one.index] = one.score
        return scores


class CandidateSearch(SearchCrossEncoderWrapper):
    """Search that reranks the candidates of each query with a `CrossEncoder`.

    Without candidates, all documents of a small corpus are scored; mteb's own wrapper rejects such
    a task.
    """

    def __init__(self, model: CrossEncoder, *, progress: bool = False) -> None:
        super().__init__(model)
        self._progress = progress

    def search(
        self,
        queries: QueryDatasetType,
        *,
        task_metadata: TaskMetadata,
        top_ranked: TopRankedDocumentsType | None = None,
        **kwargs: Any,
    ) -> RetrievalOutputType:
        """Score candidates, in bounded memory. See mteb's `SearchProtocol.search`.

        Raises:
            ConfigError: The task has no candidates, and its corpus is too large to score.
        """
        name, corpus = task_metadata.name, self.task_corpus
        if corpus is None:
            raise ValueError("index a corpus first")
        documents = list(corpus["id"])
        if top_ranked is None:
            if len(documents) > MAX_EXHAUSTIVE:
                raise ConfigError(
                    f"no candidates to rerank, and {len(documents)} documents are too many to "
                    f"score for every query (at most {MAX_EXHAUSTIVE}); run stage one first"
                )
            top_ranked = dict.fromkeys(queries["id"], documents)
        asked = list(queries["id"])
        counts = [len(top_ranked.get(query, ())) for query in asked]
        if empty := counts.count(0):
            logger.warning(
                "%s: %d of %d queries have no candidates, and score 0", name, empty, len(asked)
            )
        places = {document: place for place, document in enumerate(documents)}
        results: RetrievalOutputType = {query: {} for query in asked}
        with progress_bar(f"reranking {name}", sum(counts), show=self._progress) as advance:
            for part in _parts(counts):
                own = [document for place in part for document in top_ranked[asked[place]]]
                # mteb prepares and copies the text of each pair: give it a part at once
                self.task_corpus = corpus.select([places[one] for one in dict.fromkeys(own)])
                results |= super().search(
                    queries.select(part),
                    task_metadata=task_metadata,
                    top_ranked=top_ranked,
                    **kwargs,
                )
                advance(len(own))
        self.task_corpus = None
        return results


def model_meta(model: Embedder | Reranker) -> ModelMeta:
    """Return the metadata by which mteb files results, such as name and revision."""
    kind: dict[str, Any] = (
        {"similarity_fn_name": ScoringFunction.COSINE, "embed_dim": model.dimensions}
        if isinstance(model, Embedder)
        else {"model_type": ["cross-encoder"]}
    )
    meta: ModelMeta = ModelMeta.create_empty(
        overwrites={
            "name": model_name(model.model),
            "revision": model.revision,
            "max_tokens": model.max_length,
            "use_instructions": True,
            **kind,
        }
    )
    return meta


def model_name(name: str) -> str:
    """Return a name of the form `organization/model`, which mteb requires, for any model."""
    if Path(name).is_dir():
        return f"local/{Path(name).resolve().name}"
    return name if "/" in name else f"quernstone/{name}"


def _parts(counts: Sequence[int]) -> Iterator[list[int]]:
    """Yield the places of queries with candidates, in groups of about `PART` pairs."""
    part: list[int] = []
    pairs = 0
    for place, count in enumerate(counts):
        if count:
            part.append(place)
            pairs += count
        if pairs >= PART:
            yield part
            part, pairs = [], 0
    if part:
        yield part


def _column(inputs: DataLoader[BatchedInput], name: str) -> Iterator[str]:
    for batch in inputs:
        yield from batch[name]
