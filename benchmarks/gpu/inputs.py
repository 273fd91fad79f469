"""Texts of given lengths, and the arithmetic of a checkpoint."""

from __future__ import annotations

import json
import random
from pathlib import Path

QUERY = "what grinds grain?"
_WORDS = (
    "a mill grinds grain 汉字 rain\n and the stone, turns 9 times while roofs of slate keep it dry"
).split(" ")


def texts(count: int, words: int | range, seed: int = 0) -> list[str]:
    """Make texts of random words that all differ.

    Args:
        count: The number of texts.
        words: The number of words of each text, or the range to choose it from.
        seed: Equal seeds give equal texts.
    """
    choose = random.Random(seed)
    lengths = [words if isinstance(words, int) else choose.choice(words) for _ in range(count)]
    return [" ".join(choose.choices(_WORDS, k=n)) + f" {i}" for i, n in enumerate(lengths)]


def flops_per_token(checkpoint: str) -> float:
    """Return the operations of the matrix products for one token, two for each weight.

    Counts only the keys and values of the last layer: the rest of it is computed for one token of
    each sequence.
    """
    config = json.loads((Path(checkpoint) / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    layer = hidden * (2 * query + 2 * keys) + 3 * hidden * inner
    return float(2 * (layer * (config["num_hidden_layers"] - 1) + 2 * keys * hidden))
