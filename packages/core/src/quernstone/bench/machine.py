"""Describe the machine, and measure peak memory."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from quernstone.doctor.environment import describe_attention, describe_device, versions
from quernstone.types import EngineInfo


def describe(info: EngineInfo) -> dict[str, str]:
    """Return engine, device, processor, threads and versions as readable text."""
    found = {
        "engine": info.engine,
        "device": describe_device(info),
        "dtype": info.dtype,
        "attention": describe_attention(info),
        "processor": _processor(),
        "processors": str(os.cpu_count()),
    }
    if "torch" in sys.modules:
        import torch  # noqa: PLC0415 - loaded already, by the engine

        found["threads"] = str(torch.get_num_threads())
    return {**found, **versions()}


def reset_peak_memory(info: EngineInfo) -> None:
    """Reset the peak of a CUDA device. The peak of a process cannot be reset."""
    if info.device.startswith("cuda"):
        import torch  # noqa: PLC0415 - loaded already, by the engine

        for device in info.device.split(","):
            torch.cuda.reset_peak_memory_stats(device)


def peak_memory(info: EngineInfo) -> int | None:
    """Return the peak in bytes: allocated on a CUDA device, else resident in this process.

    With several devices, it is that of the fullest one. `None` where it is unknown: vLLM computes
    in other processes, and Windows lacks `getrusage`.
    """
    if info.engine == "vllm":
        return None
    if info.device.startswith("cuda"):
        import torch  # noqa: PLC0415 - loaded already, by the engine

        return max(map(torch.cuda.max_memory_allocated, info.device.split(",")))
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - Windows has no such module

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _processor() -> str:
    """Return the processor's name, from `/proc/cpuinfo` on Linux, else from `platform`."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
