"""Qwen3 embeddings as a LlamaIndex embedding model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_validator

from quernstone import Embedder, RemoteOptions
from quernstone.errors import ConfigError
from quernstone.lazy import Lazy
from quernstone.types import Dtype, EngineName


class QuernstoneEmbedding(BaseEmbedding):
    """Embed nodes and queries with a Qwen3-Embedding model.

    Queries get the model's instruction, texts are embedded as they are. Vectors have unit length.

    The model is loaded at the first call. Objects of equal settings share one loaded model in the
    process, and concurrent calls, from threads or coroutines, share batches.

    `to_dict` holds what the vectors depend on, and `IngestionPipeline` keys its cache by it: to
    change the device or a batch size does not embed everything again.

    Example:
        >>> from llama_index.embeddings.quernstone import QuernstoneEmbedding
        >>> embed_model = QuernstoneEmbedding(model_name="tiny")
        >>> len(embed_model.get_query_embedding("how do I fold a PDF?")) == len(
        ...     embed_model.get_text_embedding("pdfbooklet folds pages")
        ... )
        True
    """

    model_config = ConfigDict(
        # The base class ignores what it does not know: a misspelt `dimension` would be lost.
        extra="forbid",
        protected_namespaces=("pydantic_model_",),
        arbitrary_types_allowed=True,
        validate_assignment=True,
        hide_input_in_errors=True,  # it may be a key, in the wrong place
    )

    model_name: str = Field(
        default="Qwen/Qwen3-Embedding-0.6B",
        description="Hub id, local folder, or `tiny`, which ships with quernstone.",
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit of the checkpoint on the hub."
    )
    dimensions: int | None = Field(
        default=None,
        description="Numbers per vector: 32 to the model's hidden size, which None stands for.",
        ge=1,
    )
    instruction: str | None = Field(
        default=None,
        description="What the queries are for, in one English sentence; None is retrieval.",
    )
    dtype: Dtype = Field(
        default="auto",
        description=(
            "`auto` is bfloat16 where the hardware has it, else float32; `int8` and `fp8` round."
        ),
    )
    max_length: int = Field(
        default=8192, description="Tokens of an input, its prompt included.", ge=1
    )
    truncate: bool = Field(
        default=True, description="Cut longer texts; False raises `InputTooLongError`."
    )

    # Excluded from `to_dict`: they say how the vectors are computed, not what they are.
    engine: EngineName = Field(default="auto", description="What runs the model.", exclude=True)
    device: str = Field(
        default="auto", description="Torch device, for example `cuda:1` or `cpu`.", exclude=True
    )
    max_batch_tokens: int | None = Field(
        default=None,
        description="Tokens that are computed at once; None is chosen from the free memory.",
        ge=1,
        exclude=True,
    )
    deterministic: bool = Field(
        default=False,
        description="Equal vectors to the last bit, whatever is computed beside them; slower.",
        exclude=True,
    )
    engine_options: Mapping[str, Any] | RemoteOptions | None = Field(
        default=None,
        description="For sentence-transformers or vLLM: arguments of its constructor; with "
        "`remote`: the server. They may hold a key, so neither `to_dict` nor `repr` shows them; "
        "a pipeline's cache does not know them.",
        repr=False,
        exclude=True,
    )
    embed_batch_size: int = Field(
        default=512,
        description="Texts per call of the model, which sorts them by length and plans its own "
        "batches: large is good, and costs no memory.",
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

    @field_validator("embeddings_cache", mode="before")
    @classmethod
    def _no_embeddings_cache(cls, value: object) -> None:
        # BaseEmbedding keys it by the bare text, whoever asks: a query would get the vector of an
        # equal text, which lacks the instruction, and any model that of any other.
        if value is not None:
            message = (
                "`embeddings_cache` is keyed by the text alone, so a query would get a text's "
                "vector; pass `cache=IngestionCache(...)` to `IngestionPipeline` instead"
            )
            raise ConfigError(message)

    @classmethod
    def class_name(cls) -> str:
        """Name the class in dictionaries and events."""
        return "QuernstoneEmbedding"

    @property
    def fingerprint(self) -> str:
        """What the vectors depend on, as a stable string; loads the model."""
        return self._core.get(self._settings()).fingerprint

    def to_payload(self) -> dict[str, Any]:
        """Describe the model to events and callbacks."""
        return {
            **super().to_payload(),
            "dimensions": self.dimensions,
            "instruction": self.instruction,
        }

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
        vectors: list[Embedding] = embedder.embed_documents(texts).tolist()
        return vectors

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        embedder = await self._core.aget(self._settings())
        vectors: list[Embedding] = (await embedder.aembed_documents(texts)).tolist()
        return vectors

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self.model_name,
            "revision": self.revision,
            "dimensions": self.dimensions,
            "instruction": self.instruction,
            "dtype": self.dtype,
            "max_length": self.max_length,
            "truncate": self.truncate,
            "engine": self.engine,
            "device": self.device,
            "max_batch_tokens": self.max_batch_tokens,
            "deterministic": self.deterministic,
            "engine_options": self.engine_options,
        }
