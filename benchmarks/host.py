"""Host time per text: everything but the device, with and without tokenizing.

`python -m benchmarks.host` embeds short texts with an engine whose device answers at once. It lays
batches out as on a GPU. Where texts are tokenized before, what is left is what Python does under
the GIL, in the thread of the caller and in that of the worker together. It also embeds queries one
by one, in one thread and in 64 that compete for the GIL.
"""

from __future__ import annotations

import cProfile
import pstats
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from unittest.mock import patch

import numpy as np
import typer

from quernstone import Embedder
from quernstone.attention.flash import torch_flash
from quernstone.attention.varlen import varlen_maker
from quernstone.batching import pack
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.types import Encoded, EngineInfo, Float32Array, Pending, TokenArray

_SECONDS = 2.0


class InstantEngine:
    """Lays out batches as on a GPU, and returns rows of ones."""

    width = 1024
    overlaps = True

    def __init__(self, *_: object) -> None:
        self.info = EngineInfo(
            engine="instant",
            device="cpu",
            dtype="float32",
            attention="none",
            max_batch_tokens=65536,
        )
        self._integers = varlen_maker("none", torch_flash()).integers
        self._rows = np.ones((65536, self.width), dtype=np.float32)

    def launch(self, batch: Sequence[Encoded]) -> Pending:
        """See `LaunchingEngine`."""
        packed = pack(batch)
        ends = np.asarray(packed.cu_seqlens[1:], dtype=np.int32) - np.int32(1)
        np.concatenate((packed.input_ids, packed.position_ids, ends, *self._integers(packed)))

        def wait() -> Float32Array:
            out = np.empty((len(batch), self.width), dtype=np.float32)
            out[packed.order] = self._rows[: len(batch)]
            return out

        return wait

    def run(self, batch: Sequence[Encoded], *, precise: bool = False) -> Float32Array:
        """See `Engine`."""
        del precise
        return self.launch(batch)()

    def close(self) -> None:
        """See `Engine`."""


def main(texts: int = 20_000, words: int = 8, repeats: int = 5, *, profile: bool = False) -> None:
    """Print microseconds per text: tokenizing, and the rest."""
    choose = random.Random(0)
    vocabulary = "a mill grinds grain and the stone turns nine times in winter rain".split(" ")
    documents = [" ".join(choose.choices(vocabulary, k=words)) + f" {n}" for n in range(texts)]
    with (
        patch("quernstone.runtime.session.load_engine", InstantEngine),
        Embedder("tiny") as embedder,
    ):
        tokenize = Tokenizer.ids
        known: dict[str, TokenArray] = {}

        def look_up(tokenizer: Tokenizer, texts: Sequence[str]) -> list[TokenArray]:
            missing = [text for text in texts if text not in known]
            known.update(zip(missing, tokenize(tokenizer, missing), strict=True))
            return [known[text] for text in texts]

        embed = partial(embedder.embed_documents, documents)
        whole = min(_seconds(embed, time.perf_counter) for _ in range(repeats))
        with patch.object(Tokenizer, "ids", look_up):
            embed()
            apart = min(_seconds(embed, time.process_time) for _ in range(repeats))
        each = 1e6 / texts
        print(
            f"{whole * each:.1f} us per text; {apart * each:.1f} us of processor time of all "
            "threads without tokenizing"
        )
        for threads in (1, 64):
            print(f"{_queries_per_second(embedder, documents, threads):,.0f} queries/s, {threads=}")
        if profile:
            with patch.object(Tokenizer, "ids", look_up), cProfile.Profile() as profiler:
                embed()
            pstats.Stats(profiler).sort_stats("tottime").print_stats(15)


def _queries_per_second(embedder: Embedder, queries: Sequence[str], threads: int) -> float:
    """Embed queries for two seconds in threads, each of which waits for one after another."""
    start = time.perf_counter()

    def ask(place: int) -> int:
        for count in range(len(queries)):
            if time.perf_counter() - start > _SECONDS:
                return count
            embedder.embed_query(queries[(place + count * threads) % len(queries)])
        return len(queries)

    with ThreadPoolExecutor(threads) as pool:
        asked = sum(pool.map(ask, range(threads)))
    return asked / (time.perf_counter() - start)


def _seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start


if __name__ == "__main__":
    typer.run(main)
