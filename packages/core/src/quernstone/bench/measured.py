"""The measured model, an embedder or a reranker, with its inputs."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

import numpy as np

from quernstone.bench.report import Workload
from quernstone.bench.texts import passages, query
from quernstone.embedder import Embedder
from quernstone.encoding.encoder import EncodedBatch
from quernstone.model import session_of
from quernstone.reranker import Reranker
from quernstone.runtime.worker import Worker
from quernstone.types import Encoded, Input

User = TypeVar("User", Embedder, Reranker)

DOCUMENTS = 100
"""Documents per query in a reranking run."""
_FEW_DOCUMENTS = 20
"""Documents per query when latency is measured."""


class MeasuredModel(ABC, Generic[User]):
    """A loaded model, and the inputs to run it on."""

    unit: str
    """Name of the inputs, in the plural."""
    request: str
    """Description of one call of `ask`."""
    step: int
    """The number of inputs of a workload is a multiple of this."""

    def __init__(self, user: User, texts: Sequence[str] | None) -> None:
        self.user: User = user
        self._given = texts
        self._passages: list[str] = []
        self._numbers = itertools.count()

    @abstractmethod
    def prepare(self, inputs: int) -> Callable[[], object]:
        """Generate `inputs` inputs and return a function that computes them."""

    @abstractmethod
    def ask(self) -> object:
        """Make the call whose latency is measured. Thread-safe."""

    @abstractmethod
    def encoded(self, inputs: int) -> EncodedBatch:
        """Return `inputs` inputs as the engine receives them."""

    @property
    def worker(self) -> Worker:
        """The worker that runs the engine."""
        return cast("Worker", session_of(self.user).backend)  # `measure` refuses servers

    def workload(self, inputs: int) -> Workload:
        """Count the tokens of `inputs` inputs."""
        batch = self.encoded(inputs)
        lengths: list[int] = []
        if isinstance(batch.sequences[0], Encoded):
            lengths = [len(each) + len(each.prefix or ()) for each in batch.sequences]
        return Workload(
            inputs=inputs,
            tokens=sum(lengths) if lengths else None,
            planned=_planned(batch.sequences),
            median=round(np.percentile(lengths, 50)) if lengths else None,
            p95=round(np.percentile(lengths, 95)) if lengths else None,
            truncated=len(batch.truncated),
        )

    def _texts(self, count: int) -> list[str]:
        if self._given is None:
            if len(self._passages) < count:
                self._passages = passages(count)
            return self._passages[:count]
        # Number the repetitions: equal texts would be computed once.
        numbered = (f"{text} {again}" for again in itertools.count(1) for text in self._given)
        return list(itertools.islice(itertools.chain(self._given, numbered), count))


class MeasuredEmbedder(MeasuredModel[Embedder]):
    """An embedder: documents for the rates, one short query for the latencies."""

    unit = "texts"
    request = "one short query"
    step = 1

    def prepare(self, inputs: int) -> Callable[[], object]:
        """See `MeasuredModel.prepare`."""
        texts = self._texts(inputs)
        return lambda: self.user.embed_documents(texts)

    def ask(self) -> object:
        """See `MeasuredModel.ask`."""
        return self.user.embed_query(query(next(self._numbers)))

    def encoded(self, inputs: int) -> EncodedBatch:
        """See `MeasuredModel.encoded`."""
        return session_of(self.user).encoder.encode_documents(self._texts(inputs))


class MeasuredReranker(MeasuredModel[Reranker]):
    """A reranker: 100 documents per query for the rates, 20 for the latencies.

    Queries never repeat, because the prefix of a repeated query would be cached.
    """

    unit = "documents"
    request = f"one query with {_FEW_DOCUMENTS} documents"
    step = DOCUMENTS

    def __init__(self, user: Reranker, texts: Sequence[str] | None) -> None:
        super().__init__(user, texts)
        self._few = self._texts(_FEW_DOCUMENTS)

    def prepare(self, inputs: int) -> Callable[[], object]:
        """See `MeasuredModel.prepare`."""
        pairs = self._pairs(inputs)
        return lambda: self.user.score(pairs)

    def ask(self) -> object:
        """See `MeasuredModel.ask`."""
        return self.user.rerank(query(next(self._numbers)), self._few)

    def encoded(self, inputs: int) -> EncodedBatch:
        """See `MeasuredModel.encoded`."""
        encode = session_of(self.user).encoder.pair_encoder(self.user.template)
        return encode([(*pair, self.user.instruction) for pair in self._pairs(inputs)])

    def _pairs(self, inputs: int) -> list[tuple[str, str]]:
        texts = self._texts(inputs)
        queries = [query(next(self._numbers)) for _ in range(0, inputs, DOCUMENTS)]
        return [(queries[place // DOCUMENTS], text) for place, text in enumerate(texts)]


def _planned(sequences: Sequence[Input]) -> int:
    """Count tokens as `take_batch` does: each prefix once."""
    prefixes = {sequence.prefix for sequence in sequences}
    return sum(map(len, sequences)) + sum(len(prefix) for prefix in prefixes if prefix is not None)
