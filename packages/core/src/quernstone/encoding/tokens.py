"""Texts to token ids: frames, truncation, the pooled token, and no control tokens from users.

The tokenizer file is read twice over: its vocabulary tokenises what users wrote with every added
token removed, so that `<|im_end|>` in a document is nine harmless pieces of text; the ids of the
added tokens are placed by us, in the frame only. Whatever post-processor the file has is dropped:
the pooled token is appended here, exactly once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from tokenizers import Tokenizer

from quernstone.encoding.prompts import (
    CONTROL_TOKENS,
    ENDOFTEXT,
    RERANK_PREFIX,
    RERANK_SUFFIXES,
    query_frame,
    rerank_body,
    rerank_head,
    rerank_stem,
)
from quernstone.errors import InputError, InputTooLongError, ModelLoadError
from quernstone.types import Encoded, EncodedBatch, Prefix, RerankTemplate, TokenArray

_CONTROL = re.compile("(" + "|".join(re.escape(token) for token in CONTROL_TOKENS) + ")")

# Text beyond this many characters per allowed token is not tokenised at first: 10 MB that are cut
# to 8,192 tokens would cost seconds. English has about 4.5 characters a token.
_CHARS_PER_TOKEN = 12

# A place where a text can be cut and still give the ids of the whole: behind a letter or a digit,
# in front of a space or a mark, where every pre-tokenizer we know ends a word.
_WORD_END = re.compile(r"(?<=[^\W_])(?=[ \n,.;:!?、。，；：！？])")

# Texts tokenised at a time. The tokenizer returns more than the id of each token: 25 MiB for 2,048
# chunks of 400 characters, which are done no sooner than eight times 256.
_TEXTS_AT_ONCE = 256

# Documents kept for the length of a call: 16 MB of token ids.
_CACHED_DOCUMENT_TOKENS = 4_000_000
# What an entry costs beside its token ids, in tokens.
_CACHE_ENTRY_TOKENS = 64

_Head = tuple[str, str]
"""A query and its instruction."""


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The tokens of a text, or enough of them to cut it."""

    ids: TokenArray
    whole: bool


