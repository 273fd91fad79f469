"""Put `quern serve` under load: `python -m benchmarks.load`, for about six minutes.

It measures requests per second and latency against the number of clients; an open loop at 80 % of
the measured capacity; 500 clients in a closed loop, who retry after `Retry-After`; and documents
per second beside the engine in a process, infinity and vLLM's server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import numpy as np
import psutil
import typer

from benchmarks.contenders import Setup
from benchmarks.report import hardware, new_figure, save
from benchmarks.servers import Address, infinity, quern, vllm
from quernstone import Embedder

EXPECTED = {
    "throughput": 0.8,  # of the engine in this process, at least
    "p99 of p50": 3.0,  # in the open loop, at most
    "retries": 0.95,  # that succeed after `Retry-After`, at least
    "growth": 1.1,  # of the server's memory in the last three quarters of the time, at most
}
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
MANY_CLIENTS = 500
_DOCUMENTS = 32
"""Documents per request where documents per second are measured."""
_WORDS = 96
"""About 100 tokens of the tokenizer."""
_VOCABULARY = "the quern is a hand mill that grinds grain into flour while it rains".split()


@dataclass(slots=True)
class Phase:
    """The answers of a number of clients during a time."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds of the requests that were answered with 200."""
    statuses: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    retries_answered: int = 0
    memory: list[float] = field(default_factory=list)
    """Megabytes of the server, about every second."""

    @property
    def rate(self) -> float:
        """Requests per second that were answered with 200."""
        return len(self.latencies) / self.seconds

    def milliseconds(self, percent: float) -> float:
        """Return a percentile of the latencies."""
        return float(np.percentile(self.latencies, percent)) * 1000 if self.latencies else np.nan

    def summary(self) -> dict[str, Any]:
        """Return the figures of the phase."""
        found: dict[str, Any] = {
            "requests per second": round(self.rate, 1),
            "p50 ms": round(self.milliseconds(50), 1),
            "p99 ms": round(self.milliseconds(99), 1),
            "statuses": dict(self.statuses),
        }
        if self.retries:
            found["retries"] = f"{self.retries_answered} of {self.retries} answered with 200"
        if len(self.memory) >= 4:
            found["memory MB"] = [round(self.memory[0]), round(self.memory[-1])]
            found["growth"] = round(self.growth, 3)
        return found

    @property
    def growth(self) -> float:
        """The server's memory at the end, as a multiple of that after a quarter of the time."""
        return self.memory[-1] / self.memory[len(self.memory) // 4]


def document(number: int) -> str:
    """Return a text of about 100 tokens that differs from those of other numbers."""
    words = itertools.islice(itertools.cycle(_VOCABULARY), number % 7, number % 7 + _WORDS)
    return f"{number} {' '.join(words)}"


async def ask(
    session: aiohttp.ClientSession, to: Address, texts: list[str]
) -> tuple[str, float | None]:
    """Send one request for embeddings; return its status and the `Retry-After`."""
    body = {"model": to.model, "input": texts, "encoding_format": "base64"}
    try:
        async with session.post(f"{to.url}{to.path}", json=body) as answer:
            await answer.read()
            wait = answer.headers.get("Retry-After")
            return str(answer.status), float(wait) if wait else None
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        return type(error).__name__, None


async def closed_loop(to: Address, clients: int, seconds: float, documents: int = 1) -> Phase:
    """Let each client send its next request as soon as the last one is answered."""
    phase, numbers = Phase(), itertools.count()
    end = time.monotonic() + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        retrying = False
        texts: list[str] = []
        while time.monotonic() < end:
            if not retrying:
                texts = [document(next(numbers)) for _ in range(documents)]
            start = time.perf_counter()
            status, wait = await ask(session, to, texts)
            phase.statuses[status] += 1
            if retrying:
                phase.retries += 1
                phase.retries_answered += status == "200"
            if status == "200":
                phase.latencies.append(time.perf_counter() - start)
            retrying = wait is not None
            await asyncio.sleep(wait or 0)

    async with _session() as session, _watching(to, phase):
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return phase


async def open_loop(to: Address, rate: float, seconds: float) -> Phase:
    """Send requests at random times, as independent users do, whatever is still waiting."""
    phase, random = Phase(), np.random.default_rng(0)

    async def request(session: aiohttp.ClientSession, number: int) -> None:
        start = time.perf_counter()
        status, _ = await ask(session, to, [document(number)])
        phase.statuses[status] += 1
        if status == "200":
            phase.latencies.append(time.perf_counter() - start)

    tasks = []
    async with _session() as session, _watching(to, phase):
        start = due = time.monotonic()
        for number in itertools.count():
            due += random.exponential(1 / rate)
            if due > start + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(request(session, number)))
        await asyncio.gather(*tasks)
    return phase


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120)
    )


@asynccontextmanager
async def _watching(to: Address, phase: Phase) -> AsyncIterator[None]:
    """Record the memory of the server and the time of the block."""

    async def watch() -> None:
        process = psutil.Process(to.pid)
        while True:
            phase.memory.append(process.memory_info().rss / 1e6)
            await asyncio.sleep(1)

    watching, start = asyncio.create_task(watch()), time.monotonic()
    try:
        yield
    finally:
        phase.seconds = time.monotonic() - start
        watching.cancel()


