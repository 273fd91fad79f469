"""Qwen3 reranking as a LangChain document compressor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from os import PathLike
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ConfigDict, Field, PrivateAttr, model_validator
from typing_extensions import TypedDict, Unpack, override

from langchain_quernstone.serialization import Dumpable
from quernstone import PairTemplate, RemoteOptions, Reranker
from quernstone.errors import ConfigError, InputError
from quernstone.frameworks.holder import ModelHolder
from quernstone.frameworks.names import settings_of
from quernstone.frameworks.settings import (
    Count,
    Device,
    DtypeName,
    Folder,
    MaxLength,
    ModelName,
    RerankerSettings,
    Threshold,
    Truncate,
    with_model,
)
from quernstone.lazy import Lazy
from quernstone.types import EngineName, RankedDocument, RerankTemplate

_ARGUMENTS = tuple(signature(Reranker).parameters)


class QuernstoneRerankerSettings(RerankerSettings, total=False):
    """Arguments of `QuernstoneReranker`, for type checkers."""

    top_n: int | None
    score_threshold: float | None


class RerankInput(TypedDict):
    """Input of `QuernstoneReranker.as_runnable()`."""

    query: str
    documents: Iterable[Document]


class RerankerModel(ModelHolder, Dumpable):
    """Settings of both `QuernstoneReranker` and `QuernstoneCrossEncoder`."""

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        hide_input_in_errors=True,  # the input may be a misplaced key
    )

    model: ModelName = "Qwen/Qwen3-Reranker-0.6B"
    """Hub id, local folder, or the bundled `tiny`.

    Also accepted as `model_name`, or as the first positional argument.
    """
    engine: EngineName = "auto"
    """Library or server that runs the model; `auto` chooses by the model's files."""
    device: Device = "auto"
    """Torch device, such as `cuda:1` or `cpu`, or several GPUs: `cuda:0,cuda:1` or `cuda:all`."""
    dtype: DtypeName = "auto"
    """`auto` is bfloat16 if the hardware supports it, else float32; `int8` and `fp8` quantize."""
    instruction: str | None = None
    """Task that defines relevance, in one English sentence; None is the model's default."""
    template: RerankTemplate | PairTemplate | None = None
    """Prompt around a query and a document: `card` is that of Qwen3-Reranker's model card, `eval`
    that of the published results, and a `PairTemplate` is your own. None uses the prompt stored
    with the model, or `card` if there is none."""
    max_length: MaxLength = Field(default=8192, ge=1)
    """Maximum number of tokens of a query and a document together, including the prompt."""
    truncate: Truncate = True
    """Truncate longer documents; False raises `InputTooLongError`."""
    max_batch_tokens: Count = Field(default=None, ge=1)
    """Maximum number of tokens of a batch; None chooses it by the free memory."""
    deterministic: bool = False
    """Compute bit-identical scores regardless of the batch; slower."""
    prefix_sharing: bool = True
    """Compute the query and the text before it only once for all its documents."""
    revision: str | None = None
    """Branch, tag or commit of the checkpoint on the hub."""
    adapter: str | None = None
    """LoRA adapter to merge: its name in the model's folder, a folder, or a hub id."""
    cache_folder: Folder = None
    """Folder for files from a hub; None is the hub's usual cache."""
    show_progress: bool = Field(default=False, exclude=True)
    """Show a progress bar on standard error, except in the async methods."""
    engine_options: Mapping[str, Any] | RemoteOptions | None = Field(
        default=None, repr=False, exclude=True
    )
    """Constructor arguments of sentence-transformers or vLLM; for `remote`, `RemoteOptions`.

    Hidden from `model_dump`, `repr` and errors because they may hold a key.
    """

    _core: Lazy[Reranker] = PrivateAttr(default_factory=lambda: Lazy(Reranker))

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: Any) -> Any:
        return settings_of(given, cls.model_fields, model="model")

    def __init__(
        self, model: str | PathLike[str] | None = None, /, **settings: Unpack[RerankerSettings]
    ) -> None:
        """Check the settings; the model is loaded by the first call."""
        super().__init__(**with_model(model, settings))

    @property
    def model_name(self) -> str:
        """The name of the model."""
        return self.model

    @property
    def reranker(self) -> Reranker:
        """The `quernstone.Reranker` that computes the scores; loads the model."""
        return self._core.get(self._settings())

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of `Reranker`, which are the fields of the same names."""
        return {name: getattr(self, name) for name in _ARGUMENTS}

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Show the model and the settings that were passed, except options, which may be secret."""
        shown = {"model"} | self.model_fields_set - {"engine_options"}
        return [(name, getattr(self, name)) for name in type(self).model_fields if name in shown]


