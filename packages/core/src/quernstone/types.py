"""Values that pass between modules, and the contracts of engines and backends."""

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

DEVICES = "auto, cpu, cuda, cuda:1, mps, or several GPUs as cuda:0,cuda:1 or cuda:all"
"""The values of `device`, for messages."""

TEXT_FIELDS = (
    "text",
    "content",
    "page_content",
    "body",
    "document",
    "description",
    "summary",
    "title",
)
"""Fields of a JSON object or a table row that may hold its text, in the order they are tried."""

Float32Array = npt.NDArray[np.float32]
TokenArray = npt.NDArray[np.int32]


# Vectors that are normalized together, in a processor's cache.
_UNIT_ROWS = 64
_SMALLEST_LENGTH = np.finfo(np.float32).tiny


def unit_prefix(vectors: Float32Array, size: int) -> Float32Array:
    """Cut vectors to their first `size` numbers, then normalize them; zeros stay zeros.

    Shape: (..., dimensions) -> (..., size)
    """
    cut = vectors[..., :size]
    rows = cut.reshape(-1, size)
    unit = np.empty(rows.shape, dtype=np.float32)
    for start in range(0, len(rows), _UNIT_ROWS):
        block = rows[start : start + _UNIT_ROWS]
        # As `np.linalg.norm` computes it, but with one copy instead of two.
        length = np.sqrt(np.add.reduce(block * block, axis=-1, keepdims=True))
        length = np.maximum(length, _SMALLEST_LENGTH)
        np.divide(block, length, out=unit[start : start + _UNIT_ROWS], casting="same_kind")
    return unit.reshape(cut.shape)


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a reranked list."""

    index: int
    """Position of the document in the caller's list."""
    score: float
    """P(yes): the probability, 0 to 1, that the document meets the request. A model or a template
    with the score function `logit` gives any number."""


class Prefix:
    """Token ids that several sequences begin with. Prefixes of equal ids are equal."""

    __slots__ = ("_key", "ids", "parent")

    def __init__(self, ids: TokenArray, parent: Prefix | None = None) -> None:
        self.ids = ids
        """Shape: (tokens,)"""
        self.parent = parent
        """A shorter prefix that it shares with others: for a reranker's query, the instruction."""
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
    custom_template: Hashable = None
    """A `PairTemplate` to use instead, which only a `quern serve` accepts."""

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
    """The settings of a loaded engine. Equal configurations share one loaded model."""

    task: Task
    model: str
    """Local folder of the resolved checkpoint; for `remote`, the server's name for the model."""
    engine: Literal["torch", "transformers", "sentence-transformers", "vllm", "remote"]
    device: str = "auto"
    dtype: Dtype = "auto"
    max_batch_tokens: int | None = None
    adapter: str = ""
    """Local folder of a LoRA adapter to merge into the weights."""
    options: Hashable = None
    """`Options` for a library's constructor, `RemoteOptions` for a server, or None."""
    max_length: int | None = None
    """Tokens per input, for engines that tokenize and so have to cut; None for the others."""
    truncate: bool = True
    """True if an engine that tokenizes cuts longer inputs; False if it raises an error."""
    head_rows: tuple[int, ...] = ()
    """Rows of a reranker's head: of the negative answer, if any, and of the positive one. Token
    ids, or labels of a classification head. Empty: the tokens `no` and `yes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model of a `quern serve`, described so that a client can act as if it had loaded it."""

    name: str
    digest: str
    adapter: str
    instruction: str
    own_prompts: bool
    """True if the model renders prompts of its own, so that ours do not apply."""
    query_prompt: str
    document_prompt: str
    normalizes: bool
    """True if vectors have length 1."""
    engine: str
    options_digest: str
    """Digest of `engine_options`; empty without any."""
    template: Hashable
    """The name of a reranker's template, or a `PairTemplate`."""
    head_rows: tuple[int, ...]
    """As in `EngineConfig`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """A description of a running engine, for people to read."""

    engine: str
    device: str
    dtype: str
    attention: str
    """The attention kernel, for example `sdpa` or `torch-flash`."""
    max_batch_tokens: int
    max_length: int | None = None
    """Tokens of the longest input, if the engine's limit differs from the checkpoint's config."""
    reason: str = ""
    """Why `engine="auto"` chose this engine; empty if the caller named it."""
    revision: str = ""
    """The model's version as the engine reports it, if there is no local checkpoint."""
    attention_reason: str = ""
    """Why this kernel was chosen and faster ones were not, if the engine chose it."""
    graphs: str = ""
    """The CUDA graphs of small batches: how many are recorded, their memory, or why there are none.
    Empty where they do not exist."""
    served: ServedModel | None = None
    """The model of a `quern serve`."""
    shares_prefixes: bool = False
    """True if the common start of inputs, such as a reranker's query, is computed once."""
    prefix_sharing: str = ""
    """Explanation of `shares_prefixes`."""


