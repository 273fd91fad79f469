"""Split a prompt into parts that can be tokenized separately.

A frame is the fixed text of a prompt around a query or a document. Tokenizing its parts separately
must give the same tokens as tokenizing the complete prompt. So a text is only cut next to a
control token, or where byte-level pre-tokenizers always end a word: before a space that follows
another character, and between a letter or digit and a punctuation mark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from quernstone.encoding.templates import QUERY, PairTemplate, end_of_places, fill
from quernstone.encoding.tokenizer import Tokenizer
from quernstone.errors import ConfigError
from quernstone.types import Encoded, Prefix, TokenArray

_CUT = re.compile(r"(?<=\S)(?= )|(?<=[^\W_])(?=[\n!-/:-@\[-^`{-~])")

_EMPTY = np.empty(0, dtype=np.int32)

# Texts of different kinds after a frame, to check that it is cut where tokens end.
_PROBES = ("", "a", " a", "A1", "1", ".", " .", "\n", "\n\na", "  ", "é", "\u0301", "中", "_", "'s")


class TextFrame:
    """The fixed text before each text to embed, such as an instruction, as tokens.

    It is tokenized once, except for a rest after the last place where a token surely ends. The rest
    is tokenized together with each text.
    """

    def __init__(self, text: str, tokenizer: Tokenizer, start: TokenArray) -> None:
        """Split and tokenize a frame; empty for texts without one.

        Args:
            text: The frame.
            tokenizer: The tokenizer of the checkpoint.
            start: Tokens before the frame.
        """
        self.rest = text
        """The end of the frame."""
        self.ids = start
        """Tokens before the rest, `start` included."""
        self.prefix: Prefix | None = None
        """Tokens that all sequences with this frame begin with. They leave out the last character,
        which may form a token together with a text. None if nothing remains."""
        self.length = len(start)
        """Tokens of the complete frame, `start` included."""
        if not text:
            return
        cut = max((match.start() for match in _CUT.finditer(text, 1)), default=0)

        def after(first: TokenArray, *texts: str) -> list[TokenArray]:
            return [np.concatenate((first, ids)) for ids in tokenizer.ids(texts)]

        complete, shared, first = after(start, text, text[:-1], text[:cut])
        self.length = len(complete)
        self.prefix = Prefix(shared) if len(shared) else None
        apart = after(first, *(text[cut:] + probe for probe in _PROBES))
        together = after(start, *(text + probe for probe in _PROBES))
        if begins_with(shared, first) and all(map(np.array_equal, apart, together)):
            self.ids, self.rest = first, text[cut:]
        self._of_rest = shared[len(self.ids) :]

    def encoded(self, ids: TokenArray, *, share_prefix: bool) -> Encoded:
        """Return a sequence from the tokens of the rest, a text, and what ends the sequence."""
        if share_prefix and self.prefix is not None:
            size = len(self._of_rest)
            if len(ids) > size and begins_with(ids, self._of_rest):
                return Encoded(ids[size:], self.prefix)
        return Encoded(np.concatenate((self.ids, ids)) if len(self.ids) else ids)


class PairFrame:
    """The fixed text around queries and documents, as tokens of one tokenizer."""

    def __init__(
        self, template: PairTemplate, tokenizer: Tokenizer, ignored: int | None = None
    ) -> None:
        """Split and tokenize a template.

        Args:
            template: The template.
            tokenizer: The tokenizer of the checkpoint.
            ignored: A token id that is dropped at the end of a prompt. It is the padding token of
                a classification head, which reads the last token that is not padding.

        Raises:
            ConfigError: The template cannot be cut between the query and the document.
        """
        self._tokenizer = tokenizer
        parts = tokenizer.split_control(template.prefix)
        last = parts.pop() if not tokenizer.is_control(parts[-1]) else ""
        cut = _last_cut(last)
        end = end_of_places(last)
        if cut is None and 0 < end < len(last):
            raise ConfigError(
                f"no place to cut {last!r} of the template's prefix after the query, because one "
                "token may span all of it; put a word, a punctuation mark and a space, or a "
                "control token between the query and the document"
            )
        cut = end if cut is None else cut
        self._lead = last[cut:]
        parts += [last[:cut]] if cut else []
        self._head = self._merged(parts)
        place = next(index for index, part in enumerate(parts) if QUERY in part)
        before = parts[place].partition(QUERY)[0]
        before = before[: _last_cut(before) or 0]
        self._stem = self._merged([*parts[:place], *([before] if before else [])])
        ending = tokenizer.split_control(template.suffix)
        first = ending.pop(0) if ending and not tokenizer.is_control(ending[0]) else ""
        found = _CUT.search(first, 1)
        end = found.start() if found else len(first)
        self._tail, rest = first[:end], first[end:]
        self.tail = tokenizer.ids([self._tail])[0] if self._tail else _EMPTY
        """Tokens of the start of the suffix, which is tokenized together with the document."""
        suffix = tokenizer.frame_ids(rest + "".join(ending)) if rest or ending else _EMPTY
        while len(suffix) and suffix[-1] == ignored:
            suffix = suffix[:-1]
        self.suffix = suffix
        """Tokens of the rest of the suffix."""

    def stem(self, instruction: str) -> TokenArray:
        """Return the tokens that all pairs with an instruction begin with. Shape: (tokens,)."""
        return self._joined(self._stem, [("", instruction)])[0]

    def heads(self, heads: Sequence[tuple[str, str]]) -> list[TokenArray]:
        """Return the tokens before the document, for each (query, instruction)."""
        return self._joined(self._head, heads)

    def body(self, document: str) -> str:
        """Return a document with the parts of the frame that are tokenized together with it."""
        return f"{self._lead}{document}{self._tail}"

    def _merged(self, parts: Sequence[str]) -> list[str | TokenArray]:
        """Tokenize the parts that are fixed text, joining neighbors; keep the others as text."""
        merged: list[str | TokenArray] = []
        for fixed, group in groupby(parts, key=lambda part: not end_of_places(part)):
            texts = list(group)
            merged += [self._tokenizer.frame_ids("".join(texts))] if fixed else texts
        return merged

    def _joined(
        self, parts: Sequence[str | TokenArray], heads: Sequence[tuple[str, str]]
    ) -> list[TokenArray]:
        columns = [
            self._tokenizer.ids([fill(part, *head) for head in heads])
            if isinstance(part, str)
            else [part] * len(heads)
            for part in parts
        ]
        if not columns:
            return [_EMPTY] * len(heads)
        return [np.concatenate(row) for row in zip(*columns, strict=True)]


def _last_cut(text: str) -> int | None:
    """Return the last position after `{query}` and `{instruction}` where a text can be cut."""
    start = end_of_places(text)
    return max((match.start() for match in _CUT.finditer(text, start + 1)), default=None)


def begins_with(ids: TokenArray, start: TokenArray) -> bool:
    """Return whether token ids begin with others."""
    return not len(start) or ids[: len(start)].tobytes() == start.tobytes()
