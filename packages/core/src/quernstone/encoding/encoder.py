"""The contract between a session and the encoder of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from quernstone.encoding.templates import AnyTemplate
from quernstone.pairs import InstructedPair
from quernstone.types import Input

T = TypeVar("T", contravariant=True)


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """The encoded form of a list of inputs."""

    sequences: Sequence[Input]
    truncated: list[int] = field(default_factory=list)
    """Positions of the inputs that were cut."""
    tokens: int = 0
    """Tokens of all sequences, shared prefixes included; 0 if the engine tokenizes."""


class Encode(Protocol[T]):
    """A function that encodes inputs."""

    def __call__(self, inputs: Sequence[T], /, *, offset: int = 0) -> EncodedBatch:
        """Encode inputs; `offset` is added to the index that an error names."""


class Encoder(Protocol):
    """Checks inputs and turns them into what a backend accepts.

    Its limits are fixed when it is created. See `TokenEncoder` and `TextEncoder`.
    """

    def encode_documents(self, texts: Sequence[str], *, offset: int = 0) -> EncodedBatch:
        """Encode texts without a prompt."""

    def encode_queries(
        self, texts: Sequence[str], instruction: str, *, offset: int = 0
    ) -> EncodedBatch:
        """Encode queries with their instruction."""

    def pair_encoder(self, template: AnyTemplate) -> Encode[InstructedPair]:
        """Return a function that encodes pairs to rerank, for use in one call."""
