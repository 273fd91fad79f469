"""Score pairs of a query and a document with Hugging Face transformers.

pip install "quernstone[torch,transformers]"
python examples/qwen3_reranker_transformers.py Qwen/Qwen3-Reranker-0.6B
"""

import sys

from quernstone import Reranker

PAIRS = [
    (
        "How was grain ground by hand?",
        "A quern is a hand mill that grinds grain between two stones.",
    ),
    (
        "Why do sailors eat lemons?",
        "Lemons protect sailors from scurvy.",
    ),
]
INSTRUCTION = "Given a question, find the passage that answers it"


def main(model: str = "Qwen/Qwen3-Reranker-0.6B") -> None:
    # engine="auto" computes the same scores faster
    with Reranker(model, engine="transformers", instruction=INSTRUCTION) as reranker:
        print("scores", reranker.score(PAIRS).tolist())


if __name__ == "__main__":
    main(*sys.argv[1:2])
