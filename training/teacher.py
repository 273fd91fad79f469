"""Encode every query and document once with all-MiniLM-L6-v2: the targets of the distillation.

usage: teacher.py WORK
Reads WORK/pairs.jsonl; writes WORK/teacher.pt: float16, queries and documents, Shape:
(2, pairs, 384).
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from common import read_jsonl, teacher_folder

MAX_TOKENS = 96
BATCH = 64
CHUNK = 4096


class Teacher:
    """all-MiniLM-L6-v2 in bfloat16: mean pooling over its tokens, unit length."""

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(teacher_folder())
        self.model = AutoModel.from_pretrained(teacher_folder(), dtype=torch.bfloat16).eval()
        self.max_tokens = max_tokens

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> Tensor:
        """Vectors of `texts`, Shape: (len(texts), 384)."""
        rows = self.tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        vectors = torch.empty(len(rows), self.model.config.hidden_size)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            batch = self.tokenizer.pad(
                {"input_ids": [rows[i] for i in chosen]}, return_tensors="pt"
            )
            hidden = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None]
            vectors[chosen] = functional.normalize(
                (hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=-1
            )
        return vectors


def main() -> None:
    """Encode in chunks, with a line of progress for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    teacher = Teacher()
    pairs = list(read_jsonl(arguments.work / "pairs.jsonl"))
    vectors = torch.empty(2, len(pairs), 384, dtype=torch.float16)
    started = time.monotonic()
    for start in range(0, len(pairs), CHUNK):
        for side, name in enumerate(("query", "document")):
            texts = [row[name] for row in pairs[start : start + CHUNK]]
            vectors[side, start : start + CHUNK] = teacher.encode(texts).half()
        print(
            f"{min(start + CHUNK, len(pairs))} pairs, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    torch.save(vectors, arguments.work / "teacher.pt")


if __name__ == "__main__":
    main()
