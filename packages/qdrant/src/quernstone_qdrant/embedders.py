"""Embedding models: the interface for loading and searching, and objects of other frameworks."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from quernstone.errors import ConfigError, EngineError, NonFiniteError
from quernstone.types import EngineInfo, Float32Array, RankedDocument, unit_prefix

_NAMES = ("model", "model_name", "model_id", "repo_id", "deployment")
"""Attributes in which classes of LangChain and LlamaIndex keep the name of their model."""
_UNNAMED = ("", "unknown")  # LlamaIndex names a model `unknown` by default


class TextEmbedder(Protocol):
    """The interface of an embedder for loading and searching; `quernstone.Embedder` has it."""

    @property
    def model(self) -> str:
        """Name of the model, as the user gave it."""
        ...

    @property
    def dimensions(self) -> int:
        """Size of the vectors."""
        ...

    @property
    def revision(self) -> str:
        """Commit of the model, or a digest of its files."""
        ...

    @property
    def info(self) -> EngineInfo:
        """The engine that runs the model."""
        ...

    def format_query(self, text: str, /) -> str:
        """Return the text that the model reads for a query."""
        ...

    def embed_documents(self, texts: list[str], /) -> Float32Array:
        """Embed texts. Shape of the result: (len(texts), dimensions)."""
        ...

    def embed_query(self, text: str, /, instruction: str | None = None) -> Float32Array:
        """Embed one query. Shape of the result: (dimensions,)."""
        ...


def is_normalized(embedder: TextEmbedder) -> bool:
    """Return False for a `quernstone.Embedder` of a model whose vectors are not normalized."""
    return bool(getattr(embedder, "normalized", True))


class QueryEmbedder(TextEmbedder, Protocol):
    """The interface of an embedder for the searcher; implemented by `quernstone.Embedder`."""

    async def aembed_query(self, text: str, /, instruction: str | None = None) -> Float32Array:
        """Like `embed_query`, without blocking the event loop."""
        ...


class TextReranker(Protocol):
    """The interface of a reranker for the searcher; implemented by `quernstone.Reranker`."""

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        top_n: int | None = None,
        instruction: str | None = None,
    ) -> list[RankedDocument]:
        """Return the documents ordered by relevance, best first."""
        ...

    async def arerank(
        self,
        query: str,
        documents: Sequence[str],
        top_n: int | None = None,
        instruction: str | None = None,
    ) -> list[RankedDocument]:
        """Like `rerank`, without blocking the event loop."""
        ...


@runtime_checkable
class LangChainEmbeddings(Protocol):
    """The interface of LangChain's `Embeddings`."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents."""
        ...

    def embed_query(self, text: str) -> list[float]:
        """Embed a query."""
        ...

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query."""
        ...


@runtime_checkable
class LlamaIndexEmbedding(Protocol):
    """The interface of LlamaIndex's `BaseEmbedding`."""

    def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
        """Embed texts."""
        ...

    def get_query_embedding(self, query: str) -> list[float]:
        """Embed a query."""
        ...

    async def aget_query_embedding(self, query: str) -> list[float]:
        """Embed a query."""
        ...


AnyEmbedder: TypeAlias = "TextEmbedder | LangChainEmbeddings | LlamaIndexEmbedding"
"""An object that loaders and searchers accept; `as_embedder` converts it."""


