"""Padded batches, for libraries that need them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from quernstone.types import Encoded, TokenArray

NO_SHARING = "this engine computes every input from its first token"
"""`EngineInfo.prefix_sharing` of engines with padded batches."""


def whole_ids(sequence: Encoded) -> TokenArray:
    """Return a sequence's token ids, including its shared prefix. Shape: (tokens,)."""
    if sequence.prefix is None:
        return sequence.ids
    return np.concatenate((sequence.prefix.ids, sequence.ids))


def padded_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Group indices into batches, longest first, of at most `max_batch_tokens` with padding."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def pad_left(
    sequences: Sequence[TokenArray], pad_id: int, device: torch.device
) -> dict[str, Tensor]:
    """Pad sequences on the left, as in the model cards. Shape: (sequences, longest)."""
    ids = [torch.from_numpy(sequence).long() for sequence in sequences]
    pad = partial(pad_sequence, batch_first=True, padding_side="left")
    return {
        "input_ids": pad(ids, padding_value=pad_id).to(device),
        "attention_mask": pad([torch.ones_like(each) for each in ids]).to(device),
    }
