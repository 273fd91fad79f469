"""Plan which sequences share a batch, and pack them end to end, without padding."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np

from quernstone.types import Encoded, Float32Array, Input, Prefix, TokenArray


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch of sequences packed end to end."""

    input_ids: TokenArray
    """Shape: (tokens,)"""
    position_ids: TokenArray
    """Position of each token in its own sequence, its prefix included. Shape: (tokens,)"""
    cu_seqlens: list[int]
    """The start of each sequence, and the end of the last one. Length: sequences + 1."""
    max_seqlen: int
    """Number of tokens of the longest sequence, without its prefix."""
    groups: list[tuple[Prefix, int, int]]
    """Runs of sequences with a common prefix: the prefix, the first sequence, one past the last.

    They follow all sequences without a prefix.
    """
    order: list[int]
    """Row `i` of this batch is `sequences[order[i]]` of the call of `pack`."""


def pack(sequences: Sequence[Encoded]) -> PackedBatch:
    """Pack sequences end to end, grouped by prefix, longest first.

    Sequences of similar length become neighbours, so attention can process them together.
    """
    numbers = _prefix_numbers(sequences, {None: 0})
    order = _working_order(numbers, [len(sequence.ids) for sequence in sequences])
    ids = [sequences[place].ids for place in order]
    lengths = list(map(len, ids))
    starts = [0] * len(order)
    groups: list[tuple[Prefix, int, int]] = []
    end = 0
    for _, places in groupby(order, numbers.__getitem__):
        group = list(places)
        first, end = end, end + len(group)
        prefix = sequences[group[0]].prefix
        if prefix is not None:
            starts[first:end] = [len(prefix.ids)] * len(group)
            groups.append((prefix, first, end))
    return PackedBatch(
        input_ids=np.concatenate(ids),
        position_ids=np.concatenate(
            [np.arange(s, s + n, dtype=np.int32) for s, n in zip(starts, lengths, strict=True)]
        ),
        cu_seqlens=list(accumulate(lengths, initial=0)),
        max_seqlen=max(lengths),
        groups=groups,
        order=order,
    )


class Queue:
    """The remaining sequences of one job, in the order in which they are computed.

    Sequences with the same prefix are neighbours, so the prefix is computed once and can then be
    evicted. The longest sequences come first, so that a job that needs too much memory fails at its
    start and not at its end.
    """

    def __init__(self, sequences: Sequence[Input]) -> None:
        """Queue the sequences, equal ones only once. Only an empty queue can be extended."""
        self.firsts: list[int] = []
        """For each sequence, the position of the first sequence that is equal to it."""
        self._lengths: list[int] = []
        self._prefixes: list[Prefix | None] = []
        self._repeats = False
        self._places: deque[int] = deque()
        self._numbers: dict[Prefix | None, int] = {None: 0}
        self._seen: dict[Hashable, int] = {}
        if len(sequences) != 1:
            self.extend(sequences)
            return
        [only] = sequences  # the most frequent case needs neither sorting nor a key
        self.firsts, self._lengths, self._prefixes = [0], [len(only)], [only.prefix]
        self._places.append(0)

    def extend(self, sequences: Sequence[Input]) -> int:
        """Append sequences, sorted among themselves, and return how many are new."""
        start = len(self.firsts)
        numbers = _prefix_numbers(sequences, self._numbers)
        lengths = [len(sequence) for sequence in sequences]
        firsts = [
            self._seen.setdefault((number, sequence.key), place)
            for place, (number, sequence) in enumerate(zip(numbers, sequences, strict=True), start)
        ]
        order = _working_order(numbers, lengths)
        new = [start + each for each in order if firsts[each] == start + each]
        self._repeats = self._repeats or len(new) < len(order)
        self.firsts += firsts
        self._lengths += lengths
        self._prefixes += [sequence.prefix for sequence in sequences]
        self._places += new
        return len(new)

    def __len__(self) -> int:
        return len(self._places)

    def repeat(self, rows: Float32Array) -> Float32Array:
        """Copy the row of each first sequence to the sequences that are equal to it."""
        return rows[self.firsts] if self._repeats else rows

    def take(self, count: int) -> list[int]:
        """Remove the next `count` sequences and return their positions."""
        return [self._places.popleft() for _ in range(count)]

    def put_back(self, places: Sequence[int]) -> None:
        """Put sequences back at the front of the queue."""
        self._places.extendleft(reversed(places))

    def fitting(self, room: int, known: Set[Prefix | None]) -> tuple[int, int, set[Prefix | None]]:
        """Count the next sequences that fit into `room` tokens.

        The tokens of a prefix count once, and not at all if it is in `known`.

        Returns:
            The number of sequences, the number of their tokens, and `known` with their prefixes.
        """
        count = used = 0
        prefixes = set(known)
        last: Prefix | None = None
        for place in self._places:
            tokens, prefix = self._lengths[place], self._prefixes[place]
            is_new = prefix is not last and prefix not in prefixes  # neighbours mostly share one
            if is_new and prefix is not None:
                tokens += len(prefix.ids)
            if used + tokens > room:
                break
            if is_new:
                prefixes.add(prefix)
            count, used, last = count + 1, used + tokens, prefix
        return count, used, prefixes


def take_batch(queues: Sequence[Queue], *, max_batch_tokens: int) -> list[tuple[int, int]]:
    """Take the next batch from the queues of several jobs.

    Half of the budget is for jobs that this batch can finish. So a single query does not wait for a
    hundred thousand documents, nor do these wait for a thousand queries. The rest of the budget
    goes to the first large job, and to the next only if there is room left: neighbours in one queue
    have similar lengths, and batches of similar lengths are computed faster. A sequence is never
    split: one that exceeds the budget becomes a batch of one.

    Args:
        queues: Queues of the jobs, in the order in which they are served.
        max_batch_tokens: Maximum number of tokens of the batch. A prefix counts once.

    Returns:
        (index of the queue, position of the sequence) pairs, grouped by queue. Empty only if all
        queues are empty.
    """
    batch: list[tuple[int, int]] = []
    used = 0
    prefixes: set[Prefix | None] = {None}
    for job, queue in enumerate(queues):  # first the jobs that can be finished
        count, tokens, known = queue.fitting(max_batch_tokens // 2 - used, prefixes)
        if count == len(queue):
            batch += [(job, place) for place in queue.take(count)]
            used, prefixes = used + tokens, known
    for job, queue in enumerate(queues):  # then whatever fits
        count, tokens, known = queue.fitting(max_batch_tokens - used, prefixes)
        if not (count or batch) and len(queue):
            count, tokens = 1, max_batch_tokens  # longer than the budget, so alone
        batch += [(job, place) for place in queue.take(count)]
        used, prefixes = used + tokens, known
    return batch


def _prefix_numbers(sequences: Sequence[Input], numbers: dict[Prefix | None, int]) -> list[int]:
    """Return the number of each sequence's prefix. New prefixes get the next `numbers`."""
    found = []
    last, number = None, 0
    for sequence in sequences:
        prefix = sequence.prefix
        if prefix is not last:  # sequences of one call share a `Prefix` object
            last, number = prefix, numbers.setdefault(prefix, len(numbers))
        found.append(number)
    return found


def _working_order(prefix_numbers: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """Sort positions by prefix, then longest first; equals keep their order."""
    order: list[int] = np.lexsort((-np.asarray(lengths), np.asarray(prefix_numbers))).tolist()
    return order
