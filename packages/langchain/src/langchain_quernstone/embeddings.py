"""Qwen3 embeddings as LangChain `Embeddings`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from inspect import signature
from os import PathLike
from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import Unpack, override

from langchain_quernstone.serialization import Dumpable
from quernstone import Embedder, RemoteOptions
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


class QuernstoneEmbeddings(ModelHolder, Dumpable, Embeddings):
    """Embeddings of documents and queries from a Qwen3-Embedding model.

    The model's instruction is added to queries; documents are embedded unchanged. Vectors have
    unit length.

    The model is loaded by the first call. Objects with equal settings share one loaded model in the
    process, and concurrent calls, from threads or coroutines, share batches.

    Examples:
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

    model: ModelName = "Qwen/Qwen3-Embedding-0.6B"
    """Hub id, local folder, or the bundled `tiny`.

    Also accepted as `model_name`, or as the first positional argument.
    """
    engine: EngineName = "auto"
    """Library or server that runs the model; `auto` chooses by the model's files."""
    device: Device = "auto"
    """Torch device, such as `cuda:1` or `cpu`, or several GPUs: `cuda:0,cuda:1` or `cuda:all`."""
    dtype: DtypeName = "auto"
    """`auto` is bfloat16 if the hardware supports it, else float32; `int8` and `fp8` quantize."""
    dimensions: Count = Field(default=None, ge=1)
    """Length of the vectors, from 32 to the model's full size; None is the full size."""
    instruction: str | None = None
    """Task of the queries, in one English sentence; None is the model's default (retrieval)."""
    max_length: MaxLength = Field(default=8192, ge=1)
    """Maximum number of tokens of an input, including the prompt."""
    truncate: Truncate = True
    """Truncate longer texts; False raises `InputTooLongError`."""
    max_batch_tokens: Count = Field(default=None, ge=1)
    """Maximum number of tokens of a batch; None chooses it by the free memory."""
    deterministic: bool = False
    """Compute bit-identical vectors regardless of the batch; slower."""
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

    _core: Lazy[Embedder] = PrivateAttr(default_factory=lambda: Lazy(Embedder))

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: Any) -> Any:
        return settings_of(given, cls.model_fields, model="model")

    @field_validator("dimensions")
    @classmethod
    def _check_dimensions(cls, value: int | None, info: ValidationInfo) -> int | None:
        if "model" in info.data:
            check_size(value, info.data["model"], info.data.get("engine", "auto"))
        return value

    def __init__(
        self, model: str | PathLike[str] | None = None, /, **settings: Unpack[EmbedderSettings]
    ) -> None:
        """Check the settings; the model is loaded by the first call."""
        super().__init__(**with_model(model, settings))

    @property
    def model_name(self) -> str:
        """The name of the model."""
        return self.model

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
        """Stable text that names everything that the vectors depend on; loads the model."""
        return self._core.get(self._settings()).fingerprint

    @property
    def cache_namespace(self) -> str:
        """Stable hash of the fingerprint, which every key-value store accepts; loads the model.

        Use it as the `namespace` of `CacheBackedEmbeddings`, with separate caches for queries and
        documents: a query and an equal document have different vectors.
        """
        return f"quernstone-{hashlib.sha256(self.fingerprint.encode()).hexdigest()[:32]}"

    @override
    def embed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Embed documents.

        Args:
            texts: A list or another iterable of documents, which are embedded unchanged, including
                whitespace.

        Returns:
            A unit vector for each text, in the order of `texts`.

        Raises:
            InputError: A text is not a string or cannot be embedded; `.index` is its position.
        """
        embedder = self._core.get(self._settings())
        vectors: list[list[float]] = embedder.embed_documents(
            texts, progress=self.show_progress
        ).tolist()
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
        """Return the arguments of `Embedder`, which are the fields of the same names."""
        return {name: getattr(self, name) for name in _ARGUMENTS}

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Show the model and the settings that were passed, except options, which may be secret."""
        shown = {"model"} | self.model_fields_set - {"engine_options"}
        return [(name, getattr(self, name)) for name in type(self).model_fields if name in shown]
