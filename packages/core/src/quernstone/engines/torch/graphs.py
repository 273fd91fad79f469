"""CUDA graphs, which start the hundreds of kernels of a small batch in one call.

The time of a small batch is mostly spent in Python, starting kernels. So the kernels for a grid of
batch shapes are recorded once, and replayed on new inputs in the same memory. Recording happens
between batches, never inside one: see `Graphs.record_next`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from quernstone.engines.torch.grid import Shape, Unfolded, shapes
from quernstone.engines.torch.transfer import Transfer
from quernstone.types import Encoded

logger = logging.getLogger("quernstone")

# Free memory that is required to record another graph.
_FREE_BYTES = 1 << 29

_ONE_TOKEN = np.zeros(1, dtype=np.int32)

Compute = Callable[[], object]


class Record(Protocol):
    """Records the kernels of a function that does not synchronize with the device."""

    def __call__(self, compute: Compute) -> tuple[Callable[[], None], int]:
        """Record. Return a function that runs the kernels again, and the bytes that they take.

        Raises a `RuntimeError` if the kernels cannot be recorded.
        """


class Graphs:
    """The graphs of one model."""

    def __init__(
        self,
        rows: Callable[[Shape, Sequence[Tensor]], Tensor],
        transfer: Transfer,
        record: Record,
        *,
        device: torch.device,
        width: int,
        most_tokens: int,
        most_bytes: int,
    ) -> None:
        """Prepare, without recording.

        Args:
            rows: Computes the rows of a batch from `Unfolded.arrays` on the device.
            transfer: Sends them.
            record: See `Record`.
            device: Where the rows are computed.
            width: Numbers per row.
            most_tokens: Tokens of the largest batch to record.
            most_bytes: Memory that graphs may take. Recording stops when they take more.
        """
        self._rows, self._transfer, self._record = rows, transfer, record
        self._shapes = shapes(most_tokens)
        # The largest comes first: the others then share the memory of its activations.
        self._missing = [*self._shapes[-2::-1], *self._shapes[-1:]]
        self._replays: dict[Shape, Callable[[], None]] = {}
        self._failures: list[str] = []
        self._bytes, self._most_bytes = 0, most_bytes
        # Shared, because only one graph runs at once; and not a part of the graphs' own memory,
        # where the rows of one graph would keep the next from using it.
        sequences = max((shape.sequences for shape in self._shapes), default=0)
        self._out = torch.empty(sequences, width, dtype=torch.float32, device=device)
        smallest = Unfolded([Encoded(_ONE_TOKEN)])
        lengths = [sum(map(len, smallest.arrays(shape))) for shape in self._shapes]
        self._in = torch.zeros(max(lengths, default=0), dtype=torch.int32, device=device)

    def run(self, batch: Sequence[Encoded]) -> Tensor | None:
        """Start a batch and return its rows, or None if no graph for it has been recorded.

        The next call overwrites the rows.
        """
        unfolded = Unfolded(batch)
        shape = unfolded.shape(self._shapes)
        if shape is None or (replay := self._replays.get(shape)) is None:
            return None
        arrays = unfolded.arrays(shape)
        self._transfer.refill(self._in[: sum(map(len, arrays))], arrays)
        replay()
        return self._out[unfolded.prefixes : unfolded.prefixes + len(batch)]

    def record_next(self) -> bool:
        """Record one more graph, the smallest that is missing. Return False if none is left."""
        if not self._missing:
            return False
        shape = self._missing[-1]  # stays until it is recorded: see `state`
        try:
            self._replays[shape], size = self._record(self._computes(shape))
        except RuntimeError as error:
            # Most likely for lack of memory, so others of this size would fail as well.
            self._missing = [each for each in self._missing if each.tokens < shape.tokens]
            self._failures.append(f"failed at {shape.tokens} tokens: {error}")
            logger.warning(
                "no CUDA graph could be recorded for %d tokens or more, so batches like it take "
                "longer: %s",
                shape.tokens,
                error,
            )
            return bool(self._missing)
        self._missing.pop()
        self._bytes += size
        if self._bytes > self._most_bytes:
            self._missing.clear()
            limit = _mebibytes(self._most_bytes)
            self._failures.append(f"stopped at {shape.tokens} tokens: they may take {limit}")
        return bool(self._missing)

    @property
    def state(self) -> str:
        """A description for people: how many there are, and their memory."""
        recorded = len(self._replays)
        found = f"{recorded} of {len(self._shapes)} recorded, {_mebibytes(self._bytes)}"
        return "; ".join([found, *self._failures, *(["recording"] if self._missing else [])])

    def _computes(self, shape: Shape) -> Compute:
        """Return the function to record, and put a batch of this shape into its inputs."""
        arrays = Unfolded([Encoded(_ONE_TOKEN)]).arrays(shape)
        lengths = [len(array) for array in arrays]
        inputs = self._in[: sum(lengths)]
        self._transfer.refill(inputs, arrays)
        sent = inputs.split(lengths)
        out = self._out[: shape.sequences]
        return lambda: out.copy_(self._rows(shape, sent))


class CudaRecorder:
    """Records graphs that share their memory, so only one of them may run at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> tuple[Callable[[], None], int]:
        """See `Record`."""
        current = torch.cuda.current_stream(self._device)
        # `torch.cuda.graph` does not restore the current stream if recording fails.
        with torch.cuda.stream(current):
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                compute()  # lets libraries choose and load their kernels
            current.wait_stream(self._stream)
            before = self._free_bytes()
            if before < _FREE_BYTES:
                msg = f"{_mebibytes(before)} are free, and {_mebibytes(_FREE_BYTES)} are required"
                raise RuntimeError(msg)
            graph = torch.cuda.CUDAGraph()
            # Other threads of the process may use the device at the same time.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                compute()
        return graph.replay, max(0, before - self._free_bytes())

    def _free_bytes(self) -> int:
        """Return the free memory of the device, once it holds nothing that is unused."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self._device)
        return int(free)


def choose_recorder(device: torch.device) -> Record | None:
    """Return the recorder for a device, or None if it does not support graphs."""
    return CudaRecorder(device) if device.type == "cuda" else None


def _mebibytes(size: int) -> str:
    return f"{size >> 20:,} MiB"
