"""The tokenizer file of a checkpoint.

Users' texts are tokenized without the added tokens, so `<|im_end|>` in a document becomes nine
harmless tokens. The ids of the added tokens are only used in the fixed text of prompts. The file's
post-processor is dropped, because `TokenEncoder` appends the pooled token, exactly once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import tokenizers

from quernstone.encoding.prompts import CONTROL_TOKENS, ENDOFTEXT
from quernstone.errors import ConfigError, ModelLoadError
from quernstone.types import TokenArray

# The tokenizer returns more than the ids: 25 MiB for 2,048 chunks of 400 characters. Eight calls
# with 256 texts each need less memory, and take no longer than one call with 2,048.
_TEXTS_PER_CALL = 256
# A single text of up to so many characters, which take a millisecond, is tokenized under the GIL.
_SHORT_TEXT = 2000


class Tokenizer:
    """The tokenizer of one checkpoint. Thread-safe."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """Read the `tokenizer.json` of a checkpoint.

        Raises:
            ModelLoadError: The file is damaged, or has token ids beyond the embedding table,
                which has `vocab_size` rows.
        """
        path = folder / "tokenizer.json"
        try:
            spec = orjson.loads(path.read_bytes())
            self._added = {token["content"]: token["id"] for token in spec["added_tokens"]}
            self._plain = _without_added_tokens(spec)
        except FileNotFoundError as error:
            msg = (
                f"`{folder}` has no `tokenizer.json`, which this engine needs: copy it from the "
                "checkpoint"
            )
            raise ModelLoadError(msg) from error
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ModelLoadError(f"`{path}` is not a tokenizer file: {error}") from error
        highest = max(self._plain.get_vocab_size() - 1, max(self._added.values(), default=0))
        if highest >= vocab_size:
            raise ModelLoadError(
                f"`{path}` is the wrong tokenizer for this model: it numbers tokens up to "
                f"{highest}, but the embedding table has {vocab_size} rows; use the tokenizer "
                "file that came with the checkpoint"
            )
        self._path = path
        self._controls = {*CONTROL_TOKENS, *self._added}
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._control = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._frames: dict[str, TokenArray] = {}

    @property
    def eos_id(self) -> int:
        """The id of `<|endoftext|>`, or a `ModelLoadError` if there is none."""
        return self.token_id(ENDOFTEXT)

    @property
    def pad_id(self) -> int:
        """The id of a token to pad with; no other token attends to it."""
        return int(self._added.get(ENDOFTEXT, 0))

    @property
    def added(self) -> list[str]:
        """The control tokens and other added tokens, sorted by id."""
        return sorted(self._added, key=lambda token: self._added[token])

    def token_id(self, token: str) -> int:
        """Return the id of a single token, or raise a `ModelLoadError` if there is none."""
        found = self._added.get(token, self._plain.token_to_id(token))
        if found is None:
            msg = (
                f"`{self._path}` has no token {token!r}, so it is the wrong tokenizer for this "
                "model; use the tokenizer file that came with the checkpoint"
            )
            raise ModelLoadError(msg)
        return int(found)

    def vocabulary(self) -> dict[str, int]:
        """Return the ids of all tokens that texts are split into, without the added tokens."""
        return dict(self._plain.get_vocab())

    def text(self, token_id: int) -> str:
        """Return the text of a token."""
        added = next((name for name, number in self._added.items() if number == token_id), None)
        return added or self._plain.decode([token_id])

    def no_and_yes(self) -> tuple[int, ...]:
        """Return the ids of `no` and `yes`, the answers of Qwen3-Reranker."""
        return self.token_id("no"), self.token_id("yes")

    def answer_id(self, token: str) -> int:
        """Return the id of a reranker's answer, or raise a `ConfigError` if it has several."""
        if token in self._added:
            return int(self._added[token])
        ids = self.ids([token])[0].tolist()
        if len(ids) != 1:
            raise ConfigError(
                f"the answer {token!r} has {len(ids)} tokens ({ids}) in this model; choose an "
                "answer that is a single token"
            )
        return int(ids[0])

    def ids(self, texts: Sequence[str]) -> list[TokenArray]:
        """Tokenize users' texts, in which control tokens are ordinary text."""
        if len(texts) == 1 and len(texts[0]) <= _SHORT_TEXT:
            # Faster than a batch, which releases the GIL and wakes the tokenizer's threads.
            ids = self._plain.encode(texts[0], add_special_tokens=False).ids
            return [np.array(ids, dtype=np.int32)]
        found: list[TokenArray] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            part = list(texts[start : start + _TEXTS_PER_CALL])
            encodings = self._plain.encode_batch_fast(part, add_special_tokens=False)
            lists = [encoding.ids for encoding in encodings]
            joined = np.fromiter(chain.from_iterable(lists), dtype=np.int32)
            found += split(joined, map(len, lists))
        return found

    def frame_ids(self, text: str) -> TokenArray:
        """Tokenize the fixed text of a prompt, in which control tokens get their own ids."""
        if text not in self._frames:
            parts = [
                np.array([self.token_id(part)], dtype=np.int32)
                if self.is_control(part)
                else self.ids([part])[0]
                for part in self.split_control(text)
            ]
            self._frames[text] = np.concatenate(parts)
        return self._frames[text]

    def split_control(self, text: str) -> list[str]:
        """Split the fixed text of a prompt into control tokens and the texts between them."""
        return [part for part in self._control.split(text) if part]

    def is_control(self, part: str) -> bool:
        """Return True for an added token, or one that every Qwen3 tokenizer should have."""
        return part in self._controls


def split(joined: TokenArray, lengths: Iterable[int]) -> list[TokenArray]:
    """Split an array into parts of the given lengths, as views, which is faster than copying."""
    return [joined[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]


def _without_added_tokens(spec: dict[str, Any]) -> tokenizers.Tokenizer:
    dropped = dict.fromkeys(("post_processor", "truncation", "padding"))
    try:
        text = orjson.dumps({**spec, **dropped, "added_tokens": []}).decode()
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:
        raise ValueError(str(error)) from error
