"""Access to the internals of a loaded model, in one place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

from quernstone import Embedder, Reranker
from quernstone.engines.torch import engine
from quernstone.model import session_of
from quernstone.types import Encoded


def tokenize(embedder: Embedder, documents: Sequence[str]) -> list[Encoded]:
    """Return the token ids that the engine is given for these documents."""
    batch = session_of(embedder).encoder.encode_documents(documents)
    return [cast("Encoded", each) for each in batch.sequences]


def run_tokens(embedder: Embedder, sequences: Sequence[Encoded]) -> object:
    """Run the engine alone, from token ids to the rows of the model."""
    return session_of(embedder).run_encoded(sequences)


def recorded_graphs(user: Embedder | Reranker) -> list[int] | None:
    """Return the sizes of the CUDA graphs recorded so far; None where none are used."""
    worker: Any = session_of(user).backend
    graphs = worker._engine._graphs
    return None if graphs is None else sorted(graphs._graphs)


@contextmanager
def without_graphs() -> Iterator[None]:
    """Load models in this block without CUDA graphs."""
    with patch.object(engine, "choose_recorder", lambda _device: None):
        yield
