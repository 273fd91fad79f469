"""Compare our LangChain and LlamaIndex classes with the stock ones: speed and exactness.

    python -m benchmarks.adapters --folder checkpoints                             # 0.6B shapes
    python -m benchmarks.adapters --folder checkpoints --layers 2 --documents 20   # a trial

Needs the dependency group `benchmarks`, and takes minutes on a CPU.

All read the same random checkpoints in the official layout and the same documents (the held-out
package descriptions of `tests/data`). The stock classes get the files that sentence-transformers
needs: `modules.json` for embeddings, and for reranking a chat template that renders the model
card's prompt. All run in one dtype, and otherwise with the defaults of each class. Each class runs
in its own process, as in an application: two users of torch in one process have two pools of
OpenMP threads, and OpenMP then puts waiting threads to sleep, which slows both.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.support.checkpoints import random_checkpoint

from quernstone import Embedder, Reranker

HELD_OUT = Path(__file__).parent.parent / "tests" / "data" / "tiny_heldout.jsonl.gz"
QUERY = "a fast tool to search and convert large collections of files"
EMBEDDING = (
    "QuernstoneEmbeddings",
    "HuggingFaceEmbeddings",
    "QuernstoneEmbedding",
    "HuggingFaceEmbedding",
)
RERANKING = (
    "QuernstoneReranker",
    "CrossEncoderReranker",
    "QuernstoneRerank",
    "SentenceTransformerRerank",
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

# Jinja drops the last newline of a file, hence the expression that ends it.
CHAT_TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: " + INSTRUCTION + "\n"
    "<Query>: {{ (messages | selectattr('role', 'eq', 'query') | first).content }}\n"
    "<Document>: {{ (messages | selectattr('role', 'eq', 'document') | first).content }}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>{{ '\\n\\n' }}"
)


@dataclass(slots=True)
class EmbeddingRow:
    """The result of a class that embeds."""

    name: str
    seconds: float
    query_prompt: bool
    """True if the query's vector is that of the model's own prompt."""
    verbatim: bool
    """True if a newline is not read as a space."""
    reads_to_the_end: bool
    """True if a change after 600 tokens changes the vector."""


@dataclass(slots=True)
class RerankingRow:
    """The result of a class that reranks."""

    name: str
    seconds: float
    off: float
    """Largest difference of a score from the core's in float32; NaN if it returns no scores."""
    mutates_input: bool
    reads_to_the_end: bool
    """True if a change after 600 tokens changes the score."""


@dataclass(slots=True)
class EmbeddingContender:
    """A class that embeds documents and a query."""

    documents: Callable[[list[str]], list[list[float]]]
    query: Callable[[str], list[float]]


@dataclass(slots=True)
class RerankingContender:
    """A class that reranks texts wrapped by `wrap`; `score` and `place` read a result."""

    wrap: Callable[[list[str]], list[Any]]
    rerank: Callable[[str, list[Any]], list[Any]]
    score: Callable[[Any], float]
    place: Callable[[Any], int]


def embedding_contender(name: str, folder: str, dtype: str) -> EmbeddingContender:
    """Construct a class that embeds."""
    from langchain_huggingface import HuggingFaceEmbeddings
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    from langchain_quernstone import QuernstoneEmbeddings
    from llama_index.embeddings.quernstone import QuernstoneEmbedding

    weights = {"dtype": dtype}
    makers: dict[str, Callable[[], Any]] = {
        "QuernstoneEmbeddings": lambda: QuernstoneEmbeddings(model_name=folder, **weights),
        "HuggingFaceEmbeddings": lambda: HuggingFaceEmbeddings(
            model_name=folder, model_kwargs={"model_kwargs": weights}
        ),
        "QuernstoneEmbedding": lambda: QuernstoneEmbedding(model_name=folder, **weights),
        "HuggingFaceEmbedding": lambda: HuggingFaceEmbedding(
            model_name=folder, model_kwargs=weights
        ),
    }
    model = makers[name]()
    if name.endswith("Embeddings"):  # LangChain
        return EmbeddingContender(model.embed_documents, model.embed_query)
    return EmbeddingContender(model.get_text_embedding_batch, model.get_query_embedding)


def reranking_contender(name: str, folder: str, dtype: str, count: int) -> RerankingContender:
    """Construct a class that reranks."""
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
    from langchain_core.cross_encoders import BaseCrossEncoder
    from langchain_core.documents import Document
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.sbert_rerank import SentenceTransformerRerank
    from sentence_transformers import CrossEncoder

    from langchain_quernstone import QuernstoneReranker
    from llama_index.postprocessor.quernstone import QuernstoneRerank

    weights = {"dtype": dtype}

    class SentenceTransformersCrossEncoder(BaseCrossEncoder):
        """A copy of `HuggingFaceCrossEncoder` of the retired langchain-community."""

        def __init__(self) -> None:
            self.client = CrossEncoder(folder, model_kwargs=weights)

        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            scores: list[float] = self.client.predict(text_pairs).tolist()
            return scores

    def documents(texts: list[str]) -> list[Any]:
        return [Document(text, metadata={"place": place}) for place, text in enumerate(texts)]

    def nodes(texts: list[str]) -> list[Any]:
        return [
            NodeWithScore(node=TextNode(text=text, id_=str(place)), score=0.5)
            for place, text in enumerate(texts)
        ]

    makers: dict[str, Callable[[], Any]] = {
        "QuernstoneReranker": lambda: QuernstoneReranker(model=folder, top_n=count, **weights),
        "CrossEncoderReranker": lambda: CrossEncoderReranker(
            model=SentenceTransformersCrossEncoder(), top_n=count
        ),
        "QuernstoneRerank": lambda: QuernstoneRerank(model=folder, top_n=count, **weights),
        "SentenceTransformerRerank": lambda: SentenceTransformerRerank(
            model=folder, top_n=count, cross_encoder_kwargs={"model_kwargs": weights}
        ),
    }
    used = makers[name]()
    if name.endswith("Reranker"):  # LangChain
        return RerankingContender(
            documents,
            lambda query, given: list(used.compress_documents(given, query)),
            lambda document: document.metadata.get("relevance_score", math.nan),
            lambda document: document.metadata["place"],
        )
    return RerankingContender(
        nodes,
        lambda query, given: used.postprocess_nodes(given, query_str=query),
        lambda node: node.score,
        lambda node: int(node.node_id),
    )


