"""The models of a server, and the computation of its requests."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

from quernstone.embedder import Embedder, query_encoder
from quernstone.encoding.encoder import Encode, EncodedBatch
from quernstone.encoding.templates import AnyTemplate
from quernstone.errors import ConfigError
from quernstone.model import Model, session_of, variant_of
from quernstone.pairs import InstructedPair
from quernstone.reranker import Reranker, instructed_pairs, scores_of
from quernstone.runtime.coalescing import is_quick
from quernstone.runtime.session import Session
from quernstone.runtime.worker import Worker
from quernstone.serve.admission import Admission
from quernstone.serve.failures import TooMuchError
from quernstone.serve.options import ServeOptions
from quernstone.serve.speed import Speed
from quernstone.types import Float32Array

M = TypeVar("M", bound=Model)
P = ParamSpec("P")
R = TypeVar("R")

# Most variants of a model that are kept. They are small, because they share its weights.
_VARIANTS = 32


@dataclass(frozen=True, slots=True)
class Computed:
    """The results of a request."""

    rows: Float32Array
    """Shape: (inputs, width)"""
    tokens: int
    """Total number of tokens, prompts included; 0 if the engine tokenizes."""
    truncated: Sequence[int]
    """Positions of the inputs that were cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings that a request may replace. None means the server's own setting."""

    max_length: int | None = None
    truncate: bool | None = None
    template: AnyTemplate | None = None


class Served(Generic[M]):
    """A model, and variants of it with other limits, which share its weights."""

    def __init__(self, model: M) -> None:
        self.model = model
        self._variants: OrderedDict[Settings, M] = OrderedDict()

    async def variant(self, settings: Settings) -> M:
        """Return the model with the settings of a request.

        `max_length` is at most that of the server.

        Raises:
            ConfigError: The settings cannot be changed without loading the model again.
        """
        changes = self._changes(settings)
        if not changes:
            return self.model
        settings = Settings(**changes)
        if settings not in self._variants:
            # In a thread: it reads files of the model.
            found: M = await asyncio.to_thread(lambda: variant_of(self.model, **changes))
            self._variants.setdefault(settings, found)  # another request may have been faster
            if len(self._variants) > _VARIANTS:
                self._variants.popitem(last=False)  # closed when its last request ends
        self._variants.move_to_end(settings)
        return self._variants[settings]

    def _changes(self, settings: Settings) -> dict[str, Any]:
        """Return the settings that differ from the model's own, or raise a `ConfigError`."""
        session = session_of(self.model)
        longest = session.max_length
        asked: dict[str, Any] = {
            "max_length": min(settings.max_length or longest, longest),
            "truncate": settings.truncate,
            "template": settings.template,
        }
        changes = {
            name: value
            for name, value in asked.items()
            if value is not None and value != getattr(session, name)
        }
        if session.tokenizer is None and changes.keys() & {"max_length", "truncate"}:
            raise ConfigError(
                f"`{self.model.model}` runs in a library that tokenizes, so the `max_length` "
                f"({longest}) and `truncate` ({session.truncate}) that it was loaded with cannot "
                "be changed; leave them out"
            )
        if "template" in changes and session.rows_of(changes["template"]) != session.head_rows:
            raise ConfigError(
                f"the answers of the template differ from those that `{self.model.model}` was "
                "loaded with; serve the model with this template"
            )
        return changes

    def check_name(self, asked: str | None) -> str:
        """Return the name of the model.

        Raises:
            LookupError: A request asked for a model with another name.
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
    """The models of a server: an embedding model, a reranking model, or both."""

    def __init__(
        self, embedder: Embedder | None, reranker: Reranker | None, options: ServeOptions
    ) -> None:
        self._embedder = Served(embedder) if embedder else None
        self._reranker = Served(reranker) if reranker else None
        self._options = options
        sessions = [session_of(model) for model in self]
        self.speed = Speed(min(session.info.max_batch_tokens for session in sessions))
        self.admission = Admission(options.max_wait, self.speed)

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
        """Embed queries, or documents if `instruction` is None, in full length."""
        embedder = await self.embedder.variant(settings)
        if instruction is None:
            documents = session_of(embedder).encoder.encode_documents
            return await self._compute(embedder, texts, documents)
        return await self._compute(embedder, texts, query_encoder(embedder, instruction))

    async def score(
        self, pairs: Sequence[tuple[str, str]], instruction: str | None, settings: Settings
    ) -> Computed:
        """Score (query, document) pairs. Shape of the rows: (pairs, 1)."""
        reranker = await self.reranker.variant(settings)
        inputs: list[InstructedPair] = instructed_pairs(reranker, pairs, instruction)
        encode = session_of(reranker).encoder.pair_encoder(reranker.template)
        computed = await self._compute(reranker, inputs, encode)
        rows = scores_of(reranker, computed.rows)[:, None]
        return Computed(rows, computed.tokens, computed.truncated)

    async def _compute(self, model: Model, inputs: Sequence[Any], encode: Encode[Any]) -> Computed:
        limit = self._options.max_inputs
        if len(inputs) > limit:
            raise TooMuchError(
                f"the request has {len(inputs)} inputs, the limit is {limit}; send several requests"
            )
        session = session_of(model)
        run = _inline if is_quick(inputs) else asyncio.to_thread
        batch, size, key = await run(_encode, session, inputs, encode)
        limit = self._options.max_tokens
        if batch.tokens > limit:
            raise TooMuchError(
                f"the request has {batch.tokens} tokens, the limit is {limit}; send several "
                "requests, or shorter inputs"
            )
        with self.admission.admit(size, key):
            if not isinstance(session.backend, Worker):  # only workers report their batches
                self.speed.begin(size)
            submitting = asyncio.ensure_future(run(session.submit, batch))
            try:
                rows = await asyncio.wrap_future(await asyncio.shield(submitting))
            except asyncio.CancelledError:
                submitting.add_done_callback(_drop)
                raise
        return Computed(rows, batch.tokens, batch.truncated)

    def close(self) -> None:
        """Release all models."""
        for served in (self._embedder, self._reranker):
            if served is not None:
                served.close()


def _encode(
    session: Session, inputs: Sequence[Any], encode: Encode[Any]
) -> tuple[EncodedBatch, int, int]:
    """Return the encoded inputs, their size in tokens as batches count it, and their hash."""
    batch = session.encode(inputs, encode)
    return batch, sum(map(len, batch.sequences)), hash(tuple(inputs))


async def _inline(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function on the event loop; a replacement for `asyncio.to_thread`."""
    return function(*args, **kwargs)


def _drop(submitting: asyncio.Future[Future[Float32Array]]) -> None:
    """Cancel the inputs of a request that has ended, except in a batch that has begun."""
    if submitting.exception() is None:
        submitting.result().cancel()


Load = Callable[[], Models]
"""A function that loads the models of a server; it runs in a thread."""


def _found(served: Served[M] | None, task: str, option: str) -> Served[M]:
    if served is None:
        raise LookupError(
            f"this server has no {task} model; start it with `quern serve {option} MODEL`"
        )
    return served
