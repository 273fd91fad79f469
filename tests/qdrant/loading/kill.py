"""Kill a repeated load at random moments, and compare the final collection.

    python tests/qdrant/loading/kill.py --target embedded --records 5000 --kills 30

The loading processes are forked from a server that has already imported torch, so a restart takes a
fraction of a second. SIGKILL ends a process at an arbitrary point.
Prints one line of JSON. The exit code is 1 if the collections differ.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from quernstone_qdrant.loading.pipeline import IN_FLIGHT

BATCH_SIZE = 32
COLLECTION = "docs"
PAUSE = 0.02
"""Delay before each embedding call, so that no run gets far even on a fast machine."""
TOLERANCE = 1e-5
"""Tolerance for vectors: another batch rounds the sums of a text in another order."""


def records(count):
    """Return short texts of one chunk each."""
    for n in range(count):
        text = f"Record {n} of the mill: it grinds {n * 7 % 1000} sacks a day."
        yield {"id": f"r{n}", "text": text, "year": 1200 + n % 800}


def open_target(kind, folder):
    """A collection that outlives its process."""
    if kind == "edge":
        from quernstone_qdrant import EdgeTarget

        return EdgeTarget(str(folder), COLLECTION)
    from quernstone_qdrant.targets import as_target, connect

    return as_target(connect(path=str(folder)), COLLECTION)


def load(kind, folder, count, log, begun, done):
    """Load everything that is not stored yet, in a process of its own."""
    import torch

    from quernstone import Embedder
    from quernstone_qdrant import QdrantLoader

    torch.set_num_threads(1)

    class Logging(Embedder):
        def embed_documents(self, texts, **options):
            lines = "".join(f"{text}\n" for text in texts).encode()
            os.write(out, lines)  # a single write, so that a kill cannot cut a line
            time.sleep(PAUSE)
            return super().embed_documents(texts, **options)

    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    target = open_target(kind, folder)
    with Logging("tiny", dtype="float32") as embedder:
        loader = QdrantLoader(target, COLLECTION, embedder, batch_size=BATCH_SIZE)
        begun.set()
        report = loader.load(records(count))
    target.close()
    done.put((report.embedded, report.skipped, report.chunks))


def contents(kind, folder):
    """Return (payload, vector) of every point, by id."""
    target = open_target(kind, folder)
    fields = ["quernstone", "page_content", "metadata", "year", "doc_id", "_node_content"]
    points = {p.id: (p.payload, p.vectors[""]) for p in target.scroll(fields, with_vectors=True)}
    assert len(points) == target.count()
    target.close()
    return points


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=["embedded", "edge"], default="embedded")
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "torch",
            "quernstone.embedder",
            "quernstone.engines.torch.engine",
            "quernstone_qdrant.loader",
        ]
    )

    with tempfile.TemporaryDirectory() as scratch:
        logs = Path(scratch) / "logs"
        logs.mkdir()

        def start(name, number):
            begun, done = context.Event(), context.SimpleQueue()
            log = str(logs / f"{name}-{number:03d}")
            process = context.Process(
                target=load,
                args=(arguments.target, Path(scratch) / name, arguments.records, log, begun, done),
            )
            process.start()
            if not begun.wait(120):
                sys.exit("a process did not begin to load")
            return process, done, Path(log)

        started = time.monotonic()
        process, done, log = start("undisturbed", 0)
        process.join()
        _, _, chunks = done.get()
        share = log.stat().st_size / arguments.kills

        killed = 0
        while killed < arguments.kills:
            process, done, log = start("killed", killed)
            # kill after a random share of the work, plus a random pause
            enough = dice.uniform(0, 2.2 * share)
            while process.exitcode is None and (not log.exists() or log.stat().st_size < enough):
                time.sleep(0.002)
            process.join(dice.uniform(0, PAUSE))
            if process.exitcode is not None:
                sys.exit(f"all was loaded after {killed} kills: load more records")
            process.kill()
            process.join()
            killed += 1
        process, done, _ = start("killed", killed)
        process.join()
        embedded_last, skipped_last, _ = done.get()

        wanted = contents(arguments.target, Path(scratch) / "undisturbed")
        found = contents(arguments.target, Path(scratch) / "killed")
        runs = [path.read_text().splitlines() for path in sorted(logs.glob("killed-*"))]

    times = Counter(text for run in runs for text in run)
    later = Counter()
    most_twice = 0
    for run in reversed(runs):
        most_twice = max(most_twice, sum(1 for text in run if later[text]))
        later.update(run)
    same = set(found) == set(wanted) and all(
        found[i][0] == payload and np.abs(found[i][1] - vector).max() <= TOLERANCE
        for i, (payload, vector) in wanted.items()
    )
    result = {
        "target": arguments.target,
        "kills": killed,
        "points": len(found),
        "chunks": chunks,
        "same": same,
        "embedded": times.total(),
        "embedded_by_the_last": embedded_last,
        "skipped_by_the_last": skipped_last,
        "most_embedded_twice_after_a_kill": most_twice,
        "allowed": IN_FLIGHT * BATCH_SIZE,
        "seconds": round(time.monotonic() - started, 1),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    sys.exit(0 if same and most_twice <= IN_FLIGHT * BATCH_SIZE else 1)


if __name__ == "__main__":
    main()
