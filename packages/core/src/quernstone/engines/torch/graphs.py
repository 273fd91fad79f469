"""CUDA graphs: small batches whose hundreds of kernels are started by one call.

What a small batch costs on a GPU is not its arithmetic but that Python starts each kernel. So the
kernels for a few numbers of tokens are recorded once, and replayed on whatever the same memory then
holds. A batch is filled up to one of these numbers by sequences that nobody asked for. Prefixes
that its sequences share are written out: at this size they cost less than a second launch.
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

# Tokens and sequences of a recorded batch: one graph for each number of tokens.
_TOKENS = (32, 64, 128, 256, 512)
_SEQUENCES = 8

# Memory that must be left before another graph is recorded.
_FREE_BYTES = 1 << 30

Compute = Callable[[], Tensor]
Record = Callable[[Compute], Compute]
"""Records the kernels of a function that waits for nothing. What it returns runs them again, on
what their inputs' memory holds by then, and returns the same tensor every time.

Raises `RuntimeError` if that is not possible."""


@dataclass(frozen=True, slots=True)
class _Graph:
    inputs: Tensor
    """All integers of a batch, end to end, on the device."""
    replay: Compute


class Graphs:
    """The recorded batches of one model."""

    def __init__(
        self,
        arrays: Callable[[PackedBatch], tuple[Sequence[TokenArray], Sequence[TokenArray]]],
        rows: Callable[[PackedBatch, Sequence[Tensor]], Tensor],
        transfer: Transfer,
        record: Record,
    ) -> None:
        """Record nothing yet.

        Args:
            arrays: What the device has to know of a batch; of equal lengths for batches of as many
                tokens and sequences.
            rows: Computes a batch from these integers on the device. Shape: (sequences, width)
            transfer: Brings them there.
            record: `CudaRecorder`.
        """
        self._arrays, self._rows, self._transfer, self._record = arrays, rows, transfer, record
        self._graphs: dict[int, _Graph] = {}
        self._broken = False

    def run(self, batch: Sequence[Encoded]) -> tuple[PackedBatch, Tensor] | None:
        """Start a batch if it is small and its graph can be recorded.

        Returns:
            The batch with what it was filled up by behind its sequences, and its rows, which the
            next call overwrites; or None, and nothing was started.
        """
        tokens = fitting(batch)
        graph = None if tokens is None else self._graph(tokens)
        if tokens is None or graph is None:
            return None
        packed = pack(filled_up(batch, tokens))
        self._transfer.refill(graph.inputs, self._flat(packed))
        return packed, graph.replay()

    def _graph(self, tokens: int) -> _Graph | None:
        if tokens not in self._graphs and not self._broken:
            try:
                self._graphs[tokens] = self._recorded(tokens)
            except RuntimeError as error:
                self._broken = True
                logger.warning(
                    "no CUDA graph could be recorded for %d tokens, and no other will be: small "
                    "batches take longer (%s)",
                    tokens,
                    error,
                )
        return self._graphs.get(tokens)

    def _recorded(self, tokens: int) -> _Graph:
        """A graph for any batch of so many tokens, recorded with its longest sequence possible."""
        packed = pack(filled_up([Encoded(np.zeros(1, dtype=np.int32))], tokens))
        arrays = self._flat(packed)
        inputs = self._transfer.upload([], [np.concatenate(arrays)])[0]
        sent = inputs.split([len(array) for array in arrays])
        return _Graph(inputs, self._record(lambda: self._rows(packed, sent)))

    def _flat(self, packed: PackedBatch) -> list[TokenArray]:
        rows, integers = self._arrays(packed)
        return [*rows, *integers]


def fitting(batch: Sequence[Encoded]) -> int | None:
    """The number of tokens to fill a batch up to; None if it is too large.

    At least one sequence is added, and none is without tokens.
    """
    spare = _SEQUENCES - len(batch)
    if spare < 1:
        return None
    least = sum(len(sequence) + len(sequence.prefix or ()) for sequence in batch) + spare
    return next((tokens for tokens in _TOKENS if least <= tokens), None)


def filled_up(batch: Sequence[Encoded], tokens: int) -> list[Encoded]:
    """The sequences of a batch with their prefixes written out, and others behind them.

    Together they have `tokens` tokens, as `fitting` says.
    """
    whole = [whole_ids(sequence) for sequence in batch]
    ones = _SEQUENCES - len(whole) - 1
    rest = tokens - sum(map(len, whole)) - ones
    added = [np.zeros(length, dtype=np.int32) for length in (*[1] * ones, rest)]
    return [Encoded(ids) for ids in [*whole, *added]]


class CudaRecorder:
    """Records graphs of one device, which have their memory in common: one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> Compute:
        """See `Record`."""
        self._check_memory()
        current = torch.cuda.current_stream(self._device)
        # `torch.cuda.graph` leaves its stream the current one if recording fails
        with torch.cuda.stream(current):
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                compute()  # libraries choose and load their kernels before any is recorded
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # other threads of the process may use the device meanwhile
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
            msg = f"{free >> 20} MiB of memory are left, and {_FREE_BYTES >> 20} are asked for"
            raise RuntimeError(msg)


def choose_recorder(device: torch.device) -> Record | None:
    """What records on a device; None where nothing can."""
    return CudaRecorder(device) if device.type == "cuda" else None
