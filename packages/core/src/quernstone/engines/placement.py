"""Choose the device and the dtype."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from quernstone.errors import ConfigError, EngineError, EngineMemoryError
from quernstone.types import DEVICES, Dtype

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_NO_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def choose_device(name: str) -> torch.device:
    """Resolve `auto` to CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: The device is unknown, or this machine does not have it.
        EngineError: The device is a GPU, and this process was forked from one that used CUDA.
    """
    if name.split(":")[0] in ("auto", "cuda") and _cuda_is_lost():
        raise EngineError(
            f"this process was forked from one that used CUDA, so it cannot use the GPU (`device` "
            f"is {name!r}): load the model after the fork, start processes with the method "
            '`spawn`, or pass `device="cpu"`'
        )
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f"unknown device {name!r}; use {DEVICES}"
        raise ConfigError(msg) from error
    mps = int(torch.backends.mps.is_available())
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": mps}
    count = counts.get(device.type, 0)
    if (device.index or 0) >= count:
        msg = f"device {name!r} does not exist: this machine has {count} of type {device.type!r}"
        raise ConfigError(msg)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def choose_devices(name: str) -> list[str]:
    """Return the GPUs of a list such as `cuda:0,cuda:1`, or of `cuda:all`; otherwise only `name`.

    Raises:
        ConfigError: A device is unknown, is not a GPU, does not exist, or occurs twice.
        EngineError: This process was forked from one that used CUDA.
    """
    if name == "cuda:all":
        choose_device("cuda")
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    names = [each.strip() for each in name.split(",")]
    if len(names) == 1:
        return [name]
    for each in names:
        if each.split(":")[0] != "cuda":
            raise ConfigError(
                f"`device` is {name!r}, and {each!r} is not an NVIDIA GPU: a list names GPUs only, "
                "such as cuda:0,cuda:1"
            )
    found = [str(choose_device(each)) for each in names]
    for device in found:
        if found.count(device) > 1:
            raise ConfigError(f"`device` is {name!r}, which names {device} twice: name it once")
    return found


def _cuda_is_lost() -> bool:
    """Return True in a forked child of a process that used CUDA, on a machine that has a GPU.

    There, `torch.cuda.is_available()` is False without a reason, and `auto` would choose the CPU.
    """
    forked = getattr(torch.cuda, "_is_in_bad_fork", lambda: False)  # torch has no public name
    return bool(forked()) and torch.cuda.device_count() > 0  # counted by the driver's library


def choose_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """Resolve `auto` to bfloat16 where the hardware computes in it, else float32.

    `auto` is never float16, which activations of Qwen3-Embedding-8B overflow
    (https://github.com/QwenLM/Qwen3-Embedding/issues/164).
    """
    if name in _DTYPES:
        return _DTYPES[name]
    known = ", ".join(_DTYPES)
    if name in ("int8", "fp8"):
        raise ConfigError(f'`dtype="{name}"` is for `engine="torch"`; others take {known}')
    if name != "auto":
        raise ConfigError(f"unknown dtype {name!r}; use auto, {known}, int8 or fp8")
    fast = False
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        fast = _cpu_has("_is_avx512_bf16_supported") or _cpu_has("_is_amx_tile_supported")
    return torch.bfloat16 if fast else torch.float32


def _cpu_has(probe: str) -> bool:
    # This private probe of torch is the only one. Where it is missing, assume no support.
    return bool(getattr(torch.cpu, probe, lambda: False)())


@contextmanager
def memory_errors(tokens: int) -> Iterator[None]:
    """Convert torch's various out-of-memory errors to `EngineMemoryError`.

    The frames of the error are cleared to free the failed batch's tensors before it is split.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # Torch's CPU allocator and cuBLAS raise plain RuntimeErrors.
        if not (
            isinstance(error, (torch.OutOfMemoryError, MemoryError))
            or any(text in str(error) for text in _NO_MEMORY)
        ):
            raise
        traceback.clear_frames(error.__traceback__)
        raise EngineMemoryError(None, tokens, str(error)) from error
