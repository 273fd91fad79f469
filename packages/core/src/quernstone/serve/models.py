"""The models of a server, and the computation of its requests."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from quernstone.embedder import Embedder, query_encoder
from quernstone.encoding.encoder import Encode
from quernstone.model import Model, session_of, variant_of
from quernstone.pairs import InstructedPair
from quernstone.reranker import Reranker, instructed_pairs, scores_of
from quernstone.serve.admission import Admission
from quernstone.serve.failures import TooMuchError
from quernstone.serve.options import ServeOptions
from quernstone.types import Float32Array, RerankTemplate

M = TypeVar("M", bound=Model)

# Clients with other limits share the weights, so a variant is small.
_VARIANTS = 32


@dataclass(frozen=True, slots=True)
class Computed:
    """The results of a request."""

    rows: Float32Array
    """Shape: (inputs, width)"""
    tokens: int
    """Tokens of the inputs, prompts included; 0 if the engine tokenizes."""
    truncated: Sequence[int]
    """Positions of the inputs that were cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings that a request may replace. None means the server's own setting."""

    max_length: int | None = None
    truncate: bool | None = None
    template: RerankTemplate | None = None


class Served(Generic[M]):
    """A model, and variants of it with other limits, which share its weights."""

    def __init__(self, model: M) -> None:
        self.model = model
        self._variants: OrderedDict[Settings, M] = OrderedDict()

    def variant(self, settings: Settings) -> M:
        """Return the model with other limits, at most those of the server."""
        changes: dict[str, Any] = {
            name: value
            for name in ("max_length", "truncate", "template")
            if (value := getattr(settings, name)) is not None
        }
        if "max_length" in changes:
            changes["max_length"] = min(changes["max_length"], self.model.max_length)
        if not changes:
            return self.model
        if settings not in self._variants:
            self._variants[settings] = variant_of(self.model, **changes)
            if len(self._variants) > _VARIANTS:
                self._variants.popitem(last=False)[1].close()
        self._variants.move_to_end(settings)
        return self._variants[settings]

    def check_name(self, asked: str | None) -> str:
        """Return the name of the model, if a request asked for it or for none.

        Raises:
            LookupError: It asked for another one.
        """
        name = self.model.model
        if asked not in (None, "", name):
            raise LookupError(f"there is no model {asked!r}; this server has {name!r}")
        return name

    def close(self) -> None:
        """Release the model and its variants."""
        for model in (*self._variants.values(), self.model):
            model.close()


class Models:
    """The embedding model and the reranking model of a server; one may be missing."""

    def __init__(
        self, embedder: Embedder | None, reranker: Reranker | None, options: ServeOptions
    ) -> None:
        self._embedder = Served(embedder) if embedder else None
        self._reranker = Served(reranker) if reranker else None
        self._options = options
        self.admission = Admission(options.max_wait)

    def __iter__(self) -> Iterator[Embedder | Reranker]:
        for served in (self._embedder, self._reranker):
            if served is not None:
                yield served.model

    @property
    def embedder(self) -> Served[Embedder]:
        """The embedding model, or a LookupError."""
        return _found(self._embedder, "embedding", "--embed")

    @property
    def reranker(self) -> Served[Reranker]:
        """The reranking model, or a LookupError."""
        return _found(self._reranker, "reranking", "--rerank")

    async def embed(
        self, texts: Sequence[str], instruction: str | None, settings: Settings
    ) -> Computed:
        """Embed queries, or documents if there is no instruction. Rows have the full length."""
        embedder = self.embedder.variant(settings)
        if instruction is None:
            documents = session_of(embedder).encoder.encode_documents
            return await self._compute(embedder, texts, documents)
        return await self._compute(embedder, texts, query_encoder(embedder, instruction))

    async def score(
        self, pairs: Sequence[tuple[str, str]], instruction: str | None, settings: Settings
    ) -> Computed:
        """Compute P(yes) of pairs of a query and a document. Rows have one number."""
        reranker = self.reranker.variant(settings)
        inputs: list[InstructedPair] = instructed_pairs(reranker, pairs, instruction)
        encode = session_of(reranker).encoder.pair_encoder(reranker.template)
        computed = await self._compute(reranker, inputs, encode)
        rows = scores_of(reranker, computed.rows)[:, None]
        return Computed(rows, computed.tokens, computed.truncated)

    async def _compute(self, model: Model, inputs: Sequence[Any], encode: Encode[Any]) -> Computed:
        limit = self._options.max_inputs
        if len(inputs) > limit:
            raise TooMuchError(f"{len(inputs)} inputs in a request, the limit is {limit}")
        session = session_of(model)
        batch = await asyncio.to_thread(session.encode, inputs, encode)
        limit = self._options.max_tokens
        if batch.tokens > limit:
            raise TooMuchError(f"{batch.tokens} tokens in a request, the limit is {limit}")
        size = batch.tokens or sum(map(len, batch.sequences))
        with self.admission.admit(size):
            # Cancelled with the request: what has not begun is dropped.
            rows = await asyncio.wrap_future(session.submit(batch))
        return Computed(rows, batch.tokens, batch.truncated)

    def close(self) -> None:
        """Release all models."""
        for served in (self._embedder, self._reranker):
            if served is not None:
                served.close()


Load = Callable[[], Models]
"""Loads the models of a server; runs in a thread."""


def _found(served: Served[M] | None, task: str, option: str) -> Served[M]:
    if served is None:
        raise LookupError(
            f"this server has no {task} model; start it with `quern serve {option} MODEL`"
        )
    return served
