"""Texts that the checks embed and rerank."""

from __future__ import annotations

# The first two are the example of the model cards (Qwen/Qwen3-Embedding-0.6B, "Usage").
RELATED = (
    ("What is the capital of China?", "The capital of China is Beijing."),
    (
        "Explain gravity",
        "Gravity is a force that attracts two bodies towards each other. It gives weight to "
        "physical objects and is responsible for the movement of planets around the sun.",
    ),
    (
        "How is bread made?",
        "Bread is made from flour and water, kneaded into a dough and baked in an oven.",
    ),
    ("Which animal is the largest?", "The blue whale is the largest animal that has ever lived."),
    (
        "What does a telescope do?",
        "A telescope gathers light, so that distant stars can be seen.",
    ),
    ("Why do we sleep?", "Sleep lets the brain and the body rest and repair themselves."),
    (
        "How do I sort a list in Python?",
        "The built-in function sorted() returns a new list with its items in order.",
    ),
    ("What is a violin?", "A violin is a wooden string instrument that is played with a bow."),
)
"""Queries, each with a text that answers it but none of the others."""
QUERIES = tuple(query for query, _ in RELATED)
DOCUMENTS = tuple(document for _, document in RELATED)

OVERFLOWING = (
    "import numpy as np",
    "importance of reading the fine print",
    "The importance of being earnest",
    "import",
    "IMPORTANT: read this first.",
    "0",
    "zażółć gęślą jaźń, 汉字, 🦉",
    "A quern is a hand mill. " * 40,
)
"""Texts that begin with "import" overflow Qwen3-Embedding-8B in float16
(https://github.com/QwenLM/Qwen3-Embedding/issues/164); the others are extreme cases."""

OTHER_INSTRUCTION = "Find the sentence that a pirate would shout in a storm"

SHIFTS = (
    ("hand mill", "grinds grain", "in a bowl"),
    ("The capital of China", "is a city", "in Asia"),
    ("Bread", "is baked", "in an oven"),
    ("Why do we sleep", "when it is dark", "outside"),
)
"""Three parts of a query and a document. Without a template between the two, it makes no
difference to which of them the middle part belongs."""
JOINTS = ("", " ", "\n")
"""Separators that servers without a template put between a query and a document."""
