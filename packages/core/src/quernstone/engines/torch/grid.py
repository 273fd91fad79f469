"""The shapes of the batches that CUDA graphs compute, and the layout of a batch in a shape.

A batch is padded to the next shape. Its tokens are padded by less than a quarter, or by at most 15
tokens if it has fewer than 64, where a pass takes as long as for 64. Sequences are padded by empty
ones, which only cost blocks of threads that end at once.

Prefixes that sequences share are sequences of the batch. Every layer copies their keys before those
of their sequences, so the prefixes of a small batch need no pass of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from quernstone.attention import ReplayBounds, replay_integers
from quernstone.types import Encoded, TokenArray

MOST_TOKENS = 8192
"""From here on, a GPU takes longer for a batch than Python takes to start it."""

_SMALLEST_STEP = 16
# Queries per block of a flash kernel. A call starts blocks for the longest sequence, for each
# sequence. On an H100 an empty one took 1.15 ns, and a token 61 ns per layer of 0.6B: half as many
# blocks of 16 heads as tokens cost 15 %.
_BLOCK = 128
# All batches of this many sequences fit. In batches of a few hundred tokens, blocks cost little.
_ANY_SEQUENCES = 64
# Rows of keys per token. Copying a row costs a twentieth of what a token costs.
_JOINED = 4


class Shape(NamedTuple):
    """The most that a batch may have."""

    tokens: int
    sequences: int
    longest: int
    """Tokens of the longest sequence."""

    @property
    def joined(self) -> int:
        """Tokens of all sequences with those of their prefixes."""
        return _JOINED * self.tokens

    @property
    def bounds(self) -> ReplayBounds:
        """Bounds for attention."""
        return ReplayBounds(self.longest, self.tokens)


def shapes(most_tokens: int) -> list[Shape]:
    """Return all shapes of up to `most_tokens` tokens, smallest first."""
    return [
        Shape(tokens, _sequences(tokens, longest), longest)
        for tokens in _token_sizes(min(most_tokens, MOST_TOKENS))
        for longest in _lengths(tokens)
    ]


class Unfolded:
    """A batch whose prefixes are sequences, in order of first use, before the others."""

    def __init__(self, batch: Sequence[Encoded]) -> None:
        prefixes = dict.fromkeys(each.prefix for each in batch if each.prefix is not None)
        self.prefixes = len(prefixes)
        self._parts = [*(prefix.ids for prefix in prefixes), *(each.ids for each in batch)]
        self._own = np.fromiter(map(len, self._parts), np.int64, len(self._parts))
        self._joined, self._first = self._own.copy(), np.zeros_like(self._own)
        if prefixes:
            starts = np.cumsum(self._own) - self._own
            numbers = {prefix: number for number, prefix in enumerate(prefixes)}
            for place, each in enumerate(batch, self.prefixes):
                if each.prefix is not None:
                    number = numbers[each.prefix]
                    self._joined[place] += self._own[number]
                    self._first[place] = starts[number]

    def fits(self, shape: Shape) -> bool:
        """Return whether a graph of this shape computes the batch."""
        return (
            self._own.sum() <= shape.tokens
            and len(self._own) <= shape.sequences
            and self._own.max() <= shape.longest
            and self._joined.sum() <= shape.joined
        )

    def shape(self, among: Sequence[Shape]) -> Shape | None:
        """Return the first shape that fits; None if there is none."""
        return next((shape for shape in among if self.fits(shape)), None)

    def arrays(self, shape: Shape) -> list[TokenArray]:
        """Return ids, positions, last tokens, and the arrays of attention, padded to a shape."""
        own, joined = self._own, self._joined
        tokens, ends = int(own.sum()), np.cumsum(own)
        ids, positions = np.zeros((2, shape.tokens), dtype=np.int32)
        np.concatenate(self._parts, out=ids[:tokens])
        positions[:tokens] = np.arange(tokens) + np.repeat(joined - ends, own)
        last = np.zeros(shape.sequences, dtype=np.int32)
        last[: len(own)] = ends - 1
        attention = replay_integers(
            own, joined, self._first, sequences=shape.sequences, joined_rows=shape.joined
        )
        return [ids, positions, last, *attention]


def _token_sizes(most_tokens: int) -> Iterator[int]:
    size = 0
    while size + (step := max(_SMALLEST_STEP, (1 << size.bit_length()) // 8)) <= most_tokens:
        size += step
        yield size


def _lengths(tokens: int) -> Iterator[int]:
    """Yield bounds of the longest sequence."""
    length = _BLOCK
    while 2 * length < tokens:
        yield length
        length *= 4
    yield tokens


def _sequences(tokens: int, longest: int) -> int:
    blocks = -(-longest // _BLOCK)
    return max(tokens // (2 * blocks), min(tokens // 2, _ANY_SEQUENCES))
