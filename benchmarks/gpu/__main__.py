"""Run the GPU check: `python -m benchmarks.gpu`, or `device_check.sh`, which sets up the imports.

Writes `results.json` and the output of each step to a folder, and prints one line for each claim:
PASS, FAIL, or the figure that was measured. Returns 1 if a claim failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.driver import STEPS, Driver
from benchmarks.gpu.run import Settings

_PACKAGES = """torch transformers sentence_transformers tokenizers safetensors huggingface_hub numpy
httpx orjson pydantic typer rich dashscope pytest pytest_asyncio pytest_timeout""".split()
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    # Steps are forked from a process that has imported torch. By default torch initializes CUDA to
    # find out whether there is a device, and CUDA does not survive a fork.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


def main() -> int:
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(
        prog="device_check.sh",
        description="Check and measure the CUDA path on this machine.",
        epilog=f"steps, most valuable first: {', '.join(names)}",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dry-run", action="store_true", help="run every step at a tiny size")
    parser.add_argument("--only", nargs="+", choices=names, metavar="STEP", help="run these alone")
    parser.add_argument("--limit", type=int, default=480, help="seconds in all (default: 480)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT", "benchmarks/results/gpu")),
        help="folder of the results (default: $OUT, else benchmarks/results/gpu)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="folder of checkpoints and compiled kernels, to use them again (default: temporary)",
    )
    options = parser.parse_args()
    if options.device == "cpu" and not options.dry_run:
        parser.error("a full run needs a GPU: add --dry-run to try the steps on a CPU")
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(
            f"this Python lacks {', '.join(missing)}: install them, or fill .whl/ on another "
            "machine by benchmarks/gpu/wheels.sh"
        )
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as temporary:
        settings = Settings(
            device=options.device,
            dry_run=options.dry_run,
            out=options.out.absolute(),
            work=(options.work or Path(temporary)).absolute(),
        )
        os.environ.update(
            _ENVIRONMENT,
            TORCHINDUCTOR_CACHE_DIR=str(settings.work / "inductor"),
            TRITON_CACHE_DIR=str(settings.work / "triton"),
        )
        passed = Driver(settings, options.limit).run(options.only or names)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
