"""Every public name of quernstone, as a user with a strict type checker writes it."""

from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import SecretStr

from quernstone import (
    ClosedError,
    ConfigError,
    Embedder,
    EngineError,
    EngineInfo,
    EngineMemoryError,
    InputError,
    InputTooLongError,
    MissingExtraError,
    ModelLoadError,
    NonFiniteError,
    PairTemplate,
    QuernstoneError,
    RankedDocument,
    RemoteAnswerError,
    RemoteError,
    RemoteOptions,
    RemoteRequestError,
    RemoteUnavailableError,
    Reranker,
    Usage,
)
from quernstone.bench import measure
from quernstone.doctor import Report, diagnose
from quernstone.testing import (
    QUERY,
    TEXTS,
    EmbedderContract,
    RerankerContract,
    different_calls,
)
from quernstone.testing.capabilities import shows
from quernstone.types import Backend, Encoded, Engine, EngineConfig, Input, TextInput

Vectors = npt.NDArray[np.float32]


async def embed(texts: list[str]) -> Vectors:
    with Embedder(
        "tiny",
        engine="sentence-transformers",
        device="cpu",
        dtype="float32",
        dimensions=64,
        instruction="Find the tool",
        max_length=512,
        truncate=False,
        max_batch_tokens=4096,
        revision=None,
        engine_options={"model_kwargs": {"attn_implementation": "eager"}},
    ) as embedder:
        info: EngineInfo = embedder.info
        usage: Usage = embedder.usage
        limit: int | None = info.max_length
        stream: Iterator[Vectors] = embedder.stream(iter(texts))
        astream: AsyncIterator[Vectors] = embedder.astream(texts)
        rows = [
            *stream,
            *[row async for row in astream],
            embedder.embed_query(embedder.fingerprint),
        ]
        rows += [await embedder.aembed_query(f"{usage.tokens} {limit}")]
        return np.concatenate([embedder.embed_documents(texts), np.stack(rows)])


async def rerank(query: str, documents: Sequence[str]) -> list[RankedDocument]:
    options = RemoteOptions(
        endpoint="http://localhost:8000",
        dialect="vllm",
        template="server",
        api_key=SecretStr("key"),
        timeout=30,
        deadline=120.0,
        max_retries=2,
        max_concurrency=4,
        max_inputs=32,
        max_request_bytes=500_000,
    )
    key: SecretStr | None = options.api_key
    assert key is not None
    remote = Reranker("served-name", engine="remote", engine_options=options)
    best: list[RankedDocument] = remote.rerank(query, documents, top_n=3)
    scores: Vectors = await remote.ascore([(query, document) for document in documents])
    assert len(scores) == len(documents)
    shared: list[list[RankedDocument]] = remote.rerank_many([query], documents, top_n=3)
    own = await remote.arerank_many([query], [documents], instruction=["Find the tool"])
    best += shared[0] + own[0]
    return best + await remote.arerank(query, documents, instruction="Find the tool")


def zerank() -> list[float]:
    template = PairTemplate(
        prefix="<|im_start|>system\n{query}<|im_end|>\n<|im_start|>user\n",
        suffix="<|im_end|>\n<|im_start|>assistant\n",
        positive="Yes",
        negative=None,
        score="probability",
        temperature=5.0,
        instruction="",
        strip=True,
    )
    with Reranker("zeroentropy/zerank-2", template=template, adapter="legal") as reranker:
        used = reranker.template
        name: str = used if isinstance(used, str) else used.name
        prompt: str = template.render("query", "document", "") + name
        report: Report = diagnose("tiny", task="rerank", template=template, adapter=None)
        assert report.healthy
        assert measure("tiny", template="eval", seconds=1.0).best
        return [*map(float, reranker.score([(prompt, "document")]))]


def explain(error: QuernstoneError) -> str:
    if isinstance(error, InputTooLongError):
        return f"{error.index}: {error.tokens} > {error.limit}"
    if isinstance(error, InputError):
        return f"{error.index}: {error.reason}"
    if isinstance(error, (RemoteAnswerError, RemoteRequestError, RemoteUnavailableError)):
        where: RemoteError = error
        return f"{where.url} {where.index} {where.reason}"
    if isinstance(error, RemoteError):
        return f"{error.url} {error.status}"
    if isinstance(error, (EngineMemoryError, NonFiniteError)):
        place: int | None = error.index
        return str(place)
    if isinstance(error, MissingExtraError):
        return error.extra
    kinds: tuple[type[QuernstoneError], ...] = (
        ClosedError,
        ConfigError,
        EngineError,
        ModelLoadError,
    )
    return str(isinstance(error, kinds))


class Lengths:
    """An engine of texts: the protocol asks for no base class."""

    width = 1

    def __init__(self) -> None:
        self.info = EngineInfo(
            engine="lengths", device="cpu", dtype="float32", attention="none", max_batch_tokens=100
        )

    def run(self, batch: Sequence[TextInput], *, precise: bool = False) -> Vectors:
        return np.array([[len(each.text)] for each in batch], dtype=np.float32)

    def close(self) -> None:
        pass


def engines(backend: Backend, tokens: Engine[Encoded]) -> Future[Vectors]:
    texts: Engine[TextInput] = Lengths()
    config = EngineConfig(task="embed", model="folder", engine="torch")
    inputs: list[Input] = [TextInput("text", "instruction", query=None), TextInput(config.model)]
    assert texts.width == tokens.width
    return backend.submit(inputs, offset=3)


class TestEmbedding(EmbedderContract):
    engine = "my engine"
    tolerance = 1e-4
    cannot: ClassVar = {"usage": "nobody counts"}

    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"model": "tiny"}

    @pytest.fixture
    def reference(self) -> Iterator[Embedder]:
        with Embedder("tiny", dtype="float32") as embedder:
            yield embedder

    @shows("order")
    def test_more(self, subject: Embedder) -> None:
        calls: list[tuple[str, list[str]]] = different_calls(TEXTS)
        assert len(subject.embed_queries([QUERY] * len(calls))) == len(calls)


class TestReranking(RerankerContract):
    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"model": "tiny", "engine": "vllm"}
