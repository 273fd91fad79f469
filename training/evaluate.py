"""Held-out figures of the tiny models: nDCG@10 of 3,000 queries over 3,000 documents.

usage: evaluate.py [--embedding FOLDER] [--reranker FOLDER] [--teacher] [--queries 3000] [--write]
Prints a table; --write puts it into training/figures.json.
"""

import argparse
import gzip
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor

from common import HELDOUT, TINY
from embedding import DIMENSIONS
from model import load
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.encoding.tokens import TokenEncoder
from reranker import Frames, score
from teacher import Teacher

FIGURES = Path(__file__).with_name("figures.json")
QUERY_TOKENS = 128
DOCUMENT_TOKENS = 256
CANDIDATES = 20
FIRST_STAGES = (64, 256)


def heldout() -> tuple[list[str], list[str]]:
    """Queries and their documents, same order."""
    lines = gzip.decompress(HELDOUT.read_bytes()).decode().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["query"] for row in rows], [row["document"] for row in rows]


def ndcg(ranking: list[list[int]]) -> float:
    """nDCG@10 when row i's only relevant document is i."""
    gains = [
        1 / math.log2(2 + row.index(i)) if i in row[:10] else 0.0 for i, row in enumerate(ranking)
    ]
    return sum(gains) / len(gains)


@torch.inference_mode()
def embed(folder: Path, queries: list[str], documents: list[str]) -> tuple[Tensor, Tensor]:
    """Vectors (not normalised) of the queries and the documents."""
    model = load(folder)
    tokenizer = Tokenizer(folder, model.config.vocab_size)
    batches = (
        TokenEncoder(tokenizer, max_length=QUERY_TOKENS).encode_queries(
            queries, DEFAULT_INSTRUCTION
        ),
        TokenEncoder(tokenizer, max_length=DOCUMENT_TOKENS).encode_documents(documents),
    )
    first, second = (
        model.last([sequence.ids.tolist() for sequence in batch.sequences])[0] for batch in batches
    )
    return first, second


def top(queries: Tensor, documents: Tensor, size: int, count: int) -> list[list[int]]:
    """The `count` nearest documents of every query at `size` dimensions."""
    short = (functional.normalize(each[:, :size], dim=-1) for each in (queries, documents))
    return (next(short) @ next(short).T).topk(count).indices.tolist()


@torch.inference_mode()
def rerank(
    folder: Path, queries: list[str], documents: list[str], candidates: list[list[int]]
) -> list[dict[int, float]]:
    """P(yes) of every query's candidates."""
    model = load(folder)
    frames = Frames(Tokenizer(folder, model.config.vocab_size))
    opening = frames.opening(DEFAULT_INSTRUCTION)
    heads, bodies = frames.queries(queries), frames.plain(documents, DOCUMENT_TOKENS)
    scores: list[dict[int, float]] = []
    for start in range(0, len(candidates), 32):
        lists = candidates[start : start + 32]
        flat = [index for row in lists for index in row]
        owners = torch.tensor([owner for owner, row in enumerate(lists) for _ in row])
        rows = [bodies[index] for index in flat]
        asked = heads[start : start + len(lists)]
        with torch.autocast("cpu", torch.bfloat16):
            logits, _, _ = score(model, frames, opening, asked, rows, owners)
        values = iter(logits.sigmoid().tolist())
        scores += [{index: next(values) for index in row} for row in lists]
    return scores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--embedding", type=Path, default=TINY / "embedding")
    parser.add_argument("--reranker", type=Path, default=TINY / "reranker")
    parser.add_argument("--teacher", action="store_true", help="measure all-MiniLM-L6-v2 too")
    parser.add_argument("--queries", type=int, default=3000, help="queries to rerank; 0 for none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts, passages = heldout()
    figures: dict[str, float] = {}
    if arguments.teacher:
        teacher = Teacher(max_tokens=DOCUMENT_TOKENS)
        ranking = top(teacher.encode(texts), teacher.encode(passages), 384, 10)
        figures["all-MiniLM-L6-v2, 384 dimensions"] = ndcg(ranking)
    queries, documents = embed(arguments.embedding, texts, passages)
    for size in DIMENSIONS:
        figures[f"embedding, {size} dimensions"] = ndcg(top(queries, documents, size, 10))
    if arguments.queries:
        count = arguments.queries
        stages = {size: top(queries[:count], documents, size, CANDIDATES) for size in FIRST_STAGES}
        union = [sorted({i for size in stages for i in stages[size][at]}) for at in range(count)]
        scores = rerank(arguments.reranker, texts[:count], passages, union)
        for size, candidates in stages.items():
            reranked = [
                sorted(row, key=lambda i: -scored[i])
                for row, scored in zip(candidates, scores, strict=True)
            ]
            figures[f"top {CANDIDATES} at {size} dimensions, {count} queries"] = ndcg(candidates)
            figures[f"top {CANDIDATES} at {size} dimensions, reranked"] = ndcg(reranked)
            found = [i for i, row in enumerate(candidates) if i in row]
            figures[f"top {CANDIDATES} at {size} dimensions, best possible"] = len(found) / count
    for name, value in figures.items():
        print(f"{name:48}{value:.4f}")
    if arguments.write:
        rounded = {name: round(value, 4) for name, value in figures.items()}
        FIGURES.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
