"""`Embedder`: texts to vectors."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from functools import partial
from os import PathLike

import numpy as np

from quernstone.encoding.checks import check_instruction, check_list
from quernstone.encoding.encoder import Encode
from quernstone.engines.options import EngineOptions
from quernstone.errors import ConfigError
from quernstone.model import Model, session_of
from quernstone.runtime.session import Session
from quernstone.types import Dtype, EngineName, Float32Array, unit_prefix

MIN_DIMENSIONS = 32
"""Fewest dimensions that Qwen3-Embedding was trained for (model card, "MRL Support")."""


class Embedder(Model):
    """An embedding model.

    Thread-safe, and usable from any number of event loops. Concurrent callers share batches, and
    embedders with equal settings share one loaded model.

    Examples:
        >>> from quernstone import Embedder
        >>> with Embedder("tiny") as embedder:
        ...     embedder.embed_documents(["a hand mill grinds grain", "it rains"]).shape
        (2, 256)
    """

    def __init__(
        self,
        model: str | PathLike[str] = "Qwen/Qwen3-Embedding-0.6B",
        *,
        engine: EngineName = "auto",
        device: str = "auto",
        dtype: Dtype = "auto",
        dimensions: int | None = None,
        instruction: str | None = None,
        max_length: int = 8192,
        truncate: bool = True,
        max_batch_tokens: int | None = None,
        deterministic: bool = False,
        revision: str | None = None,
        adapter: str | None = None,
        cache_folder: str | None = None,
        engine_options: EngineOptions = None,
    ) -> None:
        """Load a model, or share one that this process has already loaded.

        Args:
            model: Hub id, local folder, the address of a `quern serve`, or `tiny` (bundled,
                offline, for trying things out); with `engine="remote"` the server's name for it.
            engine: Code that runs the model: `torch` (Quernstone's own), `transformers`,
                `sentence-transformers`, `vllm`, `remote` (a server), or `auto`: `torch` for
                Qwen3, Qwen2, Llama and Mistral, else one that can run the model.
            device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; `cuda:0,cuda:1` or `cuda:all` for
                several GPUs, each with a copy of the model.
            dtype: `auto` is bfloat16 where the hardware supports it, else float32. `int8` (CPUs
                with VNNI) and `fp8` (GPUs of compute capability 8.9 or later) round the weights,
                with the engine `torch` only: faster, less exact.
            dimensions: Length of the vectors, from 32 to the model's hidden size. None: the hidden
                size.
            instruction: The task of the queries, in one sentence; documents never get one. None:
                the model's default. An empty string embeds queries without a prompt, or with the
                model's own prompt if it is not a Qwen3 model.
            max_length: Maximum number of tokens of a text, prompt included; at most the model's
                own limit.
            truncate: True cuts longer texts and counts them in `usage`; False raises an error.
            max_batch_tokens: Maximum number of tokens of a batch. None: chosen by the free memory.
            deterministic: Make a text's vector independent of the other texts, to the last bit, on
                one machine with one number of threads. On a CPU, each text is then a batch of one;
                on a GPU, kernels are used whose rows do not depend on each other. Slower; refused
                for `vllm` and `remote`, which plan their own batches.
            revision: Branch, tag or commit of a hub id.
            adapter: A LoRA adapter in PEFT's format, merged into the weights: its name in the
                model's folder (also in the subfolder `adapters`), a local folder, or a hub id.
                If a model has several, an empty string is the base model without one. A folder
                that holds only an adapter can be passed as `model` as well.
            cache_folder: Folder for files from a hub; None: the hub's usual cache, such as
                `~/.cache/huggingface`.
            engine_options: Keyword arguments for the constructor of sentence-transformers or
                vLLM; with `remote` a `RemoteOptions`, or a mapping of its fields.

        Raises:
            ConfigError: A setting has an invalid value, or contradicts another one.
            ModelLoadError: The model is missing or incomplete, or has the wrong tokenizer.
            MissingExtraError: The engine's packages are not installed.
        """
        self._session = Session(
            model,
            "embed",
            engine=engine,
            device=device,
            dtype=dtype,
            max_length=max_length,
            truncate=truncate,
            max_batch_tokens=max_batch_tokens,
            deterministic=deterministic,
            revision=revision,
            adapter=adapter,
            cache_folder=cache_folder,
            engine_options=engine_options,
        )
        try:
            self._dimensions = check_dimensions(dimensions, self._session.width)
            default = "" if self._session.own_prompts else self._session.instruction
            self._instruction = self._usable(default if instruction is None else instruction)
        except ConfigError:
            self._session.close()
            raise

    @property
    def dimensions(self) -> int:
        """Length of every vector."""
        return self._dimensions

    @property
    def normalized(self) -> bool:
        """True if vectors have length 1; False if `modules.json` lists no `Normalize`."""
        return self._session.normalizes

    @property
    def fingerprint(self) -> str:
        """Stable identifier of all that determines the vectors, to use in cache keys.

        Embedders whose vectors may differ have different fingerprints.
        """
        lengths = {} if self.normalized else {"normalized": False}
        return self._session.fingerprint(
            dimensions=self._dimensions, instruction=self._instruction, **lengths
        )

    def format_query(self, text: str, instruction: str | None = None) -> str:
        """Return the prompt of a query, without the final `<|endoftext|>`.

        Without an instruction, a model that runs in sentence-transformers may prepend its own
        prompt, which is not shown.
        """
        chosen = self._instruction if instruction is None else instruction
        return self._session.prompts.before_query(chosen) + text

    def format_document(self, text: str) -> str:
        """Return a document after its prompt, without the final token; for Qwen3, just the text."""
        return self._session.prompts.document + text

    def embed_documents(self, texts: Iterable[str], *, progress: bool = False) -> Float32Array:
        """Embed documents, without a prompt unless the model has one for documents.

        Args:
            texts: A list or another iterable of strings; an empty string is a valid text.
            progress: Show a progress bar on standard error.

        Returns:
            Vectors in input order, of length 1 if `normalized`.
            Shape: (number of texts, dimensions)

        Raises:
            InputError: A text is not a string, is not valid Unicode, or is too long.
            EngineError: The model failed; the error names the text.
        """
        check_list("texts", texts)
        title = "embedding documents" if progress else ""
        encode = self._session.encoder.encode_documents
        return self._finish(self._session.run_all(texts, encode, progress=title))

    def embed_queries(
        self, texts: Iterable[str], instruction: str | None = None, *, progress: bool = False
    ) -> Float32Array:
        """Embed queries, each with the instruction before it. See `embed_documents`.

        Args:
            texts: A list or another iterable of strings.
            instruction: Replaces the embedder's instruction in this call.
            progress: Show a progress bar on standard error.
        """
        check_list("texts", texts)
        title = "embedding queries" if progress else ""
        encode = query_encoder(self, instruction)
        return self._finish(self._session.run_all(texts, encode, progress=title))

    def embed_query(self, text: str, instruction: str | None = None) -> Float32Array:
        """Embed one query with the instruction before it. Shape: (dimensions,)."""
        vector: Float32Array = self.embed_queries([text], instruction)[0]
        return vector

    def stream(self, texts: Iterable[str], *, progress: bool = False) -> Iterator[Float32Array]:
        """Embed documents from an iterator of any length, in bounded memory.

        Reads at most two windows (4,096 texts or about eight million characters) ahead.

        Yields:
            One vector per text, in order. Shape: (dimensions,)

        Raises:
            InputError: As in `embed_documents`; the index counts from the iterator's start.
        """
        check_list("texts", texts)
        title = "embedding documents" if progress else ""
        encode = self._session.encoder.encode_documents
        for rows in self._session.run(texts, encode, progress=title):
            yield from self._finish(rows)

    async def aembed_documents(self, texts: Iterable[str]) -> Float32Array:
        """Like `embed_documents`, without blocking the event loop."""
        check_list("texts", texts)
        encode = self._session.encoder.encode_documents
        return self._finish(await self._session.arun_all(texts, encode))

    async def aembed_queries(
        self, texts: Iterable[str], instruction: str | None = None
    ) -> Float32Array:
        """Like `embed_queries`, without blocking the event loop."""
        check_list("texts", texts)
        encode = query_encoder(self, instruction)
        return self._finish(await self._session.arun_all(texts, encode))

    async def aembed_query(self, text: str, instruction: str | None = None) -> Float32Array:
        """Like `embed_query`, without blocking the event loop."""
        vector: Float32Array = (await self.aembed_queries([text], instruction))[0]
        return vector

    async def astream(
        self, texts: Iterable[str] | AsyncIterable[str]
    ) -> AsyncIterator[Float32Array]:
        """Like `stream`, without blocking the event loop; also accepts asynchronous iterators.

        A plain iterable is read on the event loop, so it should not block.
        """
        if not isinstance(texts, AsyncIterable):
            check_list("texts", texts)
        encode = self._session.encoder.encode_documents
        async for rows in self._session.arun(texts, encode):
            for vector in self._finish(rows):
                yield vector

    def __repr__(self) -> str:
        info = self.info
        return (
            f"Embedder({self.model!r}, dimensions={self.dimensions}, engine={info.engine!r}, "
            f"device={info.device!r}, dtype={info.dtype!r})"
        )

    def _usable(self, instruction: str) -> str:
        check_instruction(instruction)
        prompts = self._session.prompts
        if instruction and not prompts.takes_instruction:
            raise ConfigError(
                f"`{self.model}` puts {prompts.query!r} before every query, which has no place for "
                "an instruction: leave out `instruction`"
            )
        return instruction

    def _finish(self, rows: Float32Array) -> Float32Array:
        return finish_rows(rows, self._dimensions, normalize=self.normalized)


def query_encoder(embedder: Embedder, instruction: str | None) -> Encode[str]:
    """Return a function that encodes queries with an instruction, by default the embedder's.

    Raises:
        ConfigError: The model has no place for an instruction.
    """
    chosen = embedder.instruction if instruction is None else embedder._usable(instruction)
    return partial(session_of(embedder).encoder.encode_queries, instruction=chosen)


def finish_rows(rows: Float32Array, dimensions: int, *, normalize: bool) -> Float32Array:
    """Cut an engine's rows to `dimensions`, then normalize them if `normalize` is True.

    Shape: (texts, hidden) -> (texts, dimensions)
    """
    if not normalize:  # cut as sentence-transformers does; `rows` may be a view of a whole batch
        return np.array(rows[:, :dimensions])
    return unit_prefix(rows, dimensions)


def check_dimensions(dimensions: int | None, hidden_size: int) -> int:
    """Return `dimensions`, or the hidden size if it is None.

    Raises:
        ConfigError: `dimensions` is not a whole number in the range that the model supports.
    """
    if dimensions is None:
        return hidden_size
    is_count = isinstance(dimensions, int) and not isinstance(dimensions, bool)
    smallest = min(MIN_DIMENSIONS, hidden_size)
    if not is_count or not smallest <= dimensions <= hidden_size:
        msg = f"`dimensions` is {dimensions!r}; this model gives {smallest} to {hidden_size}"
        raise ConfigError(msg)
    return dimensions
