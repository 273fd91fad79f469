"""mteb's two adapters: what it calls an encoder and a cross-encoder, over ours."""

from __future__ import annotations

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
"""Documents of the largest corpus that is scored whole for every query."""


class Encoder(AbsEncoder):
    """An `Embedder` as mteb wants it."""

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
        """Embed texts behind the instruction that the protocol gives them.

        Returns:
            Unit vectors. Shape: (texts, dimensions)
        """
        instruction = self._protocol.embedding_instruction(task_metadata, prompt_type)
        return self.embed(list(_column(inputs, "text")), instruction)

    def embed(self, texts: Sequence[str], instruction: str) -> Float32Array:
        """Embed texts behind one instruction. Shape: (len(texts), dimensions)."""
        # pairs and candidates of many tasks repeat their texts
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        vectors = self._embedder.embed_queries(list(places), instruction, progress=self._progress)
        return vectors[[places[text] for text in texts]]


class CrossEncoder:
    """A `Reranker` as mteb wants it."""

    def __init__(self, reranker: Reranker, protocol: Protocol, *, progress: bool = False) -> None:
        self._reranker = reranker
        self._protocol = protocol
        self._progress = progress
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
        """Score pairs of a query and a document that stand at the same place.

        Returns:
            P(yes) of each pair. Shape: (pairs,)
        """
        columns = getattr(inputs1.dataset, "column_names", [])
        # mteb's `text` of a query with an instruction of its own is both, one after the other,
        # and its own wrapper then names the instruction twice
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
        """Score pairs, each under its instruction. Shape: (len(queries),)."""
        asked = groupby(zip(queries, instructions, strict=True))
        heads = [(query, instruction, len(list(group))) for (query, instruction), group in asked]
        ends = list(accumulate(count for _, _, count in heads))
        ranked = self._reranker.rerank_many(
            [query for query, _, _ in heads],
            [documents[end - count : end] for end, (_, _, count) in zip(ends, heads, strict=True)],
            instruction=[instruction for _, instruction, _ in heads],
            progress=self._progress,
        )
        scores = np.empty(len(queries), dtype=np.float32)
        for end, own in zip(ends, ranked, strict=True):
            for one in own:
                scores[end - len(own) + one.index] = one.score
        return scores


class CandidateSearch(SearchCrossEncoderWrapper):
    """A `CrossEncoder` that reranks the candidates of each query.

    Of a small corpus without candidates every document is one. mteb's own wrapper refuses such a
    task.
    """

    def search(
        self,
        queries: QueryDatasetType,
        *,
        top_ranked: TopRankedDocumentsType | None = None,
        **kwargs: Any,
    ) -> RetrievalOutputType:
        """Score candidates. See mteb's `SearchProtocol.search`.

        Raises:
            ConfigError: There are no candidates, and the corpus is too large to score all of it.
        """
        if top_ranked is None and self.task_corpus is not None:
            documents = list(self.task_corpus["id"])
            if len(documents) > MAX_EXHAUSTIVE:
                raise ConfigError(
                    f"no candidates to rerank, and {len(documents)} documents are too many to "
                    f"score for every query (at most {MAX_EXHAUSTIVE}); run stage one first"
                )
            top_ranked = dict.fromkeys(queries["id"], documents)
        return super().search(queries, top_ranked=top_ranked, **kwargs)


def model_meta(model: Embedder | Reranker) -> ModelMeta:
    """What mteb files results under: the model's name and revision."""
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
    """A name of the form `organization/model`, which mteb demands, for any name of a model."""
    if Path(name).is_dir():
        return f"local/{Path(name).resolve().name}"
    return name if "/" in name else f"quernstone/{name}"


def _column(inputs: DataLoader[BatchedInput], name: str) -> Iterator[str]:
    for batch in inputs:
        yield from batch[name]