def embedding_row(
    name: str, folder: str, dtype: str, texts: list[str], repeat: int, expected: np.ndarray
) -> EmbeddingRow:
    """Measure one class that embeds.

    Args:
        name: Name of the class.
        folder: Folder of the checkpoint.
        dtype: Dtype of the weights.
        texts: Texts to embed.
        repeat: Number of runs, of which the fastest counts.
        expected: The core's vector of `QUERY` in float32.
    """
    long, other = _long_texts()
    contender = embedding_contender(name, folder, dtype)
    contender.documents(texts[:2])  # load and warm up
    return EmbeddingRow(
        name=name,
        seconds=_seconds(lambda: contender.documents(texts), repeat),
        query_prompt=float(np.dot(contender.query(QUERY), expected)) > 0.99,
        verbatim=contender.documents(["one\ntwo"]) != contender.documents(["one two"]),
        reads_to_the_end=contender.documents([long]) != contender.documents([other]),
    )


def reranking_row(
    name: str, folder: str, dtype: str, texts: list[str], repeat: int, expected: np.ndarray
) -> RerankingRow:
    """Measure one class that reranks; `expected` are the core's scores in float32."""
    long, other = _long_texts()
    contender = reranking_contender(name, folder, dtype, len(texts))
    contender.rerank(QUERY, contender.wrap(texts[:2]))  # load and warm up
    given = contender.wrap(texts)
    before = copy.deepcopy(given)
    results: list[Any] = []
    seconds = _seconds(lambda: results.extend(contender.rerank(QUERY, given)), 1)
    for _ in range(repeat - 1):
        fresh = contender.wrap(texts)
        seconds = min(seconds, _seconds(lambda used=fresh: contender.rerank(QUERY, used), 1))
    scores = {contender.place(result): contender.score(result) for result in results}
    [one], [two] = (contender.rerank(QUERY, contender.wrap([t])) for t in (long, other))
    if math.isnan(contender.score(one)):  # it returns no scores: see which of the two comes first
        reads = _order_changes(contender, long, other)
    else:
        reads = contender.score(one) != contender.score(two)
    return RerankingRow(
        name=name,
        seconds=seconds,
        off=float(np.max(np.abs([scores[place] for place in range(len(texts))] - expected))),
        mutates_input=given != before,
        reads_to_the_end=reads,
    )


def _expected_vector(folder: str) -> np.ndarray:
    with Embedder(folder, dtype="float32") as core:
        return core.embed_query(QUERY)


def _expected_scores(folder: str, texts: list[str]) -> np.ndarray:
    with Reranker(folder, dtype="float32") as core:
        return core.score([(QUERY, text) for text in texts])


def _alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        result = pool.submit(work, *arguments).result()
    if isinstance(result, (EmbeddingRow, RerankingRow)):
        print(result, flush=True)
    return result


def _order_changes(contender: RerankingContender, long: str, other: str) -> bool:
    """Return True if swapping two texts swaps the results: a tie keeps the order of the input."""
    first = [contender.place(r) for r in contender.rerank(QUERY, contender.wrap([long, other]))]
    second = [contender.place(r) for r in contender.rerank(QUERY, contender.wrap([other, long]))]
    return first != second


def _long_texts() -> tuple[str, str]:
    start = "word " * 600
    return start + "red", start + "blue"


def _seconds(work: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _documents(count: int) -> list[str]:
    with gzip.open(HELD_OUT, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["document"] for line in lines]
    return texts[:count]


def _table(rows: list[Any]) -> str:
    columns = list(asdict(rows[0]))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in asdict(row).values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run both comparisons and print them as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are kept")
    parser.add_argument("--layers", type=int, default=None, help="depth; default: the official 28")
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=2, help="take the fastest of so many runs")
    parser.add_argument(
        "--dtype", default="bfloat16", help="of all sides; bfloat16 is that of the checkpoints"
    )
    parser.add_argument("--json", type=Path, default=None, help="also write the numbers here")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    depth = options.layers or "full"
    embedding = random_checkpoint(
        options.folder / f"embedding-{depth}", "embedding-0.6b", layers=options.layers
    )
    reranker = random_checkpoint(
        options.folder / f"reranker-{depth}", "reranker-0.6b", layers=options.layers
    )
    (reranker / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    texts = _documents(options.documents)
    settings = (options.dtype, texts, options.repeat)
    vector = _alone(_expected_vector, str(embedding))
    embedded = [
        _alone(embedding_row, name, str(embedding), *settings, vector) for name in EMBEDDING
    ]
    scores = _alone(_expected_scores, str(reranker), texts)
    reranked = [_alone(reranking_row, name, str(reranker), *settings, scores) for name in RERANKING]
    characters = sum(map(len, texts))
    print(
        f"\n{len(texts)} documents, {characters} characters, {depth} layers, {options.dtype}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor()}\n"
    )
    print(_table(embedded), _table(reranked), sep="\n\n")
    if options.json:
        results = {"embedding": embedded, "reranking": reranked}
        rows = {name: [asdict(row) for row in table] for name, table in results.items()}
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