class FrameworkEmbedder:
    """An embedding object of LangChain or LlamaIndex, for loading and searching.

    Such an object gives less than a `quernstone.Embedder`:

    - A collection records the name of its model, and nothing about its files, prompts and dtype.
      Two models of the same name cannot be distinguished, unless you pass a `revision`.
    - The size of its vectors is measured by embedding a short text.
    - It cannot take an instruction with a query. Set the instruction in the object itself.

    Vectors are normalized to unit length. The object is called from several threads.

    Args:
        embeddings: A LangChain `Embeddings` or a LlamaIndex `BaseEmbedding`.
        model: Name of the model; None: the object's own attribute `model` or `model_name`.
        revision: Version of the model; empty: unknown.

    Raises:
        ConfigError: The object is of another type, or does not name its model.
        EngineError: The object does not return a vector of finite numbers.
    """

    def __init__(
        self,
        embeddings: LangChainEmbeddings | LlamaIndexEmbedding,
        *,
        model: str | None = None,
        revision: str = "",
    ) -> None:
        kind = type(embeddings).__name__
        if isinstance(embeddings, LlamaIndexEmbedding):
            framework = "llama-index"
            self._embed: Any = embeddings.get_text_embedding_batch
            self._query: Any = embeddings.get_query_embedding
            self._aquery: Any = embeddings.aget_query_embedding
        elif isinstance(embeddings, LangChainEmbeddings):
            framework = "langchain"
            self._embed = embeddings.embed_documents
            self._query = embeddings.embed_query
            self._aquery = embeddings.aembed_query
        else:
            raise ConfigError(
                f"`embedder` is a `{kind}`; pass a `quernstone.Embedder`, or an embedding object "
                "of LangChain or LlamaIndex"
            )
        self.model = model or _name_of(embeddings)
        if not self.model:
            raise ConfigError(
                f"`{kind}` does not name its model in an attribute `model` or `model_name`, so a "
                "collection cannot record what computed its vectors: pass "
                '`FrameworkEmbedder(embeddings, model="...")`'
            )
        self.revision = revision
        self.info = EngineInfo(
            engine=f"{framework}: {kind}",
            device="unknown",
            dtype="unknown",
            attention="unknown",
            max_batch_tokens=0,
        )
        self.dimensions = 0
        self.dimensions = self._vectors(self._embed(["dimensions"]), 1).shape[1]

    @property
    def note(self) -> str:
        """A description of the facts that a collection cannot record about this model."""
        unknown = "prompts and dtype" if self.revision else "files, prompts and dtype"
        return (
            f"the vectors come from {self.info.engine}, which names its model, {self.model!r}, but "
            f"not its {unknown}: another model of that name would not be noticed"
        )

    def format_query(self, text: str) -> str:
        """Return an empty text: the prompt is not known."""
        del text
        return ""

    format_document = format_query

    def embed_documents(self, texts: list[str]) -> Float32Array:
        """Embed texts. Shape: (len(texts), dimensions)."""
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        return self._vectors(self._embed(texts), len(texts))

    def embed_query(self, text: str, instruction: str | None = None) -> Float32Array:
        """Embed one query. Shape: (dimensions,).

        Raises:
            ConfigError: An instruction was passed.
        """
        self._refuse(instruction)
        vector: Float32Array = self._vectors([self._query(text)], 1)[0]
        return vector

    async def aembed_query(self, text: str, instruction: str | None = None) -> Float32Array:
        """Like `embed_query`, by the object's own asynchronous method."""
        self._refuse(instruction)
        vector: Float32Array = self._vectors([await self._aquery(text)], 1)[0]
        return vector

    def _refuse(self, instruction: str | None) -> None:
        if instruction is not None:
            raise ConfigError(
                f"{self.info.engine} cannot take an instruction with a query: set it in that "
                "object, or use a `quernstone.Embedder`"
            )

    def _vectors(self, rows: Sequence[Sequence[float]], count: int) -> Float32Array:
        """Convert what a framework returned to unit vectors, after checking it."""
        sizes = sorted({len(row) for row in rows})
        if len(rows) != count or len(sizes) != 1 or sizes[0] != (self.dimensions or sizes[0]):
            wanted = f" of {self.dimensions} numbers" if self.dimensions else ""
            raise EngineError(
                f"{self.info.engine} returned {len(rows)} vectors of {sizes} numbers for {count} "
                f"texts; expected {count} vectors{wanted}"
            )
        vectors = np.asarray(rows, dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise NonFiniteError(int(bad[0]), f"as returned by {self.info.engine}")
        return unit_prefix(vectors, vectors.shape[1])


def as_embedder(given: Any) -> Any:
    """Return the embedder of an object: its own, itself, or a `FrameworkEmbedder`.

    The adapters of Quernstone hold a `quernstone.Embedder`, which knows its files and prompts.

    Raises:
        ConfigError: See `FrameworkEmbedder`.
    """
    if _is_embedder(given):
        return given
    if inspect.getattr_static(given, "embedder", None) is not None and _is_embedder(given.embedder):
        return given.embedder
    return FrameworkEmbedder(given)


def check_reranker(given: Any) -> None:
    """Raise an error if an object cannot rerank texts.

    Raises:
        ConfigError: It is of another type, such as a framework's reranker.
    """
    if given is None or (hasattr(given, "rerank") and hasattr(given, "arerank")):
        return
    raise ConfigError(
        f"`reranker` is a `{type(given).__name__}`; pass a `quernstone.Reranker`. A reranker of "
        "LangChain or LlamaIndex orders what a retriever of its framework found; an adapter of "
        "Quernstone has a property `reranker`"
    )


def _is_embedder(given: Any) -> bool:
    return all(hasattr(given, name) for name in ("embed_documents", "format_query", "info"))


def _name_of(embeddings: object) -> str:
    for attribute in _NAMES:
        name = getattr(embeddings, attribute, None)
        if isinstance(name, str) and name not in _UNNAMED:
            return name
    return ""
