"""`quern serve` as a process of its own."""

import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

COMMAND = [sys.executable, "-c", "from quernstone.cli import main; main()", "serve"]


def start(log, *arguments):
    """Start `quern serve`, with its messages in the file `log`."""
    with log.open("w") as stderr:
        return subprocess.Popen([*COMMAND, *arguments], stderr=stderr)


def is_ready(client):
    with suppress(httpx.ConnectError):
        return client.get("/health").status_code == 200
    return False


@contextmanager
def serving(*arguments):
    """Serve on a free port until the block ends. Yields the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        process = start(log, "--port", str(port), *arguments)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                while not is_ready(client):
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def serving_tiny():
    """Serve both bundled models in float32."""
    with serving("--embed", "tiny", "--rerank", "tiny", "--dtype", "float32") as url:
        yield url
