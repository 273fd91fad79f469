"""The protocol `Encoder`, by which a session prepares its inputs for a backend."""

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
    """Total number of tokens, shared prefixes included; 0 if the engine tokenizes."""


class Encode(Protocol[T]):
    """A function that encodes inputs."""

    def __call__(self, inputs: Sequence[T], /, *, offset: int = 0) -> EncodedBatch:
        """Encode inputs; `offset` is the position of the first one, for the index in errors."""


class Encoder(Protocol):
    """Object that checks inputs and converts them to inputs of a backend.

    Its limits are fixed when it is created. Implemented by `TokenEncoder` and `TextEncoder`.
    """

    def encode_documents(self, texts: Sequence[str], *, offset: int = 0) -> EncodedBatch:
        """Encode texts without a prompt."""

    def encode_queries(
        self, texts: Sequence[str], instruction: str, *, offset: int = 0
    ) -> EncodedBatch:
        """Encode queries with their instruction."""

    def pair_encoder(self, template: AnyTemplate) -> Encode[InstructedPair]:
        """Return a function that encodes pairs to rerank, for use in one call."""