class Tokenization:
    """The tokenizer of one checkpoint. Thread-safe."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """Read `tokenizer.json`.

        Args:
            folder: The checkpoint's folder.
            vocab_size: Rows of the model's embedding table.

        Raises:
            ModelLoadError: The file is damaged, has no `<|endoftext|>`, or numbers tokens beyond
                the embedding table.
        """
        path = folder / "tokenizer.json"
        try:
            spec = orjson.loads(path.read_bytes())
            self._added = {token["content"]: token["id"] for token in spec["added_tokens"]}
            self._plain = _without_added_tokens(spec)
        except FileNotFoundError as error:
            msg = f"`{folder}` holds no `tokenizer.json`, which this engine reads"
            raise ModelLoadError(msg) from error
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            msg = f"`{path}` is not a tokenizer file: {error}"
            raise ModelLoadError(msg) from error
        highest = max(self._plain.get_vocab_size() - 1, max(self._added.values(), default=0))
        if highest >= vocab_size:
            msg = (
                f"`{path}` is the wrong tokenizer for this model: it numbers tokens up to "
                f"{highest}, but the embedding table has {vocab_size} rows; use the tokenizer "
                "file that came with the checkpoint"
            )
            raise ModelLoadError(msg)
        self._path = path
        self.eos_id = self.token_id(ENDOFTEXT)
        self._eos = np.array([self.eos_id], dtype=np.int32)
        self._frames: dict[str, TokenArray] = {}
        # an application has few instructions and asks about them with every query
        self._query_frame = lru_cache(maxsize=64)(self._read_query_frame)
        self._pair_stem = lru_cache(maxsize=64)(self._read_pair_stem)

    def token_id(self, token: str) -> int:
        """The id of a single token.

        Raises:
            ModelLoadError: The tokenizer does not have it.
        """
        found = self._added.get(token, self._plain.token_to_id(token))
        if found is None:
            msg = f"`{self._path}` has no token {token!r}: not the tokenizer of a Qwen3 model"
            raise ModelLoadError(msg)
        return int(found)

    def encode_documents(
        self, texts: Sequence[str], *, max_length: int, truncate: bool = True, offset: int = 0
    ) -> EncodedBatch:
        """Encode texts without a frame, each ending in the pooled token.

        Args:
            texts: What to encode.
            max_length: Tokens per sequence, the pooled token included.
            truncate: Cut longer texts; otherwise they are an error.
            offset: Added to the index that an error names.
        """
        return self._encode_texts(texts, "", max_length, truncate, offset)

    def encode_queries(
        self,
        texts: Sequence[str],
        instruction: str,
        *,
        max_length: int,
        truncate: bool = True,
        offset: int = 0,
    ) -> EncodedBatch:
        """Encode queries behind their instruction; only the query itself is ever cut.

        They share the instruction as a `Prefix`.
        """
        return self._encode_texts(texts, query_frame(instruction), max_length, truncate, offset)

    def encode_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        instruction: str | Sequence[str],
        template: RerankTemplate,
        *,
        max_length: int,
        truncate: bool = True,
        share_prefix: bool = True,
        offset: int = 0,
        cache: DocumentCache | None = None,
    ) -> EncodedBatch:
        """Encode (query, document) pairs for the reranker; only the document is ever cut.

        Pairs of the same query and instruction get the same `Prefix` unless `share_prefix` is
        False. Equal documents are tokenised once; with a `cache`, once in all calls that pass it.
        """
        check_texts([query for query, _ in pairs], offset, "query")
        check_texts([document for _, document in pairs], offset, "document")
        suffix = self.encode_frame(RERANK_SUFFIXES[template])
        heads = _heads(pairs, instruction)
        prefixes = self._pair_prefixes(heads, template)
        rooms = []
        for index, head in enumerate(heads):
            used = len(prefixes[head]) + len(suffix)
            if used >= max_length:
                what = "the query with its instruction and template"
                raise InputTooLongError(offset + index, used, max_length, what)
            rooms.append(max_length - used)
        documents = [document for _, document in pairs]
        cache = DocumentCache() if cache is None else cache
        tokens = self._document_tokens(documents, max_length, truncate, cache)
        bodies, cut = _limited(tokens, rooms, truncate, offset)
        sequences = []
        for head, ids in zip(heads, _ended(bodies, suffix), strict=True):
            prefix = prefixes[head]
            if share_prefix:
                sequences.append(Encoded(ids, prefix))
            else:
                sequences.append(Encoded(np.concatenate((prefix.ids, ids))))
        return EncodedBatch(sequences, cut)

    def encode_frame(self, text: str) -> TokenArray:
        """Encode a text of ours, in which control tokens are control tokens."""
        if text not in self._frames:
            parts = [
                np.array([self.token_id(part)], dtype=np.int32)
                if part in CONTROL_TOKENS
                else self._ids([part])[0]
                for part in _CONTROL.split(text)
                if part
            ]
            self._frames[text] = np.concatenate(parts)
        return self._frames[text]

    def _pair_prefixes(
        self, heads: Sequence[_Head], template: RerankTemplate
    ) -> dict[_Head, Prefix]:
        unique = list(dict.fromkeys(heads))
        start = self.encode_frame(RERANK_PREFIX)
        encoded = self._ids([rerank_head(query, task, template) for query, task in unique])
        prefixes = {}
        for head, own in zip(unique, encoded, strict=True):
            ids = np.concatenate((start, own))
            stem = self._pair_stem(head[1], template)
            prefixes[head] = Prefix(ids, stem if _begins_with(ids, stem.ids) else None)
        return prefixes

    def _document_tokens(
        self, documents: Sequence[str], max_length: int, truncate: bool, cache: DocumentCache
    ) -> list[_Tokens]:
        """The tokens of each document, at least the first `max_length`."""
        known = {document: cache.get(document) for document in documents}
        missing = [document for document, tokens in known.items() if tokens is None]
        bodies = [rerank_body(document) for document in missing]
        tokens = self._tokens(bodies, [max_length] * len(bodies), truncate)
        fresh = dict(zip(missing, tokens, strict=True))
        for document, new in fresh.items():
            cache.add(document, new)
        return [known[document] or fresh[document] for document in documents]

    def _read_pair_stem(self, instruction: str, template: RerankTemplate) -> Prefix:
        """What all pairs of an instruction begin with."""
        (stem,) = self._ids([rerank_stem(instruction, template)])
        return Prefix(np.concatenate((self.encode_frame(RERANK_PREFIX), stem)))

    def _encode_texts(
        self, texts: Sequence[str], frame: str, max_length: int, truncate: bool, offset: int
    ) -> EncodedBatch:
        check_texts(texts, offset)
        frame_tokens, shared = self._query_frame(frame)
        if frame_tokens >= max_length and texts:
            what = "the instruction with its frame"
            raise InputTooLongError(offset, frame_tokens + 1, max_length, what)
        rendered = [frame + text for text in texts] if frame else texts
        limits = [max_length - 1] * len(texts)
        bodies, cut = _limited(self._tokens(rendered, limits, truncate), limits, truncate, offset)
        sequences = [_parted(ids, shared) for ids in _ended(bodies, self._eos)]
        return EncodedBatch(sequences, cut)

    def _read_query_frame(self, frame: str) -> tuple[int, Prefix | None]:
        """Tokens of a frame, and what all queries behind it begin with.

        That is all but the last character, with which a query's first one may join.
        """
        if not frame:
            return 0, None
        whole, shared = self._ids([frame, frame[:-1]])
        return len(whole), Prefix(shared)

    def _tokens(self, texts: Sequence[str], limits: Sequence[int], truncate: bool) -> list[_Tokens]:
        """Of each text the tokens, or if it may be cut at least the first `limits` of them."""
        shortened = [
            _shorten(text, limit * _CHARS_PER_TOKEN)
            for text, limit in zip(texts, limits, strict=True)
        ]
        tokens = []
        for index, ids in enumerate(self._ids(shortened)):
            whole = len(shortened[index]) == len(texts[index])
            if not whole and (not truncate or len(ids) < limits[index]):
                tokens.append(_Tokens(self._ids([texts[index]])[0], whole=True))
            else:
                tokens.append(_Tokens(ids, whole))
        return tokens

    def _ids(self, texts: Sequence[str]) -> list[TokenArray]:
        if len(texts) == 1:  # without waking the tokenizer's threads
            ids = self._plain.encode(texts[0], add_special_tokens=False).ids
            return [np.array(ids, dtype=np.int32)]
        found: list[TokenArray] = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = list(texts[start : start + _TEXTS_AT_ONCE])
            encodings = self._plain.encode_batch_fast(some, add_special_tokens=False)
            lists = [encoding.ids for encoding in encodings]
            joined = np.fromiter(chain.from_iterable(lists), dtype=np.int32)
            found += _parts(joined, map(len, lists))
        return found


class DocumentCache:
    """The tokens of the documents of one call, for queries that share documents.

    It keeps the first ones, up to a number of tokens. Those that are used again and again in the
    same order would all be lost to one that keeps the last.
    """

    def __init__(self, max_tokens: int = _CACHED_DOCUMENT_TOKENS) -> None:
        self._left = max_tokens
        self._tokens: dict[str, _Tokens] = {}

    def get(self, document: str) -> _Tokens | None:
        """What was added for a document."""
        return self._tokens.get(document)

    def add(self, document: str, tokens: _Tokens) -> None:
        """Keep the tokens of a document, if there is room."""
        cost = len(tokens.ids) + _CACHE_ENTRY_TOKENS
        if cost <= self._left:
            self._left -= cost
            self._tokens[document] = tokens


def check_texts(texts: Sequence[str], offset: int = 0, what: str = "text") -> None:
    """Refuse what no tokenizer can take, naming the index.

    Raises:
        InputError: Not a string, or a string with a lone surrogate (half of a UTF-16 pair).
    """
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            reason = f"the {what} is {type(text).__name__}, expected str"
            raise InputError(offset + index, reason)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            reason = (
                f"the {what} holds a lone surrogate {text[error.start]!r} at character "
                f"{error.start}, which is no Unicode text; decode its source with "
                '`errors="replace"`'
            )
            raise InputError(offset + index, reason) from error


def _heads(pairs: Sequence[tuple[str, str]], instruction: str | Sequence[str]) -> list[_Head]:
    if isinstance(instruction, str):
        return [(query, instruction) for query, _ in pairs]
    return [(query, own) for (query, _), own in zip(pairs, instruction, strict=True)]


def _limited(
    encoded: Sequence[_Tokens], limits: Sequence[int], truncate: bool, offset: int
) -> tuple[list[TokenArray], list[int]]:
    """Token ids cut to `limits`, and the positions of the texts that were cut."""
    cut = []
    bodies = []
    for index, (tokens, limit) in enumerate(zip(encoded, limits, strict=True)):
        if len(tokens.ids) > limit or not tokens.whole:
            if not truncate:
                raise InputTooLongError(offset + index, len(tokens.ids), limit)
            cut.append(index)
        bodies.append(tokens.ids[:limit])
    return bodies, cut


def _ended(bodies: Sequence[TokenArray], end: TokenArray) -> list[TokenArray]:
    """`bodies` with `end` behind each of them."""
    if not bodies:
        return []
    joined = np.concatenate([part for body in bodies for part in (body, end)])
    return _parts(joined, (len(body) + len(end) for body in bodies))


def _parts(joined: TokenArray, lengths: Iterable[int]) -> list[TokenArray]:
    """Views of what lies end to end: one array is made sooner than a thousand."""
    return [joined[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]


def _parted(ids: TokenArray, shared: Prefix | None) -> Encoded:
    """Part with the shared prefix, if there is one and the ids do begin with it."""
    if shared is not None and _begins_with(ids, shared.ids):
        return Encoded(ids[len(shared) :], shared)
    return Encoded(ids)


def _begins_with(ids: TokenArray, start: TokenArray) -> bool:
    return np.array_equal(ids[: len(start)], start)


def _without_added_tokens(spec: dict[str, Any]) -> Tokenizer:
    dropped: dict[str, Any] = {
        "added_tokens": [],
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    text = orjson.dumps({**spec, **dropped}).decode()
    try:
        return Tokenizer.from_str(text)
    except Exception as error:
        raise ValueError(str(error)) from error


def _shorten(text: str, size: int) -> str:
    """A beginning of `text` of about `size` characters that ends with a word.

    The whole text when it is not longer, or when there is no such place near.
    """
    if len(text) <= size:
        return text
    place = _WORD_END.search(text, size)
    return text[: place.start()] if place else text
