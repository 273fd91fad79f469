"""Which sequences share a batch, and how they are laid out in it: end to end, no padding."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from quernstone.types import Encoded, Input, Prefix, TokenArray


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences laid end to end."""

    input_ids: TokenArray
    """Shape: (tokens,)"""
    position_ids: TokenArray
    """Position of each token in its own sequence, its prefix included. Shape: (tokens,)"""
    cu_seqlens: list[int]
    """Where each sequence starts, and the end of the last one. Length: sequences + 1."""
    max_seqlen: int
    """Tokens of the longest sequence, without its prefix."""
    groups: list[tuple[Prefix, int, int]]
    """Runs of sequences with a common prefix: the prefix, the first sequence, one past the last.

    They lie behind all sequences without a prefix.
    """
    order: list[int]
    """Row `i` of this batch is sequence `order[i]` of what was packed."""


def pack(sequences: Sequence[Encoded]) -> PackedBatch:
    """Lay sequences end to end, those with a common prefix side by side, longest first.

    Sequences of similar length become neighbours, which lets attention handle them together.
    """
    order = list(work_order(sequences))
    lengths = [len(sequences[i]) for i in order]
    starts = [len(sequences[i].prefix or ()) for i in order]
    groups: list[tuple[Prefix, int, int]] = []
    for row, i in enumerate(order):
        prefix = sequences[i].prefix
        if prefix is None:
            continue
        if groups and groups[-1][0] == prefix:
            groups[-1] = (groups[-1][0], groups[-1][1], row + 1)
        else:
            groups.append((prefix, row, row + 1))
    return PackedBatch(
        input_ids=np.concatenate([sequences[i].ids for i in order]),
        position_ids=np.concatenate(
            [np.arange(s, s + n, dtype=np.int32) for s, n in zip(starts, lengths, strict=True)]
        ),
        cu_seqlens=list(accumulate(lengths, initial=0)),
        max_seqlen=max(lengths),
        groups=groups,
        order=order,
    )


def work_order(sequences: Sequence[Input]) -> deque[int]:
    """Positions in the order in which a job is worked off: by prefix, then longest first.

    Sequences of one prefix stay together, so that it is computed once and can then be forgotten.
    Longest first, because the largest batches then come at the start of a job and not at its end,
    and with them any lack of memory.
    """
    places = _prefix_places(sequences)
    return deque(
        sorted(
            range(len(sequences)),
            key=lambda i: (places[sequences[i].prefix], -len(sequences[i]), i),
        )
    )


def take_batch(
    jobs: Sequence[Sequence[Input]], queues: Sequence[deque[int]], *, max_batch_tokens: int
) -> list[tuple[int, int]]:
    """Take the next batch from several waiting jobs, removing it from their queues.

    Jobs that can be finished come first, as long as they fill at most half of the budget: a single
    query does not wait for a hundred thousand documents, nor these for a thousand queries. What is
    left goes to one large job and not to all of them, because neighbours in one job's order are
    about equally long, and batches of equal lengths are computed faster. The next one has its turn
    when the caller passes the jobs that gave something behind the others. A sequence is never
    split: one that alone exceeds the budget makes a batch of its own.

    Args:
        jobs: The sequences of each job.
        queues: Positions still to be done, per job, those first whose turn it is.
        max_batch_tokens: Budget of the batch. A prefix counts once, with its first sequence.

    Returns:
        (job, position) pairs; empty only when all queues are.
    """
    batch: list[tuple[int, int]] = []
    prefixes: set[Prefix] = set()
    used = 0
    for most, whole in ((max_batch_tokens // 2, True), (max_batch_tokens, False)):
        for job, queue in enumerate(queues):
            alone = not (whole or batch)
            count, tokens = _fitting(jobs[job], queue, prefixes, room=most - used, alone=alone)
            if whole and count < len(queue):
                continue
            taken = [queue.popleft() for _ in range(count)]
            batch += [(job, place) for place in taken]
            prefixes.update(p for place in taken if (p := jobs[job][place].prefix) is not None)
            used += tokens
    return batch


def _fitting(
    sequences: Sequence[Input],
    places: Iterable[int],
    prefixes: Set[Prefix],
    *,
    room: int,
    alone: bool,
) -> tuple[int, int]:
    """How many of the first `places` fit into `room` tokens, and the tokens that they take.

    Those of `prefixes` take none. With `alone` the first one fits in any case.
    """
    known = set(prefixes)
    count = used = 0
    for place in places:
        tokens, prefix = len(sequences[place]), sequences[place].prefix
        if prefix is not None and prefix not in known:
            tokens += len(prefix)
            known.add(prefix)
        if used + tokens > room and (count or not alone):
            break
        count, used = count + 1, used + tokens
    return count, used


def _prefix_places(sequences: Sequence[Input]) -> dict[Prefix | None, int]:
    """A number for each prefix, in order of first use; sequences without one come first."""
    places: dict[Prefix | None, int] = {None: 0}
    for sequence in sequences:
        places.setdefault(sequence.prefix, len(places))
    return places
