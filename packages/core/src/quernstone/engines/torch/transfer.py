"""Copies of arrays to the device and of rows back, synchronous or asynchronous."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from quernstone.types import Float32Array, Pending, TokenArray

# On a CPU, numbers of rows are rounded up to a multiple of `_ROWS_STEP`, or of the next power of
# two divided by `_ROWS_STEPS` if that is more.
_ROWS_STEP = 8
_ROWS_STEPS = 256


class Transfer:
    """Copies between this process and a device: synchronous, and one for each array.

    On a CPU, arrays are shared instead of copied.
    """

    overlaps = False
    """True if the device computes while this thread continues."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def upload(
        self, rows: Sequence[TokenArray], integers: Sequence[TokenArray]
    ) -> Sequence[Tensor]:
        """Copy arrays to the device. `rows`, with a number per row of a matrix, may be padded."""
        if self._device.type == "cpu":
            rows = [_padded(values) for values in rows]
        return [torch.from_numpy(array).to(self._device) for array in (*rows, *integers)]

    def refill(self, device_buffer: Tensor, arrays: Sequence[TokenArray]) -> None:
        """Overwrite a buffer on the device with the concatenated arrays."""
        device_buffer.copy_(torch.from_numpy(np.concatenate(arrays)))

    def download(self, rows: Tensor) -> Pending:
        """Start to copy rows from the device. The result waits for them, and returns float32."""
        return rows.float().cpu().numpy


class PinnedTransfer(Transfer):
    """Asynchronous copies to CUDA and back, through pinned memory.

    torch does not reuse pinned memory during a copy, so no reference to it has to be kept.
    """

    overlaps = True

    def upload(
        self, rows: Sequence[TokenArray], integers: Sequence[TokenArray]
    ) -> Sequence[Tensor]:
        """See `Transfer`. All arrays are sent in one copy."""
        lengths = [len(array) for array in (*rows, *integers)]
        buffer = torch.empty(sum(lengths), dtype=torch.int32, device=self._device)
        self.refill(buffer, [*rows, *integers])
        sent: Sequence[Tensor] = buffer.split(lengths)
        return sent

    def refill(self, device_buffer: Tensor, arrays: Sequence[TokenArray]) -> None:
        """See `Transfer`."""
        pinned = self._pinned(device_buffer)
        np.concatenate(arrays, out=pinned.numpy())
        device_buffer.copy_(pinned, non_blocking=True)

    def download(self, rows: Tensor) -> Pending:
        """See `Transfer`."""
        if rows.dtype != torch.float32:  # every operator releases the GIL, and waits to get it back
            rows = rows.float()
        pinned = self._pinned(rows)
        pinned.copy_(rows, non_blocking=True)
        copied = self._record()

        def wait() -> Float32Array:
            copied.synchronize()
            return pinned.numpy()

        return wait

    def _pinned(self, like: Tensor) -> Tensor:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def _record(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event


def choose_transfer(device: torch.device) -> Transfer:
    """Choose the transfer for a device."""
    return PinnedTransfer(device) if device.type == "cuda" else Transfer(device)


def _padded(values: TokenArray) -> TokenArray:
    """Pad with the last value to one of few lengths, because oneDNN compiles for every length."""
    step = max(_ROWS_STEP, (1 << len(values).bit_length()) // _ROWS_STEPS)
    return np.pad(values, (0, -len(values) % step), mode="edge")
