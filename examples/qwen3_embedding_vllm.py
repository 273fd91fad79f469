"""Embed queries and documents with vLLM, and print their cosines times 100.

pip install "quernstone[vllm]"
python examples/qwen3_embedding_vllm.py Qwen/Qwen3-Embedding-0.6B
"""

import sys

from quernstone import Embedder

QUERIES = ["How was grain ground by hand?", "Why do sailors eat lemons?"]
DOCUMENTS = [
    "A quern is a hand mill that grinds grain between two stones.",
    "Lemons protect sailors from scurvy.",
]


def main(model: str = "Qwen/Qwen3-Embedding-0.6B") -> None:
    with Embedder(model, engine="vllm") as embedder:  # the end of the block stops vLLM
        queries = embedder.embed_queries(QUERIES)
        documents = embedder.embed_documents(DOCUMENTS)
    print("query outputs", queries)
    print("doc outputs", documents)
    print((queries @ documents.T * 100).tolist())


if __name__ == "__main__":  # vLLM starts processes that import this file
    main(*sys.argv[1:2])
