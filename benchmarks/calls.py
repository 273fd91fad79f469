"""Count the Python function calls of one request: `python -m benchmarks.calls`.

Calls are counted in all threads, the worker's included. Resuming a generator counts as a call, and
before Python 3.12 so does a comprehension. Each request runs twice and is counted the second time,
when imports and caches are warm.
"""

from __future__ import annotations

import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Callable
from types import FrameType

from quernstone import Embedder, Reranker

QUERY = "how do I grind grain by hand?"
SENTENCE = "the stone turned and the flour was fine. "
DOCUMENTS = [f"Entry {n} of the mill's log: " + SENTENCE * (n % 5) for n in range(100)]
LISTED = 15
"""Functions listed for each request; the rest is summed up by file."""


class CallCounter:
    """Counts calls of Python functions."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self._counting = False

    def install(self) -> None:
        """Watch this thread and all threads started from now on."""
        threading.setprofile(self._observe)
        sys.setprofile(self._observe)

    def uninstall(self) -> None:
        """Stop watching this thread and new ones."""
        sys.setprofile(None)
        threading.setprofile(None)

    def count(self, request: Callable[[], object]) -> Counter[tuple[str, str]]:
        """Run `request` and return the calls per (file, function)."""
        self.calls.clear()
        self._counting = True
        try:
            request()
        finally:
            self._counting = False
        return Counter(self.calls)

    def _observe(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and self._counting:
            self.calls[_short(frame.f_code.co_filename), frame.f_code.co_name] += 1


def _short(path: str) -> str:
    """Return a path from the package's folder on."""
    for root in ("/src/quernstone/", sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        if root in path:
            return path.split(root, 1)[1].lstrip("/")
    return path


def report(title: str, calls: Counter[tuple[str, str]]) -> None:
    """Print the total, the calls per file and the functions called most."""
    print(f"\n{title}: {calls.total():,} calls")
    files: Counter[str] = Counter()
    for (file, _), number in calls.items():
        files[file] += number
    for file, number in files.most_common():
        print(f"{number:8,}  {file}")
    for (file, name), number in calls.most_common(LISTED):
        print(f"{number:12,}  {name} ({file})")


def main() -> None:
    """Count the calls of reranking and of embedding a hundred documents."""
    counter = CallCounter()
    counter.install()
    try:
        with Reranker("tiny", device="cpu") as reranker, Embedder("tiny", device="cpu") as embedder:
            requests: dict[str, Callable[[], object]] = {
                "rerank(query, 100 documents)": lambda: reranker.rerank(QUERY, DOCUMENTS),
                "rerank_many([query], 100 documents)": lambda: reranker.rerank_many(
                    [QUERY], DOCUMENTS
                ),
                "embed_documents(100 documents)": lambda: embedder.embed_documents(DOCUMENTS),
                "embed_query(query)": lambda: embedder.embed_query(QUERY),
            }
            for title, request in requests.items():
                request()
                report(title, counter.count(request))
    finally:
        counter.uninstall()


if __name__ == "__main__":
    main()
