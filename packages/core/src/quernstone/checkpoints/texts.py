"""Read how a model renders texts: its prompts, and the tokens around a text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from quernstone.checkpoints.files import PROMPTS, read_json
from quernstone.encoding.prompts import DEFAULT_INSTRUCTION, ENDOFTEXT, Prompts

DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Possible names of the document prompt. sentence-transformers uses the first that exists."""

# A prompt with an instruction, such as Qwen's `Instruct: {instruction}\nQuery:`.
_INSTRUCTED = re.compile(r"(Instruct: ?)(.+?)(\s*\n\s*\w+ ?: ?)", re.DOTALL)


def read_prompts(folder: Path, config: Mapping[str, Any]) -> tuple[Prompts, str]:
    """Return the prompts of a folder, and the instruction of its `query` prompt.

    Without a stored `query` prompt both are Qwen's for Qwen3. For other families, and with an empty
    prompt, the instruction is empty.
    """
    path = folder / PROMPTS
    stored = read_json(path).get("prompts") if path.is_file() else None
    prompts = stored if isinstance(stored, dict) else {}
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if prompts.get(name)), "")
    query = prompts.get("query")
    if query is None:
        is_qwen3 = config.get("model_type") == "qwen3"
        return Prompts(document=document), DEFAULT_INSTRUCTION if is_qwen3 else ""
    match = _INSTRUCTED.fullmatch(query)
    if match:
        return Prompts(f"{match[1]}{{instruction}}{match[3]}", document), match[2]
    return Prompts(query or Prompts().query, document), ""


def read_frame(folder: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the tokens that the tokenizer's file puts before and after a text; empty for none.

    Qwen3's first revisions append nothing; their model card appended `<|endoftext|>` itself.
    """
    before, after, _ = read_special_tokens(folder)
    if config.get("model_type") == "qwen3":
        return "", after[-1] if after else ENDOFTEXT
    return (before[-1] if before else ""), (after[-1] if after else "")


def read_special_tokens(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the tokens that a tokenizer puts before and after a text, and all added tokens."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return (), (), ()
    return _read_tokenizer(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)  # the official files have 11 MB
def _read_tokenizer(
    path: Path, _modified: int
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    spec = read_json(path)
    processor = spec.get("post_processor") or {}
    before: list[str] = []
    after: list[str] = []
    side = before
    for part in processor.get("processors") or [processor]:
        for item in part.get("single") or ():
            if "Sequence" in item:
                side = after
            else:
                side.append(str(item["SpecialToken"]["id"]))
    added = tuple(str(token["content"]) for token in spec.get("added_tokens") or ())
    return tuple(before), tuple(after), added
