"""The values that pass between modules, and the contract of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Task = Literal["embed", "rerank"]
EngineName = Literal["auto", "torch", "transformers"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
RerankTemplate = Literal["card", "eval"]

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
    """Token ids that several sequences begin with. Equal ids are equal prefixes."""

    __slots__ = ("_key", "ids")

    def __init__(self, ids: TokenArray) -> None:
        self.ids = ids
        self._key = ids.tobytes()

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prefix) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sequence, ready for an engine that takes token ids."""

    ids: TokenArray
    """Tokens after the shared prefix, the last one being the pooled token. Shape: (tokens,)"""
    prefix: Prefix | None = None
    """Tokens before `ids`, shared with other sequences; None when nothing is shared."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """All that decides which engine is loaded. Equal configurations share one loaded model."""

    task: Task
    model: str
    """Local folder of the resolved checkpoint."""
    engine: Literal["torch", "transformers"]
    device: str = "auto"
    dtype: Dtype = "auto"
    max_batch_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine turned out to be, for people to read."""

    engine: str
    device: str
    dtype: str
    attention: str
    """The attention kernel, for example `sdpa` or `torch-varlen`."""
    max_batch_tokens: int


class Engine(Protocol):
    """Runs batches of token ids. Called from one thread only."""

    info: EngineInfo
    width: int
    """Numbers per row: the hidden size for `embed`, 2 for `rerank`."""

    def run(self, batch: Sequence[Encoded], *, precise: bool = False) -> Float32Array:
        """Run one batch.

        Args:
            batch: At most `info.max_batch_tokens` tokens, unless it is one single sequence.
            precise: Compute in float32 whatever the dtype of the weights.

        Returns:
            One row per sequence, in the order of `batch`. Shape: (len(batch), width).
            `embed`: the final hidden state of the last token, neither cut nor normalised.
            `rerank`: the logits of [no, yes] at the last token.

        Raises:
            EngineMemoryError: The batch does not fit; the caller may split it.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


@dataclass(slots=True)
class Usage:
    """Running totals of an embedder or a reranker."""

    inputs: int = 0
    """Texts or pairs processed."""
    tokens: int = 0
    """Tokens computed, frames included; a shared prefix counts for every sequence."""
    truncated: int = 0
    """Inputs that were cut to `max_length`."""


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """What tokenization returns for a list of inputs."""

    sequences: list[Encoded]
    truncated: list[int] = field(default_factory=list)
    """Positions of the inputs that were cut."""
