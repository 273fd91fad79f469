"""`TokenEncoder`: texts to token ids, with prompts, truncation, prefixes and the pooled token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial

import numpy as np

from quernstone.encoding.cache import DocumentCache
from quernstone.encoding.checks import check_texts
from quernstone.encoding.encoder import Encode, EncodedBatch
from quernstone.encoding.frames import PairFrame, TextFrame, begins_with
from quernstone.encoding.prompts import ENDOFTEXT, Prompts
from quernstone.encoding.templates import AnyTemplate, PairTemplate, full_template
from quernstone.encoding.tokenizer import Tokenizer, split
from quernstone.errors import ConfigError, InputError, InputTooLongError
from quernstone.pairs import InstructedPair
from quernstone.types import Encoded, Prefix, TokenArray

# Of a long text, only this many characters per allowed token are tokenized at first. Tokenizing
# 10 MB to keep 8,192 tokens would take seconds. English has about 4.5 characters per token.
_CHARS_PER_TOKEN = 12

# Positions where a text can be cut without changing the ids before them: after a letter or digit
# and before a space or punctuation mark, where every known pre-tokenizer ends a word.
_WORD_END = re.compile(r"(?<=[^\W_])(?=[ \n,.;:!?、。，；：！？])")

_NOTHING = np.empty(0, dtype=np.int32)

_Head = tuple[str, str]
"""A query and its instruction."""


class TokenEncoder:
    """Encoder that converts inputs to token ids. Thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        truncate: bool = True,
        share_prefix: bool = True,
        prompts: Prompts = Prompts(),  # noqa: B008 - immutable
        first_token: str = "",
        final_token: str = ENDOFTEXT,
        ignored: int | None = None,
    ) -> None:
        """Fix the limits and the prompts.

        Args:
            tokenizer: The tokenizer of the checkpoint.
            max_length: Maximum number of tokens of a sequence, with the prompt and the pooled
                token.
            truncate: True cuts longer texts; False raises an error.
            share_prefix: Give queries with the same instruction, and pairs with the same query, a
                common `Prefix`.
            prompts: The texts before queries and documents to embed.
            first_token: The token at the start of a text to embed, before its prompt; or empty.
            final_token: The token at the end of a text to embed, whose state is pooled; or empty.
            ignored: A token id that is dropped at the end of a pair; see `PairFrame`.

        Raises:
            ConfigError: `max_length` leaves no room for a text.
        """
        ends = [token for token in (first_token, final_token) if token]
        if max_length < len(ends):
            msg = (
                f"`max_length` is {max_length}, which is less than the {len(ends)} tokens around "
                f"every text ({' and '.join(ends)}); raise it"
            )
            raise ConfigError(msg)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._truncate = truncate
        self._share_prefix = share_prefix
        self._prompts = prompts
        self._start, self._end = (
            np.array([tokenizer.token_id(token)] if token else [], dtype=np.int32)
            for token in (first_token, final_token)
        )
        # An application uses few instructions, but one of them with every query.
        self._text_frame = lru_cache(maxsize=64)(self._read_text_frame)
        self._ignored = ignored
        self._frame = lru_cache(maxsize=8)(self._read_frame)
        self._pair_stem = lru_cache(maxsize=64)(self._read_pair_stem)

    def encode_documents(self, texts: Sequence[str], *, offset: int = 0) -> EncodedBatch:
        """Encode documents, with the model's prompt, if any, and the pooled token at the end."""
        return self._encode_texts(texts, self._prompts.document, offset)

    def encode_queries(
        self, texts: Sequence[str], instruction: str, *, offset: int = 0
    ) -> EncodedBatch:
        """Encode queries, with the instruction before them; only the query is ever cut.

        The tokens of the instruction are a `Prefix` that all queries share.
        """
        return self._encode_texts(texts, self._prompts.before_query(instruction), offset)

    def encode_pairs(
        self,
        pairs: Sequence[InstructedPair],
        template: AnyTemplate,
        *,
        offset: int = 0,
        cache: DocumentCache | None = None,
    ) -> EncodedBatch:
        """Encode pairs for the reranker; only the document is ever cut.

        Pairs with the same query and instruction share a `Prefix`. Equal documents are tokenized
        once; with a `cache`, once for all calls that pass it.
        """
        check_texts([query for query, _, _ in pairs], offset, "query")
        check_texts([document for _, document, _ in pairs], offset, "document")
        template = full_template(template)
        if template.strip:
            pairs = [(query.strip(), document.strip(), task) for query, document, task in pairs]
        frame = self._frame(template)
        heads = [(query, instruction) for query, _, instruction in pairs]
        prefixes = self._pair_prefixes(heads, template)
        fixed = len(frame.suffix) + len(frame.tail)
        framing = {head: len(prefix.ids) + fixed for head, prefix in prefixes.items()}
        limits = [self._max_length - framing[head] for head in heads]
        for index, limit in enumerate(limits):
            if limit <= 0:
                what = "the query with its instruction and template"
                used = self._max_length - limit
                raise InputTooLongError(offset + index, used, self._max_length, what)
        cache = DocumentCache() if cache is None else cache
        documents = [document for _, document, _ in pairs]
        ids = cache.ids(documents, partial(self._document_ids, frame=frame))
        bodies, cut = self._truncated(ids, limits, offset, frame.tail)
        endings = _append(bodies, frame.suffix)
        parts = [(prefixes[head], ids) for head, ids in zip(heads, endings, strict=True)]
        sequences = [self._pair(index + offset, *part) for index, part in enumerate(parts)]
        total = sum(map(len, bodies)) + sum(framing[head] - len(frame.tail) for head in heads)
        return EncodedBatch(sequences, cut, total)

    def pair_encoder(self, template: AnyTemplate) -> Encode[InstructedPair]:
        """Return `encode_pairs` with a new cache, for use in one call.

        Raises:
            ConfigError: The template cannot be cut between the query and the document.
        """
        self._frame(full_template(template))
        return partial(self.encode_pairs, template=template, cache=DocumentCache())

    def _encode_texts(self, texts: Sequence[str], frame: str, offset: int) -> EncodedBatch:
        check_texts(texts, offset)
        before = self._text_frame(frame)
        least = before.length + len(self._end)
        if least > self._max_length and texts:
            what = "the instruction with the prompt around it"
            raise InputTooLongError(offset, least, self._max_length, what)
        limit = self._max_length - len(before.ids) - len(self._end)
        ids = self._ids([before.rest + text for text in texts] if before.rest else texts, limit)
        fixed = len(before.ids) - len(self._start)
        bodies, cut = self._truncated(ids, [limit] * len(texts), offset, fixed=fixed)
        arrays = _append(bodies, self._end)
        sequences = [before.encoded(each, share_prefix=self._share_prefix) for each in arrays]
        total = sum(map(len, arrays)) + len(arrays) * len(before.ids)
        return EncodedBatch(sequences, cut, total)

    def _read_text_frame(self, frame: str) -> TextFrame:
        return TextFrame(frame, self._tokenizer, self._start)

    def _read_frame(self, template: PairTemplate) -> PairFrame:
        return PairFrame(template, self._tokenizer, self._ignored)

    def _read_pair_stem(self, instruction: str, template: PairTemplate) -> Prefix:
        """Return the prefix that all pairs with an instruction share."""
        return Prefix(self._frame(template).stem(instruction))

    def _pair_prefixes(self, heads: Iterable[_Head], template: PairTemplate) -> dict[_Head, Prefix]:
        unique = list(dict.fromkeys(heads))
        prefixes = {}
        for head, ids in zip(unique, self._frame(template).heads(unique), strict=True):
            stem = self._pair_stem(head[1], template)
            is_parent = 0 < len(stem) < len(ids) and begins_with(ids, stem.ids)
            prefixes[head] = Prefix(ids, stem if is_parent else None)
        return prefixes

    def _pair(self, index: int, prefix: Prefix, ids: TokenArray) -> Encoded:
        """Return an encoded pair, which shares its prefix if sharing is on."""
        if self._share_prefix and len(prefix) and len(ids):
            return Encoded(ids, prefix)
        whole = np.concatenate((prefix.ids, ids))
        while len(whole) and whole[-1] == self._ignored:
            whole = whole[:-1]
        if not len(whole):
            raise InputError(index, "the query and the document are both empty")
        return Encoded(whole)

    def _document_ids(self, documents: Sequence[str], frame: PairFrame) -> list[TokenArray]:
        return self._ids([frame.body(document) for document in documents], self._max_length)

    def _ids(self, texts: Sequence[str], limit: int) -> list[TokenArray]:
        """Tokenize texts; of a text that will be cut, return at least the first `limit + 1` ids."""
        size = limit * _CHARS_PER_TOKEN
        short = [text if len(text) <= size else _shorten(text, size) for text in texts]
        found = self._tokenizer.ids(short)
        for index, text in enumerate(texts):
            is_short = len(short[index]) < len(text)
            if is_short and not (self._truncate and len(found[index]) > limit):
                (found[index],) = self._tokenizer.ids([text])
        return found

    def _truncated(
        self,
        ids: Sequence[TokenArray],
        limits: Sequence[int],
        offset: int,
        tail: TokenArray = _NOTHING,
        fixed: int = 0,
    ) -> tuple[list[TokenArray], list[int]]:
        """Return token ids cut to `limits`, and the positions of the texts that were cut.

        With a `tail`, all of `ids` end in it, because it was tokenized together with the text. It
        does not count toward the limits, and is kept when a text is cut. Errors count `fixed`
        tokens more, which come before each of `ids`.
        """
        pairs = [(each, limit + len(tail)) for each, limit in zip(ids, limits, strict=True)]
        cut = [index for index, (each, limit) in enumerate(pairs) if len(each) > limit]
        if cut and not self._truncate:
            each, limit = pairs[cut[0]]
            raise InputTooLongError(offset + cut[0], fixed + len(each), fixed + limit)
        found = [each[:limit] for each, limit in pairs]
        for index in cut if len(tail) else ():
            found[index] = np.concatenate((ids[index][: limits[index]], tail))
        return found, cut


def _append(bodies: Sequence[TokenArray], end: TokenArray) -> list[TokenArray]:
    """Append `end` to each of `bodies`."""
    if not bodies:
        return []
    joined = np.concatenate([part for body in bodies for part in (body, end)])
    return split(joined, [len(body) + len(end) for body in bodies])


def _shorten(text: str, size: int) -> str:
    """Cut a text at the first end of a word after `size` characters, if there is one."""
    place = _WORD_END.search(text, size)
    return text[: place.start()] if place else text
