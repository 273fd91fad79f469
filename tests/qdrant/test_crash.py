"""A load that is killed without warning, and started again."""

import signal
import subprocess
import sys
from pathlib import Path

from qdrant_client import QdrantClient

from quernstone_qdrant import QdrantLoader

LOAD = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import WordEmbedder
from qdrant_client import QdrantClient
from quernstone_qdrant import QdrantLoader

path, calls = sys.argv[1], int(sys.argv[2])

class Mortal(WordEmbedder):
    def embed_documents(self, texts):
        global calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_documents(texts)

client = QdrantClient(path=path)
loader = QdrantLoader(client, "docs", Mortal(), chunk_size=60, chunk_overlap=0, batch_size=10)
report = loader.load(
    {{"id": f"d{{n}}", "text": f"Document {{n}} is here. " * (n % 7)}} for n in range(100)
)
client.close()
print(report.embedded, report.skipped, report.chunks)
"""


def load(path, calls):
    return subprocess.run(
        [sys.executable, "-c", LOAD, str(path), str(calls)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_after_kills_the_collection_equals_an_undisturbed_one(tmp_path, embedder, assert_same):
    for calls in (2, 12, 5):
        assert load(tmp_path / "q", calls).returncode == -signal.SIGKILL
    last = load(tmp_path / "q", 0)
    assert last.returncode == 0, last.stderr
    embedded, skipped, chunks = map(int, last.stdout.split())
    assert embedded + skipped == chunks
    assert 0 < skipped < chunks

    undisturbed = QdrantClient(":memory:")
    QdrantLoader(undisturbed, "docs", embedder, chunk_size=60, chunk_overlap=0).load(
        {"id": f"d{n}", "text": f"Document {n} is here. " * (n % 7)} for n in range(100)
    )
    killed = QdrantClient(path=str(tmp_path / "q"))
    assert_same(killed, undisturbed, "docs")
    killed.close()
