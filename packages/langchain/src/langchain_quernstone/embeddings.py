"""Qwen3 embeddings as LangChain `Embeddings`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr
from typing_extensions import override

from quernstone import Embedder, RemoteOptions
from quernstone.lazy import Lazy
from quernstone.types import Dtype, EngineName


class QuernstoneEmbeddings(BaseModel, Embeddings):
    """Embed documents and queries with a Qwen3-Embedding model.

    Queries get the model's instruction, documents are embedded as they are; neither text is
    altered otherwise. Vectors have unit length.

    The model is loaded at the first call. Objects of equal settings share one loaded model in the
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
        hide_input_in_errors=True,  # it may be a key, in the wrong place
    )

    model: str = Field(
        default="Qwen/Qwen3-Embedding-0.6B",
        # `model_name` is what `HuggingFaceEmbeddings` calls it: a change of import is enough.
        validation_alias=AliasChoices("model", "model_name"),
    )
    """Hub id, local folder, or `tiny`, which ships with quernstone. Also accepts `model_name`."""
    engine: EngineName = "auto"
    """What runs the model."""
    device: str = "auto"
    """Torch device, for example `cuda:1` or `cpu`."""
    dtype: Dtype = "auto"
    """`auto` is bfloat16 where the hardware has it, else float32; `int8` and `fp8` round."""
    dimensions: int | None = Field(default=None, ge=1)
    """Numbers per vector: 32 to the model's hidden size, which None stands for."""
    instruction: str | None = None
    """What the queries are for, in one English sentence; None is retrieval, the model's own."""
    max_length: int = Field(default=8192, ge=1)
    """Tokens of an input, its prompt included."""
    truncate: bool = True
    """Cut longer texts; False raises `InputTooLongError`."""
    max_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens that are computed at once; None is chosen from the free memory."""
    deterministic: bool = False
    """Equal vectors to the last bit, whatever is computed beside them; slower."""
    revision: str | None = None
    """Branch, tag or commit of the checkpoint on the hub."""
    engine_options: Mapping[str, Any] | RemoteOptions | None = Field(
        default=None, repr=False, exclude=True
    )
    """For sentence-transformers or vLLM its constructor's arguments; for `remote` the server.

    They may hold a key, so neither `model_dump` nor `repr` nor an error shows them.
    """

    _core: Lazy[Embedder] = PrivateAttr(default_factory=lambda: Lazy(Embedder))

    @property
    def fingerprint(self) -> str:
        """What the vectors depend on, as a stable string; loads the model.

        The `namespace` to give to `CacheBackedEmbeddings`. Keep its query cache apart from its
        document cache: equal texts have different vectors there.
        """
        return self._core.get(self._settings()).fingerprint

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents, any number of them.

        Args:
            texts: The documents, verbatim: newlines and spaces count.

        Returns:
            One unit vector per text, in the order of `texts`.

        Raises:
            InputError: A text is no string, or cannot be embedded; `.index` says which one.
        """
        embedder = self._core.get(self._settings())
        vectors: list[list[float]] = embedder.embed_documents(texts).tolist()
        return vectors

    @override
    def embed_query(self, text: str) -> list[float]:
        """Embed one query, with the instruction.

        Raises:
            InputError: The text is no string, or cannot be embedded.
        """
        embedder = self._core.get(self._settings())
        vector: list[float] = embedder.embed_query(text).tolist()
        return vector

    @override
    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` for coroutines; concurrent calls share batches."""
        embedder = await self._core.aget(self._settings())
        vectors: list[list[float]] = (await embedder.aembed_documents(texts)).tolist()
        return vectors

    @override
    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` for coroutines; concurrent calls share batches."""
        embedder = await self._core.aget(self._settings())
        vector: list[float] = (await embedder.aembed_query(text)).tolist()
        return vector

    def _settings(self) -> dict[str, Any]:
        """Every field is an argument of `Embedder`, by the same name."""
        return {name: getattr(self, name) for name in QuernstoneEmbeddings.model_fields}

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Show the model and what was set: a dozen defaults are noise, options may be secret."""
        shown = {"model"} | self.model_fields_set - {"engine_options"}
        return [(name, getattr(self, name)) for name in type(self).model_fields if name in shown]
