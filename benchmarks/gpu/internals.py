"""Access to the internals of a loaded model, in one place."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast
from unittest.mock import patch

from quernstone import Embedder, Reranker
from quernstone.engines.torch import engine
from quernstone.model import session_of
from quernstone.runtime.worker import Worker
from quernstone.types import Encoded


def tokenize(embedder: Embedder, documents: Sequence[str]) -> list[Encoded]:
    """Return the token ids that the engine is given for these documents."""
    batch = session_of(embedder).encoder.encode_documents(documents)
    return [cast("Encoded", each) for each in batch.sequences]


def run_tokens(embedder: Embedder, sequences: Sequence[Encoded]) -> object:
    """Run the engine alone, from token ids to the rows of the model."""
    return session_of(embedder).run_encoded(sequences)


def launch(embedder: Embedder, sequences: Sequence[Encoded]) -> None:
    """Start a batch on the device, and do not wait for it."""
    [runner] = cast("Worker", session_of(embedder).backend)._runners
    cast("engine.TorchEngine", runner.engine).launch(sequences)


def record_graphs(user: Embedder | Reranker) -> str:
    """Wait until the CUDA graphs are recorded. Return a description of them."""
    while "recording" in (graphs := user.info.graphs):
        time.sleep(0.02)
    return graphs


@contextmanager
def without_graphs() -> Iterator[None]:
    """Load models in this block without CUDA graphs."""
    with patch.object(engine, "choose_recorder", lambda _device: None):
        yield
