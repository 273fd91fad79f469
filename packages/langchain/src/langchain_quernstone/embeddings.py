"""Qwen3 embeddings as LangChain `Embeddings`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr
from typing_extensions import override

from quernstone import Embedder, RemoteOptions
from quernstone.lazy import Lazy
from quernstone.types import Dtype, EngineName


class QuernstoneEmbeddings(BaseModel, Embeddings):
    """Embed documents and queries with a Qwen3-Embedding model.

    The model's instruction is added to queries; documents are embedded unchanged. Vectors have
    unit length.

    The model is loaded by the first call. Objects with equal settings share one loaded model in the
    process, and concurrent calls, from threads or coroutines, share batches.

    Example:
        >>> from langchain_quernstone import QuernstoneEmbeddings
        >>> embeddings = QuernstoneEmbeddings(model="tiny")
        >>> len(embeddings.embed_query("how do I fold a PDF?")) == len(
        ...     embeddings.embed_documents(["pdfbooklet folds pages"])[0]
        ... )
        True
    """

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        hide_input_in_errors=True,  # the input may be a misplaced key
    )

    model: str = Field(
        default="Qwen/Qwen3-Embedding-0.6B",
        # `HuggingFaceEmbeddings` calls it `model_name`: users only change the import.
        validation_alias=AliasChoices("model", "model_name"),
    )
    """Hub id, local folder, or the bundled `tiny`; also accepted as `model_name`."""
    engine: EngineName = "auto"
    """Engine that runs the model."""
    device: str = "auto"
    """Torch device, such as `cuda:1` or `cpu`."""
    dtype: Dtype = "auto"
    """`auto` is bfloat16 if the hardware supports it, else float32; `int8` and `fp8` quantize."""
    dimensions: int | None = Field(default=None, ge=1)
    """Numbers per vector, from 32 to the model's hidden size; None is the hidden size."""
    instruction: str | None = None
    """Task of the queries in one English sentence; None is the model's own, retrieval."""
    max_length: int = Field(default=8192, ge=1)
    """Maximum tokens per input, including the prompt."""
    truncate: bool = True
    """Truncate longer texts; False raises `InputTooLongError`."""
    max_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per batch; None chooses by the free memory."""
    deterministic: bool = False
    """Compute bit-identical vectors regardless of the batch; slower."""
    revision: str | None = None
    """Branch, tag or commit of the checkpoint on the hub."""
    adapter: str | None = None
    """LoRA adapter to merge: its name in the model's folder, a folder, or a hub id."""
    engine_options: Mapping[str, Any] | RemoteOptions | None = Field(
        default=None, repr=False, exclude=True
    )
    """Constructor arguments of sentence-transformers or vLLM; for `remote`, the server.

    Hidden from `model_dump`, `repr` and errors because they may hold a key.
    """

    _core: Lazy[Embedder] = PrivateAttr(default_factory=lambda: Lazy(Embedder))

    @property
    def embedder(self) -> Embedder:
        """The `quernstone.Embedder` that computes the vectors; loads the model."""
        return self._core.get(self._settings())

    @property
    def fingerprint(self) -> str:
        """Stable identifier of everything that the vectors depend on; loads the model.

        Use it as the `namespace` of `CacheBackedEmbeddings`, with separate caches for queries and
        documents: a query and an equal document have different vectors.
        """
        return self._core.get(self._settings()).fingerprint

    @override
    def embed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Embed documents.

        Args:
            texts: A list or another iterable of documents, embedded verbatim, including whitespace.

        Returns:
            A unit vector for each text, in the order of `texts`.

        Raises:
            InputError: A text is not a string or cannot be embedded; `.index` is its position.
        """
        embedder = self._core.get(self._settings())
        vectors: list[list[float]] = embedder.embed_documents(texts).tolist()
        return vectors

    @override
    def embed_query(self, text: str) -> list[float]:
        """Embed one query with the instruction.

        Raises:
            InputError: The text is not a string or cannot be embedded.
        """
        embedder = self._core.get(self._settings())
        vector: list[float] = embedder.embed_query(text).tolist()
        return vector

    @override
    async def aembed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Like `embed_documents`, without blocking the event loop."""
        embedder = await self._core.aget(self._settings())
        vectors: list[list[float]] = (await embedder.aembed_documents(texts)).tolist()
        return vectors

    @override
    async def aembed_query(self, text: str) -> list[float]:
        """Like `embed_query`, without blocking the event loop."""
        embedder = await self._core.aget(self._settings())
        vector: list[float] = (await embedder.aembed_query(text)).tolist()
        return vector

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of `Embedder`: all fields, by the same names."""
        return {name: getattr(self, name) for name in QuernstoneEmbeddings.model_fields}

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Show the model and the settings that were passed, except options, which may be secret."""
        shown = {"model"} | self.model_fields_set - {"engine_options"}
        return [(name, getattr(self, name)) for name in type(self).model_fields if name in shown]