Pending = Callable[[], Float32Array]
"""Waits for a launched batch and returns its rows, or raises the errors of `Engine.run`."""

BatchInput = TypeVar("BatchInput", bound=Encoded | TextInput, contravariant=True)


class Engine(Protocol[BatchInput]):
    """Runs batches of token ids or of texts on this machine. Called from one thread only.

    An `Engine[Encoded]` gets rendered prompts as token ids, cut to length. An `Engine[TextInput]`
    renders (`quernstone.encoding.prompts`) and cuts by itself.

    With an attribute `survives_fork = True`, a forked child runs an engine on a CPU as well.
    """

    info: EngineInfo
    width: int
    """Numbers per row: the hidden size for `embed`; for `rerank` 2 or 1 (see `run`)."""

    def run(self, batch: Sequence[BatchInput], *, precise: bool = False) -> Float32Array:
        """Run one batch.

        Args:
            batch: At most `info.max_batch_tokens` tokens, unless it is one single input.
            precise: Compute in float32 regardless of the weights' dtype. An engine that cannot do
                so ignores it, and the caller reports the rows that are not finite.

        Returns:
            One row per input, in the order of `batch`. Shape: (len(batch), width).
            `embed`: the embedding, uncut; normalized or not.
            `rerank`: for token ids, the logits of `EngineConfig.head_rows` at the last token, by
            default those of [no, yes]. For texts, the same or, with `width` 1, the score itself.

        Raises:
            EngineMemoryError: The batch does not fit into memory; the caller may split it.
            InputError: One input cannot be computed; `.index` is its position in `batch`. The
                caller runs the others again.
            NonFiniteError: With `precise`: the engine cannot compute in float32; see `.detail`.
        """

    def close(self) -> None:
        """Free the model's memory."""


class LaunchingEngine(Engine[BatchInput], Protocol):
    """An engine whose device can compute while its thread prepares the next batch."""

    overlaps: bool
    """True if the chosen device supports it. If not, `launch` is not called."""

    def launch(self, batch: Sequence[BatchInput]) -> Pending:
        """Start a batch and return a function that waits for its rows, which is called once.

        At most one other batch is launched before the caller waits. The errors of `run` may be
        raised here or by waiting.
        """


class PreparingEngine(Engine[BatchInput], Protocol):
    """An engine that can do work between batches to make later ones faster."""

    def prepare(self) -> bool:
        """Do one step, of about 0.1 s. Return False if nothing is left to do."""


class Backend(Protocol):
    """Computes the inputs of sessions: a `Worker` with an engine, or a connection to a server.

    Thread-safe. Sessions of equal `EngineConfig` share one.
    """

    width: int
    """Numbers per row, as in `Engine`."""

    @property
    def info(self) -> EngineInfo:
        """Description of the running engine."""
        ...

    @property
    def counts(self) -> Usage:
        """Counts that only the backend knows, for all its users in this process."""
        ...

    def submit(self, inputs: Sequence[Input], offset: int = 0) -> Future[Float32Array]:
        """Start to compute inputs, without waiting for them.

        Args:
            inputs: Any number, of the kind that this backend accepts.
            offset: Added to a position to give the index that an error names.

        Returns:
            A future of one finite row per input, in order. Shape: (len(inputs), width).
            It can be cancelled, and fails with a `QuernstoneError`.

        Raises:
            ClosedError: The backend was closed.
        """

    def close(self) -> None:
        """Finish the submitted inputs and free all resources."""


@dataclass(slots=True)
class Usage:
    """Running totals of an embedder or a reranker.

    `tokens` and `truncated` stay 0 with engines that tokenize (`sentence-transformers` for models
    other than Qwen3, and `remote`, except that `quern serve` counts for all users of a connection).
    """

    inputs: int = 0
    """Texts or pairs processed."""
    tokens: int = 0
    """Tokens of all inputs, prompts and repeated inputs included."""
    truncated: int = 0
    """Inputs that were cut to `max_length`."""
    recomputed: int = 0
    """Results that overflowed a 16-bit dtype and were computed again in float32, counted for all
    users of the loaded model in this process."""