def in_process(model: str, dtype: str, seconds: float) -> float:
    """Return the documents per second of an `Embedder`, with as many per call as a server holds."""
    with Embedder(model, device="cpu", dtype=dtype) as embedder:  # type: ignore[arg-type]
        numbers, done = itertools.count(), 0
        start = time.monotonic()
        while (passed := time.monotonic() - start) < seconds:
            done += len(embedder.embed_documents([document(next(numbers)) for _ in range(256)]))
        return done / passed


def plot(sweep: dict[int, dict[str, Any]], machine: str, path: Path) -> None:
    """Plot the rate and the latencies against the number of clients."""
    figure, (above, below) = new_figure(2, 1, (7, 6), sharex=True)
    rates = [phase["requests per second"] for phase in sweep.values()]
    above.plot(list(sweep), rates, "o-", color="tab:green")
    above.set_ylabel("requests per second")
    for percent, style in ((50, "o-"), (99, "o:")):
        values = [phase[f"p{percent} ms"] for phase in sweep.values()]
        below.plot(list(sweep), values, style, color="tab:green", label=f"p{percent}")
    below.set_ylabel("milliseconds")
    below.set_xlabel("concurrent clients, one document of 100 tokens each")
    below.set_xscale("log", base=2)
    below.set_xticks(list(sweep), list(map(str, sweep)))
    below.set_yscale("log")
    below.legend()
    above.set_ylim(bottom=0)
    figure.suptitle(textwrap.fill(machine, 110), fontsize=6)
    save(figure, path)


def main(
    *,
    seconds: Annotated[float, typer.Option(help="Of each of the two long phases.")] = 60.0,
    sweep_seconds: Annotated[float, typer.Option(help="Of each other measurement.")] = 10.0,
    layers: Annotated[int, typer.Option(help="Depth of the random checkpoint.")] = 4,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, for all sides.")] = "float32",
    max_wait: Annotated[
        float, typer.Option(help="`--max-wait` of the server; 500 clients should exceed it.")
    ] = 5.0,
    infinity_venv: Annotated[Path, typer.Option(help="See the Makefile.")] = Path(".venv-infinity"),
    vllm_venv: Annotated[Path, typer.Option(help="See the Makefile.")] = Path(".venv-vllm"),
    folder: Annotated[Path, typer.Option(help="For the checkpoint and the results.")] = Path(
        "benchmarks/results"
    ),
    picture: Annotated[Path, typer.Option(help="The chart.")] = Path("docs/serving.png"),
) -> None:
    """Measure `quern serve` with a random checkpoint of the 0.6B shape."""
    folder.mkdir(parents=True, exist_ok=True)
    setup = Setup(folder=folder, shape="0.6b", layers=layers, dtype=dtype, device="cpu", repeats=1)
    model, machine = str(setup.checkpoint("Embedding")), hardware("cpu")
    print(machine, setup, f"expected: {EXPECTED}", sep="\n")
    results: dict[str, Any] = {"hardware": machine, "setup": str(setup), "expected": EXPECTED}

    def note(name: str, found: Any) -> None:
        results[name] = found
        print(f"{name}: {json.dumps(found)}", flush=True)
        (folder / "load.json").write_text(json.dumps(results, indent=2))

    rates = {"in a process": in_process(model, dtype, sweep_seconds)}
    sides = {
        "quern serve": (quern, Path()),
        "infinity": (infinity, infinity_venv),
        "vLLM": (vllm, vllm_venv),
    }
    for name, (serve, venv) in sides.items():
        if not venv.is_dir():
            note(name, f"not installed in {venv}")
            continue
        with serve(model, dtype, venv, folder) as address:
            asyncio.run(closed_loop(address, 8, sweep_seconds / 2, _DOCUMENTS))  # warm up
            phase = asyncio.run(closed_loop(address, 8, sweep_seconds, _DOCUMENTS))
            rates[name] = phase.rate * _DOCUMENTS
            print(f"{name}: {rates[name]:.1f} documents per second", flush=True)
    note("documents per second", {name: round(rate, 1) for name, rate in rates.items()})
    note("throughput", round(rates["quern serve"] / rates["in a process"], 3))

    with ExitStack() as stack:
        address = stack.enter_context(quern(model, dtype, Path(), folder, max_wait=max_wait))
        asyncio.run(closed_loop(address, 8, sweep_seconds / 2))  # warm up
        sweep = {
            clients: asyncio.run(closed_loop(address, clients, sweep_seconds))
            for clients in CLIENTS
        }
        summaries = {clients: phase.summary() for clients, phase in sweep.items()}
        note("clients", summaries)
        plot(summaries, machine, picture)
        capacity = max(phase.rate for phase in sweep.values())
        steady = asyncio.run(open_loop(address, 0.8 * capacity, seconds))
        note("open loop", steady.summary())
        note("p99 of p50", round(steady.milliseconds(99) / steady.milliseconds(50), 2))
        note(f"{MANY_CLIENTS} clients", (many := asyncio.run(
            closed_loop(address, MANY_CLIENTS, seconds)
        )).summary())  # fmt: skip
        note("errors other than 429", sum(many.statuses.values()) - sum(
            many.statuses[status] for status in ("200", "429")
        ))  # fmt: skip
        if many.retries:
            note("retries", round(many.retries_answered / many.retries, 3))
        note("growth", round(many.growth, 3))
    print(f"written: {folder}/load.json and {picture}")


if __name__ == "__main__":
    typer.run(main)
