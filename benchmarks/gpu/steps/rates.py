"""The ceilings: the rates of matrix products and of copies on this device."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from benchmarks.gpu.reference import relative_error
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import device_seconds

_PRODUCTS = ((4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072))
"""(outputs, inputs) of the products of one layer of the 0.6B model."""
_TOLERANCE = 1e-2


@torch.inference_mode()
def run(run: Run) -> None:
    """Measure a large product, a copy, and the model's own products in bfloat16 and fp8."""
    size = run.size(8192, 256)
    a, b = (torch.randn(size, size, device=run.device, dtype=torch.bfloat16) for _ in "ab")
    took = device_seconds(run, lambda: a @ b)
    run.figure("bfloat16 matrix product", size=size, tflops=2 * size**3 / took / 1e12)

    size = run.size(1 << 31, 1 << 20)
    run.figure("copy", tb_per_s=2 * size / _copy_seconds(run, size) / 1e12)

    rows = run.size(65536, 128)
    for outputs, inputs in _PRODUCTS:
        name = f"product {rows} x {inputs} -> {outputs}"
        weight = torch.randn(outputs, inputs, device=run.device, dtype=torch.bfloat16)
        x = torch.randn(rows, inputs, device=run.device, dtype=torch.bfloat16)
        operations = 2 * rows * outputs * inputs
        took = device_seconds(run, lambda: F.linear(x, weight))  # noqa: B023 - called at once
        run.figure(f"{name}, bfloat16", tflops=operations / took / 1e12)
        if not run.cuda:
            run.needs_gpu(f"{name}, fixed tiles and fp8")
            continue
        with run.part(f"{name}, fixed tiles"):
            from quernstone.kernels import launch

            error = relative_error(launch.fixed_linear(x, weight), F.linear(x, weight))
            took = device_seconds(run, lambda: launch.fixed_linear(x, weight))  # noqa: B023
            rate = operations / took / 1e12
            run.check(f"{name}, fixed tiles", error < _TOLERANCE, relative_error=error, tflops=rate)
        with run.part(f"{name}, fp8"):
            for fast in (False, True):
                took = _fp8_seconds(run, x, weight, fast=fast)
                run.figure(f"{name}, fp8, use_fast_accum={fast}", tflops=operations / took / 1e12)


def _copy_seconds(run: Run, size: int) -> float:
    """Time a copy of so many bytes, each of which is read once and written once."""
    source = torch.zeros(size, dtype=torch.uint8, device=run.device)
    target = torch.empty_like(source)
    return device_seconds(run, lambda: target.copy_(source))


def _fp8_seconds(run: Run, x: torch.Tensor, weight: torch.Tensor, *, fast: bool) -> float:
    """Time a product with one scale for each row and one for each output."""
    x8, weight8 = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn)
    by_row = torch.ones(len(x), 1, device=run.device)
    by_output = torch.ones(1, len(weight), device=run.device)
    return device_seconds(
        run,
        lambda: torch._scaled_mm(
            x8,
            weight8.T,
            scale_a=by_row,
            scale_b=by_output,
            out_dtype=torch.bfloat16,
            use_fast_accum=fast,
        ),
    )
