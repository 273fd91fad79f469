"""The machine, the packages, and the attention that the engine chooses here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

import torch

from benchmarks.gpu.run import Run
from quernstone.attention import choose_attention
from quernstone.attention.flash import TRITON

_OPTIONAL = ("triton", "flash_attn", "flash_attn.cute", "fa3_fwd")


def run(run: Run) -> None:
    """Report the machine, the optional packages, and which attention is chosen."""
    run.figure(
        "machine",
        gpu=torch.cuda.get_device_name() if run.cuda else "none",
        torch=torch.__version__,
        transformers=importlib.metadata.version("transformers"),
        python=platform.python_version(),
        processors=os.cpu_count(),
    )
    optional = {name: _installed(name) for name in _OPTIONAL}
    run.figure("optional packages", **optional)
    chosen = choose_attention(torch.device(run.device), torch.bfloat16)
    if run.cuda:
        run.check(
            "bfloat16 uses a flash kernel",
            chosen.name != "sdpa",
            attention=chosen.name,
            reason=chosen.reason,
            replayable=chosen.replay is not None,
        )
        own = choose_attention(torch.device(run.device), torch.float32)
        run.check("float32 uses our kernel", own.name == TRITON.name, reason=own.reason)
    else:
        run.figure("attention in bfloat16", attention=chosen.name)
        run.needs_gpu("bfloat16 uses a flash kernel")


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that contains it is missing
        return False
