"""Searches through `examples/fastapi_server.py`, concurrent and one after another."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import aiohttp
import httpx

from benchmarks.timing import Result, Side, compare

EXAMPLES = Path(__file__).parent.parent / "examples"
TOPICS = ("edit a photo", "an SQL database", "record sound", "copy files to another host")
QUERIES = [f"{topic} {number}" for number in range(50) for topic in TOPICS]
_START_SECONDS = 120


def run(path: str, *, repeats: int) -> Result:
    """200 searches of the tiny model over HTTP, the server in a process of its own.

    The client keeps its connections: opening 200 of them would take longer than the searches.

    Args:
        path: `/langchain/search` or `/llamaindex/search`.
        repeats: Runs of each side.
    """
    with _server() as address, closing(asyncio.new_event_loop()) as loop:
        client = loop.run_until_complete(_client(address))

        async def search(query: str) -> None:
            async with client.get(path, params={"query": query}) as response:
                response.raise_for_status()
                await response.read()

        async def together() -> None:
            await asyncio.gather(*(search(query) for query in QUERIES))

        async def one_by_one() -> None:
            for query in QUERIES:
                await search(query)

        loop.run_until_complete(together())
        try:
            return compare(
                f"{len(QUERIES)} requests to {path}, tiny model",
                [
                    Side("concurrent", lambda: loop.run_until_complete(together())),
                    Side("one at a time", lambda: loop.run_until_complete(one_by_one()), 4.0),
                ],
                unit="requests",
                amount=len(QUERIES),
                repeats=repeats,
            )
        finally:
            loop.run_until_complete(client.close())


async def _client(address: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(address, connector=aiohttp.TCPConnector(limit=len(QUERIES)))


@contextmanager
def _server() -> Iterator[str]:
    """Run the example under uvicorn; yield its address when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "fastapi_server:app", f"--port={port}"]
    process = subprocess.Popen([*command, "--log-level=warning"], cwd=EXAMPLES)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                httpx.get(f"{address}/openapi.json").raise_for_status()
                break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()
