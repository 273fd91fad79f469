"""Score pairs of a query and a document with vLLM.

pip install "quernstone[vllm]"
python examples/qwen3_reranker_vllm.py Qwen/Qwen3-Reranker-0.6B
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
    # template="eval" is the prompt of Qwen's own example; the default is that of the model card
    with Reranker(model, engine="vllm", instruction=INSTRUCTION, template="eval") as reranker:
        print("scores", reranker.score(PAIRS).tolist())  # the end of the block stops vLLM


if __name__ == "__main__":  # vLLM starts processes that import this file
    main(*sys.argv[1:2])
