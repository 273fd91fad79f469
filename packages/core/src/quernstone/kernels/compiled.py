"""Triton kernels that are started without Triton's own search for the compiled code.

`kernel[grid](...)` inspects all arguments to find what it compiled for them, and reads several
settings: 7 us of Python for each call, a hundred times per batch. `Kernel` looks the code up by a
shorter key, and gives the launcher addresses instead of tensors, which it would have to check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime.driver import driver


class _Compiled(NamedTuple):
    run: Callable[..., None]
    function: int
    metadata: Any
    constants: tuple[Any, ...]


class Kernel:
    """A Triton kernel, with the code that Triton compiled for each kind of inputs."""

    starts_directly = True
    """False if Triton starts all kernels itself; see `check`."""

    def __init__(self, kernel: Any, constants: Callable[..., dict[str, Any]]) -> None:
        """Wrap a kernel whose parameters are tensors, then numbers, then constants.

        Args:
            kernel: A function with `triton.jit`.
            constants: Returns the constants, in the order of the kernel's parameters, and after
                them the options of the compiler. Called once for each `shape`.
        """
        self._kernel, self._constants = kernel, cache(constants)
        self._compiled: dict[tuple[Any, ...], _Compiled] = {}

    def __call__(
        self,
        grid: tuple[int, int, int],
        shape: tuple[Any, ...],
        tensors: Sequence[Tensor],
        numbers: Sequence[float],
    ) -> None:
        """Start the kernel on the current stream.

        Args:
            grid: Programs in each of the three dimensions.
            shape: Arguments of `constants`, which decide how the kernel is compiled.
            tensors: On the current device.
            numbers: Integers and floats. Triton specializes on 1 and multiples of 16.
        """
        addresses = [x.data_ptr() for x in tensors]
        device = tensors[0].get_device()
        key = (
            device,
            shape,
            *[x.dtype for x in tensors],
            *[address & 15 == 0 for address in addresses],
            *[isinstance(n, float) or (n == 1, n & 15 == 0, n >> 31) for n in numbers],
        )
        found = self._compiled.get(key)
        if found is None or not Kernel.starts_directly:
            self._start_by_triton(key, grid, shape, tensors, numbers)
            return
        stream = driver.active.get_current_stream(device)
        found.run(
            *grid, stream, found.function, found.metadata, None, None, None,
            *addresses, *numbers, *found.constants,
        )  # fmt: skip

    def _start_by_triton(
        self,
        key: tuple[Any, ...],
        grid: tuple[int, int, int],
        shape: tuple[Any, ...],
        tensors: Sequence[Tensor],
        numbers: Sequence[float],
    ) -> None:
        constants = self._constants(*shape)
        compiled = self._kernel[grid](*tensors, *numbers, **constants)
        if isinstance(compiled, CompiledKernel):  # not under the interpreter
            names = self._kernel.arg_names[len(tensors) + len(numbers) :]
            self._compiled[key] = _Compiled(
                compiled.run,
                compiled.function,
                compiled.packed_metadata,
                tuple(constants[name] for name in names),
            )

    @classmethod
    def check(cls, start: Callable[[], Tensor]) -> str | None:
        """Compare both ways to start kernels, and let Triton start them if they differ.

        The arguments of Triton's launcher are not documented. They are the same from Triton 3.4 to
        3.7.

        Args:
            start: Starts some kernel and returns its results, the same for each call.

        Returns:
            What is wrong with starting kernels directly, or None.
        """
        wrong = None
        try:
            start()  # compiles
            directly = start()
        except (TypeError, AttributeError, ValueError, RuntimeError, SystemError) as error:
            wrong = f"{type(error).__name__}: {error}"
        cls.starts_directly = False
        if wrong is None and not torch.equal(start(), directly):
            wrong = "results differ"
        cls.starts_directly = wrong is None
        return wrong
