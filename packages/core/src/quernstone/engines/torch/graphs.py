"""CUDA graphs, which start the hundreds of kernels of a small batch in one call.

The time of a small batch is mostly spent in Python, starting kernels. So the kernels for a few
batch sizes are recorded once, and replayed on new inputs in the same memory. Batches are padded to
one of these sizes with dummy sequences. Shared prefixes are computed again for each sequence, which
at this size takes less time than a second launch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quernstone.batching import PackedBatch, pack
from quernstone.engines.padding import whole_ids
from quernstone.engines.torch.transfer import Transfer
from quernstone.types import Encoded, TokenArray

logger = logging.getLogger("quernstone")

# Tokens and sequences of the recorded batches. There is one graph for each number of tokens.
_TOKENS = (32, 64, 128, 256, 512)
_SEQUENCES = 8

# Free memory that is required to record another graph.
_FREE_BYTES = 1 << 30

Compute = Callable[[], Tensor]
Record = Callable[[Compute], Compute]
"""Records the kernels of a function that does not synchronize with the device.

The function that it returns runs them again on the current contents of their inputs, and always
returns the same tensor. Raises `RuntimeError` if the kernels cannot be recorded."""


@dataclass(frozen=True, slots=True)
class _Graph:
    inputs: Tensor
    """All integers of a batch, concatenated, on the device."""
    replay: Compute


class Graphs:
    """The graphs of one model."""

    def __init__(
        self,
        arrays: Callable[[PackedBatch], tuple[Sequence[TokenArray], Sequence[TokenArray]]],
        rows: Callable[[PackedBatch, Sequence[Tensor]], Tensor],
        transfer: Transfer,
        record: Record,
    ) -> None:
        """Prepare. Graphs are recorded when they are first needed.

        `arrays` returns the arrays that the device needs for a batch, whose lengths may depend only
        on the numbers of tokens and sequences. `rows` computes the batch from them.
        """
        self._arrays, self._rows, self._transfer, self._record = arrays, rows, transfer, record
        self._graphs: dict[int, _Graph] = {}
        self._broken = False

    def run(self, batch: Sequence[Encoded]) -> tuple[PackedBatch, Tensor] | None:
        """Start a batch if it is small and its graph can be recorded; else return None.

        The batch gets dummy sequences at the end. The next call overwrites its rows.
        """
        if (tokens := padded_tokens(batch)) is None or (graph := self._graph(tokens)) is None:
            return None
        packed = pack(add_dummies(batch, tokens))
        self._transfer.refill(graph.inputs, self._flat(packed))
        return packed, graph.replay()

    def _graph(self, tokens: int) -> _Graph | None:
        if tokens not in self._graphs and not self._broken:
            try:
                self._graphs[tokens] = self._recorded(tokens)
            except RuntimeError as error:
                self._broken = True
                logger.warning(
                    "no CUDA graph could be recorded for %d tokens, so graphs are disabled and "
                    "small batches take longer (%s)",
                    tokens,
                    error,
                )
        return self._graphs.get(tokens)

    def _recorded(self, tokens: int) -> _Graph:
        """Record a graph for `tokens` tokens, with the longest possible sequence."""
        packed = pack(add_dummies([Encoded(np.zeros(1, dtype=np.int32))], tokens))
        arrays = self._flat(packed)
        inputs = self._transfer.upload([], [np.concatenate(arrays)])[0]
        sent = inputs.split([len(array) for array in arrays])
        return _Graph(inputs, self._record(lambda: self._rows(packed, sent)))

    def _flat(self, packed: PackedBatch) -> list[TokenArray]:
        rows, integers = self._arrays(packed)
        return [*rows, *integers]


def padded_tokens(batch: Sequence[Encoded]) -> int | None:
    """Return the number of tokens to pad a batch to, or None if it is too large.

    There is room for at least one dummy sequence, and for one token in each of them.
    """
    spare = _SEQUENCES - len(batch)
    if spare < 1:
        return None
    least = sum(len(sequence) + len(sequence.prefix or ()) for sequence in batch) + spare
    return next((tokens for tokens in _TOKENS if least <= tokens), None)


def add_dummies(batch: Sequence[Encoded], tokens: int) -> list[Encoded]:
    """Append dummy sequences, up to `tokens` tokens, and merge prefixes into their sequences."""
    real = [whole_ids(sequence) for sequence in batch]
    ones = _SEQUENCES - len(real) - 1
    rest = tokens - sum(map(len, real)) - ones
    dummies = [np.zeros(length, dtype=np.int32) for length in (*[1] * ones, rest)]
    return [Encoded(ids) for ids in [*real, *dummies]]


class CudaRecorder:
    """Records graphs that share their memory, so only one of them may run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> Compute:
        """See `Record`."""
        self._check_memory()
        current = torch.cuda.current_stream(self._device)
        # `torch.cuda.graph` does not restore the current stream if recording fails.
        with torch.cuda.stream(current):
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                compute()  # lets libraries choose and load their kernels
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads of the process may use the device at the same time.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                rows = compute()

        def replay() -> Tensor:
            graph.replay()
            return rows

        return replay

    def _check_memory(self) -> None:
        free, _ = torch.cuda.mem_get_info(self._device)
        allocated = torch.cuda.memory_allocated(self._device)
        free += torch.cuda.memory_reserved(self._device) - allocated
        if free < _FREE_BYTES:
            msg = f"{free >> 20} MiB of memory are free, and {_FREE_BYTES >> 20} MiB are required"
            raise RuntimeError(msg)


def choose_recorder(device: torch.device) -> Record | None:
    """Return the recorder for a device, or None if it does not support graphs."""
    return CudaRecorder(device) if device.type == "cuda" else None
