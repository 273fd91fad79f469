"""Measure searches through the program of docs/search-service.md, concurrent and sequential."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import httpx
from tests.support.pages import write_program

from benchmarks.timing import Result, Side, compare

ROOT = Path(__file__).parent.parent
TOPICS = ("edit a photo", "an SQL database", "record sound", "copy files to another host")
QUERIES = [f"{topic} {number}" for number in range(50) for topic in TOPICS]
_START_SECONDS = 120


def run(path: str, *, repeats: int) -> Result:
    """Run 200 searches of the tiny model over HTTP, with each server in its own process.

    A second server returns constant vectors: it shows how much of the time the framework takes, and
    so the best possible rate of concurrent searches.

    The client keeps its connections: opening 200 of them would take longer than the searches.

    Args:
        path: `/langchain/search` or `/llamaindex/search`.
        repeats: Runs of each side.
    """
    with closing(asyncio.new_event_loop()) as loop, ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        write_program("search-service.md", folder, "search_service")

        def client_of(app: str) -> aiohttp.ClientSession:
            client = loop.run_until_complete(_client(stack.enter_context(_server(app, folder))))
            stack.callback(lambda: loop.run_until_complete(client.close()))
            return client

        async def search(client: aiohttp.ClientSession, query: str) -> None:
            async with client.get(path, params={"query": query}) as response:
                response.raise_for_status()
                await response.read()

        async def together(client: aiohttp.ClientSession) -> None:
            await asyncio.gather(*(search(client, query) for query in QUERIES))

        async def one_by_one(client: aiohttp.ClientSession) -> None:
            for query in QUERIES:
                await search(client, query)

        real, instant = client_of("search_service:app"), client_of("benchmarks.instant_server:app")
        for client in (real, instant):
            loop.run_until_complete(together(client))
        return compare(
            f"{len(QUERIES)} requests to {path}, tiny model",
            [
                Side("concurrent", lambda: loop.run_until_complete(together(real))),
                Side("one at a time", lambda: loop.run_until_complete(one_by_one(real)), 4.0),
                Side(
                    "concurrent, embedding at no cost",
                    lambda: loop.run_until_complete(together(instant)),
                ),
            ],
            unit="requests",
            amount=len(QUERIES),
            repeats=repeats,
        )


async def _client(address: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(address, connector=aiohttp.TCPConnector(limit=len(QUERIES)))


@contextmanager
def _server(app: str, folder: Path) -> Iterator[str]:
    """Run an app under uvicorn; yield its address when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", app, f"--port={port}", f"--app-dir={ROOT}"]
    # connections stay open during the turns of the other sides
    options = ["--log-level=warning", "--timeout-keep-alive=60"]
    process = subprocess.Popen([*command, *options], cwd=folder)
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
