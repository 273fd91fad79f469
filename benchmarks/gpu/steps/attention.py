"""The engine's own attention, with and without shared prefixes, against float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch

from benchmarks.gpu import reference
from benchmarks.gpu.run import Run
from quernstone.attention import PrefixKeys, choose_attention
from quernstone.batching import PackedBatch, pack
from quernstone.types import Encoded, Prefix

_PREFIXES = (20, 90)
_TOLERANCE = {torch.bfloat16: 1e-2, torch.float32: 1e-5}


@torch.inference_mode()
def run(run: Run) -> None:
    """Compare the attention that the engine chooses for each dtype."""
    for dtype, tolerance in _TOLERANCE.items():
        name = f"attention in {str(dtype).removeprefix('torch.')}"
        for shared in (False, True):
            part = f"{name}, {'with' if shared else 'without'} shared prefixes"
            with run.part(part):
                errors = [
                    _errors(run, lengths, dtype, shared=shared)
                    for lengths in reference.batches(run)
                ]
                whole, last = (max(each) for each in zip(*errors, strict=True))
                passed = max(whole, last) < tolerance
                run.check(part, passed, all_tokens=whole, last_tokens=last)


def _errors(
    run: Run, lengths: Sequence[int], dtype: torch.dtype, *, shared: bool
) -> tuple[float, float]:
    """Return the relative errors of one batch: of all tokens, and of the last tokens alone."""
    device = torch.device(run.device)
    prefixes = [Prefix(np.arange(n, dtype=np.int32)) for n in _PREFIXES] if shared else []
    # every third sequence has no prefix, the others share two
    owners = [None, *prefixes] if shared else [None]
    batch = pack(
        [
            Encoded(np.zeros(length, dtype=np.int32), owners[place % len(owners)])
            for place, length in enumerate(lengths)
        ]
    )
    query, key, value = reference.random_qkv(sum(lengths), run.device, dtype)
    keys = [PrefixKeys(*_prefix(run, len(prefix), dtype)) for prefix, _, _ in batch.groups]
    maker = choose_attention(device, dtype)
    sent = [torch.from_numpy(each).to(device) for each in maker.integers(batch)]
    attention = maker.make(batch, sent)
    together = _together(keys)
    ends = torch.tensor(batch.cu_seqlens[1:], device=device) - 1
    # attention may write into what it is given, so the expected result comes first
    expected = _expected(batch, query, key, value, keys)
    if attention.source is not None and together is not None:  # as a layer writes them
        place = attention.source.long()
        key, value = (
            torch.cat((own, prefix.flip(0)))[place.remainder(len(own) + len(prefix))]
            for own, prefix in ((key, together.key), (value, together.value))
        )
    last = attention.last_tokens(query[ends], key, value, together)
    whole = attention.all_tokens(query, key, value, together)
    return (
        reference.relative_error(whole[: sum(lengths)], expected),
        reference.relative_error(last, expected[ends]),
    )


def _prefix(run: Run, tokens: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    _, key, value = reference.random_qkv(tokens, run.device, dtype)
    return key, value


def _together(prefixes: Sequence[PrefixKeys]) -> PrefixKeys | None:
    if not prefixes:
        return None
    keys, values = zip(*((each.key, each.value) for each in prefixes), strict=True)
    return PrefixKeys(torch.cat(keys), torch.cat(values))


def _expected(
    batch: PackedBatch,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefixes: Sequence[PrefixKeys],
) -> torch.Tensor:
    """Compute attention with the prefix written out before the keys of each sequence."""
    rows = len(batch.cu_seqlens) - 1
    owner: list[PrefixKeys | None] = [None] * rows
    for keys, (_, first, end) in zip(prefixes, batch.groups, strict=True):
        owner[first:end] = [keys] * (end - first)
    all_keys, all_values = [], []
    for row, prefix in enumerate(owner):
        own = slice(batch.cu_seqlens[row], batch.cu_seqlens[row + 1])
        all_keys.append(key[own] if prefix is None else torch.cat((prefix.key, key[own])))
        all_values.append(value[own] if prefix is None else torch.cat((prefix.value, value[own])))
    bounds = list(accumulate(map(len, all_keys), initial=0))
    found, _ = reference.attention(
        query, torch.cat(all_keys), torch.cat(all_values), batch.cu_seqlens, bounds, causal=True
    )
    return found
