"""Cache of token ids, for documents that several queries share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quernstone.types import TokenArray

# Token ids that the cache of one call keeps: 16 MB.
_MAX_TOKENS = 4_000_000
# The overhead of an entry, expressed in tokens.
_ENTRY_TOKENS = 64


class DocumentCache:
    """Cache of the token ids of the documents of one call.

    It keeps the first documents, until a number of tokens is reached. All queries read the
    documents in the same order, so a cache that evicted the oldest document would evict each one
    just before its next use.
    """

    def __init__(self, max_tokens: int = _MAX_TOKENS) -> None:
        self._left = max_tokens
        self._ids: dict[str, TokenArray] = {}

    def ids(
        self, documents: Sequence[str], tokenize: Callable[[list[str]], list[TokenArray]]
    ) -> list[TokenArray]:
        """Return the token ids of each document, tokenizing each missing document once."""
        missing = [text for text in dict.fromkeys(documents) if text not in self._ids]
        new = dict(zip(missing, tokenize(missing), strict=True))
        for text, ids in new.items():
            cost = len(ids) + _ENTRY_TOKENS
            if cost <= self._left:
                self._left -= cost
                self._ids[text] = ids
        return [new[text] if text in new else self._ids[text] for text in documents]