class QuernstoneReranker(RerankerModel, BaseDocumentCompressor):
    """Document compressor that orders documents with a Qwen3-Reranker model, and keeps the best.

    Results are copies with the same `id`. Their `metadata["relevance_score"]` is the probability,
    from 0 to 1, that the document is relevant. Documents with equal scores keep their order.

    The model is loaded by the first call. Objects with equal settings share one loaded model in the
    process, and concurrent calls, from threads or coroutines, share batches.

    Examples:
        >>> from langchain_core.documents import Document
        >>> from langchain_quernstone import QuernstoneReranker
        >>> reranker = QuernstoneReranker(model="tiny", top_n=1)
        >>> documents = [Document("a compiler"), Document("a text editor")]
        >>> [best] = reranker.compress_documents(documents, "edit text")
        >>> 0 <= best.metadata["relevance_score"] <= 1
        True
    """

    top_n: Count = Field(default=3, ge=1)
    """Maximum number of documents to keep; None keeps all."""
    score_threshold: Threshold = Field(default=None, ge=0, le=1)
    """Drop documents with lower scores, even if fewer than `top_n` remain."""

    if TYPE_CHECKING:

        def __init__(
            self,
            model: str | PathLike[str] | None = None,
            /,
            **settings: Unpack[QuernstoneRerankerSettings],
        ) -> None: ...

    @override
    def compress_documents(
        self,
        documents: Iterable[Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> list[Document]:
        """Return the best documents, best first.

        Args:
            documents: A list or another iterable of documents, which are not modified.
            query: The query that the documents are compared with.
            callbacks: Required by LangChain's interface, but not called.

        Raises:
            InputError: The query or a document cannot be used; `.index` is the document's position.
        """
        documents = list(documents)
        texts = _texts(documents)
        if not texts:
            return []
        reranker = self._core.get(self._settings())
        ranking = reranker.rerank(query, texts, top_n=self.top_n, progress=self.show_progress)
        return self._best(documents, ranking)

    @override
    async def acompress_documents(
        self,
        documents: Iterable[Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> list[Document]:
        """Like `compress_documents`, without blocking the event loop."""
        documents = list(documents)
        texts = _texts(documents)
        if not texts:
            return []
        reranker = await self._core.aget(self._settings())
        return self._best(documents, await reranker.arerank(query, texts, top_n=self.top_n))

    def as_runnable(self) -> Runnable[RerankInput, list[Document]]:
        """Return the reranker as a `Runnable`, to compose with `|` or to convert with `as_tool()`.

        Examples:
            >>> from langchain_core.runnables import RunnablePassthrough
            >>> step = {"query": RunnablePassthrough(), "documents": retriever}  # doctest: +SKIP
            >>> chain = step | QuernstoneReranker(model="tiny").as_runnable()  # doctest: +SKIP
        """
        # Methods rather than local functions, which cannot be pickled.
        step = RunnableLambda(self._rerank, afunc=self._arerank, name=type(self).__name__)
        return step.with_types(input_type=RerankInput, output_type=list[Document])

    def _rerank(self, step: RerankInput) -> list[Document]:
        return self.compress_documents(*_arguments(step))

    async def _arerank(self, step: RerankInput) -> list[Document]:
        return await self.acompress_documents(*_arguments(step))

    def _best(
        self, documents: Sequence[Document], ranking: Sequence[RankedDocument]
    ) -> list[Document]:
        threshold = self.score_threshold or 0.0
        return [
            _scored(documents[ranked.index], ranked.score)
            for ranked in ranking
            if ranked.score >= threshold
        ]


def _arguments(step: Any) -> tuple[Iterable[Document], str]:
    keys = list(step) if isinstance(step, Mapping) else None
    if keys is None or not {"query", "documents"}.issubset(keys):
        given = f"the keys {', '.join(map(repr, keys))}" if keys else f"type {type(step).__name__}"
        raise ConfigError(
            f"the input of {QuernstoneReranker.__name__}.as_runnable() has {given}; pass a mapping "
            "with the keys 'query' and 'documents'"
        )
    return step["documents"], step["query"]


def _texts(documents: Sequence[Document]) -> list[str]:
    for index, document in enumerate(documents):
        if not isinstance(document, Document):
            raise InputError(index, f"expected a `Document`, got `{type(document).__name__}`")
    return [document.page_content for document in documents]


def _scored(document: Document, score: float) -> Document:
    # A shallow copy, because metadata values may not support deep copies.
    metadata = {**document.metadata, "relevance_score": float(score)}
    if hasattr(document, "to_document"):  # `EmbeddingsFilter` returns a subclass with a vector
        return Document(page_content=document.page_content, id=document.id, metadata=metadata)
    return document.model_copy(update={"metadata": metadata})
