"""Padded batches, for libraries that need them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quernstone.types import Encoded, TokenArray

Int64Array = npt.NDArray[np.int64]


def whole_ids(sequence: Encoded) -> TokenArray:
    """Return a sequence's token ids, including its shared prefix. Shape: (tokens,)."""
    if sequence.prefix is None:
        return sequence.ids
    return np.concatenate((sequence.prefix.ids, sequence.ids))


def padded_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Group indices, longest first, so that no padded group exceeds the budget."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def pad_left(sequences: Sequence[TokenArray], pad_id: int) -> tuple[Int64Array, Int64Array]:
    """Pad on the left, like the model cards. Return token ids and attention mask.

    Both have the shape (sequences, tokens of the longest).
    """
    longest = max(map(len, sequences))
    ids = np.full((len(sequences), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, longest - len(sequence) :] = sequence
        mask[row, longest - len(sequence) :] = 1
    return ids, mask
