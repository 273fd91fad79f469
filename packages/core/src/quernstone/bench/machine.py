"""The machine: what it is, and how much memory is in use."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from quernstone.doctor.environment import describe_device, versions
from quernstone.types import EngineInfo


def describe(info: EngineInfo) -> dict[str, str]:
    """Engine, device, processor, threads and versions, for people to read."""
    found = {
        "engine": info.engine,
        "device": describe_device(info),
        "dtype": info.dtype,
        "attention": info.attention,
        "processor": _processor(),
        "processors": str(os.cpu_count()),
    }
    if "torch" in sys.modules:
        import torch  # noqa: PLC0415 - loaded already, by the engine

        found["threads"] = str(torch.get_num_threads())
    return {**found, **versions()}


def reset_peak_memory(info: EngineInfo) -> None:
    """Forget the peak of a CUDA device. That of a process cannot be forgotten."""
    if info.device.startswith("cuda"):
        import torch  # noqa: PLC0415 - loaded already, by the engine

        torch.cuda.reset_peak_memory_stats(info.device)


def peak_memory(info: EngineInfo) -> int | None:
    """Bytes at the peak: allocated on a CUDA device, else resident in this process.

    None where nobody knows: vLLM computes in processes of its own, and Windows has no `getrusage`.
    """
    if info.engine == "vllm":
        return None
    if info.device.startswith("cuda"):
        import torch  # noqa: PLC0415 - loaded already, by the engine

        return int(torch.cuda.max_memory_allocated(info.device))
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - Windows has no such module

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _processor() -> str:
    """The processor's name; `platform` knows it on some systems, and Linux in a file."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
