"""The official Qwen3 tokenizer files, rebuilt byte for byte without a model hub.

The PyPI package `dashscope` (Apache-2.0) carries the vocabulary in tiktoken's form. From it and
the fixed parts written down here come the three `tokenizer.json` files of the six checkpoints;
their SHA-256 is checked against the published files.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

Kind = Literal["base", "embedding", "embedding_large"]

SHA256: dict[Kind, str] = {
    # all rerankers (and Qwen3 itself): appends nothing
    "base": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    # Qwen3-Embedding-0.6B: appends <|endoftext|>
    "embedding": "def76fb086971c7867b829c23a26261e38d9d74e02139253b38aeb9df8b4b50a",
    # Qwen3-Embedding-4B and 8B: the last four added tokens are missing
    "embedding_large": "83cdf8c3a34f68862319cb1810ee7b1e2c0a44e0864ae930194ddb76bb7feb8d",
}

_FIRST_ADDED_ID = 151643
_SPECIAL = """<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|>
<|box_start|> <|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|>
<|vision_pad|> <|image_pad|> <|video_pad|>""".split()
_ADDED = """<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|>
<|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>""".split()
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}


def write_tokenizer(folder: Path, kind: Kind) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`.

    Raises:
        RuntimeError: `dashscope` is missing, or the result is not the official file.
    """
    blob = _official_json(kind)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(blob)
    (folder / "tokenizer_config.json").write_text(json.dumps(_config(kind), indent=2))


@cache
def _official_json(kind: Kind) -> bytes:
    blob = _tokenizer_json(kind)
    if hashlib.sha256(blob).hexdigest() != SHA256[kind]:
        msg = f"the rebuilt {kind} tokenizer is not the official file; dashscope has changed"
        raise RuntimeError(msg)
    return blob


@cache
def _vocabulary_and_merges_json() -> tuple[str, str]:
    """Return both as indented JSON. The kinds share them, and they take seconds to compute."""
    parts = _vocabulary_and_merges(_ranks())
    vocabulary, merges = (json.dumps(part, indent=2, ensure_ascii=False) for part in parts)
    return vocabulary, merges


def _tokenizer_json(kind: Kind) -> bytes:
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": _FIRST_ADDED_ID + place,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token in _SPECIAL,
            }
            for place, token in enumerate(_added_tokens(kind))
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": _PATTERN},
                    "behavior": "Isolated",
                    "invert": False,
                },
                _BYTE_LEVEL,
            ],
        },
        "post_processor": _BYTE_LEVEL if kind == "base" else _appends_endoftext(),
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": "VOCABULARY",
            "merges": "MERGES",
        },
    }
    text = json.dumps(spec, indent=2, ensure_ascii=False)
    for name, value in zip(("VOCABULARY", "MERGES"), _vocabulary_and_merges_json(), strict=True):
        text = text.replace(f'"{name}"', value.replace("\n", "\n    "))
    return text.encode()


def _ranks() -> dict[bytes, int]:
    try:
        files = importlib.metadata.files("dashscope") or []
    except importlib.metadata.PackageNotFoundError as error:
        msg = "`dashscope` is not installed; it carries the vocabulary: pip install dashscope"
        raise RuntimeError(msg) from error
    source = next(file for file in files if file.name == "qwen.tiktoken")
    ranks = {}
    for line in Path(str(source.locate())).read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return ranks


def _vocabulary_and_merges(
    ranks: dict[bytes, int],
) -> tuple[dict[str, int], list[list[str]]]:
    """GPT-2's form of a tiktoken vocabulary; merges by replaying BPE below each token's rank."""
    letters = _byte_letters()
    vocabulary: dict[str, int] = {}
    merges: list[list[str]] = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        vocabulary["".join(letters[byte] for byte in token)] = rank
        if len(token) > 1:
            parts = _parts_below(token, rank, ranks)
            merges.append(["".join(letters[byte] for byte in part) for part in parts])
    return vocabulary, merges


def _parts_below(token: bytes, limit: int, ranks: dict[bytes, int]) -> list[bytes]:
    parts = [bytes([byte]) for byte in token]
    while True:
        found = [
            (rank, place)
            for place in range(len(parts) - 1)
            if (rank := ranks.get(parts[place] + parts[place + 1], limit)) < limit
        ]
        if not found:
            return parts
        _, place = min(found)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _appends_endoftext() -> dict[str, Any]:
    token = _SPECIAL[0]

    def part(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    end = {"SpecialToken": {"id": token, "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [part("A"), end],
        "pair": [part("A"), part("B"), end],
        "special_tokens": {token: {"id": token, "ids": [_FIRST_ADDED_ID], "tokens": [token]}},
    }
    return {"type": "Sequence", "processors": [_BYTE_LEVEL, template]}


def _added_tokens(kind: Kind) -> list[str]:
    return _SPECIAL + (_ADDED[:-4] if kind == "embedding_large" else _ADDED)


def _config(kind: Kind) -> dict[str, Any]:
    """The fields of `tokenizer_config.json` that transformers needs."""
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(_FIRST_ADDED_ID + place): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token in _SPECIAL,
            }
            for place, token in enumerate(_added_tokens(kind))
        },
        "additional_special_tokens": _SPECIAL[1:],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
