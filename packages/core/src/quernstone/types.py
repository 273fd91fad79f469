"""The values that pass between modules, and the contract of an engine."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Task = Literal["embed", "rerank"]
EngineName = Literal["auto", "torch", "transformers", "sentence-transformers", "vllm", "remote"]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8", "fp8"]
RerankTemplate = Literal["card", "eval"]

TEXT_FIELDS = ("text", "content", "page_content", "body", "document")
"""Fields of a JSON object or a table row that may hold its text, in the order they are tried."""

Float32Array = npt.NDArray[np.float32]
TokenArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a reranked list."""

    index: int
    """Position of the document in the list that was passed in."""
    score: float
    """P(yes): the probability, 0 to 1, that the document meets the request."""


class Prefix:
    """Token ids that several sequences begin with. Prefixes of equal ids are equal."""

    __slots__ = ("_key", "ids", "parent")

    def __init__(self, ids: TokenArray, parent: Prefix | None = None) -> None:
        """Hold the ids of a prefix.

        Args:
            ids: Shape: (tokens,)
            parent: A prefix of this prefix that it shares with others: for a reranker's query,
                the instruction.
        """
        self.ids = ids
        self.parent = parent
        self._key = ids.tobytes()

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prefix) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sequence, ready for an engine that runs token ids."""

    ids: TokenArray
    """Tokens after the shared prefix; the last one is the pooled token. Shape: (tokens,)"""
    prefix: Prefix | None = None
    """Tokens before `ids`, shared with other sequences; None when nothing is shared."""

    @property
    def key(self) -> Hashable:
        """Equal for sequences that have the same result, among those of one prefix."""
        return self.ids.tobytes()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class TextInput:
    """One input of an engine that tokenizes, not yet rendered.

    For an embedding `text` is a document or a query, for reranking the document of a pair.
    """

    text: str
    instruction: str | None = None
    """None makes `text` a document to embed; queries and pairs have one, which may be empty."""
    query: str | None = None
    """The query of a pair; None in embedding."""
    template: RerankTemplate = "card"
    """How a pair of a Qwen3 reranker is rendered."""

    prefix: ClassVar[None] = None
    """Only token ids have shared prefixes."""

    @property
    def key(self) -> Hashable:
        """Equal for inputs that have the same result."""
        return self

    def __len__(self) -> int:
        """Estimate the number of tokens, to plan batches: a quarter of the UTF-8 bytes."""
        return (len(self.text.encode()) + len((self.query or "").encode())) // 4 + 1


Input = Encoded | TextInput
"""One input of a backend: token ids, or text if the engine has a tokenizer of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """All that decides which engine is loaded. Equal configurations share one loaded model."""

    task: Task
    model: str
    """Local folder of the resolved checkpoint; for `remote`, the name that the server knows."""
    engine: Literal["torch", "transformers", "sentence-transformers", "vllm", "remote"]
    device: str = "auto"
    dtype: Dtype = "auto"
    max_batch_tokens: int | None = None
    options: Hashable = None
    """`Options` for a library's constructor, `RemoteOptions` for a server, None without any."""
    max_length: int | None = None
    """Tokens per input, for engines that take text and so have to cut it; None for the others."""
    truncate: bool = True
    """Whether an engine that takes text cuts longer inputs or raises `InputTooLongError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine turned out to be, for people to read."""

    engine: str
    device: str
    dtype: str
    attention: str
    """The attention kernel, for example `sdpa` or `torch-varlen`."""
    max_batch_tokens: int
    max_length: int | None = None
    """Tokens of the longest input, where the engine knows better than the checkpoint's config."""
    revision: str = ""
    """What the engine says of the model's version, where there is no local checkpoint."""


Pending = Callable[[], Float32Array]
"""Waits for the rows of a batch that was launched, and returns them or raises what `Engine.run`
would."""

BatchInput = TypeVar("BatchInput", bound=Encoded | TextInput, contravariant=True)


class Engine(Protocol[BatchInput]):
    """Runs batches on this machine, of token ids or of texts. Called from one thread only.

    Engines of token ids are `Engine[Encoded]`: they get rendered prompts, cut to length. Engines
    of texts are `Engine[TextInput]`: they render (`quernstone.encoding.prompts`) and cut.
    """

    info: EngineInfo
    width: int
    """Numbers per row: the hidden size for `embed`; for `rerank` 2, or 1 (see `run`)."""

    def run(self, batch: Sequence[BatchInput], *, precise: bool = False) -> Float32Array:
        """Run one batch.

        Args:
            batch: At most `info.max_batch_tokens` tokens, unless it is one single input.
            precise: Compute in float32 whatever the dtype of the weights. An engine that cannot
                computes as always; the caller then reports what is not finite.

        Returns:
            One row per input, in the order of `batch`. Shape: (len(batch), width).
            `embed`: the embedding, neither cut nor normalised (a normalised one does no harm).
            `rerank`: the logits of [no, yes] at the last token; or, with `width` 1, the score
            itself, 0 to 1.

        Raises:
            EngineMemoryError: The batch does not fit; the caller may split it.
            InputError: One input cannot be computed; `.index` is its place in `batch`. The
                others are then run again without it.
            NonFiniteError: With `precise`: the engine cannot compute in float32; `.detail` says so.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


class LaunchingEngine(Engine[BatchInput], Protocol):
    """An engine whose device can compute while its thread prepares the next batch."""

    overlaps: bool
    """Whether the device that was chosen can. If not, `launch` is not called."""

    def launch(self, batch: Sequence[BatchInput]) -> Pending:
        """Start what `run` does, without waiting for it.

        Args:
            batch: As in `run`. At most one other batch is launched before this one is waited for.

        Returns:
            What waits for the rows; called once.

        Raises:
            EngineMemoryError: As in `run`; like any other error it may come from waiting instead.
        """
        ...


class Backend(Protocol):
    """What a session submits inputs to: a `Worker` with an engine, or a connection to a server.

    Used from any number of threads at once. Sessions of equal `EngineConfig` share one.
    """

    info: EngineInfo
    width: int
    """Numbers per row, as in `Engine`."""

    def submit(self, inputs: Sequence[Input], offset: int = 0) -> Future[Float32Array]:
        """Start to compute inputs, without waiting for them.

        Args:
            inputs: Any number, of the kind that this backend takes.
            offset: Added to a position to give the index that an error names.

        Returns:
            A future of one row each, in order, all finite. Shape: (len(inputs), width).
            It can be cancelled, and fails with a `QuernstoneError`.

        Raises:
            ClosedError: The backend was closed.
        """
        ...

    def close(self) -> None:
        """Finish what was submitted, and free everything."""
        ...


@dataclass(slots=True)
class Usage:
    """Running totals of an embedder or a reranker.

    `tokens` and `truncated` are counted where this process makes the token ids. With engines that
    take text (`remote`, and `sentence-transformers` for models other than Qwen3) they stay 0.
    """

    inputs: int = 0
    """Texts or pairs processed."""
    tokens: int = 0
    """Tokens of all inputs, frames included, also of those that are computed once for several."""
    truncated: int = 0
    """Inputs that were cut to `max_length`."""
    recomputed: int = 0
    """Results that overflowed a 16-bit dtype and were computed again, slowly, in float32; of all
    that this process asked of the loaded model."""
