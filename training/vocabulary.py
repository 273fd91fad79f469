"""The tiny models' tokenizer: the teacher's WordPiece vocabulary with Qwen3's control tokens.

A piece stays when the training texts use it at least twice or when it is a single character. The
control tokens come after the vocabulary and only as added tokens: without `added_tokens` the same
file reads `<|im_end|>` as plain text.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from common import teacher_folder

END_OF_TEXT = "<|endoftext|>"
SPECIAL = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
ADDED = ("<think>", "</think>")
BERT_SPECIAL = {"[PAD]", "[CLS]", "[SEP]", "[MASK]"}
FEWEST_USES = 2
TEMPLATE_WORDS = {"yes", "no", "system", "user", "assistant", "instruct", "query", "document"}


def teacher_pieces() -> list[str]:
    """The teacher's vocabulary in the order of its word table."""
    return (teacher_folder() / "vocab.txt").read_text(encoding="utf-8").splitlines()


def prune(texts: Iterable[str]) -> list[str]:
    """Pieces to keep, in the teacher's order."""
    tokenizer = Tokenizer.from_file(str(teacher_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    uses: Counter[str] = Counter()
    rows = list(texts)
    for start in range(0, len(rows), 4096):
        for encoding in tokenizer.encode_batch(
            rows[start : start + 4096], add_special_tokens=False
        ):
            uses.update(encoding.tokens)
    dropped = BERT_SPECIAL | {piece for piece in teacher_pieces() if piece.startswith("[unused")}
    return [
        piece
        for piece in teacher_pieces()
        if piece not in dropped
        and (
            uses[piece] >= FEWEST_USES
            or len(piece.removeprefix("##")) == 1
            or piece in TEMPLATE_WORDS | {"[UNK]"}
        )
    ]


def build(pieces: list[str], *, append_end_of_text: bool) -> Tokenizer:
    """The tokenizer over `pieces`; the embedding model's appends `<|endoftext|>`."""
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens(list(ADDED))
    if append_end_of_text:
        end = (END_OF_TEXT, len(pieces))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END_OF_TEXT}", pair=f"$A $B:0 {END_OF_TEXT}", special_tokens=[end]
        )
    return tokenizer


def without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer for user text: control tokens in it are plain characters."""
    fields = json.loads(tokenizer.to_str())
    fields["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(fields))


def write(pieces: list[str], folder: Path, *, append_end_of_text: bool) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    tokenizer = build(pieces, append_end_of_text=append_end_of_text)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    decoder: dict[str, Any] = {}
    for content in SPECIAL + ADDED:
        decoder[str(tokenizer.token_to_id(content))] = {
            "content": content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": content in SPECIAL,
        }
    config = {
        "added_tokens_decoder": decoder,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 2048,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )


def initial_word_table(pieces: list[str], teacher_table: Tensor, hidden_size: int) -> Tensor:
    """The teacher's word vectors, rotated onto their main directions.

    The control tokens start at the teacher's [SEP] and [CLS]. Shape: (pieces + 5, hidden_size).
    """
    position = {piece: index for index, piece in enumerate(teacher_pieces())}
    centred = teacher_table - teacher_table.mean(dim=0)
    directions = centred.svd().V[:, :hidden_size]
    rotated = centred @ directions
    rotated = rotated / rotated.std() * 0.2
    controls = ["[SEP]", "[CLS]", "[SEP]", "[CLS]", "[SEP]"]
    return rotated[[position[piece] for piece in pieces + controls]].clone()
