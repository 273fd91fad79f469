"""Numbers to the device and rows back, with or without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from quernstone.types import Float32Array, Pending, TokenArray

# On a CPU numbers of rows are multiples of this, or of the next power of two divided by that.
_ROWS_STEP = 8
_ROWS_STEPS = 256


class Transfer(Protocol):
    """The way between this process and a device."""

    overlaps: bool
    """Whether the device computes while this thread goes on."""

    def upload(
        self, rows: Sequence[TokenArray], integers: Sequence[TokenArray]
    ) -> Sequence[Tensor]:
        """Copies of arrays on the device.

        Args:
            rows: A number for each row of some matrix. More rows may be added at the end.
            integers: Other arrays, which are copied as they are.

        Returns:
            All of them, in order.
        """
        ...

    def refill(self, device_buffer: Tensor, arrays: Sequence[TokenArray]) -> None:
        """Overwrite a buffer on the device with arrays, end to end."""
        ...

    def download(self, rows: Tensor) -> Pending:
        """Start to fetch rows as they are now. Shape: (rows, width).

        Returns:
            What waits for them, as float32.
        """
        ...


class PlainTransfer:
    """Copies one by one, each waited for. On a CPU nothing is copied."""

    overlaps = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def upload(
        self, rows: Sequence[TokenArray], integers: Sequence[TokenArray]
    ) -> Sequence[Tensor]:
        """See `Transfer`."""
        if self._device.type == "cpu":
            rows = [_filled_up(values) for values in rows]
        return [torch.from_numpy(array).to(self._device) for array in (*rows, *integers)]

    def refill(self, device_buffer: Tensor, arrays: Sequence[TokenArray]) -> None:
        """See `Transfer`."""
        device_buffer.copy_(torch.from_numpy(np.concatenate(arrays)))

    def download(self, rows: Tensor) -> Pending:
        """See `Transfer`."""
        return rows.float().cpu().numpy


class PinnedTransfer:
    """To CUDA and back through pinned memory, which the device reads and writes by itself.

    torch gives pinned memory of copies under way to nobody else, so none is kept here.
    """

    overlaps = True

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def upload(
        self, rows: Sequence[TokenArray], integers: Sequence[TokenArray]
    ) -> Sequence[Tensor]:
        """See `Transfer`. All arrays travel in one copy."""
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
    """Pick the way to a device."""
    return PinnedTransfer(device) if device.type == "cuda" else PlainTransfer(device)


def _filled_up(values: TokenArray) -> TokenArray:
    """Repeat the last one until their number is one of few: oneDNN compiles for every number."""
    step = max(_ROWS_STEP, (1 << len(values).bit_length()) // _ROWS_STEPS)
    return np.pad(values, (0, -len(values) % step), mode="edge")
