"""Qwen3 embeddings as a LlamaIndex embedding model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import signature, unwrap
from os import PathLike
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode
from typing_extensions import Unpack

from quernstone import Embedder, RemoteOptions
from quernstone.errors import ConfigError, InputError
from quernstone.frameworks.holder import ModelHolder
from quernstone.frameworks.names import settings_of
from quernstone.frameworks.settings import (
    Count,
    Device,
    DtypeName,
    EmbedderSettings,
    Folder,
    MaxLength,
    ModelName,
    Truncate,
    check_size,
    with_model,
)
from quernstone.lazy import Lazy
from quernstone.types import EngineName

_ARGUMENTS = tuple(signature(Embedder).parameters)


class QuernstoneEmbeddingSettings(EmbedderSettings, total=False):
    """Arguments of `QuernstoneEmbedding`, for type checkers."""

    embed_batch_size: int
    num_workers: int | None
    callback_manager: CallbackManager | None
    rate_limiter: Any


class QuernstoneEmbedding(ModelHolder, BaseEmbedding):
    """Embedding model for nodes and queries, which runs Qwen3-Embedding.

    The model's instruction is added to queries; texts are embedded unchanged. Vectors have unit
    length.

    The model is loaded by the first call. Objects with equal settings share one loaded model in the
    process, and concurrent calls, from threads or coroutines, share batches.

    `to_dict` contains only the settings that the vectors depend on. `IngestionPipeline` uses it as
    a cache key, so a change of the device or of a batch size does not embed everything again.

    Examples:
        >>> from llama_index.embeddings.quernstone import QuernstoneEmbedding
        >>> embed_model = QuernstoneEmbedding(model_name="tiny")
        >>> len(embed_model.get_query_embedding("how do I fold a PDF?")) == len(
        ...     embed_model.get_text_embedding("pdfbooklet folds pages")
        ... )
        True
    """

    model_config = ConfigDict(
        # The base class ignores unknown settings, such as a misspelled `dimension`.
        extra="forbid",
        protected_namespaces=("pydantic_model_",),
        arbitrary_types_allowed=True,
        validate_assignment=True,
        hide_input_in_errors=True,  # the input may be a misplaced key
    )

    model_name: ModelName = Field(
        default="Qwen/Qwen3-Embedding-0.6B",
        description="Hub id, local folder, or the bundled `tiny`.",
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit of the checkpoint on the hub."
    )
    adapter: str | None = Field(
        default=None,
        description="LoRA adapter to merge: its name in the model's folder, a folder, or a hub id.",
    )
    # Before `dimensions`, whose check reads it; excluded from `to_dict`.
    engine: EngineName = Field(
        default="auto",
        description="Library or server that runs the model; `auto` chooses by the model's files.",
        exclude=True,
    )
    dimensions: Count = Field(
        default=None,
        description="Length of the vectors, 32 to the model's full size; None is the full size.",
        ge=1,
    )
    instruction: str | None = Field(
        default=None,
        description="Task of the queries, in one English sentence; None is the model's default.",
    )
    dtype: DtypeName = Field(
        default="auto",
        description=(
            "`auto` is bfloat16 where the hardware supports it, else float32; `int8` and `fp8` "
            "quantize."
        ),
    )
    max_length: MaxLength = Field(
        default=8192,
        description="Maximum number of tokens of an input, including the prompt.",
        ge=1,
    )
    truncate: Truncate = Field(
        default=True, description="Truncate longer texts; False raises `InputTooLongError`."
    )

    # Excluded from `to_dict`: these settings change how vectors are computed, not the vectors.
    device: Device = Field(
        default="auto",
        description="Torch device, such as `cuda:1` or `cpu`, or several GPUs: `cuda:0,cuda:1` or "
        "`cuda:all`.",
        exclude=True,
    )
    max_batch_tokens: Count = Field(
        default=None,
        description="Maximum number of tokens of a batch; None chooses it by the free memory.",
        ge=1,
        exclude=True,
    )
    deterministic: bool = Field(
        default=False,
        description="Compute bit-identical vectors regardless of the batch; slower.",
        exclude=True,
    )
    cache_folder: Folder = Field(
        default=None,
        description="Folder for files from a hub; None is the hub's usual cache.",
        exclude=True,
    )
    show_progress: bool = Field(
        default=False,
        description="Show a progress bar on standard error, except in the async methods.",
        exclude=True,
    )
    engine_options: Mapping[str, Any] | RemoteOptions | None = Field(
        default=None,
        description="Constructor arguments of sentence-transformers or vLLM; for `remote`, "
        "`RemoteOptions`. Hidden from `to_dict` and `repr` because they may hold a key, and so "
        "not part of a pipeline's cache key.",
        repr=False,
        exclude=True,
    )
    embed_batch_size: int = Field(
        default=512,
        description="Number of texts that LlamaIndex passes at once. The model sorts them by "
        "length and plans its own batches, so a large number is faster and needs no more memory.",
        gt=0,
        le=2048,
        exclude=True,
    )
    num_workers: int | None = Field(
        default=None, description="Concurrent calls of the async methods.", exclude=True
    )
    embeddings_cache: Any | None = Field(
        default=None, description="Not supported; pass `cache=` to IngestionPipeline.", exclude=True
    )

    _core: Lazy[Embedder] = PrivateAttr(default_factory=lambda: Lazy(Embedder))

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: Any) -> Any:
        return settings_of(given, cls.model_fields, model="model_name")

    @field_validator("dimensions")
    @classmethod
    def _check_dimensions(cls, value: int | None, info: ValidationInfo) -> int | None:
        if "model_name" in info.data:
            check_size(value, info.data["model_name"], info.data.get("engine", "auto"))
        return value

    @field_validator("embeddings_cache", mode="before")
    @classmethod
    def _no_embeddings_cache(cls, value: object) -> None:
        # BaseEmbedding uses the bare text as the key. A query would get the vector of an equal
        # text, without the instruction, and models that share a cache would mix their vectors.
        if value is not None:
            message = (
                "`embeddings_cache` is keyed by the text alone, so a query would get a text's "
                "vector; pass `cache=IngestionCache(...)` to `IngestionPipeline` instead"
            )
            raise ConfigError(message)

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        /,
        **settings: Unpack[QuernstoneEmbeddingSettings],
    ) -> None:
        """Check the settings; the model is loaded by the first call."""
        super().__init__(**with_model(model, settings))

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in dictionaries and events."""
        return "QuernstoneEmbedding"

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.model_name

    @property
    def resolved_dimensions(self) -> int:
        """Length of every vector; loads the model."""
        return self.embedder.dimensions

    @property
    def embedder(self) -> Embedder:
        """The `quernstone.Embedder` that computes the vectors; loads the model."""
        return self._core.get(self._settings())

    @property
    def fingerprint(self) -> str:
        """Stable hash of everything that the vectors depend on; loads the model."""
        return self._core.get(self._settings()).fingerprint

    def to_payload(self) -> dict[str, Any]:
        """Return a description of the model for events and callbacks."""
        return {
            **super().to_payload(),
            "dimensions": self.dimensions,
            "instruction": self.instruction,
        }

    # The next four methods turn iterables into lists, because the base class counts the items or
    # reads them twice. They unwrap its methods, because calling them would open a second span.

    def get_text_embedding_batch(
        self, texts: Iterable[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Embedding]:
        """Embed texts: a list or another iterable."""
        embed = unwrap(BaseEmbedding.get_text_embedding_batch)
        vectors: list[Embedding] = embed(self, _listed(texts), show_progress, **kwargs)
        return vectors

    async def aget_text_embedding_batch(
        self, texts: Iterable[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Embedding]:
        """Like `get_text_embedding_batch`, without blocking the event loop."""
        embed = unwrap(BaseEmbedding.aget_text_embedding_batch)
        vectors: list[Embedding] = await embed(self, _listed(texts), show_progress, **kwargs)
        return vectors

    def __call__(self, nodes: Iterable[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Set the embeddings of nodes: a list or another iterable."""
        return super().__call__(list(nodes), **kwargs)

    async def acall(self, nodes: Iterable[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Like calling the object, without blocking the event loop."""
        return await super().acall(list(nodes), **kwargs)

    def _get_query_embedding(self, query: str) -> Embedding:
        embedder = self._core.get(self._settings())
        vector: Embedding = embedder.embed_query(query).tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> Embedding:
        embedder = await self._core.aget(self._settings())
        vector: Embedding = (await embedder.aembed_query(query)).tolist()
        return vector

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        embedder = self._core.get(self._settings())
        vectors: list[Embedding] = embedder.embed_documents(
            texts, progress=self.show_progress
        ).tolist()
        return vectors

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        embedder = await self._core.aget(self._settings())
        vectors: list[Embedding] = (await embedder.aembed_documents(texts)).tolist()
        return vectors

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of `Embedder`: the fields of the same names, and `model_name`."""
        return {
            name: getattr(self, "model_name" if name == "model" else name) for name in _ARGUMENTS
        }


def _listed(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise InputError(0, "`texts` is a str, expected a list of strings or another iterable")
    return list(texts)
