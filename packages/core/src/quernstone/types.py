"""Types that several modules share, and the protocols of engines and backends."""

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
"""The values of `device`, for error messages."""

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


# Number of vectors that are normalized at once: so few fit into the processor's cache.
_UNIT_ROWS = 64
_SMALLEST_LENGTH = np.finfo(np.float32).tiny


def unit_prefix(vectors: Float32Array, size: int) -> Float32Array:
    """Cut vectors to their first `size` dimensions, then normalize them; zero vectors stay zero.

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
    """P(yes): the probability, from 0 to 1, that the document is relevant to the query. With the
    score function `logit`, any number."""


class Prefix:
    """Token ids that several sequences begin with. Two prefixes with equal ids are equal."""

    __slots__ = ("_key", "ids", "parent")

    def __init__(self, ids: TokenArray, parent: Prefix | None = None) -> None:
        self.ids = ids
        """Shape: (tokens,)"""
        self.parent = parent
        """A shorter prefix that this one begins with and shares with other prefixes: for a
        reranker's query, the part of the prompt up to the instruction."""
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
        """Sequences with the same prefix and equal keys have the same result."""
        return self.ids.tobytes()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class TextInput:
    """One input of an engine that tokenizes and adds the prompt itself.

    In embedding, `text` is a document or a query; in reranking, it is the document of a pair.
    """

    text: str
    instruction: str | None = None
    """The instruction of a query or a pair, which may be empty; None for a document to embed."""
    query: str | None = None
    """The query of a pair; None in embedding."""
    template: RerankTemplate = "card"
    """The prompt of a pair for a Qwen3 reranker."""
    custom_template: Hashable = None
    """A `PairTemplate` to use instead of `template`; only `quern serve` accepts one."""

    prefix: ClassVar[None] = None
    """Always None: only token ids can share a prefix."""

    @property
    def key(self) -> Hashable:
        """Inputs with equal keys have the same result."""
        return self

    def __len__(self) -> int:
        """Estimate the number of tokens, to plan batches: a quarter of the UTF-8 bytes."""
        return (len(self.text.encode()) + len((self.query or "").encode())) // 4 + 1


Input = Encoded | TextInput
"""One input of a backend: token ids, or a text for engines that tokenize themselves."""


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
    """Maximum number of tokens of an input, for engines that tokenize and cut; None for others."""
    truncate: bool = True
    """For engines that tokenize: True cuts longer inputs, False raises an error."""
    head_rows: tuple[int, ...] = ()
    """Rows of a reranker's output head that give the score: that of the negative answer, if there
    is one, and that of the positive answer. They are token ids, or the numbers of labels of a
    classification head. Empty stands for the tokens `no` and `yes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """Description of a model on a `quern serve`, with all that a client needs to use it."""

    name: str
    digest: str
    adapter: str
    instruction: str
    own_prompts: bool
    """True if a library adds the model's own prompts, so that Quernstone adds none."""
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
    """Maximum number of tokens of an input, if it differs from that in the checkpoint's config."""
    reason: str = ""
    """Why `engine="auto"` chose this engine; empty if the caller chose it."""
    revision: str = ""
    """The model's version as the engine reports it, if there is no local checkpoint."""
    attention_reason: str = ""
    """Why this kernel was chosen and faster ones were not, if the engine chose it."""
    graphs: str = ""
    """The CUDA graphs for small batches: their number and memory, or why there are none. Empty for
    engines without CUDA graphs."""
    served: ServedModel | None = None
    """The model of a `quern serve`."""
    shares_prefixes: bool = False
    """True if the tokens that several inputs begin with, such as a query, are computed once."""
    prefix_sharing: str = ""
    """Why prefixes are shared or not."""


Pending = Callable[[], Float32Array]
"""A function that waits for a launched batch and returns its rows, or raises its error."""

BatchInput = TypeVar("BatchInput", bound=Encoded | TextInput, contravariant=True)


class Engine(Protocol[BatchInput]):
    """Code that runs batches on this machine. It is called from one thread only.

    An `Engine[Encoded]` gets complete prompts as token ids, cut to `max_length`. An
    `Engine[TextInput]` gets texts; it adds the prompt (`quernstone.encoding.prompts`), tokenizes
    and cuts by itself.

    If an engine on a CPU has the attribute `survives_fork = True`, a forked child can use it too.
    """

    info: EngineInfo
    width: int
    """Length of a row: the hidden size for `embed`; 2 or 1 for `rerank` (see `run`)."""

    def run(self, batch: Sequence[BatchInput], *, precise: bool = False) -> Float32Array:
        """Run one batch.

        Args:
            batch: Inputs of at most `info.max_batch_tokens` tokens together, or a single input.
            precise: Compute in float32 regardless of the weights' dtype. An engine that cannot do
                this raises `NonFiniteError`, or ignores it; then the caller reports rows that are
                not finite.

        Returns:
            One row per input, in the order of `batch`. Shape: (len(batch), width).
            `embed`: the embedding in full length; it may or may not be normalized.
            `rerank`: the logits of `EngineConfig.head_rows` at the last token, by default those of
            [no, yes]. An `Engine[TextInput]` with `width` 1 may return the score itself instead.

        Raises:
            EngineMemoryError: The batch does not fit into memory; the caller may split it.
            InputError: One input cannot be computed; `.index` is its position in `batch`. The
                caller runs the others again.
            NonFiniteError: With `precise`: the engine cannot compute in float32; see `.detail`.
        """

    def close(self) -> None:
        """Free the model's memory."""


class LaunchingEngine(Engine[BatchInput], Protocol):
    """An engine whose device can compute a batch while the thread prepares the next one."""

    overlaps: bool
    """True if the chosen device supports this. Otherwise `launch` is not called."""

    def launch(self, batch: Sequence[BatchInput]) -> Pending:
        """Start to compute a batch, and return a function that waits for its rows.

        The returned function is called once. At most one other batch is launched before that. The
        errors of `run` may be raised here or by that function.
        """


class PreparingEngine(Engine[BatchInput], Protocol):
    """An engine that can do work between batches to make later ones faster."""

    def prepare(self) -> bool:
        """Do one step, of about 0.1 s, and return False if nothing is left to do."""


class Backend(Protocol):
    """Object that computes the inputs of sessions: a `Worker` with an engine, or a connection.

    Thread-safe. Sessions with equal `EngineConfig` share one backend.
    """

    width: int
    """Length of a row, as in `Engine`."""

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
            inputs: Any number of inputs, of the type that this backend accepts.
            offset: Position of the first input in the caller's list, for the index in errors.

        Returns:
            A future of one row per input, in order, without NaN or infinity. It can be cancelled,
            and its exceptions are `QuernstoneError`s. Shape: (len(inputs), width).

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
    """Results that overflowed a 16-bit dtype and were computed again in float32. It counts those of
    all objects that share the loaded model in this process."""
