"""Embed queries and documents with Hugging Face transformers, and print their cosines times 100.

pip install "quernstone[torch,transformers]"
python examples/qwen3_embedding_transformers.py Qwen/Qwen3-Embedding-0.6B
"""

import sys

from quernstone import Embedder

QUERIES = ["How was grain ground by hand?", "Why do sailors eat lemons?"]
DOCUMENTS = [
    "A quern is a hand mill that grinds grain between two stones.",
    "Lemons protect sailors from scurvy.",
]


def main(model: str = "Qwen/Qwen3-Embedding-0.6B") -> None:
    # engine="auto" computes the same vectors faster
    with Embedder(model, engine="transformers") as embedder:
        queries = embedder.embed_queries(QUERIES)
        documents = embedder.embed_documents(DOCUMENTS)
    print("query outputs", queries)
    print("doc outputs", documents)
    print((queries @ documents.T * 100).tolist())


if __name__ == "__main__":
    main(*sys.argv[1:2])
